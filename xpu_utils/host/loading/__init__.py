"""From model files to ComfyUI's objects, on a chosen device."""
