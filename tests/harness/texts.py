"""`make texts`: what node definitions say, written where the front end reads it: locales and help pages.

Of a page only the section "Inputs" is written; what else it says is its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .hosts import ROOT, answer_in_comfyui, host_path

LOCALE = ROOT / "locales" / "en" / "nodeDefs.json"
PAGES = ROOT / "web" / "docs"

_INPUTS = re.compile(r"(?<=^## Inputs\n).*?(?=\n\n[^|]|\n*\Z)", re.DOTALL | re.MULTILINE)

_NODES = """
import asyncio, importlib.util, json
root = arguments[0]
spec = importlib.util.spec_from_file_location("pack", root + "/__init__.py", submodule_search_locations=[root])
pack = sys.modules["pack"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pack)
nodes = asyncio.run(importlib.import_module("pack.nodes").XPUExtension().get_node_list())
print(json.dumps({node.define_schema().node_id: node.GET_NODE_INFO_V1() for node in nodes}))
"""


def texts(nodes: Mapping[str, Mapping[str, Any]]) -> dict[Path, str]:
    """File -> its content.

    Args:
        nodes: our part of what the server answers to `/object_info`.
    """
    locale = {name: _locale(nodes[name]) for name in sorted(nodes)}
    found = {LOCALE: json.dumps(locale, indent=2, ensure_ascii=False) + "\n"}
    for name, node in nodes.items():
        page = PAGES / f"{name}.md"
        section = _section(_tooltips(node))
        found[page] = _INPUTS.sub(lambda _, section=section: section, page.read_text(encoding="utf-8"), count=1)
    return found


def _tooltips(node: Mapping[str, Any]) -> dict[str, str]:
    """Input -> what it says, in the node's order."""
    inputs = {**node["input"].get("required", {}), **node["input"].get("optional", {})}
    return {name: options["tooltip"] for name, (_, options) in inputs.items()}


def _locale(node: Mapping[str, Any]) -> dict[str, Any]:
    inputs = {name: {"name": name.replace("_", " "), "tooltip": text} for name, text in _tooltips(node).items()}
    return {"display_name": node["display_name"], "description": node["description"], "inputs": inputs}


def _section(tooltips: Mapping[str, str]) -> str:
    told = [f"| {name} | {tooltip} |" for name, tooltip in tooltips.items()]
    return "\n".join(["| input | meaning |", "|---|---|", *told]) if told else "None."


def main() -> None:
    for path, text in texts(answer_in_comfyui(host_path(), _NODES, str(ROOT))).items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
