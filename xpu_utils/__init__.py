"""What XPU Nodes knows about devices, memory and faults: pure torch, importable without ComfyUI."""
