"""What every ComfyUI process of the tests starts with: what imports without CUDA, and a shorter start.

Where torchvision's compiled library needs CUDA it stays unloaded beside a CPU build of PyTorch: the two operators that
its Python side registers against are declared here first; the pure-Python transforms, all that ComfyUI uses, then work.
torchaudio needs CUDA as well and is not installed: where there is none, a stand-in is found, last on the path.

A third of a server's start is garbage collection among what it imports, which is no garbage: none is collected until
main.py, or a test's worker.py by in_process.enter, has imported ComfyUI, and what was imported by then is never looked
through. A quarter of the rest is what few nodes use a name of: it is executed when a name of it is first asked for.
Another quarter is transformers, which reads all its 3,000 files for the names in them: what it found is kept.
"""

import gc
import glob
import importlib.abc
import importlib.machinery
import os
import sys
import threading
import types

_LAST_IMPORTED = "hook_breaker_ac10a0"
"""What main.py of every supported ComfyUI imports last of its own."""

_CACHE = os.path.join(os.path.dirname(__file__), *[os.pardir] * 3, ".cache", "transformers")

_LATER = frozenset(
    {*("torchvision.datasets", "torchvision.models", "torchvision.ops"), "kornia.augmentation", "kornia.contrib"}
    | {*("kornia.feature", "kornia.geometry.camera", "scipy.integrate", "scipy.stats")}
)
"""torchvision.ops alone imports the compiler of PyTorch."""


class _DeclareOperators(importlib.abc.MetaPathFinder):
    def __init__(self) -> None:
        self.library = None

    def find_spec(self, fullname, path, target=None):  # type: ignore[no-untyped-def]
        if fullname == "torchvision" and self.library is None:
            import torch

            self.library = torch.library.Library("torchvision", "FRAGMENT")
            if not _compiled_library_loads(torch):
                arguments = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
                for name in ("nms", "qnms"):
                    self.library.define(name + arguments)


def _compiled_library_loads(torch) -> bool:  # type: ignore[no-untyped-def]
    """Whether torchvision was built for this PyTorch, and brings the operators itself."""
    found = importlib.machinery.PathFinder.find_spec("torchvision")
    for library in glob.glob(os.path.join(os.path.dirname(found.origin), "_C*")) if found else ():
        try:
            torch.ops.load_library(library)
        except OSError:
            continue
        return True
    return False


class _OnDemand(types.ModuleType):
    """A module that is executed when a name is first asked for that it has not yet, by one thread; others wait."""

    def __getattr__(self, name):  # type: ignore[no-untyped-def]
        if name.startswith("__") and name != "__all__":  # what looks through all modules asks for these
            raise AttributeError(name)
        later = self.__spec__.loader_state
        with later.lock:
            if not later.begun:
                later.begun = True
                self.__spec__.loader = self.__loader__ = later.own
                self.__loader__.exec_module(self)
                self.__class__ = types.ModuleType
            elif self.__class__ is _OnDemand:  # asked for by itself, before it has got there
                raise AttributeError(name)
        return getattr(self, name)


class _Later(importlib.abc.Loader):
    def __init__(self, own) -> None:  # type: ignore[no-untyped-def]
        self.own, self.lock, self.begun = own, threading.RLock(), False

    def create_module(self, spec):  # type: ignore[no-untyped-def]
        return _OnDemand(spec.name)

    def exec_module(self, module) -> None:  # type: ignore[no-untyped-def]
        """Nothing yet."""


class _ExecuteLater(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname, path, target=None):  # type: ignore[no-untyped-def]
        spec = importlib.machinery.PathFinder.find_spec(fullname, path) if fullname in _LATER else None
        if spec is not None:
            spec.loader = spec.loader_state = _Later(spec.loader)
        return spec


class _Kept(importlib.machinery.SourceFileLoader):
    def exec_module(self, module) -> None:  # type: ignore[no-untyped-def]
        super().exec_module(module)
        define = getattr(module, "define_import_structure", None)
        if define is not None:
            version = os.stat(self.path).st_mtime_ns
            module.define_import_structure = lambda *given, **named: _kept(version, define, *given, **named)


def _kept(version, function, *given, **named):  # type: ignore[no-untyped-def]
    """What a function answers, from a file if an earlier process has asked it for the same."""
    import hashlib
    import pickle

    asked = hashlib.sha256(repr((version, given, named)).encode()).hexdigest()[:16]
    file = os.path.join(_CACHE, f"{asked}.pickle")
    if os.path.exists(file):
        with open(file, "rb") as stream:
            return pickle.load(stream)
    answer = function(*given, **named)
    os.makedirs(_CACHE, exist_ok=True)
    with open(f"{file}.{os.getpid()}", "wb") as stream:
        pickle.dump(answer, stream)
    os.replace(stream.name, file)
    return answer


class _KeepNames(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname, path, target=None):  # type: ignore[no-untyped-def]
        if fullname != "transformers.utils.import_utils":
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        spec.loader = _Kept(spec.loader.name, spec.loader.path)
        return spec


sys.meta_path[:0] = [_DeclareOperators(), _ExecuteLater(), _KeepNames()]
sys.path.append(os.path.join(os.path.dirname(__file__), "stand_ins"))


class _CollectWhenImported(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname, path, target=None):  # type: ignore[no-untyped-def]
        if fullname == _LAST_IMPORTED:
            gc.freeze()
            gc.enable()


if {"main.py", "worker.py"} & set(map(os.path.basename, sys.orig_argv)):
    gc.disable()
    sys.meta_path.insert(0, _CollectWhenImported())
