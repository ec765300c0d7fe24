"""What ran where is known after a process that was killed, and forgotten after one that ended."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from xpu_utils.machine import last_words
from xpu_utils.machine.cache import DIRECTORY_VARIABLE

AT_WORK = """
import os, signal
from xpu_utils.machine.last_words import own_book
own_book().note("xpu:0", "sample", "3")
{then}
"""


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv(DIRECTORY_VARIABLE, str(tmp_path))
    monkeypatch.setattr(last_words, "own_book", last_words.functools.cache(last_words.Book))
    return tmp_path


def run(then: str, cache: Path) -> int:
    root = str(Path(__file__).parents[2])
    environment = {"PYTHONPATH": root, DIRECTORY_VARIABLE: str(cache)}
    return subprocess.run([sys.executable, "-c", AT_WORK.format(then=then)], env=environment, check=False).returncode


def test_what_a_killed_process_was_at_is_told_until_the_start_after_the_next(cache: Path) -> None:
    assert run("os.kill(os.getpid(), signal.SIGKILL)", cache) == -signal.SIGKILL
    for start in (last_words.begin, lambda: None):
        (words,) = last_words.left_behind()
        assert words.running is not None
        assert str(words.running).startswith("sample on xpu:0 (node 3, ")
        start()
    last_words.begin()
    assert last_words.left_behind() == ()


def test_an_orderly_end_leaves_nothing_but_a_device_that_gave_no_answer(cache: Path) -> None:
    assert run("", cache) == 0
    assert run("own_book().note_end(); os._exit(1)", cache) == 1
    assert last_words.left_behind() == ()
    assert run('own_book().note_silent("xpu:0", "decode", "4"); own_book().note_end()', cache) == 0
    (words,) = last_words.left_behind()
    assert words.running is None
    assert [(work.device, work.stage) for work in words.silent] == [("xpu:0", "decode")]


def test_what_a_living_process_is_at_is_its_own_business(cache: Path) -> None:
    last_words.own_book().note("xpu:0", "sample", "3")
    last_words.begin()
    assert last_words.left_behind() == ()
    assert last_words.own_book().file.exists()


def test_a_process_that_began_anew_under_its_number_has_left_words(cache: Path) -> None:
    last_words.Book().note("xpu:0", "sample", "3")
    assert len(last_words.left_behind()) == 1
