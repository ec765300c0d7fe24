"""`torch.xpu`, `torch.accelerator`, streams, events, generators, saving: as on a real device."""

from __future__ import annotations

import copy
import io
import math
import threading
from pathlib import Path

import pytest
import safetensors.torch
import torch

from tests.xpu_sim import Simulation
from tests.xpu_sim.fixtures import RunSnippet


def test_two_unequal_devices() -> None:
    assert torch.xpu.is_available()
    assert torch.xpu.device_count() == 2
    assert [torch.xpu.get_device_name(index) for index in range(2)] == [
        "Intel(R) Arc(TM) B580 Graphics",
        "Intel(R) Arc(TM) A770 Graphics",
    ]
    first, second = (torch.xpu.get_device_properties(index) for index in range(2))
    assert first.total_memory != second.total_memory
    assert (first.has_fp64, second.has_fp64) == (True, False)
    assert str(first.uuid) == "86800be2-0000-0000-0300-000000000000"
    assert str(second.uuid) == "8680a056-0800-0000-0300-000000000000"
    assert (first.architecture, second.architecture) == (0x5004000, 0x30DC000)
    assert first.driver_version == "1.13.35096"
    assert first.type == "gpu"
    assert torch.xpu.get_device_capability(1)["max_compute_units"] == 512
    assert torch.version.xpu
    assert str(torch.__version__).endswith("+xpu")


def test_current_device() -> None:
    assert torch.xpu.current_device() == 0
    with torch.xpu.device(1):
        assert torch.xpu.current_device() == 1
        assert torch.ones(1, device="xpu").device == torch.device("xpu:1")
    assert torch.xpu.current_device() == 0
    torch.xpu.set_device(1)
    assert torch.empty(1, device="xpu").get_device() == 1


@pytest.mark.parametrize("function", [lambda: torch.ones(1, device="xpu:2"), lambda: torch.xpu.set_device(2)])
def test_a_device_that_is_not_there(function: object) -> None:
    assert callable(function)
    with pytest.raises(RuntimeError, match="device index is out of range"):
        function()


def test_accelerator() -> None:
    assert torch.accelerator.is_available()
    assert torch.accelerator.current_accelerator() == torch.device("xpu")
    assert torch.accelerator.device_count() == 2
    torch.accelerator.set_device_index(1)
    assert torch.accelerator.current_device_index() == 1
    with torch.accelerator.device_index(0):
        assert torch.xpu.current_device() == 0
    torch.accelerator.synchronize()


def test_streams() -> None:
    default = torch.xpu.current_stream()
    stream = torch.xpu.Stream(device="xpu:0", priority=0)
    assert isinstance(stream, torch.Stream)
    assert stream != default
    with torch.xpu.stream(stream):
        assert torch.xpu.current_stream() == stream
        result = torch.ones(2, device="xpu") + 1
    assert torch.xpu.current_stream() == default
    stream.wait_stream(default)
    default.wait_stream(stream)
    result.record_stream(default)
    stream.synchronize()
    assert stream.query()
    with stream:
        assert torch.accelerator.current_stream().stream_id == stream.stream_id
    generic = torch.Stream(device="xpu:1")
    assert generic.device == torch.device("xpu:1")


def test_streams_are_per_device() -> None:
    stream = torch.xpu.Stream(device=1)
    with torch.xpu.stream(stream):
        assert torch.xpu.current_stream(0).stream_id == 0
        assert torch.xpu.current_stream(1) == stream
    assert torch.xpu.current_device() == 0


def test_events() -> None:
    start, end = (torch.xpu.Event(enable_timing=True) for _ in range(2))
    with pytest.raises(RuntimeError, match="must be recorded"):
        start.elapsed_time(end)
    start.record()
    (torch.ones(256, 256, device="xpu") @ torch.ones(256, 256, device="xpu")).sum().item()
    end.record()
    end.synchronize()
    assert end.query()
    assert start.elapsed_time(end) > 0
    with pytest.raises(RuntimeError, match="enable_timing"):
        start.elapsed_time(torch.xpu.Event())
    torch.xpu.current_stream().wait_event(end)
    generic = torch.Event("xpu")
    generic.record()
    assert generic.query()


def test_record_stream_is_counted(sim: Simulation) -> None:
    torch.ones(1, device="xpu").record_stream(torch.xpu.Stream())
    assert sim.statistics().recorded_streams == 1


def test_generators() -> None:
    generator = torch.Generator(device="xpu").manual_seed(3)
    assert generator.device == torch.device("xpu:0")
    first = torch.randn(5, generator=generator, device="xpu")
    state = generator.get_state()
    second = torch.randn(5, generator=generator, device="xpu")
    assert not torch.equal(first, second)
    generator.set_state(state)
    assert torch.equal(torch.randn(5, generator=generator, device="xpu"), second)
    assert generator.initial_seed() == 3
    generator.manual_seed(3)
    assert torch.equal(torch.randn(5, generator=generator, device="xpu"), first)


def test_a_seed_gives_other_numbers_than_on_the_cpu() -> None:
    on_cpu = torch.randn(5, generator=torch.Generator().manual_seed(3))
    on_xpu = torch.randn(5, generator=torch.Generator("xpu").manual_seed(3), device="xpu")
    assert not torch.equal(on_cpu, on_xpu.cpu())


def test_what_threads_draw_on_a_device_leaves_the_cpus_numbers_alone() -> None:
    before = torch.get_rng_state()
    ones = torch.ones(1000, device="xpu")

    def draw() -> None:
        for _ in range(200):
            torch.native_dropout(ones, 0.5, True)

    threads = [threading.Thread(target=draw) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(torch.get_rng_state(), before)


def test_generators_of_the_wrong_device_are_refused() -> None:
    with pytest.raises(RuntimeError, match="Expected a 'xpu' device type for generator but found 'cpu'"):
        torch.randn(2, device="xpu", generator=torch.Generator())
    with pytest.raises(RuntimeError, match="Expected a 'cpu' device type for generator but found 'xpu'"):
        torch.randn(2, generator=torch.Generator("xpu"))


def test_seeding_the_device() -> None:
    torch.xpu.manual_seed_all(7)
    state = torch.xpu.get_rng_state(0)
    first = torch.rand(4, device="xpu")
    assert torch.xpu.initial_seed() == 7
    torch.xpu.set_rng_state(state, 0)
    assert torch.equal(torch.rand(4, device="xpu"), first)
    torch.manual_seed(7)
    assert torch.equal(torch.rand(4, device="xpu"), first)
    with torch.random.fork_rng(devices=[0], device_type="xpu"):
        torch.rand(4, device="xpu")
    torch.xpu.manual_seed(7)
    assert torch.equal(torch.rand(4, device="xpu"), first)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: torch.randn(4, device="xpu"),
        lambda: torch.randint(10, (4,), device="xpu"),
        lambda: torch.randperm(8, device="xpu"),
        lambda: torch.empty(4, device="xpu").uniform_(),
        lambda: torch.empty(4, device="xpu").exponential_(),
        lambda: torch.bernoulli(torch.full((8,), 0.5, device="xpu")),
        lambda: torch.multinomial(torch.ones(8, device="xpu"), 4),
        lambda: torch.nn.functional.dropout(torch.ones(16, device="xpu")),
        lambda: torch.randn_like(torch.ones(4, device="xpu", dtype=torch.bfloat16)),
    ],
)
def test_random_operators_follow_the_device_seed(draw: object) -> None:
    assert callable(draw)
    torch.xpu.manual_seed(1)
    first = draw()
    torch.xpu.manual_seed(1)
    assert torch.equal(draw(), first)
    assert first.device == torch.device("xpu:0")


def test_pinned_memory() -> None:
    tensor = torch.ones(8)
    assert not tensor.is_pinned()
    pinned = tensor.pin_memory("xpu")
    assert pinned.is_pinned()
    assert pinned[3:].is_pinned("xpu")
    assert torch.equal(pinned, tensor)
    assert torch.empty(4, pin_memory=True).is_pinned()
    assert not torch.empty(4, device="xpu").is_pinned()
    assert not pinned.clone().is_pinned()


def test_autocast() -> None:
    layer = torch.nn.Linear(4, 4, device="xpu")
    with torch.autocast("xpu", dtype=torch.bfloat16):
        assert layer(torch.ones(2, 4, device="xpu")).dtype == torch.bfloat16
        assert torch.is_autocast_enabled("xpu")
    with torch.autocast("xpu", dtype=torch.float16):
        assert (torch.ones(2, 2, device="xpu") @ torch.ones(2, 2, device="xpu")).dtype == torch.float16
    assert layer(torch.ones(2, 4, device="xpu")).dtype == torch.float32


def test_inference_mode() -> None:
    with torch.inference_mode():
        tensor = torch.ones(2, 2, device="xpu")
        result = (tensor @ tensor).view(4)[1:].add_(1)
    assert result.is_inference()
    assert result.tolist() == [3, 3, 3]


def test_modules_move() -> None:
    module = torch.nn.Conv2d(3, 4, 3)
    expected = copy.deepcopy(module.state_dict())
    module.to("xpu:1")
    assert module.weight.is_xpu
    clone = copy.deepcopy(module)
    assert clone.weight.device == torch.device("xpu:1")
    assert clone.weight.data_ptr() != module.weight.data_ptr()
    module.to("cpu")
    assert torch.equal(module.weight, expected["weight"])
    module.xpu()
    module.load_state_dict(expected)
    module.weight.data = module.weight.data.half()
    assert module.weight.dtype == torch.float16


def test_peer_copies() -> None:
    tensor = torch.arange(5, device="xpu:0")
    assert tensor.to("xpu:1").device == torch.device("xpu:1")
    assert tensor.to("xpu:1").tolist() == [0, 1, 2, 3, 4]


def test_saving_and_loading(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(6.0, device="xpu:1").view(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)}
    path = tmp_path / "tensors.pt"
    torch.save(tensors, path)
    assert torch.load(path)["a"].device == torch.device("xpu:1")
    assert torch.load(path, map_location="cpu")["a"].device == torch.device("cpu")
    loaded = torch.load(path, map_location="xpu:0", weights_only=True)
    assert loaded["b"].device == torch.device("xpu:0")
    assert loaded["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    mapped = torch.load(path, map_location={"xpu:1": "xpu:0"}, mmap=True)
    assert mapped["a"].device == torch.device("xpu:0")
    buffer = io.BytesIO()
    torch.save(torch.nn.Linear(2, 2, device="xpu"), buffer)
    buffer.seek(0)
    assert torch.load(buffer, weights_only=False).weight.is_xpu


@pytest.mark.parametrize("device", ["xpu:0", "xpu:1", "xpu"])
def test_safetensors(tmp_path: Path, sim: Simulation, device: str) -> None:
    tensors = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(300, dtype=torch.bfloat16)}
    path = tmp_path / "tensors.safetensors"
    safetensors.torch.save_file({name: tensor.to("xpu") for name, tensor in tensors.items()}, path)
    sim.reset_statistics()
    loaded = safetensors.torch.load_file(path, device=device)
    for name, tensor in tensors.items():
        assert loaded[name].device == torch.device("xpu:1" if device == "xpu:1" else "xpu:0")
        assert torch.equal(loaded[name].cpu(), tensor)
    assert sim.statistics().bytes_copied("host_to_device") == 24 + 600
    with safetensors.safe_open(path, framework="pt", device=device) as file:
        assert file.get_slice("a")[1:].tolist() == [[3, 4, 5]]


def test_storages() -> None:
    tensor = torch.arange(4.0, device="xpu")
    storage = tensor.untyped_storage()
    assert storage.device == torch.device("xpu:0")
    assert storage.nbytes() == 16
    assert storage.cpu().nbytes() == 16
    assert tensor.clone().untyped_storage().data_ptr() != storage.data_ptr()
    assert storage.data_ptr() == tensor[1:].untyped_storage().data_ptr()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 48.0),
        ("clock_rate", 2400.0),
        ("power_draw", 61.0),
        ("utilization", 12.0),
        ("memory_usage", 7.0),
    ],
)
def test_telemetry(sim: Simulation, name: str, value: float) -> None:
    assert getattr(torch.xpu, name)("xpu:0") == value
    field = {
        "temperature": "temperature_c",
        "clock_rate": "clock_rate_mhz",
        "power_draw": "power_draw_w",
        "utilization": "utilization_percent",
        "memory_usage": "memory_usage_percent",
    }[name]
    sim.change_device(0, telemetry={field: 99.5})
    assert getattr(torch.xpu, name)() == 99.5
    sim.change_device(0, telemetry={field: None})
    with pytest.raises(RuntimeError, match="querying is not available"):
        getattr(torch.xpu, name)()
    assert getattr(torch.xpu, name)(1) == value


def test_device_memory_used(sim: Simulation) -> None:
    before = torch.xpu.device_memory_used()
    sim.change_device(0, other_process_bytes=3 << 30)
    tensor = torch.empty(1 << 30, dtype=torch.uint8, device="xpu")
    assert math.isclose(torch.xpu.device_memory_used() - before, 4 << 30, rel_tol=0.01)
    sim.change_device(0, telemetry={"device_memory_used": False})
    with pytest.raises(RuntimeError, match="not available"):
        torch.xpu.device_memory_used()
    del tensor


def test_a_machine_without_devices(xpu_sim_process: RunSnippet) -> None:
    answer = xpu_sim_process(
        """
        try:
            torch.ones(1, device="xpu")
            text = ""
        except RuntimeError as error:
            text = str(error)
        answer([torch.xpu.is_available(), torch.xpu.device_count(), text, torch.ones(2).sum().item()])
        """,
        config={"devices": []},
    )
    assert answer[:2] == [False, 0]
    assert answer[2]
    assert answer[3] == 2


def test_installing_twice_is_refused() -> None:
    from tests import xpu_sim

    with pytest.raises(RuntimeError, match="has simulated XPUs already"):
        xpu_sim.install()
