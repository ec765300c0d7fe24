"""Takes out of a report what names a person or a machine: paths, names, addresses, and ids that one device has."""

from __future__ import annotations

import contextlib
import functools
import getpass
import platform
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

_PRIVATE = re.compile(
    r"""
    (?P<url> https?://[^\s"'<>]+ )
    | (?P<id> \b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b )
    | (?P<serial> (?:\bserial|\bs/n)(?:[ _-]?(?:number|no\.?))?[\s:=#"']+ ) (?=[\w-]*\d)[\w-]{4,}
    | (?P<name> \b[\w.+-]+@\w[\w.-]* )
    | (?:
        # C:\Users\Anna Maria\file, \\server\share\file: folders may hold spaces, the last part is taken to hold none
        (?: (?<![A-Za-z])[A-Za-z]:[\\/] | \\\\ ) (?:[^\\/:*?"'<>|\r\n]+[\\/])* [^\\/:*?"'<>|\s,;()]*
        # /home/anna/file, ~/file, /mnt/Anna Maria/file: a folder's name is taken to hold three spaces at most
        | (?<![\w.]) ~?/ (?:[^\s/"'<>|:,;()]+(?:[ ][^\s/"'<>|:,;()]+){0,3}/+)* [^\s"'<>|:,;()]+
        | ~\\ [^\s"'<>|:,;()]+
    )
    """,
    re.VERBOSE | re.IGNORECASE,
)


_USUAL = ("root", "user", "admin", "administrator", "ubuntu", "debian", "fedora", "nixos", "localhost", "comfyui")
_NOBODY = frozenset((*_USUAL, "intel", "nvidia", "arc", "xpu", "gpu", "cpu"))
"""Names of users and machines that name nobody, and are words of what a report says."""


def scrub(text: str, *, home: str = "", names: Collection[str] = ()) -> str:
    """The text with <path>, <id> and <name> in place of paths, UUIDs and serial numbers, names; web addresses stay.

    Args:
        home: the user's folder, for paths of which a part that is no longer recognised as one would remain.
        names: of the user and the machine.
    """
    if home.strip("/\\"):
        text = text.replace(home, "~")
    text = _PRIVATE.sub(_replacement, text)
    if not names:
        return text
    whole = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    return re.sub(rf"(?<!\w)(?:{whole})(?!\w)", "<name>", text, flags=re.IGNORECASE)


def _replacement(match: re.Match[str]) -> str:
    if match.group("url"):
        return match.group() if "@" not in match.group() else "<path>"
    if match.group("serial"):
        return f"{match.group('serial')}<id>"
    return "<id>" if match.group("id") else "<name>" if match.group("name") else "<path>"


def scrubbed(data: Any, *, home: str = "", names: Collection[str] = ()) -> Any:
    """Plain data with every string in it scrubbed; of names those that are no keys, which are words of ours."""
    own = functools.partial(scrubbed, home=home, names=names)
    if isinstance(data, str):
        return scrub(data, home=home, names=names)
    if isinstance(data, dict):
        return {scrub(key, home=home): own(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [own(value) for value in data]
    return data


def scrubbed_here(data: Any) -> Any:
    """Plain data without what names this user and this machine."""
    return scrubbed(data, home=str(Path.home()), names=_own_names())


def _own_names() -> frozenset[str]:
    names = {Path.home().name, platform.node(), platform.node().partition(".")[0]}
    with contextlib.suppress(OSError, KeyError, ImportError):  # a user whom the system has no name of
        names.add(getpass.getuser())
    return frozenset(name for name in names if len(name) > 2 and name.lower() not in _NOBODY)
