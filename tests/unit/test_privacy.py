"""Reports name nobody: paths and ids are taken out of whatever a driver says."""

from __future__ import annotations

import pytest

from xpu_utils.doctor.privacy import scrub, scrubbed, scrubbed_here


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cannot open /home/anna/.cache/neo: denied", "cannot open <path>: denied"),
        ("error:/home/anna/x", "error:<path>"),
        ('File "/home/anna/a b", line 3', 'File "<path> b", line 3'),
        ("(~/models/anna.safetensors)", "(<path>)"),
        (r"cannot open C:\Users\anna\AppData\cache.bin, giving up", "cannot open <path>, giving up"),
        (r"C:\Users\Anna Maria\AppData\cache.bin is locked", "<path> is locked"),
        ("c:/Users/anna/x", "<path>"),
        (r"\\annas-pc\share\model", "<path>"),
        ("file:///home/anna/x", "file:<path>"),
        ("device 8680a056-0800-0000-0300-000000000000 is lost", "device <id> is lost"),
        ("/mnt/Data/Anna Maria/model.bin: denied", "<path>: denied"),
        ("no /mnt/a/b and no /c", "no <path> and no <path>"),
        ("serial 0000000123ABCDEF, S/N:AB-1234", "serial <id>, S/N:<id>"),
        ("serial execution of 4", "serial execution of 4"),
        ("cannot reach anna@annas-pc.local", "cannot reach <name>"),
        ("from https://anna:secret@nas/x", "from <path>"),
        ("see https://github.com/intel/llvm/issues/1", "see https://github.com/intel/llvm/issues/1"),
        ("Meteor/Arrow Lake, 1/2, and/or 3 / 4", "Meteor/Arrow Lake, 1/2, and/or 3 / 4"),
        ("level_zero backend failed with error: 20", "level_zero backend failed with error: 20"),
    ],
)
def test_paths_and_ids_are_taken_out_and_the_rest_stays(text: str, expected: str) -> None:
    assert scrub(text) == expected


def test_a_home_of_an_unusual_form_is_known_by_its_name() -> None:
    assert scrub("no /srv/anna maria/x", home="/srv/anna maria") == "no <path>"
    assert scrub("3 / 4", home="/") == "3 / 4"


def test_every_string_of_a_report_is_scrubbed() -> None:
    data = {"a": [{"problem": "/home/anna/x"}], "/home/anna": ("~/y", 1, None)}
    assert scrubbed(data) == {"a": [{"problem": "<path>"}], "<path>": ["<path>", 1, None]}


def test_names_of_the_user_and_the_machine_are_taken_out_as_whole_words() -> None:
    names = ("annas-pc", "annas-pc.local", "anna")
    assert scrub("Anna on annas-pc.local, not Annabel", names=names) == "<name> on <name>, not Annabel"
    assert scrubbed({"anna": "anna"}, names=names) == {"anna": "<name>"}, "a report's keys stay what they are"


def test_a_report_is_scrubbed_of_whoever_runs_this(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.node", lambda: "annas-pc.local")
    monkeypatch.setattr("getpass.getuser", lambda: "anna")
    monkeypatch.setenv("HOME", "/srv/intel")
    text = "anna at annas-pc: Intel Arc, /srv/intel/x"
    assert scrubbed_here(text) == "<name> at <name>: Intel Arc, <path>"
