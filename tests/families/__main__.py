"""`make families`: all families of the ComfyUI at COMFYUI_PATH; `make families FAMILIES="SD15 Flux"`: these."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection

from tests.harness.hosts import CACHE, host_path, host_version

from .listing import NAMES
from .page import RECORDS, write_page
from .running import found, jobs


def main() -> None:
    names = sys.argv[1:]
    _refuse("docs/models.md", {*names}.difference(*NAMES.values()))
    host = host_path()
    answers = found(host, CACHE / "families" / host_version(host), names, jobs=jobs())
    _refuse(f"ComfyUI {host_version(host)}", {*names} & {*answers["absent"]})
    record = RECORDS / f"{host_version(host)}.json"
    before = json.loads(record.read_text())["found"] if names and record.is_file() else {}
    record.parent.mkdir(parents=True, exist_ok=True)
    told = {"found": {**before, **answers["found"]}, "absent": answers["absent"]}
    record.write_text(json.dumps(told, indent=1, sort_keys=True) + "\n")
    write_page()
    misses = [f"{name}: {check}: {why}" for name, row in answers["found"].items() for check, why in row.items() if why]
    misses += [f"{name}: not described in tests/families" for name in answers["undescribed"]]
    print(*misses, f"{len(answers['found'])} families, {len(misses)} misses", sep="\n")
    sys.exit(bool(misses))


def _refuse(who: str, names: Collection[str]) -> None:
    if names:
        sys.exit(f"Families: {who} has no {', '.join(map(repr, sorted(names)))}; docs/models.md has their names.")


if __name__ == "__main__":
    main()
