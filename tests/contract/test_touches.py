"""All that is written to the host is written by `xpu_utils/host/hooks.py`, which lists it and can leave it out."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from .__main__ import ROOT, touches
from .host import dotted
from .pack import File, Pack
from .touches import Kind

HOOKS = "xpu_utils/host/hooks.py"
OWN_OBJECTS = {"xpu_utils/host/running/counting.py", "xpu_utils/streaming/leaves.py"}
"""Files with `setattr` on an object: a VAE's network while a progress bar counts its calls, a part of a weight."""
ENVIRONMENT = {"prestartup_script.py"}
"""Files that set a variable of the process: listed by `startup.list_operator_fallback`."""
PROCESSES = {"xpu_utils/workers/cluster.py", "xpu_utils/workers/guard.py"}
"""Files of commands, which no ComfyUI's process reads: import-linter keeps them out of nodes and host."""
PYTORCH = {
    *("xpu_utils/host/cpu_engine.py", "xpu_utils/cpu/threads.py", "xpu_utils/recovery/watch.py"),
    *("xpu_utils/cpu/measure.py", "xpu_utils/bench/quick.py", "xpu_utils/host/protecting/touches.py"),
}
"""Files that set something of PyTorch's: threads, by two hooks, as the caller has them, or put back in the end."""

CHANGES = {
    *("append", "extend", "insert", "pop", "remove", "clear", "update", "setdefault", "add", "discard", "popitem"),
    *("addHandler", "removeHandler", "putenv", "unsetenv"),
}


def test_only_the_hooks_write_to_the_host_s_modules() -> None:
    assert [finding for file in Pack(ROOT).files.values() for finding in writes(file)] == []


def test_the_writes_of_hooks_are_read_by_the_contract() -> None:
    written = {touch.path for touch in touches() if touch.kind is Kind.SET}
    assert {
        *("comfy.model_management.cpu_state", "comfy.model_management.get_torch_device"),
        *("comfy.model_management.soft_empty_cache", "comfy.model_management.DISABLE_SMART_MEMORY"),
        *("comfy.model_management.get_free_memory", "latent_preview.get_previewer"),
    } <= written


@pytest.mark.parametrize(
    "code",
    [
        "import comfy.sd\ncomfy.sd.VAE = 1",
        "import comfy.sd\ncomfy.sd.VAE.decode = 1",
        "import comfy.sd\ndel comfy.sd.VAE",
        "import comfy.model_management as mm\nmm.stack += 1",
        "import nodes\nnodes.NODE_CLASS_MAPPINGS['a'] = 1",
        "from nodes import NODE_CLASS_MAPPINGS\nNODE_CLASS_MAPPINGS.pop('a')",
        "import comfy.model_management as mm\nloaded = mm.current_loaded_models\nloaded.clear()",
        "from comfy.cli_args import args\nvars(args).update(cpu=True)",
        "from comfy.cli_args import args\nargs.__dict__['cpu'] = True",
        "def f(module):\n    setattr(module, 'name', 1)",
        "import logging\nlogging.getLogger().addHandler(None)",
        "import logging\nroot = logging.getLogger()\nroot.addHandler(None)",
        "import os\nos.environ['A'] = ''",
        "import os\nos.environ.setdefault('A', '')",
        "import torch\ntorch.nn.Linear.forward = None",
        "import torch\ntorch.set_num_threads(1)",
        "import torch\ntorch.manual_seed(0)",
        "import torch\ntorch.backends.cuda.enable_flash_sdp(False)",
    ],
)
def test_another_way_of_writing_is_found(code: str, tmp_path: Path) -> None:
    file = tmp_path / "xpu_utils" / "host" / "ours.py"
    file.parent.mkdir(parents=True)
    file.write_text(code + "\n", encoding="utf-8")
    assert len(list(writes(Pack(tmp_path).files[file]))) == 1


def writes(file: File) -> Iterator[str]:
    """Places in a file that change what was imported from outside the pack, or an attribute by its name."""
    if file.name == HOOKS or file.name in PROCESSES:
        return
    theirs = _imported(file)
    for node in ast.walk(file.tree):
        if isinstance(node, ast.Assign) and _root(node.value) in theirs and _is_theirs(node.value):
            theirs |= {target.id for target in node.targets if isinstance(target, ast.Name)}  # other names of it
    for node in ast.walk(file.tree):
        for target in _changed(node):
            if isinstance(target, str):
                found = file.name not in OWN_OBJECTS
            elif file.name in PYTORCH and _root(target) == "torch":
                found = False
            else:
                found = _root(target) in theirs and not (file.name in ENVIRONMENT and dotted(target) == "os.environ")
            if found:
                yield f"{file.name}:{node.lineno}: {ast.unparse(node)}"  # type: ignore[attr-defined]


def _imported(file: File) -> set[str]:
    """Names of what is not the pack's, but for those that a parameter has too."""
    found: set[str] = set()
    parameters = {node.arg for node in ast.walk(file.tree) if isinstance(node, ast.arg)}
    for node in ast.walk(file.tree):
        if isinstance(node, ast.Import) or (isinstance(node, ast.ImportFrom) and not node.level):
            found |= {(entry.asname or entry.name).partition(".")[0] for entry in node.names}
    return found - parameters


def _changed(node: ast.AST) -> Iterator[ast.expr | str]:
    """What a statement or call changes; for `setattr` its name."""
    if isinstance(node, (ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Delete)):
        targets = [node.target] if isinstance(node, (ast.AugAssign, ast.AnnAssign)) else node.targets
        for target in targets:
            for part in target.elts if isinstance(target, ast.Tuple) else [target]:
                if isinstance(part, (ast.Attribute, ast.Subscript)):
                    yield part.value
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("setattr", "delattr"):
        yield node.func.id
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _changes(node.func.attr):
        yield node.func.value


def _changes(function: str) -> bool:
    sets = function.startswith(("set_", "enable_", "manual_seed")) and not function.startswith("set_attr")  # of a model
    return sets or function in CHANGES


def _is_theirs(node: ast.expr) -> bool:
    """Whether an expression names something, and does not make it."""
    return isinstance(node, (ast.Name, ast.Attribute)) or ast.unparse(node).startswith("logging.getLogger")


def _root(node: ast.expr) -> str:
    """The name that an expression begins with; of `vars(x)` that of x."""
    while not isinstance(node, ast.Name):
        if isinstance(node, (ast.Attribute, ast.Subscript)):
            node = node.value
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "vars" and node.args:
            node = node.args[0]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "logging.getLogger":
            node = node.func
        else:
            return ""
    return node.id
