"""What `make hosts` reads out of the suites that it runs."""

from __future__ import annotations

import os
from pathlib import Path

from tests.harness.host_suite import _differing
from tests.harness.outcomes import Row, run_tests, table

SUITE = """
import pytest

def test_right(): pass
def test_wrong(): assert False
def test_later(): pytest.skip("not now")

@pytest.fixture
def broken(): raise RuntimeError

def test_without_ground(broken): pass
"""


def test_every_test_s_end_is_known(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(SUITE)
    outcomes = run_tests("test_it.py", cwd=tmp_path, environment=os.environ, report=tmp_path / "report.xml")
    ends = {"right": "passed", "wrong": "failure", "later": "skipped", "without_ground": "error"}
    assert outcomes == {f"test_it::test_{name}": end for name, end in ends.items()}
    assert "RuntimeError" in (tmp_path / "report.log").read_text()


def test_a_suite_that_did_not_run_is_no_success(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text("<stale/>")
    row = Row("gone", run_tests("--no-such-option", cwd=tmp_path, environment=os.environ, report=report), ())
    assert not row.as_expected
    assert "it did not run" in table([row])


def test_a_test_that_fails_without_the_pack_too_does_not_differ() -> None:
    alike, ours, gone = {"a": "failure"}, {"b": "failure"}, {"c": "passed"}
    found = list(_differing({**alike, **ours}, {**alike, "b": "passed", **gone}))
    assert found == ["b: failure with the pack, passed without", "c: missing with the pack, passed without"]


def test_the_table_counts_and_names_what_differs() -> None:
    rows = [
        Row("tests/host", {"a": "passed", "b": "passed", "c": "skipped"}, ()),
        Row("tests/browser", {"a": "error", "b": "failure", "c": "passed"}, ("a: error", "b: failure")),
    ]
    assert [row.as_expected for row in rows] == [True, False]
    assert table(rows).splitlines()[2:] == [
        "| tests/host | 2 | 0 | nothing |",
        "| tests/browser | 1 | 2 | a: error<br>b: failure |",
    ]
