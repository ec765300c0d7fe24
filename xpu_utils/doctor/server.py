"""What a running ComfyUI says of our hooks: they exist only inside its process."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

from .comfyui import hook_findings
from .findings import Finding, State

DEFAULT_ADDRESS = "127.0.0.1:8188"

TIME_LIMIT_SECONDS = 5.0


def examine_server(address: str) -> list[Finding]:
    """Every hook of the ComfyUI at "host:port" and what became of it, or why that is not known."""
    try:
        with urllib.request.urlopen(f"http://{address}/xpu/hooks", timeout=TIME_LIMIT_SECONDS) as answer:
            hooks = json.load(answer)["hooks"]
            return list(hook_findings((hook["name"], hook["state"], hook["reason"]) for hook in hooks))
    except (urllib.error.URLError, OSError) as error:
        reason = str(getattr(error, "reason", error))
    except (ValueError, KeyError, TypeError) as error:
        reason = f"its answer is not ours: {error!r}"
    what = f"The hooks are not known: no ComfyUI with this pack answers at {address}"
    return [Finding("hooks-unknown", State.OK, what, reason)]
