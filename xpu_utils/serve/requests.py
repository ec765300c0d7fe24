"""What requests may hold: bodies read and checked before anything else sees them."""

from __future__ import annotations

import dataclasses
import json
import math
import uuid
from collections.abc import Mapping
from typing import Any, NoReturn

DEPTH_LIMIT = 64
"""How deep JSON may be nested: an editor's own is below 20, and what is answered and sent on stays far from Python's
limit."""
CLIENT_ID_CHARACTERS = 256


class Refused(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, body: Mapping[str, Any]) -> None:
        super().__init__(status, body)
        self.status = status
        self.body = body


def refused(status: int, kind: str, message: str, details: str = "") -> Refused:
    """A refusal in ComfyUI's form, and in its words where it has some for it."""
    error = {"type": kind, "message": message, "details": details, "extra_info": {}}
    return Refused(status, {"error": error, "node_errors": {}})


@dataclasses.dataclass(frozen=True)
class Wanted:
    """A prompt as a client sent it."""

    prompt_id: str
    client_id: str
    """Empty where it does not listen."""
    nodes: Mapping[str, Mapping[str, Any]]
    extra: Mapping[str, Any]
    """What else the worker's ComfyUI is told: extra_data, partial_execution_targets."""
    number: float | None
    """Its place in the queue; None: behind all others."""
    front: bool
    size_bytes: int


def parsed(body: bytes) -> Any:
    """The JSON of a body; ComfyUI's clients do not always name its type.

    Raises:
        Refused: it is none, holds numbers that JSON has not, or is nested too deeply.
    """
    try:
        value = json.loads(body, parse_constant=_no_number, parse_float=_finite)
    except (ValueError, RecursionError):
        raise refused(400, "invalid_json", "The body must be JSON.") from None
    if not _shallow(value):
        raise refused(400, "invalid_json", f"The body is nested deeper than {DEPTH_LIMIT} levels.")
    return value


def parsed_object(body: bytes) -> dict[str, Any]:
    """As `parsed`, and an object.

    Raises:
        Refused: it is not.
    """
    value = parsed(body)
    if not isinstance(value, dict):
        raise refused(400, "invalid_json", "The body must be a JSON object.")
    return value


def wanted(body: bytes) -> Wanted:
    """The prompt in a body.

    Raises:
        Refused: there is none, or a part of it is of the wrong kind.
    """
    data = parsed_object(body)
    if "prompt" not in data:
        raise refused(400, "no_prompt", "No prompt provided", "No prompt provided")
    extra_data, targets = data.get("extra_data"), data.get("partial_execution_targets")
    _must(extra_data is None or isinstance(extra_data, dict), "extra_data must be an object.")
    _must(targets is None or _all_text(targets), "partial_execution_targets must be a list of node ids.")
    extra = {"extra_data": extra_data or {}}
    if targets is not None:
        extra["partial_execution_targets"] = targets
    return Wanted(
        prompt_id=_prompt_id(data.get("prompt_id")),
        client_id=_client_id(data.get("client_id")),
        nodes=_nodes(data["prompt"]),
        extra=extra,
        number=_number(data["number"]) if "number" in data else None,
        front=bool(data.get("front")),
        size_bytes=len(body),
    )


def ids(value: Any) -> list[str]:
    """The prompt ids of a `delete`.

    Raises:
        Refused: it is no list of texts.
    """
    _must(_all_text(value), "delete must be a list of prompt ids.")
    return list(value)


def whole_number(text: str | None, name: str, *, least: int) -> int | None:
    """A number of a query; None where it is not there.

    Raises:
        Refused: it is no whole number, or too small.
    """
    if text is None:
        return None
    digits = text.removeprefix("-")
    _must(digits.isascii() and digits.isdigit() and len(digits) < 10, f"{name} must be a whole number.")
    _must(int(text) >= least, f"{name} must be {least} or more.")
    return int(text)


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"JSON has no {name}")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large")
    return value


def _shallow(value: Any) -> bool:
    level = [value]
    for _ in range(DEPTH_LIMIT):
        level = [
            child
            for container in level
            if isinstance(container, (dict, list))
            for child in (container.values() if isinstance(container, dict) else container)
        ]
        if not level:
            return True
    return False


def _must(holds: bool, message: str) -> None:
    if not holds:
        raise refused(400, "invalid_request", message)


def _all_text(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)


def _nodes(value: Any) -> dict[str, dict[str, Any]]:
    if not (isinstance(value, dict) and value):
        raise refused(400, "prompt_no_outputs", "Prompt has no outputs", "It must be an object of nodes by their ids.")
    for name, node in value.items():
        if not (isinstance(node, dict) and isinstance(node.get("class_type"), str)):
            message = "Cannot execute because a node is missing the class_type property."
            raise refused(400, "invalid_prompt", message, f"Node ID '#{name}'")
        _must(isinstance(node.get("inputs"), dict), f"The inputs of node {name} must be an object.")
    return value


def _prompt_id(value: Any) -> str:
    if value is None:
        return str(uuid.uuid4())
    try:
        right = isinstance(value, str) and str(uuid.UUID(value)) == value
    except ValueError:
        right = False
    if not right:
        details = "A UUID in lower case with hyphens; where it is left out, the server gives one."
        raise refused(400, "invalid_prompt_id", "prompt_id must be a valid UUID", details)
    return str(value)


def _client_id(value: Any) -> str:
    right = value is None or (isinstance(value, str) and len(value) <= CLIENT_ID_CHARACTERS)
    _must(right, f"client_id must be a text of at most {CLIENT_ID_CHARACTERS} characters.")
    return value or ""


def _number(value: Any) -> float:
    right = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 2**53
    _must(right, "number must be a number.")
    return float(value)
