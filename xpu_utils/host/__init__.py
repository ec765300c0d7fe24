"""The only code that imports ComfyUI: every touch on the host lives here."""
