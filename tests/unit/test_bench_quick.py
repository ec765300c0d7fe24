"""The quick table: what it measures, what it calls a ceiling, and how two runs are compared."""

from __future__ import annotations

import argparse
import functools
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from xpu_utils.__main__ import main
from xpu_utils.bench import models, quick
from xpu_utils.bench.ceilings import compute_flops, link_bytes_per_s
from xpu_utils.bench.compare import as_json, as_table, compare, load, rate_text
from xpu_utils.bench.measure import Measurement, measure
from xpu_utils.machine.devices import find_devices
from xpu_utils.machine.timing import median_seconds

from .recorded import b580, lay_out, xpu

CPU = find_devices().devices[-1]


def entry(name: str = "gemm", *, device: str = "xpu:0", rate: float | None = 2e12, problem: str = "") -> Measurement:
    return Measurement(name, device, "bf16", 1e-3 if rate else None, rate, "FLOP/s", problem=problem)


IN_NO_TIME = functools.partial(measure, seconds_of=lambda call, device: 1e-3)


def test_a_call_is_timed_and_its_rate_is_work_over_time() -> None:
    ticks = iter(number / 2 for number in range(1000))  # every call takes half a second
    seconds_of = functools.partial(median_seconds, clock=lambda: next(ticks))
    calls = []

    def call() -> None:
        calls.append(1)

    result = measure("nothing", CPU, "fp32", lambda: call, work=10.0, unit="1/s", seconds_of=seconds_of)
    assert (result.seconds, result.rate) == (0.5, 20.0)
    assert len(calls) == 4  # one to warm up, then the fewest repeats


def test_an_operation_that_a_device_cannot_do_is_told_and_the_rest_goes_on() -> None:
    def fail() -> Any:
        raise RuntimeError("Required aspect fp64 is not supported\nmore")

    for prepare in (fail, lambda: fail):  # while its inputs are made, or when it is called
        result = measure("gemm", CPU, "fp32", prepare, work=1.0, unit="1/s")
        assert (result.seconds, result.problem) == (None, "Required aspect fp64 is not supported")


class ShortOfMemory(TorchFunctionMode):
    """A device that has no memory for fp32."""

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        if function is torch.Tensor.to and arguments[-1] == torch.float32:
            raise torch.OutOfMemoryError("XPU out of memory. Tried to allocate 64.00 MiB.")
        return function(*arguments, **(keywords or {}))


def test_memory_too_small_for_the_inputs_costs_one_line_and_not_the_table() -> None:
    with ShortOfMemory():
        found = quick.measure_device(CPU, IN_NO_TIME)
    assert [entry.problem for entry in found if entry.precision == "fp32"] == [
        "XPU out of memory. Tried to allocate 64.00 MiB."
    ]
    assert all(entry.rate for entry in found if entry.precision != "fp32")


def test_every_kind_of_operation_is_measured_once() -> None:
    others = torch.get_rng_state()
    found = quick.measure_device(CPU, IN_NO_TIME)
    assert torch.equal(torch.get_rng_state(), others), "what others draw goes on as it was"
    assert len(found) == quick.measurement_count(CPU)
    names = [result.name for result in found]
    assert names[:3] == ["gemm"] * 3
    for kind in ("convolution", "head dim 40", "head dim 128", "u-net step", "DiT step", "VAE decode"):
        assert sum(kind in name for name in names) == 1, kind
    convolution = next(result for result in found if result.name.startswith("convolution"))
    assert convolution.rate == pytest.approx(2 * 2 * 320 * 320 * 9 * 64 * 64 / 1e-3)
    assert convolution.ceiling == found[0].rate
    steps = [result for result in found if "step" in result.name or "decode" in result.name]
    assert all(result.ceiling == found[0].rate and result.unit == "FLOP/s" for result in steps)


def test_the_reduced_models_have_the_shapes_of_their_originals() -> None:
    with torch.inference_mode():
        unet = models.UNet()(torch.zeros(1, 4, 16, 16), torch.zeros(1, 77, 768))
        assert unet.shape == (1, 4, 16, 16)
        assert models.DiT()(torch.zeros(1, 8, 1536)).shape == (1, 8, 1536)
        assert models.Decoder()(torch.zeros(1, 4, 4, 4)).shape == (1, 3, 32, 32)


def test_the_operations_of_a_model_are_counted_and_not_computed() -> None:
    def two_layers() -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))

    assert models.flops(two_layers, [(3, 8)]) == 2 * 3 * (8 * 16 + 16 * 4)


def test_the_ceilings_of_a_b580_are_its_published_ones(tmp_path: Path) -> None:
    sysfs, _ = lay_out("xe_dgpu", tmp_path)
    matrix, vector = (compute_flops(b580(compute_units=160), precision, sysfs=sysfs) for precision in ("fp16", "fp32"))
    assert matrix is not None
    assert matrix[0] == pytest.approx(233e12 / 2, rel=0.01)  # half of the published 233 8-bit TOPS
    assert vector is not None
    assert vector[0] == pytest.approx(13.67e12 * 2850 / 2670, rel=0.01)  # published for 2670 MHz
    assert compute_flops(xpu(), "fp16", sysfs=sysfs) is None  # no such card there: no clock, no ceiling
    (clock,) = sysfs.rglob("rp0_freq")
    clock.write_text("unknown\n")
    assert compute_flops(b580(compute_units=160), "fp16", sysfs=sysfs) is None


def test_the_ceiling_of_copies_is_the_link_between_card_and_root_port(tmp_path: Path) -> None:
    root = tmp_path / "devices" / "pci0000:00" / "0000:00:01.0"
    links = {  # an Arc card: behind its upstream port lie links inside the card
        root: ("16.0 GT/s PCIe", "8"),
        root / "0000:02:00.0": ("32.0 GT/s PCIe", "8"),
        root / "0000:02:00.0" / "0000:03:01.0": ("2.5 GT/s PCIe", "1"),
        root / "0000:02:00.0" / "0000:03:01.0" / "0000:04:00.0": ("2.5 GT/s PCIe", "1"),
    }
    for folder, (speed, width) in links.items():
        folder.mkdir(parents=True)
        (folder / "max_link_speed").write_text(f"{speed}\n")
        (folder / "current_link_width").write_text(f"{width}\n")
    (tmp_path / "0000:04:00.0").symlink_to(list(links)[-1])
    limit = link_bytes_per_s(b580(), pci=tmp_path)
    assert limit == (pytest.approx(15.75e9, rel=0.01), "PCIe 16 GT/s x8")
    assert link_bytes_per_s(b580(integrated=True), pci=tmp_path) is None
    assert link_bytes_per_s(xpu(), pci=tmp_path) is None
    (root / "max_link_speed").write_text("Unknown\n")
    assert link_bytes_per_s(b580(), pci=tmp_path) is None


def test_two_files_are_compared_operation_by_operation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    before.write_text(as_json([entry(rate=1e12), entry("gone")]))
    after.write_text(as_json([entry(rate=2e12), entry("new"), entry("gemm", device="cpu")]))
    assert main(["bench", "--compare", str(before), str(after), "--chart", str(tmp_path / "chart.svg")]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == 2
    assert lines[1].split() == ["xpu:0", "gemm", "bf16", "1", "TFLOP/s", "2", "TFLOP/s", "2.00"]
    chart = (tmp_path / "chart.svg").read_text()
    assert "gemm, xpu:0 bf16, before" in chart
    assert "gemm, xpu:0 bf16, after" in chart
    assert "gone" not in chart
    assert chart.count("<rect") == 2


def test_a_run_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    measurements = [entry(), entry("attention", rate=None, problem="no kernel")]
    file.write_text(as_json(measurements))
    assert load(file) == measurements
    assert compare(measurements, measurements).splitlines()[2].endswith("–")


@pytest.mark.parametrize("content", ["", "[]", '{"format": "other"}', '{"format": "xpu-nodes bench 2"}'])
def test_a_file_that_holds_no_measurements_is_refused_in_a_sentence(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.json"
    file.write_text(content)
    assert main(["bench", "--compare", str(file), str(file)]) == 2
    assert "make it" in capsys.readouterr().out


def test_a_device_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--device", "xpu:9"]) == 2
    assert "xpu:9 is not on this machine" in capsys.readouterr().out


def test_with_a_pytorch_that_is_too_old_nothing_is_measured(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(torch, "accelerator")
    assert main(["bench"]) == 2
    assert "is too old, XPU Nodes needs 2.7 or newer" in capsys.readouterr().out


def test_the_table_names_problems_in_place_of_figures() -> None:
    lines = as_table([entry(), entry("attention", rate=None, problem="no kernel")]).splitlines()
    assert lines[1].split()[3:] == ["1.00", "ms", "2", "TFLOP/s"]
    assert lines[2].endswith("no kernel")
    assert rate_text(1.5e9, "B/s") == "1.5 GB/s"


def test_the_chart_has_a_bar_for_every_figure() -> None:
    bars_of = quick.one_bar([entry(), entry(device="cpu", rate=5e11), entry("x", rate=None)])
    svg = ElementTree.fromstring(quick.chart(bars_of))
    bars = [float(bar.attrib["width"]) for bar in svg.iter("{http://www.w3.org/2000/svg}rect")]
    assert len(bars) == 2
    assert min(bars) == pytest.approx(max(bars) / 4, abs=0.1)


def test_json_is_what_the_verb_answers() -> None:
    parser = argparse.ArgumentParser()
    quick.add_options(parser)
    code, text = quick.run(parser.parse_args(["--json"]), table=lambda _device: iter([entry()]))
    assert code == 0
    assert json.loads(text)["measurements"][0]["rate"] == 2e12
