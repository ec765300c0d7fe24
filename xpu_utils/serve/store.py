"""Files on the serving side: what clients upload, what prompts made, whichever worker ran them."""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..workers import temporary
from ..workers.files import holds, write_whole
from ..workers.worker import File
from .requests import Refused, refused

NAME_BYTES = 255
PATH_BYTES = 1024
"""Of a subfolder and a name: no system takes much more."""
_ANNOTATION = re.compile(r" \[(input|output|temp)\]$")
_CLOSED = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*]|[. ]$')
"""What a name may not hold or end with on Linux or Windows."""
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


class Store:
    """A folder for each kind of file. What its methods are given as names is checked here."""

    def __init__(self, root: Path) -> None:
        """Makes the folders of what is kept; previews have one that ends with the process.

        Raises:
            OSError: they cannot be made.
        """
        self._naming = threading.Lock()
        temporary.remove_left_behind("serve")
        self._previews = tempfile.TemporaryDirectory(prefix=temporary.prefix("serve"), ignore_cleanup_errors=True)
        folders = {kind: root / kind for kind in ("input", "output")} | {"temp": Path(self._previews.name)}
        for folder in folders.values():
            folder.mkdir(parents=True, exist_ok=True)
        self._folders = {kind: folder.resolve() for kind, folder in folders.items()}

    def find(self, kind: str, subfolder: str, name: str) -> Path:
        """A file that is there.

        Raises:
            Refused: the names are none of files below a kind's folder, or there is no such file.
        """
        file = self._below(kind, subfolder, name)
        if not file.is_file():
            raise refused(404, "not_found", "There is no such file.")
        return file

    def upload(self, kind: str, subfolder: str, name: str, content: bytes, *, overwrite: bool) -> str:
        """Keeps a file and answers its name: another one where a different file has it, as ComfyUI does.

        Raises:
            Refused: the names are none of files below a kind's folder.
            OSError: it cannot be written.
        """
        file = self._below(kind, subfolder, name)
        with self._naming:
            if not overwrite:
                file = _without_namesake(file, content)
            write_whole(file, content)
        return file.name

    def keep(self, prompt_id: str, file: File) -> None:
        """Keeps a file that a prompt made; `shown` says where.

        Raises:
            Refused: its name is none that can be kept.
            OSError: it cannot be written.
        """
        folder = f"{prompt_id}/{file.subfolder}".strip("/")
        kind = "output" if file.kept else "temp"
        write_whole(self._below(kind, folder, file.name), file.content, lasting=file.kept)

    def clear(self, prompt_id: str) -> None:
        """Removes what a prompt left that was not done to its end."""
        shutil.rmtree(self._folders["output"] / prompt_id, ignore_errors=True)

    def inputs_of(self, nodes: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, bytes]]:
        """Names and contents of the uploaded files that a prompt names."""
        names = {value for node in nodes.values() for value in node["inputs"].values() if isinstance(value, str)}
        for name in sorted(names):
            plain = _ANNOTATION.sub("", name)
            subfolder, _, base = plain.replace("\\", "/").rpartition("/")
            with contextlib.suppress(Refused):  # any other text
                yield plain, self.find("input", subfolder, base).read_bytes()

    def _below(self, kind: str, subfolder: str, name: str) -> Path:
        folder = self._folders.get(kind)
        if folder is None:
            raise refused(400, "invalid_request", f"type must be one of {', '.join(self._folders)}.")
        parts = [*filter(None, subfolder.replace("\\", "/").split("/")), name]
        if not all(map(_is_name, parts)):
            raise refused(400, "invalid_request", "filename and subfolder must be plain names of files and folders.")
        if sum(len(part.encode()) + 1 for part in parts) > PATH_BYTES:
            raise refused(400, "invalid_request", f"filename and subfolder may have {PATH_BYTES} bytes.")
        file = folder.joinpath(*parts)
        if not file.resolve().is_relative_to(folder):
            raise refused(400, "invalid_request", "filename and subfolder must not lead out of their folder.")
        return file


def shown(entries: Mapping[str, Any], prompt_id: str) -> dict[str, Any]:
    """What a node showed, its files named as they are in the store."""
    return {
        name: [_moved(entry, prompt_id) for entry in values] if isinstance(values, list) else values
        for name, values in entries.items()
    }


def _moved(entry: Any, prompt_id: str) -> Any:
    if isinstance(entry, dict) and "filename" in entry and entry.get("type") in ("output", "temp"):
        return {**entry, "subfolder": f"{prompt_id}/{entry.get('subfolder', '')}".rstrip("/")}
    return entry


def _is_name(text: str) -> bool:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return False
    return 0 < size <= NAME_BYTES and not _CLOSED.search(text) and not _DEVICES.fullmatch(text)


def _without_namesake(file: Path, content: bytes) -> Path:
    wanted, number = file, 1
    while file.exists() and not holds(file, content):
        file = wanted.with_name(f"{wanted.stem} ({number}){wanted.suffix}")
        number += 1
    return file
