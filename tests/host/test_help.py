"""Every node explains itself: help page, English texts, description."""

from __future__ import annotations

import json
import re
from typing import Any

from tests.harness.hosts import ROOT
from tests.harness.server import Server
from tests.harness.texts import texts


def our_nodes(server: Server) -> dict[str, dict[str, Any]]:
    return {name: node for name, node in server.client.get("/object_info").items() if name.startswith("XPU")}


def test_every_node_has_a_help_page_that_the_server_serves(server: Server) -> None:
    nodes = our_nodes(server)
    assert len(nodes) >= 20
    for name, node in nodes.items():
        page = server.client.get_bytes(f"/extensions/xpu-nodes/docs/{name}.md").decode()
        assert page.startswith(f"# {node['display_name']}\n")
        assert "\n## Inputs\n" in page


def test_every_node_is_in_a_category_and_is_found_by_what_people_search_for(server: Server) -> None:
    nodes = our_nodes(server)
    categories = {f"XPU/{name}" for name in ("loaders", "place", "sampling", "tools")}
    assert {node["category"] for node in nodes.values()} == categories
    if "search_aliases" in nodes["XPUDoctor"]:
        for word in ("vram", "offload", "out of memory", "unload"):
            assert any(word in node["search_aliases"] for node in nodes.values()), word


def test_the_texts_are_those_of_the_nodes(server: Server) -> None:
    stale = [str(path) for path, text in texts(our_nodes(server)).items() if path.read_text("utf-8") != text]
    assert not stale, "run `make texts`"


def test_the_english_names_of_the_settings_are_those_of_the_panel() -> None:
    script = (ROOT / "web" / "settings.js").read_text(encoding="utf-8")
    ids = dict(re.findall(r"const (\w+) = `\$\{PREFIX\}\.([\w-]+)`", script))
    shown = {ids[constant]: name for constant, name in re.findall(r'id: (\w+),\s+name: "([^"]+)",\n', script)}
    parts = re.findall(r'\b(?:beside|choice)\("(\w+)", "([^"]+)"', script)
    shown |= {f"{ids['PROTECT']}.{part}": name for part, name in parts}
    names_of = json.loads((ROOT / "locales" / "en" / "settings.json").read_text(encoding="utf-8"))
    assert {key: text["name"] for key, text in names_of.items()} == {
        f"xpu-nodes_{setting.replace('.', '_')}": name for setting, name in shown.items()
    }


def test_the_readme_names_the_repository_and_its_pictures_are_shipped() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    repository = re.search(r'^Repository = "(.+)"$', (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
    assert repository
    assert f"git clone {repository[1]} " in readme
    left_out = (ROOT / ".comfyignore").read_text(encoding="utf-8").split()
    shown = re.findall(r"!\[[^]]*\]\(([^)]+)\)", readme)
    assert shown
    for path in (*shown, "example_workflows/api/text_to_image.json"):
        assert (ROOT / path).is_file()
        assert not any(path.startswith(pattern.rstrip("*")) for pattern in left_out), path
