"""Our nodes in the templates that ComfyUI ships: which still fit, by the real prompt validation of a host.

`python -m tests.harness.swapped`, with the files of the package comfyui-workflow-templates-json from the registry.
A link fits where ComfyUI finds nothing wrong with it that it does not find with the stock nodes, too. A line for each
template that does not fit, then how many of how many do; kept for docs/models.md.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from xpu_utils.doctor.comfyui import in_order

from .hosts import CACHE, ROOT, answer_in_comfyui, host_path, host_version
from .workflows import OURS

VERSION = "0.1.123"
RECORD = ROOT / "docs" / "measurements" / "templates.json"
BYPASSED = (2, 4)
"""Modes of nodes that do not run: muted, bypassed."""

VALIDATE = """
import asyncio, json, nodes, execution
from server import PromptServer
pack, questions = arguments

def value(kind, options):
    # What a widget has before anybody touches it.
    offered = kind if isinstance(kind, list) else options.get("options") or []
    return options.get("default", offered[0] if offered else "")

async def wrong(kind, name, source, slot):
    inputs = {
        given: value(of, rest[0] if rest else {})
        for group in ("required", "optional")
        for given, (of, *rest) in nodes.NODE_CLASS_MAPPINGS[kind].INPUT_TYPES().get(group, {}).items()
    }
    prompt = {
        "source": {"class_type": source, "inputs": {}},
        "target": {"class_type": kind, "inputs": {**inputs, name: ["source", slot]}},
    }
    answer = await execution.validate_inputs("swapped", prompt, "target", {})
    found = {error["type"] for error in answer[1] if error["extra_info"].get("input_name") == name}
    return found if name in inputs else found | {"no such input"}

async def answers():
    PromptServer.instance = PromptServer(asyncio.get_running_loop())
    await nodes.init_builtin_extra_nodes()
    await nodes.load_custom_node(pack)
    found = []
    for source, target, slot, name, *exchanged in json.load(open(questions)):
        if {source, target} - nodes.NODE_CLASS_MAPPINGS.keys():
            found.append(None)
        else:
            ours = await wrong(exchanged[1], name, exchanged[0], slot)
            found.append(sorted(ours - await wrong(target, name, source, slot)))
    return found

print(json.dumps(asyncio.run(answers())))
"""


def ensure_templates() -> Path:
    """The folder of the package's files, downloaded where they are missing.

    Raises:
        subprocess.CalledProcessError: the registry cannot be reached.
    """
    target = CACHE / "templates" / VERSION
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            command = (sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", scratch)
            subprocess.run([*command, f"comfyui-workflow-templates-json=={VERSION}"], check=True)
            (wheel,) = Path(scratch).glob("*.whl")
            shutil.unpack_archive(wheel, Path(scratch) / VERSION, "zip")
            (Path(scratch) / VERSION).rename(target)
    return target


def graphs(workflow: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """A workflow and its subgraphs."""
    yield workflow
    yield from (workflow.get("definitions") or {}).get("subgraphs") or ()


Question = tuple[str, str, int, str, str, str]
"""A link: the classes at its beginning and end, its output and input, and the classes with ours in their places."""


def questions(graph: Mapping[str, Any]) -> Iterator[Question]:
    """The links at nodes that ours take the place of; nodes that do not run, and subgraphs, are no end of a link."""
    nodes = {node["id"]: node for node in graph.get("nodes") or () if node.get("mode") not in BYPASSED}
    for link in graph.get("links") or ():
        source, slot, target, place = _ends(link)
        if source in nodes and target in nodes:
            first, last = nodes[source]["type"], nodes[target]["type"]
            name = str(nodes[target]["inputs"][place]["name"])
            if {first, last} & OURS.keys():
                yield first, last, slot, name, OURS.get(first, first), OURS.get(last, last)


def _ends(link: Any) -> tuple[Any, int, Any, int]:
    """Source, its output, target, its input: links are lists, or objects in subgraphs."""
    if isinstance(link, Mapping):
        return link["origin_id"], link["origin_slot"], link["target_id"], link["target_slot"]
    return link[1], link[2], link[3], link[4]


def judged(workflows: Mapping[str, Mapping[str, Any]], host: Path, folder: Path) -> dict[str, Any]:
    """Of the workflows with a link at one of our nodes: how many fit, what does not, and which need nodes that the host
    lacks there.

    Args:
        folder: where the questions are left for the process that asks them.
    """
    every = {
        name: {question for graph in graphs(workflow) for question in questions(graph)}
        for name, workflow in workflows.items()
    }
    asked = {name: found for name, found in every.items() if found}
    links = sorted(set().union(*asked.values()))
    file = folder / "questions.json"
    file.write_text(json.dumps(links))
    answers = dict(zip(links, answer_in_comfyui(host, VALIDATE, str(ROOT), str(file)), strict=True))
    misfits = {
        name: sorted(f"{link[4]} to {link[5]}.{link[3]}: {', '.join(answers[link])}" for link in found if answers[link])
        for name, found in asked.items()
    }
    misfits = {name: wrong for name, wrong in misfits.items() if wrong}
    lacking = [name for name, found in asked.items() if name not in misfits and None in map(answers.get, found)]
    return {"templates": len(asked), "lacking": len(lacking), "misfits": misfits, "links": len(links)}


def read(folder: Path) -> dict[str, Mapping[str, Any]]:
    """The workflows in a folder by name; other JSON files are left out."""
    found = {}
    for file in sorted(folder.rglob("*.json")):
        content = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(content, dict) and "nodes" in content:
            found[file.stem] = content
    return found


def section() -> str:
    """What docs/models.md says of it."""
    record: Mapping[str, Mapping[str, Any]] = json.loads(RECORD.read_text(encoding="utf-8"))
    lines = [
        f"| {version} | {_fit(told)} of {told['templates'] - told['lacking']} | {told['lacking']} |\n"
        for version, told in sorted(record.items(), key=lambda entry: in_order(entry[0]))
    ]
    return (
        "\n## ComfyUI's templates\n"
        "The workflows of the package comfyui-workflow-templates-json that load, sample or decode with nodes which\n"
        "ours take the place of, these exchanged for ours: every link at them, by ComfyUI's own prompt validation\n"
        "(`python -m tests.harness.swapped`).\n\n"
        "| ComfyUI | every link fits | left out, as ComfyUI lacks a node |\n|---|---|---|\n" + "".join(lines)
    )


def _fit(told: Mapping[str, Any]) -> int:
    return int(told["templates"] - told["lacking"] - len(told["misfits"]))


def main() -> None:
    host = host_path()
    with tempfile.TemporaryDirectory() as folder:
        told = judged(read(ensure_templates()), host, Path(folder))
    record = json.loads(RECORD.read_text()) if RECORD.is_file() else {}
    record[host_version(host)] = told
    RECORD.write_text(json.dumps(dict(sorted(record.items())), indent=1) + "\n")
    misses = [f"{name}: {'; '.join(wrong)}" for name, wrong in told["misfits"].items()]
    print(*misses, f"{_fit(told)} of {told['templates'] - told['lacking']} templates fit", sep="\n")
    sys.exit(bool(misses))


if __name__ == "__main__":
    main()
