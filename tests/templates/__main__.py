"""`make templates`: ComfyUI's templates on the ComfyUI at COMFYUI_PATH, with our nodes and tiny models.

Which run, and why others do not, goes into docs/models.md. `make templates TEMPLATES="flux_schnell"`: these.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

from tests.families.page import write_page
from tests.harness.hosts import host_path, host_version
from tests.harness.swapped import ensure_templates, graphs, questions, read

from .editor import prompts
from .page import RECORD
from .running import ran, write_models


def main() -> None:
    host, names = host_path(), sys.argv[1:]
    # With links at nodes that ours take the place of.
    ours = {
        name: workflow
        for name, workflow in read(ensure_templates()).items()
        if any(any(questions(graph)) for graph in graphs(workflow)) and (not names or name in names)
    }
    unknown = set(names) - set(ours)
    if unknown:
        sys.exit(f"Templates: none of {', '.join(sorted(unknown))} has links at nodes that ours take the place of.")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        sent = dict(prompts(ours, host, Path(folder) / "editor"))
        write_models(host, Path(folder) / "server" / "models", sent.values())
        for name, why in ran(ours, sent, host, Path(folder) / "server"):
            found[name] = why
            print(f"{len(found)}/{len(ours)} {name}: {why or 'runs'}", flush=True)
    record = json.loads(RECORD.read_text()) if RECORD.is_file() else {}
    record.setdefault(host_version(host), {}).update(found)
    RECORD.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    write_page()
    print(f"{sum(not why for why in found.values())} of {len(found)} run")


if __name__ == "__main__":
    main()
