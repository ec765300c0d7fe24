"""Environment that must be set before torch is imported; ComfyUI runs this first. The user's own settings win."""

import os

DISABLED = [name.strip() for name in os.environ.get("XPU_NODES_DISABLE", "").split(",")]
# Operators without an XPU kernel run on the CPU instead of ending the prompt; torch reads this once.
if "operator fallback" not in DISABLED:
    os.environ.setdefault("PYTORCH_ENABLE_XPU_FALLBACK", "1")
