"""Imported by ComfyUI, used by no test."""
