"""Takes out of a report what names a person or a machine: paths, and ids that only one device has."""

from __future__ import annotations

import re
from typing import Any

_PRIVATE = re.compile(
    r"""
    (?P<url> https?://[^\s"'<>]+ )
    | (?P<id> \b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b )
    | (?:
        # C:\Users\Anna Maria\file, \\server\share\file: folders may hold spaces, the last part is taken to hold none
        (?: (?<![A-Za-z])[A-Za-z]:[\\/] | \\\\ ) (?:[^\\/:*?"'<>|\r\n]+[\\/])* [^\\/:*?"'<>|\s,;()]*
        # /home/anna/file, ~/file
        | (?<![\w.]) ~?/ [^\s"'<>|:,;()]+
        | ~\\ [^\s"'<>|:,;()]+
    )
    """,
    re.VERBOSE | re.IGNORECASE,
)


def scrub(text: str, *, home: str = "") -> str:
    """The text with <path> and <id> in place of paths and UUIDs; web addresses stay.

    Args:
        home: the user's folder, for paths of which a part that is no longer recognised as one would remain.
    """
    if home.strip("/\\"):
        text = text.replace(home, "~")
    return _PRIVATE.sub(_replacement, text)


def _replacement(match: re.Match[str]) -> str:
    if match.group("url"):
        return match.group()
    return "<id>" if match.group("id") else "<path>"


def scrubbed(data: Any, *, home: str = "") -> Any:
    """Plain data with every string in it scrubbed, keys included."""
    if isinstance(data, str):
        return scrub(data, home=home)
    if isinstance(data, dict):
        return {scrub(key, home=home): scrubbed(value, home=home) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [scrubbed(value, home=home) for value in data]
    return data
