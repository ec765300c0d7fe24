"""Runs a program that ends when its starter does: `python guard.py PROGRAM.py ARGUMENTS`, with a pipe as input.

The pipe's other end is open as long as the starter lives, however that ends. Imports nothing of the pack: it is the
main program of a ComfyUI.
"""

from __future__ import annotations

import os
import runpy
import sys
import threading


def end_with_starter() -> None:
    """Waits for the end of the input, then ends this process."""
    while os.read(0, 1024):
        pass
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=end_with_starter, daemon=True).start()
    del sys.argv[0]
    sys.path[0] = os.path.dirname(os.path.abspath(sys.argv[0]))
    runpy.run_path(sys.argv[0], run_name="__main__")
