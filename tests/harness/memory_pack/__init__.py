"""A custom node pack for measurements only: has the server's process give back what it holds but does not use."""

from __future__ import annotations

import ctypes
import gc
import sys

from aiohttp import web
from server import PromptServer

NODE_CLASS_MAPPINGS = {}


class _MallInfo(ctypes.Structure):
    """glibc's `struct mallinfo2`; see mallinfo(3)."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


@PromptServer.instance.routes.post("/memory_pack/settle")
async def settle(request):
    """Collects garbage and trims the heap; answers what malloc and Python have given out."""
    gc.collect()
    library = ctypes.CDLL(None)
    in_use_bytes = 0
    if hasattr(library, "mallinfo2"):
        library.malloc_trim(0)
        library.mallinfo2.restype = _MallInfo
        info = library.mallinfo2()
        in_use_bytes = info.uordblks + info.hblkhd
    return web.json_response({"in_use_bytes": in_use_bytes, "python_blocks": sys.getallocatedblocks()})
