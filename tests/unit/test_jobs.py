"""The job log: bounded, readable from anywhere, and heard by its listeners."""

from __future__ import annotations

from xpu_utils.recovery.jobs import Fault, JobLog, Stage, StageState


def _stage(
    name: str = "sample", *, seconds: float = 1.0, peak_bytes: int | None = None, state: StageState = "done"
) -> Stage:
    return Stage(
        name, "xpu:1", "xpu:0", "bf16", seconds, "xpu:1 is not on this machine", peak_bytes=peak_bytes, state=state
    )


def test_a_job_sums_its_stages_and_keeps_the_largest_peak() -> None:
    log = JobLog()
    log.record_stage("p", _stage(seconds=2.0, peak_bytes=10))
    log.record_stage("p", _stage("vae decode", seconds=0.5, peak_bytes=30))
    log.record_stage("p", _stage("save"))
    (job,) = log.jobs()
    assert job.seconds == 3.5
    assert job.peak_bytes == 30
    assert [stage.name for stage in job.stages] == ["sample", "vae decode", "save"]


def test_a_stage_takes_the_place_of_what_it_was_while_it_ran() -> None:
    log = JobLog()
    log.record_stage("p", _stage(state="done"))
    log.record_stage("p", _stage(seconds=0, state="running"))
    log.record_stage("p", _stage("decode", state="running"))
    log.record_stage("p", _stage(seconds=4.0, state="stopped"))
    (job,) = log.jobs()
    assert [(stage.name, stage.state) for stage in job.stages] == [
        ("sample", "done"),
        ("decode", "running"),
        ("sample", "stopped"),
    ]


def test_a_job_counts_its_rungs() -> None:
    log = JobLog()
    for rung, name in (
        ("9 MiB freed", "memory freed"),
        ("0 MiB freed", "memory freed"),
        ("xpu:1", "another"),
        ("", ""),
    ):
        log.record_fault("p", Fault("out of memory", "xpu:0", "sample", rung, name))
    (job,) = log.jobs()
    assert job.rungs == {"memory freed": 2, "another": 1}


def test_the_oldest_job_and_the_oldest_record_are_forgotten_first() -> None:
    log = JobLog(job_limit=2, record_limit=3)
    for prompt in "abc":
        for index in range(5):
            log.record_stage(prompt, _stage(str(index)))
            log.record_fault(prompt, Fault("out of memory", "xpu:0", "sample", step=index))
    newest, older = log.jobs()
    assert log.jobs(limit=1) == (newest,)
    assert (newest.prompt_id, older.prompt_id) == ("c", "b")
    assert [stage.name for stage in newest.stages] == ["2", "3", "4"]
    assert [fault.step for fault in newest.faults] == [2, 3, 4]


def test_listeners_hear_every_record_until_they_unsubscribe() -> None:
    log = JobLog()
    heard: list[tuple[str, object]] = []
    unsubscribe = log.subscribe(lambda prompt_id, record: heard.append((prompt_id, record)))
    fault = Fault("device lost", "xpu:0", "sample", rung="cpu", step=7)
    log.record_stage("p", _stage())
    log.record_fault("p", fault)
    unsubscribe()
    log.record_stage("p", _stage())
    assert heard == [("p", _stage()), ("p", fault)]


def test_a_fault_reads_as_one_sentence() -> None:
    survived = Fault("ran out of memory", "xpu:0", "sample", rung="45 % resident", step=7)
    assert str(survived) == "xpu:0: ran out of memory at step 7: continued with 45 % resident"
    assert str(Fault("device lost", "xpu:0", "vae decode")) == "xpu:0: device lost in vae decode: the job failed"
