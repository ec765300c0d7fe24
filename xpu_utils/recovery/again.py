"""Has this process begin anew, with its own command: that ends threads, too, that a driver does not let go of."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence


def own_command() -> list[str]:
    """What this process was started with; empty where the interpreter is part of another program."""
    return [sys.executable, *sys.orig_argv[1:]] if sys.executable else []


def begin_anew(command: Sequence[str], folder: str) -> None:
    """Puts a new process in the place of this one; nothing of this one is ended in an orderly way.

    On Windows it is another process in the same console, as exec there is that, too, and loses quotes.

    Args:
        folder: the working directory that the command is meant for.

    Raises:
        OSError: it cannot be started; this process goes on.
    """
    os.chdir(folder)
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.flush()
    if os.name == "nt":
        subprocess.Popen(command)
        os.kill(os.getpid(), signal.SIGTERM)  # at once: no library is asked to clean up, which could hang as well
        return
    import fcntl  # not on Windows

    for descriptor in map(int, os.listdir("/dev/fd")):
        if descriptor > 2:  # a GPU that stays open keeps its memory
            with contextlib.suppress(OSError):  # it was the listing's own
                fcntl.fcntl(descriptor, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
    os.execv(command[0], [*command])
