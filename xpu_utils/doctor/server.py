"""What the doctor inside a running ComfyUI finds: only there its start, packs, models and our hooks are known."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from .findings import Finding, State, everywhere

DEFAULT_ADDRESS = "127.0.0.1:8188"

TIME_LIMIT_SECONDS = 15.0


def examine_server(address: str) -> list[Finding]:
    """The findings of the ComfyUI at "host:port", or why they are not known."""
    try:
        with urllib.request.urlopen(f"http://{address}/xpu/doctor", timeout=TIME_LIMIT_SECONDS) as answer:
            return [_finding(entry) for entry in json.load(answer)["findings"]]
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        reason = str(getattr(error, "reason", error))
    except (ValueError, KeyError, TypeError) as error:
        reason = f"its answer is not ours: {error!r}"
    what = f"ComfyUI itself was not examined: none with this pack answers at {address}"
    fix = "Start ComfyUI and run this again; one at another address is named with --server HOST:PORT."
    return [Finding("comfyui-unknown", State.NOTE, what, reason, everywhere(fix))]


def _finding(entry: Mapping[str, Any]) -> Finding:
    code, state, what, evidence = (str(entry[name]) for name in ("code", "state", "what", "evidence"))
    return Finding(code, State[state.upper()], what, evidence, dict(entry["fixes"]))
