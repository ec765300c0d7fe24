"""Puts the checks together, and writes what they found as text, as JSON and as a report to attach to an issue."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..machine.devices import Device
from ..selftest.operations import Result
from ..selftest.result import SELF_TESTS
from . import comfyui, probe, python, scan, system
from .findings import Finding, State, everywhere
from .machine import Machine
from .privacy import scrubbed_here

CHECKS = (*system.CHECKS, *python.CHECKS, *comfyui.CHECKS)


def examine(machine: Machine) -> list[Finding]:
    """Every check of the facts, the worst findings first. Runs nothing on any device."""
    found = [finding for check in CHECKS for finding in check(machine)]
    return sorted(found, key=lambda finding: -finding.state)


def examine_device(device: Device, check_stop: Callable[[], None]) -> list[Finding]:
    """Runs a real kernel on a device in a child process, which takes seconds; see `probe.run`."""
    return [probe.finding(device.id, probe.run(device.id, check_stop=check_stop)), *_attention(device)]


def _attention(device: Device) -> list[Finding]:
    """What models met on the device so far, and how long each way to attend took."""
    measured = SELF_TESTS.attention(device)
    if not measured:
        return []
    ways = ", ".join(sorted({times.fastest.value for times in measured}))
    return [Finding("attention", State.OK, f"{device.id} attends by {ways}", "; ".join(map(str, measured)))]


def examine_need(machine: Machine, kind: str) -> list[Finding]:
    """An error where no device of a type ("xpu") can be used."""
    if any(device.type == kind for device in machine.inventory.devices):
        return []
    fixes = everywhere(
        "Mend what the other findings say, or start ComfyUI with --cpu.",
        nixos='Mend what the other findings say, or set services.comfyui-xpu.acceleration = "cpu";',
    )
    return [Finding("device-missing", State.ERROR, f"No {kind} device can be used", f"--need {kind}", fixes)]


def examine_packs(folder: Path) -> list[Finding]:
    """Looks for other packs under `folder` that insist on CUDA."""
    return scan.findings(scan.scan(folder, own=probe.ROOT))


def merge(own: Sequence[Finding], others: Iterable[Finding]) -> list[Finding]:
    """The findings of this process, and of another one's those that this one has not made itself."""
    made = {(finding.code, finding.what) for finding in own}
    return [*own, *(finding for finding in others if (finding.code, finding.what) not in made)]


def as_text(findings: Iterable[Finding], system_name: str) -> str:
    """One paragraph a finding: state, what, evidence, fix, link."""
    lines = []
    for finding in findings:
        lines.append(f"{finding.state.name.lower():8}{finding.what} ({finding.evidence})")
        if finding.state is not State.OK and finding.fix_for(system_name):
            lines.append(f"{'':8}fix: {finding.fix_for(system_name)}")
            lines.append(f"{'':8}see: {finding.url}")
    return "\n".join(lines)


def as_data(findings: Iterable[Finding], system_name: str) -> list[dict[str, Any]]:
    """The findings as plain data; `fix` is the one for this system."""
    return [
        {
            "code": finding.code,
            "state": finding.state.name.lower(),
            "what": finding.what,
            "evidence": finding.evidence,
            "fix": finding.fix_for(system_name),
            "fixes": dict(finding.fixes),
            "link": finding.link,
        }
        for finding in findings
    ]


def described(machine: Machine, findings: Sequence[Finding]) -> dict[str, Any]:
    """Facts of the hardware for a report, each field chosen: none names the user, the machine or one single device."""
    return {
        "system": machine.system,
        "kernel": machine.kernel.split("-")[0],
        "gpus": [
            {name: getattr(gpu, name) for name in ("pci_device_id", "driver", "largest_bar_bytes", "integrated")}
            for gpu in machine.gpus
        ],
        "torch": dataclasses.asdict(machine.torch_build),
        "packages": dict(machine.packages),
        "ram_gib": round(machine.ram_bytes / (1 << 30)),
        "devices": [
            {
                "id": device.id,
                "name": device.name,
                "architecture": device.architecture.value,
                "total_gib": round(device.total_bytes / (1 << 30), 1),
                "integrated": device.integrated,
                "fp16": device.fp16,
                "bf16": device.bf16,
                "fp64": device.fp64,
                "driver_version": device.driver_version,
                "compute_units": device.compute_units,
            }
            for device in machine.inventory.devices
        ],
        "findings": [{"code": finding.code, "state": finding.state.name.lower()} for finding in findings],
    }


def attachment(machine: Machine, findings: Sequence[Finding], numbers: Mapping[str, Sequence[Result]]) -> str:
    """JSON to attach to an issue; what drivers say is scrubbed of paths, names and ids."""
    results = {
        device: [{**dataclasses.asdict(result), "right": result.right} for result in results]
        for device, results in numbers.items()
    }
    data = {"report": "xpu-nodes self-test 1", **described(machine, findings), "numbers": results}
    return json.dumps(scrubbed_here(data), indent=2)
