"""Environment that must be set before torch is imported; ComfyUI runs this first. The user's own settings win."""

import os

# Operators without an XPU kernel run on the CPU instead of ending the prompt; torch reads this once.
os.environ.setdefault("PYTORCH_ENABLE_XPU_FALLBACK", "1")
