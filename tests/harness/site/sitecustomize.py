"""What every ComfyUI process of the tests starts with: what imports without CUDA, and a shorter start.

torchvision's compiled library needs CUDA and stays unloaded beside a CPU build of PyTorch, so the two operators that
its Python side registers against are declared here first; the pure-Python transforms, all that ComfyUI uses, then work.
torchaudio needs CUDA as well and is not installed: where there is none, a stand-in is found, last on the path.

A third of a server's start is garbage collection among what it imports, which is no garbage: none is collected until
main.py has imported ComfyUI, and what was imported by then is never looked through.
"""

import gc
import importlib.abc
import importlib.machinery
import os
import sys

_LAST_IMPORTED = "hook_breaker_ac10a0"
"""What main.py of every supported ComfyUI imports last of its own."""


class _DeclareOperators(importlib.abc.MetaPathFinder):
    def __init__(self) -> None:
        self.library = None

    def find_spec(self, fullname, path, target=None):  # type: ignore[no-untyped-def]
        if fullname == "torchvision" and self.library is None:
            import torch

            self.library = torch.library.Library("torchvision", "FRAGMENT")
            arguments = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            for name in ("nms", "qnms"):
                self.library.define(name + arguments)


sys.meta_path.insert(0, _DeclareOperators())
sys.path.append(os.path.join(os.path.dirname(__file__), "stand_ins"))


class _CollectWhenImported(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname, path, target=None):  # type: ignore[no-untyped-def]
        if fullname == _LAST_IMPORTED:
            gc.freeze()
            gc.enable()


if "main.py" in map(os.path.basename, sys.orig_argv):
    gc.disable()
    sys.meta_path.insert(0, _CollectWhenImported())
