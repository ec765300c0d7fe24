"""Every family of models that a ComfyUI knows, tiny and with random weights, through the pack on simulated devices.

`make families` runs them all on the ComfyUI at COMFYUI_PATH and writes docs/models.md.
"""
