"""`make reliability`: every fault at every stage with every sampler, then a long queue; docs/reliability.md from it.

Results are kept under out/reliability/, where the tests in tests/sim_host leave theirs as well; the page is written
from all of them. The whole takes about half an hour.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
from pathlib import Path
from typing import Any

import psutil
from tqdm import tqdm

from tests.sim_host.matrix import OUT, PASSING, SAMPLERS, STAGES, Case, faulty_server, graph, row, run_case

from .hosts import CACHE, ROOT

PAGE = ROOT / "docs" / "reliability.md"
LOST = "device_lost"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queue", type=int, default=200, help="prompts of the long queue")
    parser.add_argument("--only", choices=("matrix", "queue", "page"), help="leave the rest as it was measured before")
    arguments = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    if arguments.only in (None, "matrix"):
        _keep("matrix", [*run_matrix(), *run_losses()])
    if arguments.only in (None, "queue"):
        _keep("queue", run_queue(arguments.queue))
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")


def run_matrix() -> list[dict[str, Any]]:
    """Every passing fault at every stage with every sampler."""
    cases = [
        Case(stage, kind, sampler)
        for stage in STAGES
        for kind in PASSING
        for sampler in SAMPLERS
        if (stage, kind) != ("load", "nan")
    ]
    rows = []
    with faulty_server(_folder("matrix")) as (server, simulation):
        expected = {sampler: run_case(server, simulation, None, graph(sampler)) for sampler in SAMPLERS}
        for case in tqdm(cases, unit="prompt", desc="matrix"):
            outcome = run_case(server, simulation, case, graph(case.sampler))
            rows.append(row(outcome, expected[case.sampler]))
    return rows


def run_losses() -> list[dict[str, Any]]:
    """A device lost at every stage with every sampler; the prompt after it must be right as well."""
    rows = []
    with tqdm(total=len(SAMPLERS) * len(STAGES), unit="device", desc="lost devices") as bar:
        for sampler in SAMPLERS:
            with faulty_server(_folder(f"lost-{sampler}"), devices=len(STAGES) + 1) as (server, simulation):
                expected = run_case(server, simulation, None, graph(sampler))
                for stage in STAGES:
                    found = row(run_case(server, simulation, Case(stage, LOST, sampler), graph(sampler)), expected)
                    after = row(run_case(server, simulation, None, graph(sampler)), expected)
                    rows.append({**found, "equal": found["equal"] and after["equal"]})
                    bar.update()
    return rows


def run_queue(length: int) -> dict[str, Any]:
    """Prompts with random faults on two devices, the first of which dies half way."""
    chance = random.Random(7)
    finished = fired = 0
    with faulty_server(_folder("queue"), arguments=("--cache-lru", "4")) as (server, simulation):
        for number in range(len(SAMPLERS)):  # everything has been used once when memory is read
            server.client.run(_prompt(number))
        before = _held_bytes(server, simulation)
        for number in tqdm(range(length), unit="prompt", desc="queue"):
            kind = LOST if number == length // 2 else chance.choice(("out_of_memory", "out_of_resources", "nan"))
            device = int(number > length // 2)
            simulation.set_faults(
                {"operator": "aten::convolution", "kind": kind, "device": device, "nth": chance.randint(1, 120)}
            )
            finished += server.client.run(_prompt(len(SAMPLERS) + number)).error is None
            fired += any(simulation.statistics().faults_fired)
            simulation.set_faults()
        after = _held_bytes(server, simulation)
        alive = server.process.poll() is None
    return {
        "queued": length,
        "fired": fired,
        "finished": finished,
        "server_alive": alive,
        "before": before,
        "after": after,
    }


def _prompt(number: int) -> dict[str, dict[str, Any]]:
    workflow = graph(SAMPLERS[number % len(SAMPLERS)])
    workflow["sampler"]["inputs"]["seed"] = number
    return workflow


def _held_bytes(server: Any, simulation: Any) -> dict[str, int]:
    """What the process and its devices hold with one model loaded; simulated memory is left out of the process's."""
    server.client.post("/free", {"unload_models": True, "free_memory": True})
    server.client.run(graph("euler"))
    devices = simulation.statistics().devices
    resident_bytes = psutil.Process(server.process.pid).memory_info().rss
    return {
        "resident_bytes": resident_bytes - sum(device.reserved_bytes for device in devices),
        "device_bytes": sum(device.allocated_bytes for device in devices if not device.lost),
    }


def _folder(name: str) -> Path:
    """A new folder for a server."""
    base = CACHE / "reliability" / name
    shutil.rmtree(base, ignore_errors=True)
    return base


def _keep(name: str, result: object) -> None:
    (OUT / f"{name}.json").write_text(json.dumps(result, indent=1), encoding="utf-8")


def _kept(name: str) -> Any:
    path = OUT / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def page() -> str:
    """docs/reliability.md, from the results that are there."""
    parts = [
        "# Reliability",
        "Written from the results of `make reliability` (or of `make test`, one sampler a case); do not edit. "
        "Everything here ran the real ComfyUI and the real pack on simulated Intel devices: it shows placement, "
        "limits, faults and recovery, not Intel's drivers.",
        *(_matrix_part(rows) if (rows := _kept("matrix")) else []),
        *(_queue_part(queue) if (queue := _kept("queue")) else []),
        *(_sampling_part(sampling) if (sampling := _kept("sampling")) else []),
        *(_memory_part(memory) if (memory := _kept("memory")) else []),
        *(_attention_part(attention) if (attention := _kept("attention")) else []),
    ]
    return "\n\n".join(parts) + "\n"


def _matrix_part(rows: list[dict[str, Any]]) -> list[str]:
    kinds = (*PASSING, LOST)
    table = ["| stage | " + " | ".join(kinds) + " |", "|---" * (len(kinds) + 1) + "|"]
    for stage in STAGES:
        cells = []
        for kind in kinds:
            here = [row for row in rows if (row["stage"], row["kind"]) == (stage, kind) and row["fired"]]
            cells.append(f"{sum(row['equal'] for row in here)} of {len(here)}" if here else "-")
        table.append(f"| {stage} | " + " | ".join(cells) + " |")
    text = (
        f"Pictures equal, bit for bit, to the undisturbed ones, of prompts with one fault ({len(rows)} prompts in "
        f"fp32; {', '.join(sorted({row['sampler'] for row in rows}))}):"
    )
    bad = [f"- {row['stage']}, {row['kind']}, {row['sampler']}: {row['message'] or 'another picture'}" for row in rows]
    missed = [line for line, row in zip(bad, rows, strict=True) if not row["equal"]]
    return ["## One fault", text, "\n".join(table), *(["Not equal:", "\n".join(missed)] if missed else [])]


def _queue_part(queue: dict[str, Any]) -> list[str]:
    grown = queue["after"]["resident_bytes"] / queue["before"]["resident_bytes"] - 1
    device = queue["after"]["device_bytes"] - queue["before"]["device_bytes"]
    return [
        "## A long queue",
        f"{queue['queued']} prompts on two devices with {queue['fired']} random faults, one device lost half way: "
        f"{queue['finished']} finished, the server {'went on' if queue['server_alive'] else 'ended'}. "
        f"Resident memory grew by {grown:.1%}, device memory by {device} bytes.",
    ]


def _sampling_part(sampling: dict[str, bool]) -> list[str]:
    return [
        "## Whatever is sampled",
        "The second step fails on the device; latents in fp32 equal, bit for bit, those that the CPU gives undisturbed "
        f"(noise does not depend on the device): {sum(sampling.values())} of {len(sampling)}.",
        ", ".join(sampling),
    ]


def _memory_part(memory: dict[str, Any]) -> list[str]:
    setup = memory["setup"]
    table = ["| nodes | mem_get_info | result | believed |", "|---|---|---|---|"]
    for nodes, runs in memory["runs"].items():
        for kind, run in runs.items():
            result = "picture" if run["image"] else "; ".join(map(str, run["error"])) or "no picture"
            table.append(f"| {nodes} | {kind} | {result} | {run.get('source') or '-'} |")
    held = setup["others_bytes"] / setup["total_bytes"]
    return [
        "## Memory",
        f"Another process holds {held:.0%} of {setup['total_bytes'] / 2**30:.1f} GiB:",
        "\n".join(table),
    ]


def _attention_part(attention: dict[str, Any]) -> list[str]:
    table = ["| tokens | stock | ours |", "|---|---|---|"]
    for tokens, peaks in attention["peaks"].items():
        cells = [_peak(peaks[which]) for which in ("stock", "ours")]
        table.append(f"| {tokens} | {cells[0]} | {cells[1]} |")
    return ["## Attention", "Peak device memory under a 4 GB limit (5 heads, scores materialised):", "\n".join(table)]


def _peak(run: dict[str, Any]) -> str:
    return f"{run['peak_bytes'] / 2**20:.0f} MiB" if "peak_bytes" in run else str(run["error"]).split(".")[0]


if __name__ == "__main__":
    main()
