"""Where what was once measured on this machine is kept between runs.

Libraries are imported where they are used: older ComfyUIs start without them, and so does the pack.
"""

from __future__ import annotations

import functools
import json
import logging
import os
from pathlib import Path
from typing import Any, TypeVar, cast

Kept = TypeVar("Kept")

DIRECTORY_VARIABLE = "XPU_NODES_CACHE_DIR"
"""Environment variable naming the folder; without it the system's usual place for a user's caches."""


def cache_directory() -> Path:
    """The folder for cached results; it may not exist yet."""
    import platformdirs

    own = os.environ.get(DIRECTORY_VARIABLE)
    return Path(own) if own else platformdirs.user_cache_path("xpu-nodes", appauthor=False, opinion=False)


def recall(file: Path, kind: type[Kept]) -> Kept | None:
    """What `keep` stored of a dataclass; None where there is nothing that this version of the code can read."""
    import pydantic

    try:
        value: Kept = _adapter(cast(Any, kind)).validate_json(file.read_bytes())
        return value
    except (OSError, pydantic.ValidationError):
        return None


@functools.cache
def _adapter(kind: Any) -> Any:
    """What reads and writes a dataclass; making it takes milliseconds."""
    import pydantic

    return pydantic.TypeAdapter(kind)


def keep(file: Path, value: object, *, what: str) -> bool:
    """Stores a dataclass as JSON; without a writable folder it is measured again at the next start.

    Args:
        what: the value in words, for the log.

    Returns:
        Whether it is stored.
    """
    # Not `dump_json`, which has no word for what is infinite.
    data = _adapter(cast(Any, type(value))).dump_python(value, mode="json")
    part = file.with_suffix(f".{os.getpid()}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(data, indent=1), encoding="utf-8")
        part.replace(file)  # a reader sees nothing or all of it
    except OSError as error:
        logging.warning(
            "XPU Nodes: %s cannot be kept in %s (%s), it will be found again at the next start.",
            what,
            file.parent,
            error,
        )
        return False
    return True
