"""docs/measurements/reliability.md, and what in the results misses what is promised."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tests.sim_host.matrix import LASTING, PASSING, STAGES

from .fault_matrix import STOCK_PATIENCE_S, all_cases

Rows = list[dict[str, Any]]

GROWTH_LIMIT = 0.01
"""Of the memory that the server's process has in use, over the long queue."""
GIB, MIB = 1 << 30, 1 << 20

_INTRODUCTION = """# Reliability

Whatever fails on the card, you get the picture that you would have got: that is measured here, and [faults.md](../\
faults.md) says what it means for you. The real ComfyUI ran the real pack on simulated Intel devices, which show \
placement, limits, faults and recovery, not Intel's drivers. Written from the results of `make reliability`; do not \
edit."""


def page(results: Mapping[str, Any], before: str = "") -> str:
    """The page, from the results that are there; of the others what the page said before."""
    kept = _sections(before)
    parts = [_INTRODUCTION]
    for heading, write in _PARTS.items():
        text = "\n\n".join(write(results))
        parts.append(f"## {heading}\n\n{text}" if text else kept.get(heading, ""))
    return "\n\n".join(filter(None, parts)) + "\n"


def _sections(text: str) -> dict[str, str]:
    """A page's sections by their headings."""
    found = re.split(r"^(?=## )", text, flags=re.MULTILINE)[1:]
    return {section.splitlines()[0].removeprefix("## "): section.strip() for section in found}


def as_promised(row: Mapping[str, Any]) -> bool:
    """Whether a fault happened, its prompt gave a picture, and the next prompt the right one."""
    return bool(row["fired"] and row["finished"] and row["next_right"] and row["server_alive"])


def misses(results: Mapping[str, Any]) -> list[str]:
    """What is not as promised: prompts lost, servers ended, wrong next prompts, memory grown; a line each."""
    bad = [
        f"{row['stage']}, {row['kind']}, {row['workflow']}: {row['message'] or 'not as promised'}"
        for row in results["full-matrix"] or []
        if not as_promised(row)
    ]
    queue = results["queue"]
    grown = max(queue["grown"][key] for key in ("in_use_bytes", "python_blocks")) if queue else 0
    if queue and (queue["finished"] != queue["queued"] or grown > GROWTH_LIMIT):
        bad.append(f"queue: {queue['finished']} of {queue['queued']} finished, memory in use grew by {grown:.1%}")
    bad += [f"queue, another picture without a word: {found}" for found in queue["unexplained"]] if queue else []
    bad += [
        f"waiting, {row['kind']}: {row['equal']} of {row['queued']}"
        for row in results["waiting"] or []
        if not (row["fired"] and row["equal"] == row["queued"])
    ]
    return bad


def _table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _kinds(rows: Rows) -> list[str]:
    return sorted({row["kind"] for row in rows}, key=(*PASSING, *LASTING).index)


def _share(rows: Rows, key: str) -> str:
    return f"{sum(row[key] for row in rows)} of {len(rows)}" if rows else "-"


def _matrix_part(results: Mapping[str, Any]) -> list[str]:
    rows: Rows = results["full-matrix"] or []
    if not rows:
        return []
    workflows = sorted({row["workflow"] for row in rows})
    cells = [
        [
            kind,
            *(
                _share([row for row in rows if (row["stage"], row["kind"]) == (stage, kind)], "equal")
                for stage in STAGES
            ),
        ]
        for kind in _kinds(rows)
    ]
    left = len(all_cases()) - len(rows)
    missed = [
        f"- {row['stage']}, {row['kind']}, {row['workflow']}: {row['message'] or 'another picture'}"
        for row in rows
        if not row["equal"]
    ]
    return [
        f"Pictures equal, bit for bit, to the undisturbed ones, of {len(rows)} prompts with one fault in fp32 "
        f"({'; '.join(workflows)}){f'; {left} more were not run' if left else ''}:",
        _table(["fault", *STAGES], cells),
        *(["Not equal:", "\n".join(missed)] if missed else []),
        *_costs_part(rows, results["stock"] or []),
    ]


def _costs_part(rows: Rows, stock: Rows) -> list[str]:
    """What the faults cost, by kind, beside what stock ComfyUI makes of them."""
    head = ["fault", "prompts lost", "lowest PSNR of pictures not equal", "extra model calls, at most"]
    head += ["rungs, at most", "next prompt right", "server restarts"]
    head += ["stock: prompts lost", "stock: next prompt right"]
    cells = []
    for kind in _kinds(rows):
        ours = [row for row in rows if row["kind"] == kind]
        theirs = [row for row in stock if row["kind"] == kind]
        cells.append([kind, *_costs(ours), *(_lost_and_next(theirs) if theirs else ["-", "-"])])
    return [
        "What a fault costs, over all stages and workflows, and what ComfyUI without the pack makes of the same faults "
        "(one workflow; a picture that is not the undisturbed one counts as lost there, since nothing tells the user; "
        f"nor is waited longer than {STOCK_PATIENCE_S} s for one):",
        _table(head, cells),
    ]


def _costs(rows: Rows) -> list[str]:
    psnr = [row["psnr_db"] for row in rows if row["psnr_db"] is not None]
    return [
        _lost(rows, "finished"),
        f"{min(psnr)} dB" if psnr else "-",
        str(max(row["extra_calls"] for row in rows)),
        str(max(len(row["rungs"]) for row in rows)),
        _share(rows, "next_right"),
        str(sum(not row["server_alive"] for row in rows)),
    ]


def _lost_and_next(rows: Rows) -> list[str]:
    return [_lost(rows, "equal"), _share(rows, "next_right")]


def _lost(rows: Rows, key: str) -> str:
    return f"{sum(not row[key] for row in rows)} of {len(rows)}"


def _queue_part(results: Mapping[str, Any]) -> list[str]:
    queue = results["queue"]
    if not queue:
        return []
    others = queue["finished"] - queue["equal"]
    psnr = f", {others} with a PSNR of at least {min(queue['psnr_db'])} dB" if queue["psnr_db"] else ""
    said = (
        f"{queue['inexact']} prompts say that one of their rungs may change the last digits; of the others "
        f"{len(queue['unexplained'])} gave another picture"
    )
    table = [
        [
            *(reading["prompts"], f"{reading['in_use_bytes'] / MIB:.1f}", f"{reading['python_blocks']:,}"),
            *(f"{reading['host_bytes'] / MIB:.1f}", reading["device_bytes"]),
        ]
        for reading in queue["readings"]
    ]
    grown = queue["grown"]
    return [
        f"{queue['queued']} prompts on two cards with {queue['fired']} random faults (seed {queue['seed']}), of "
        "which one has the first card hang and one takes the second away, after which the CPU goes on: "
        f"{queue['finished']} finished, {queue['equal']} pictures equal to the undisturbed ones{psnr}. {said}. The "
        f"server {'went on' if queue['server_alive'] else 'ended'}.",
        f"Memory of the server's process, models unloaded and the simulated devices' left out, from the start to the "
        f"end (before each reading all is given back and then loaded anew, of which safetensors keeps two integers for "
        f"each tensor): what malloc has given out {grown['in_use_bytes']:+.2%} (over the second half "
        f"{queue['bytes_per_prompt'] / 1024:+.1f} KiB a prompt), Python's objects {grown['python_blocks']:+.2%}; "
        f"private memory (USS), which has the gaps in the C library's heap as well, {grown['host_bytes']:+.1%}.",
        _table(["prompts", "malloc, MiB", "Python's blocks", "USS, MiB", "devices, bytes"], table),
    ]


def _waiting_part(results: Mapping[str, Any]) -> list[str]:
    rows = results["waiting"]
    if not rows:
        return []
    cells = [[row["kind"], row["queued"], row["equal"]] for row in rows]
    return [
        "All prompts are queued, then the card that runs them fails for good; another one is there:",
        _table(["fault", "queued", "pictures equal to the undisturbed ones"], cells),
    ]


def _sampling_part(results: Mapping[str, Any]) -> list[str]:
    sampling = results["sampling"]
    if not sampling:
        return []
    return [
        "The second step fails on the device; latents in fp32 equal, bit for bit, those that the CPU gives undisturbed "
        f"(noise does not depend on the device): {sum(sampling.values())} of {len(sampling)}.",
        ", ".join(sampling),
    ]


def _memory_part(results: Mapping[str, Any]) -> list[str]:
    memory = results["memory"]
    if not memory:
        return []
    setup = memory["setup"]
    cells = [
        [nodes, kind, _result(run), run.get("source") or "-"]
        for nodes, runs in memory["runs"].items()
        for kind, run in runs.items()
    ]
    held = setup["others_bytes"] / setup["total_bytes"]
    return [
        f"Another process holds {held:.0%} of {setup['total_bytes'] / GIB:.1f} GiB:",
        _table(["nodes", "mem_get_info", "result", "believed"], cells),
    ]


def _result(run: dict[str, Any]) -> str:
    return "picture" if run["image"] else "; ".join(map(str, run["error"])) or "no picture"


def _attention_part(results: Mapping[str, Any]) -> list[str]:
    attention = results["attention"]
    if not attention:
        return []
    peaks = [[tokens, _peak(entry["stock"]), _peak(entry["ours"])] for tokens, entry in attention["peaks"].items()]
    microseconds = attention["overhead"]["microseconds_per_call"]
    limit_bytes = next(iter(attention["pictures"].values()))["limit_bytes"]
    return [
        f"Peak device memory under a {limit_bytes / GIB:.0f} GiB limit (5 heads, scores materialised):",
        _table(["tokens", "stock", "ours"], peaks),
        "Pictures of the largest sizes, by their shapes alone; stock asks for all scores at once:",
        _table(
            ["picture", "tokens", "heads", "stock: scores", "ours: largest piece", "pieces"],
            [[f"{side}²", *_picture(entry)] for side, entry in attention["pictures"].items()],
        ),
        f"Where one piece suffices, our override adds {microseconds:.0f} µs of processor time to an attention call: "
        f"under 5 % for every call that takes longer than {20 * microseconds / 1000:.1f} ms.",
    ]


def _picture(entry: dict[str, Any]) -> list[object]:
    refused = " (refused)" if entry["stock_scores_bytes"] > entry["limit_bytes"] else ""
    return [
        f"{entry['tokens']:,}",
        entry["heads"],
        f"{entry['stock_scores_bytes'] / GIB:.0f} GiB{refused}",
        f"{entry['largest_scores_bytes'] / MIB:.0f} MiB",
        f"{entry['calls']:,}",
    ]


def _peak(run: dict[str, Any]) -> str:
    return f"{run['peak_bytes'] / MIB:.0f} MiB" if "peak_bytes" in run else str(run["error"]).split(".")[0]


_PARTS: Mapping[str, Callable[[Mapping[str, Any]], list[str]]] = {
    "One fault": _matrix_part,
    "A long queue": _queue_part,
    "A queue that waits": _waiting_part,
    "Whatever is sampled": _sampling_part,
    "Memory": _memory_part,
    "Attention": _attention_part,
}
"""The page's sections, in order; one of which there are no results is empty."""
