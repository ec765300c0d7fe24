"""A batch without its workers: which jobs there are, who is given which, what a crash leaves."""

from __future__ import annotations

import errno
import io
import json
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.harness.workflows import node, text_to_image
from xpu_utils.__main__ import main
from xpu_utils.batch.jobs import Job, make_jobs, rows_of, seeds_of
from xpu_utils.batch.queue import Queue, Waiting
from xpu_utils.batch.results import MANIFEST, Results, file_names, opened
from xpu_utils.batch.workflow import BadJob, Workflow
from xpu_utils.workers.folder import FolderTaken
from xpu_utils.workers.worker import File, Need, Outcome, Report

TITLED = {
    **text_to_image(),
    "untitled": {**node("Note"), "_meta": "x"},
    "6": {**node("CLIPTextEncode", clip=["checkpoint", 1], text="a cat"), "_meta": {"title": "Prompt"}},
}
REPORT = Report("host:1", "xpu:0", 0.0, 1.0)


def outcome(*contents: bytes) -> Outcome:
    return Outcome(
        tuple(File("save", f"{index}.png", True, content) for index, content in enumerate(contents)), {}, REPORT
    )


def models(*names: str) -> frozenset[Need]:
    return frozenset(Need("CheckpointLoaderSimple", "ckpt_name", name) for name in names)


def job(number: int, *needs: str) -> Job:
    return Job(number, f"key{number}", {"sampler.seed": number}, {}, models(*needs))


def test_a_job_for_each_row_with_each_seed_in_the_workflow_s_own_types(tmp_path: Path) -> None:
    table = tmp_path / "jobs.csv"
    table.write_text("Prompt,sampler.cfg\na dog,3.5\na bird,\n", encoding="utf-8")
    jobs = make_jobs(Workflow(TITLED), settings={"sampler.steps": "4"}, rows=rows_of(table), seeds=seeds_of("1..2,9"))
    assert [entry.number for entry in jobs] == [1, 2, 3, 4, 5, 6]
    assert jobs[1].settings == {"sampler.steps": 4, "6.text": "a dog", "sampler.cfg": 3.5, "sampler.seed": 2}
    assert jobs[5].settings == {"sampler.steps": 4, "6.text": "a bird", "sampler.seed": 9}
    prompt = Workflow(TITLED).prompt(jobs[1].settings)
    assert (prompt["6"]["inputs"]["text"], prompt["sampler"]["inputs"]["steps"]) == ("a dog", 4)
    assert TITLED["sampler"]["inputs"]["steps"] == 2
    assert jobs[0].needs == models("sd15-tiny.safetensors")


@pytest.mark.parametrize("text", ["", "5..1,3", "1..1000000000", "1..600000,1..600000", "9" * 5000, "x", "-1"])
def test_seeds_that_cannot_be_are_a_sentence(text: str) -> None:
    with pytest.raises(BadJob, match=r"^--seeds: "):
        seeds_of(text)


def test_what_seeds_set_nothing_else_sets() -> None:
    with pytest.raises(BadJob, match=r"sampler\.seed would be set by --seeds too"):
        make_jobs(Workflow(TITLED), settings={}, rows=[{"sampler.seed": "5"}], seeds=[1])


def test_a_table_without_rows_is_no_batch_of_one_job(tmp_path: Path) -> None:
    (tmp_path / "jobs.csv").write_text("Prompt\n")
    with pytest.raises(BadJob, match="has no rows"):
        rows_of(tmp_path / "jobs.csv")


def test_json_lines_are_a_table_too(tmp_path: Path) -> None:
    table = tmp_path / "jobs.jsonl"
    table.write_text('{"Prompt": "a dog", "sampler.seed": 5}\n\n{"6.text": "a bird"}\n', encoding="utf-8")
    jobs = make_jobs(Workflow(TITLED), settings={}, rows=rows_of(table))
    assert [entry.settings for entry in jobs] == [{"6.text": "a dog", "sampler.seed": 5}, {"6.text": "a bird"}]


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("nobody.text", "x", "no such node"),
        ("sampler", "x", "has the inputs seed, steps"),
        ("sampler.model", "x", "is given by node checkpoint"),
        ("sampler.steps", "many", "'many' is not like 2"),
        ("sampler.steps", "true", "'true' is not like 2"),
        ("sampler.cfg", "NaN", "'NaN' is not like 7.0"),
        ("sampler.stepz", "2", "sampler.stepz: that node has the inputs model"),
        ("Prompt", "\ud800", "holds half a character"),
    ],
)
def test_a_setting_that_cannot_be_is_said_in_a_sentence(name: str, value: str, sentence: str) -> None:
    with pytest.raises(BadJob, match=sentence):
        make_jobs(Workflow(TITLED), settings={name: value})


def test_a_workflow_of_the_editor_is_told_from_one_of_the_api(tmp_path: Path) -> None:
    (tmp_path / "editor.json").write_text('{"nodes": [], "links": []}')
    with pytest.raises(BadJob, match=r"save it with Workflow > Export \(API\)"):
        Workflow.read(tmp_path / "editor.json")


def test_numbers_are_of_either_kind_as_the_editor_writes_7_0_as_7() -> None:
    graph = text_to_image()
    graph["sampler"]["inputs"]["cfg"] = 7
    (made,) = make_jobs(Workflow(graph), settings={"sampler.cfg": "7.5"})
    assert made.settings == {"sampler.cfg": 7.5}


@pytest.mark.parametrize("text", ["blurry, embedding:easynegative.pt", "a cat\nmodel.pt", "embedding:cat.pt"])
def test_a_prompt_s_text_is_no_model_that_a_job_needs(text: str) -> None:
    (made,) = make_jobs(Workflow(TITLED), settings={"Prompt": text})
    assert made.needs == models("sd15-tiny.safetensors")


def test_input_files_travel_by_the_names_that_the_workflow_has(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("in/cat.png", "in/unused.png", "in/sd15-tiny.safetensors", "outside.png"):
        (tmp_path / name).write_bytes(name.encode())
    workflow = Workflow(
        {
            **text_to_image(),
            "image": node("LoadImage", image="cat.png [input]"),
            "other": node("LoadImage", image="../outside.png"),
            "round": node("LoadImage", image="../in/unused.png"),  # its name leads out of the worker's folder
            "absolute": node("LoadImage", image=str(tmp_path / "in" / "unused.png")),
        }
    )
    (first,) = make_jobs(workflow, settings={}, folders=[tmp_path / "in"])
    assert first.files == {"cat.png": tmp_path / "in" / "cat.png"}
    (tmp_path / "in" / "cat.png").write_bytes(b"another cat")
    (second,) = make_jobs(workflow, settings={}, folders=[tmp_path / "in"])
    assert second.key != first.key, "another picture is another job"


def test_jobs_that_are_alike_are_each_done_and_have_the_same_keys_next_time() -> None:
    twice = [make_jobs(Workflow(TITLED), settings={}, rows=[{"Prompt": "a dog"}] * 2) for _ in range(2)]
    assert len({entry.key for entry in twice[0]}) == 2
    assert [entry.key for entry in twice[0]] == [entry.key for entry in twice[1]]


@given(
    st.lists(st.sampled_from(["", "a", "b", "ab"]), max_size=20),
    st.lists(st.sampled_from(["a", "b", "ab"]), min_size=1),
)
def test_every_job_is_taken_once_by_a_worker_that_has_its_models_or_given_up(needs: list[str], have: list[str]) -> None:
    jobs = [job(number, *names) for number, names in enumerate(needs, 1)]
    queue = Queue(jobs)
    impossible = [waiting.job for waiting, lacking in queue.take_impossible(map(models, have)) if lacking]
    taken = []
    while len(queue):
        for index, name in enumerate(have):
            waiting = queue.take(f"worker{index}", models(name), loaded=frozenset(), others={})
            if waiting is not None:
                assert waiting.job.needs <= models(name)
                taken.append(waiting.job)
    assert sorted(entry.number for entry in (*taken, *impossible)) == [entry.number for entry in jobs]
    assert all(not any(entry.needs <= models(name) for name in have) for entry in impossible)


def test_a_job_that_failed_goes_to_another_worker_first_and_next() -> None:
    queue = Queue([job(1, "a"), job(2, "a")])
    first = queue.take("one", models("a"), loaded=frozenset(), others={})
    assert first is not None
    queue.again(Waiting(first.job, (("one", "out of memory"),)))
    second = queue.take("one", models("a"), loaded=frozenset(), others={"two": models("a")})
    assert second is not None
    assert second.job.number == 2
    assert queue.take("one", models("a"), loaded=frozenset(), others={"two": models("a")}) is None
    again = queue.take("two", models("a"), loaded=frozenset(), others={"one": models("a")})
    assert again is not None
    assert again.job.number == 1


def test_a_job_that_failed_is_not_left_to_a_worker_that_cannot_do_it() -> None:
    queue = Queue([])
    queue.again(Waiting(job(1, "a"), (("one", "out of memory"),)))
    assert queue.take("two", models("b"), loaded=frozenset(), others={"one": models("a")}) is None
    assert queue.take("one", models("a"), loaded=frozenset(), others={"two": models("b")}) is not None


def test_a_worker_goes_on_with_the_models_that_it_has_loaded() -> None:
    queue = Queue([job(1, "a"), job(2, "b"), job(3, "a")])
    order = []
    loaded: frozenset[str] = frozenset()
    while (waiting := queue.take("one", models("a", "b"), loaded=loaded, others={})) is not None:
        order.append(waiting.job.number)
        loaded = waiting.job.needs
    assert order == [1, 3, 2]


@settings(deadline=None)  # it waits for the disk
@given(cut=st.integers(min_value=0))
def test_a_manifest_that_a_crash_cuts_anywhere_keeps_all_jobs_before(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    folder = tmp_path_factory.mktemp("batch")
    with opened(folder) as results:
        for number in (1, 2, 3):
            results.record(job(number), outcome(b"picture"), [f"{number}.png"], ())
    content = (folder / MANIFEST).read_bytes()
    cut %= len(content)
    (folder / MANIFEST).write_bytes(content[:cut])
    whole = content[:cut].count(b"\n")
    with opened(folder) as results:
        assert results.done == {f"key{number}" for number in range(1, whole + 1)}
        results.record(job(4), outcome(b"picture"), ["4.png"], ())
    with opened(folder) as results:
        assert len(results.done) == whole + 1


def test_a_result_never_takes_the_name_of_another_job_s(tmp_path: Path) -> None:
    with opened(tmp_path) as results:
        results.record(job(1), outcome(b"one"), ["7.png"], ())
    with opened(tmp_path) as results:
        results.record(job(2), outcome(b"two"), ["7.png"], ())
    assert (tmp_path / "7.png").read_bytes() == b"one"
    assert (tmp_path / "7~2.png").read_bytes() == b"two"


@pytest.mark.parametrize(
    ("there", "wanted", "free"),
    [
        ("mine.png", "mine.png", "mine~2.png"),  # no result of a batch
        ("", MANIFEST, "manifest~2.jsonl"),
        ("", "Cat.png", "Cat~2.png"),  # cat.png is a result
    ],
)
def test_a_result_replaces_no_file_that_is_there(tmp_path: Path, there: str, wanted: str, free: str) -> None:
    if there:
        (tmp_path / there).write_bytes(b"other")
    with opened(tmp_path) as results:
        results.record(job(1), outcome(b"one"), ["cat.png"], ())
        results.record(job(2), outcome(b"two"), [wanted], ())
    assert (tmp_path / free).read_bytes() == b"two"
    assert not there or (tmp_path / there).read_bytes() == b"other"


def test_a_result_that_was_written_before_its_line_is_not_kept_twice(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(b"one")
    with opened(tmp_path) as results:
        results.record(job(1), outcome(b"one"), ["1.png"], ())
    assert [file.name for file in tmp_path.glob("*.png")] == ["1.png"]


@pytest.mark.parametrize("text", ["a\u2028b", "a\u2029b", "a\x85b", "a\x1eb"])
def test_a_batch_goes_on_whatever_texts_its_manifest_holds(tmp_path: Path, text: str) -> None:
    with opened(tmp_path) as results:
        results.record(Job(1, "key", {"6.text": text}, {}, frozenset()), outcome(b"x"), ["1.png"], ())
    with opened(tmp_path) as results:
        assert results.done == {"key"}


def test_a_full_disk_leaves_no_part_of_a_result_and_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with opened(tmp_path) as results:
        with monkeypatch.context() as patched:
            patched.setattr("os.fsync", full)
            with pytest.raises(OSError, match="No space left"):
                results.record(job(1), outcome(b"picture"), ["1.png"], ())
        assert list(tmp_path.glob("*.png*")) == []
        (tmp_path / MANIFEST).write_bytes(b"")
        with monkeypatch.context() as patched:
            patched.setattr("os.fsync", full)
            with pytest.raises(OSError, match="No space left"):
                results.give_up(job(1), "x", ())
        assert (tmp_path / MANIFEST).read_bytes() == b"", "no part of a line is before the next"
    with opened(tmp_path) as results:
        assert results.done == frozenset()


def test_a_folder_is_for_one_batch_at_a_time(tmp_path: Path) -> None:
    with opened(tmp_path), pytest.raises(FolderTaken, match="Another command works in"), opened(tmp_path):
        pass


def test_names_are_made_of_a_job_s_values_and_stay_below_the_folder() -> None:
    files = outcome(b"", b"").files
    made = Job(7, "key", {"6.text": "a/../cat: no. 1", "sampler.seed": 5}, {}, frozenset())
    assert file_names("{number}", made, files[:1], width=3) == ["007.png"]
    assert file_names("{seed}/{6.text}", made, files, width=1) == ["5/a_.._cat_ no. 1-1.png", "5/a_.._cat_ no. 1-2.png"]
    led_out = Job(7, "key", {"6.text": "..", "7.text": "tmp"}, {}, frozenset())
    assert file_names("{6.text}/{7.text}/x", led_out, files[:1], width=1) == ["_/tmp/x.png"]
    (name,) = file_names("{6.text}" * 9, Job(1, "key", {"6.text": "猫" * 99}, {}, frozenset()), files[:1], width=1)
    assert len(name.encode()) < 230
    with pytest.raises(BadJob, match=r"\{nothing\} is none of \{number\}, \{seed\}, \{6.text\}"):
        file_names("{nothing}", made, files, width=1)


def test_a_dry_run_shows_the_jobs_and_does_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "workflow.json").write_text(json.dumps(TITLED))
    line = ["batch", str(tmp_path / "workflow.json"), "--seeds", "1..2", "--out", str(tmp_path / "out"), "--dry-run"]
    assert main(line) == 0
    assert capsys.readouterr().out.splitlines() == [
        "job 1 (sampler.seed=1), needs sd15-tiny.safetensors",
        "job 2 (sampler.seed=2), needs sd15-tiny.safetensors",
        "2 jobs",
    ]
    assert not (tmp_path / "out").exists()


def test_a_name_that_one_job_has_not_is_said_before_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "workflow.json").write_text(json.dumps(TITLED))
    (tmp_path / "jobs.csv").write_text("Prompt,sampler.cfg\na dog,3\na bird,\n")
    line = ["batch", str(tmp_path / "workflow.json"), "--table", str(tmp_path / "jobs.csv"), "--dry-run"]
    assert main([*line, "--name", "{sampler.cfg}"]) == 2
    assert "{sampler.cfg} is none of {number}, {6.text}" in capsys.readouterr().out


def test_what_the_output_cannot_show_is_shown_as_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "workflow.json").write_text(json.dumps(TITLED))
    written = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", written)
    assert main(["batch", str(tmp_path / "workflow.json"), "--set", "Prompt=\u65e5", "--dry-run"]) == 0
    written.flush()
    assert b"6.text=\\u65e5" in written.buffer.getvalue()  # type: ignore[attr-defined]


def test_without_ray_a_batch_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "workflow.json").write_text(json.dumps(TITLED))
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["batch", str(tmp_path / "workflow.json"), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().out
    assert said.startswith("batch: Many workers need Ray")
    assert said.endswith("pip install 'ray>=2.60'.\n")


def test_done_is_read_from_the_manifest_and_failed_is_tried_again(tmp_path: Path) -> None:
    results = Results(tmp_path)
    results.give_up(job(1), "failed on two", ("one: no", "two: no"))
    results.record(job(2), outcome(b"x"), ["2.png"], ())
    assert Results(tmp_path).done == {"key2"}
