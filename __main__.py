"""`python custom_nodes/xpu-nodes <verb>`, from ComfyUI's folder: the portable's Python finds no package in a folder."""

import sys

try:
    import torch  # noqa: F401
except (ImportError, OSError) as error:
    sys.exit(
        f"PyTorch cannot be loaded ({error}): if a path in that is oneAPI's, start from a shell in which setvars was "
        "not run; else install PyTorch again: https://github.com/xpu-nodes/xpu-nodes/blob/main/docs/install.md"
    )

from xpu_utils.__main__ import main

sys.exit(main())
