"""Graphs of stock nodes, protected without being touched: what the switch puts in front of ComfyUI's functions."""
