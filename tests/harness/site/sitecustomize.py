"""Lets an ordinary torchvision wheel be imported beside a CPU build of PyTorch.

Its compiled library needs CUDA and stays unloaded, so the two operators that its Python side registers
against are declared here first; the pure-Python transforms, all that ComfyUI uses, then work.
"""

import importlib.abc
import importlib.machinery
import sys


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
