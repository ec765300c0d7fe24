"""What is done with ComfyUI's objects after a failure."""
