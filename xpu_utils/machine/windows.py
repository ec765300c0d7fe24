"""The Intel GPUs of a Windows machine, as its own instrumentation (WMI) shows them."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
import subprocess

from .profiles import INTEL_VENDOR

TIME_LIMIT_SECONDS = 20.0
"""Windows takes a second, or several after its start."""

_QUERY = (
    "Get-CimInstance Win32_VideoController | "
    "Select-Object PNPDeviceID,AdapterCompatibility,DriverVersion,ConfigManagerErrorCode | ConvertTo-Json -Compress"
)

_PCI_ID = re.compile(r"PCI\\VEN_([0-9A-F]{4})&DEV_([0-9A-F]{4})", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Adapter:
    """An Intel GPU that is present."""

    pci_device_id: int
    driver: str
    """Version of Intel's driver; empty where another (Microsoft's basic one) or none is in use."""


def find_adapters() -> list[Adapter]:
    """Asks Windows; a machine that does not answer has its reason in the log and shows none."""
    windows = os.environ.get("SYSTEMROOT", r"C:\Windows")
    powershell = rf"{windows}\System32\WindowsPowerShell\v1.0\powershell.exe"
    command = [powershell, "-NoProfile", "-NonInteractive", "-Command", _QUERY]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIME_LIMIT_SECONDS, check=True, stdin=subprocess.DEVNULL
        )
        return adapters(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        logging.warning("XPU Nodes: Windows does not list its graphics adapters (%s), none is assumed.", error)
        return []


def adapters(answer: str) -> list[Adapter]:
    """Reads the answer: a JSON object for one adapter, a list for several, nothing for none.

    Raises:
        ValueError: it is not that.
    """
    entries = json.loads(answer) if answer.strip() else []
    found = []
    for entry in entries if isinstance(entries, list) else [entries]:
        if not isinstance(entry, dict):
            raise ValueError(f"{entry!r} is no adapter")
        match = _PCI_ID.match(entry.get("PNPDeviceID") or "")
        if match is not None and int(match.group(1), 16) == INTEL_VENDOR:
            # 0 is "working properly": not disabled, not stopped after a failure.
            works = entry.get("ConfigManagerErrorCode") == 0
            own = "intel" in (entry.get("AdapterCompatibility") or "").lower()
            found.append(Adapter(int(match.group(2), 16), (entry.get("DriverVersion") or "") if works and own else ""))
    return found
