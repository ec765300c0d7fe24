"""`python custom_nodes/xpu-nodes <verb>`, from ComfyUI's folder: the portable's Python finds no package in a folder."""

import sys

from xpu_utils.__main__ import main

sys.exit(main())
