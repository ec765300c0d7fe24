"""What a weight stream copies, when and from where, by the simulated device's own count; results stay the same."""

from __future__ import annotations

import collections
import itertools
import threading
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import nn

from tests import xpu_sim
from xpu_utils.streaming.leaves import collect_leaves
from xpu_utils.streaming.plan import ring_size
from xpu_utils.streaming.stream import WeightStream
from xpu_utils.weights.pinned import PinnedPool

DEVICE = torch.device("xpu:0")
LEARNING_PASSES = 1
BLOCKS = 9


class Block(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.first = nn.Linear(width, inner)
        self.norm = nn.LayerNorm(inner)
        self.second = nn.Linear(inner, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.second(torch.tanh(self.norm(self.first(x))))


class Network(nn.Module):
    """Blocks of two sizes; a pass uses them in any order, leaves some out, uses some again, or fails at one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList([Block(128, 256 if index % 3 else 384) for index in range(BLOCKS)])
        self.requires_grad_(False)
        self.error: type[BaseException] = InterruptedError

    def forward(
        self, x: torch.Tensor, *, order: Sequence[int] = range(BLOCKS), fail: int | None = None
    ) -> torch.Tensor:
        for index in order:
            if index == fail:
                raise self.error
            x = self.blocks[index](x)
        return x


class Setting:
    """A network on the host, the same one on the device, and a stream over the first."""

    def __init__(self, share: float = 0.45, *, pool: PinnedPool | None = None) -> None:
        self.network, self.whole = Network(), Network().to(DEVICE)
        self.pool = pool or PinnedPool(1 << 30)
        self.leaves = collect_leaves(self.network, streamable=lambda module: isinstance(module, nn.Linear))
        streamed = {leaf.module for leaf in self.leaves}
        for module in self.network.modules():
            if module not in streamed:
                module._apply(lambda tensor: tensor.to(DEVICE), recurse=False)
        self.total_bytes = sum(leaf.size_bytes for leaf in self.leaves)
        self.stream = WeightStream(
            self.network,
            self.leaves,
            DEVICE,
            pool=self.pool,
            ring_bytes=ring_size([leaf.size_bytes for leaf in self.leaves], 2 << 20),
            resident_bytes=int(share * self.total_bytes),
        )
        self.stream.install()
        self.x = torch.randn(4, 128, device=DEVICE)

    def check(self, **how: object) -> None:
        """One pass, compared bit for bit with the network that is on the device as a whole."""
        with torch.inference_mode():
            assert torch.equal(self.network(self.x, **how), self.whole(self.x, **how))

    def settle(self) -> None:
        for _ in range(LEARNING_PASSES + 1):
            self.check()
        assert self.stream.settled


def weight_copies(sim: xpu_sim.Simulation) -> list[xpu_sim.Copy]:
    return [copy for copy in sim.statistics().copies if copy.direction == "host_to_device"]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.45, 0.9])
def test_each_pass_copies_what_is_not_resident_once_from_pinned_memory_on_the_copy_stream(
    sim: xpu_sim.Simulation, share: float
) -> None:
    setting = Setting(share)
    setting.settle()
    sim.reset_statistics()
    setting.check()
    copies = weight_copies(sim)
    assert all(copy.pinned and copy.non_blocking for copy in copies)
    assert len({copy.stream for copy in copies}) == 1
    assert copies[0].stream != 0
    spans = sorted((copy.host_address, copy.host_address + copy.bytes) for copy in copies)
    assert all(stop <= start for (_, stop), (start, _) in itertools.pairwise(spans))
    resident = setting.stream.resident_bytes
    assert resident <= share * setting.total_bytes
    for leaf in setting.leaves:
        inside = [
            any(start <= source.data_ptr() and source.data_ptr() + len(source) <= stop for start, stop in spans)
            for source, _ in leaf.copies()
        ]
        on_device = leaf.module.weight.device == DEVICE
        assert inside == [not on_device] * len(inside)
    sizes = [leaf.size_bytes for leaf in setting.leaves if leaf.module.weight.device != DEVICE]
    assert sum(sizes) == setting.total_bytes - resident


ORDERS = st.lists(st.integers(0, BLOCKS - 1), max_size=12)


@given(st.lists(ORDERS, max_size=7))
@example([list(range(BLOCKS)), [0, 1, 2, 8], list(range(BLOCKS))])  # leaves layers out while it is timed
@example([list(range(BLOCKS)), [0, 1], [2, 3], [4]])  # stops early, always
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_passes_that_skip_repeat_branch_or_stop_early_give_the_same_bits_at_any_time(
    sim: xpu_sim.Simulation, orders: list[list[int]]
) -> None:
    setting = Setting()
    for order in orders:
        setting.check(order=order)
    setting.settle()


@pytest.mark.parametrize("end", [None, WeightStream.end_pass, WeightStream.remove])
def test_a_pass_that_is_cut_short_leaves_no_trace(sim: xpu_sim.Simulation, end: Callable[..., None] | None) -> None:
    setting = Setting()
    setting.network.error = error = KeyboardInterrupt if end else InterruptedError  # hooks are told of the second only
    for fail in (5, None, 3, None, 7, None, None, 0, 4, None):
        if fail is None:
            setting.check()
            continue
        with pytest.raises(error), torch.inference_mode():
            setting.network(setting.x, fail=fail)
        if end is not None:
            end(setting.stream)
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("xpu-bounce")]
        assert setting.stream.lesson or setting.pool.used_bytes == 0
        setting.stream.install()
    setting.stream.remove()
    assert all(leaf.module.weight.device.type == "cpu" for leaf in setting.leaves)


@given(st.lists(st.integers(0, BLOCKS - 1), min_size=3, max_size=15), st.sampled_from([0.0, 0.2, 0.45]))
@example([0, 1, 0, 1, 2, 3, 2, 3, 4, 5, 4, 5, 6, 7, 8], 0.45)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_passes_that_use_blocks_again_keep_to_the_budget_and_copy_nothing_for_one_use_alone(
    sim: xpu_sim.Simulation, order: list[int], share: float
) -> None:
    setting = Setting(share)
    before = torch.xpu.memory_allocated(0)
    for _ in range(LEARNING_PASSES + 1):
        setting.check(order=order)
    stream, allowed = setting.stream, setting.stream.ring_bytes + setting.stream.budget_bytes
    assert stream.resident_bytes + stream.window_bytes <= allowed
    assert torch.xpu.memory_allocated(0) - before <= allowed
    sim.reset_statistics()
    setting.check(order=order)
    copies = weight_copies(sim)
    assert all(copy.stream and copy.pinned for copy in copies)
    uses = collections.Counter(order)
    used_bytes = sum(leaf.size_bytes * uses[int(leaf.name.split(".")[1])] for leaf in setting.leaves)
    assert sum(copy.bytes for copy in copies) <= used_bytes
    assert torch.xpu.memory_allocated(0) - before <= allowed


def test_layers_used_again_while_the_ring_holds_them_are_copied_once_a_pass(sim: xpu_sim.Simulation) -> None:
    """Each two blocks are used twice: more than the smallest ring holds, less than the budget."""
    order, setting = [0, 1, 0, 1, 2, 3, 2, 3, 4, 5, 4, 5, 6, 7, 8], Setting(0.4)
    pair_bytes = sum(leaf.size_bytes for leaf in setting.leaves if leaf.name.split(".")[1] in "01")
    assert pair_bytes > setting.stream.ring_bytes
    for _ in range(LEARNING_PASSES + 1):
        setting.check(order=order)
    sim.reset_statistics()
    setting.check(order=order)
    streamed_bytes = setting.total_bytes - setting.stream.resident_bytes
    assert setting.stream.resident_bytes < 0.4 * setting.total_bytes
    assert sum(copy.bytes for copy in weight_copies(sim)) <= streamed_bytes
    setting.stream.set_budget(setting.total_bytes // 8)
    assert setting.stream.window_bytes + setting.stream.resident_bytes <= (
        setting.stream.ring_bytes + setting.total_bytes // 8
    )
    setting.check(order=order)


def test_a_layer_that_others_use_between_passes_costs_the_next_pass_nothing(sim: xpu_sim.Simulation) -> None:
    setting = Setting(0.0)
    setting.settle()
    sim.reset_statistics()
    setting.check()
    copied_bytes = sum(copy.bytes for copy in weight_copies(sim))
    layer, whole = (network.blocks[0].first for network in (setting.network, setting.whole))
    with torch.inference_mode():
        assert torch.equal(layer(setting.x), whole(setting.x))
    sim.reset_statistics()
    setting.check()
    assert sum(copy.bytes for copy in weight_copies(sim)) == copied_bytes


def test_a_layer_used_once_more_than_learnt_costs_its_own_copy_alone(sim: xpu_sim.Simulation) -> None:
    """It is used again at the very end, which is no reason to give up what comes before."""
    order, setting = [*range(BLOCKS), 0], Setting(0.0)
    for _ in range(LEARNING_PASSES + 2):
        setting.check(order=order)
    sim.reset_statistics()
    setting.check(order=[0, *order])
    own_bytes = sum(leaf.size_bytes for leaf in setting.leaves if leaf.name.startswith("blocks.0."))
    assert sum(copy.bytes for copy in weight_copies(sim) if not copy.stream) <= own_bytes


def test_more_memory_in_the_middle_of_a_pass_leaves_nothing_on_the_device(
    sim: xpu_sim.Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xpu_utils.streaming.stream.PIECES_PER_RING", 1)  # one ends in the middle of a block
    for block in range(3, BLOCKS):
        setting = Setting(0.3)
        setting.settle()

        def grow(*_: object, setting: Setting = setting) -> None:
            setting.stream.set_budget(int(0.6 * setting.total_bytes))

        setting.network.blocks[block].norm.register_forward_pre_hook(grow)
        setting.check()
        setting.stream.remove()
        assert all(leaf.module.weight.device.type == "cpu" for leaf in setting.leaves)


def test_what_becomes_resident_is_copied_from_where_it_is_locked(sim: xpu_sim.Simulation) -> None:
    setting = Setting(0.0)
    setting.settle()
    setting.stream.set_budget(setting.total_bytes)
    sim.reset_statistics()
    setting.check()
    own = {source.data_ptr() for leaf in setting.leaves for source, _ in leaf.copies()}
    assert setting.stream.resident_bytes == setting.total_bytes
    assert {copy.host_address for copy in weight_copies(sim)} <= own


def test_less_memory_takes_effect_at_once_and_more_with_the_next_pass(sim: xpu_sim.Simulation) -> None:
    setting = Setting(0.9)
    setting.settle()
    before = torch.xpu.memory_allocated(0)
    freed = setting.stream.set_budget(setting.total_bytes // 4)
    assert freed > setting.total_bytes // 2
    assert before - torch.xpu.memory_allocated(0) >= freed
    setting.check()
    setting.stream.set_budget(int(0.9 * setting.total_bytes))
    setting.check()
    assert setting.stream.resident_bytes > setting.total_bytes * 0.8
    setting.check()


def test_release_gives_all_device_memory_back_and_keeps_what_was_learnt(sim: xpu_sim.Simulation) -> None:
    setting = Setting()
    before = torch.xpu.memory_allocated(0)
    setting.settle()
    setting.stream.release()
    assert torch.xpu.memory_allocated(0) == before
    setting.stream.install()
    sim.reset_statistics()
    setting.check()
    assert setting.stream.settled
    in_order_with_the_compute = sum(copy.bytes for copy in weight_copies(sim) if not copy.stream)
    assert in_order_with_the_compute <= setting.stream.resident_bytes, "none is copied for one use"


def test_a_lesson_saves_another_stream_the_learning(sim: xpu_sim.Simulation) -> None:
    first, second = Setting(), Setting()
    first.settle()
    assert first.stream.lesson is not None
    second.stream = WeightStream(
        second.network,
        second.leaves,
        DEVICE,
        pool=second.pool,
        ring_bytes=first.stream.ring_bytes,
        resident_bytes=first.stream.budget_bytes,
        lesson=first.stream.lesson,
    )
    second.stream.install()
    second.check()
    assert second.stream.settled
    assert second.stream.resident == first.stream.resident


def test_weights_changed_in_place_reach_the_device(sim: xpu_sim.Simulation) -> None:
    setting = Setting(0.5)
    setting.settle()
    setting.stream.remove()
    for leaf in setting.leaves:
        leaf.module.weight.data.mul_(1.5)
        setting.whole.get_submodule(leaf.name).weight.data.mul_(1.5)
    setting.stream.install(refresh=[leaf.name for leaf in setting.leaves])
    setting.check()


def test_what_cannot_be_locked_streams_from_where_it_is_and_that_is_said(
    sim: xpu_sim.Simulation, caplog: pytest.LogCaptureFixture
) -> None:
    setting = Setting(0.1, pool=PinnedPool(1 << 20, slab_bytes=1 << 19))
    setting.settle()
    sim.reset_statistics()
    setting.check()
    assert {copy.pinned for copy in weight_copies(sim)} == {True, False}
    assert sum(copy.bytes for copy in weight_copies(sim)) >= setting.total_bytes - setting.stream.resident_bytes
    assert [record.message for record in caplog.records if "not locked, which is slower" in record.message]


def test_nothing_is_locked_before_the_first_pass_is_over_and_then_only_what_streams(sim: xpu_sim.Simulation) -> None:
    setting = Setting(0.9, pool=PinnedPool(1 << 30, slab_bytes=1 << 16))
    setting.check()
    assert setting.pool.used_bytes == 0, "but for the buffers of that pass"
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("xpu-bounce")]
    setting.settle()
    streamed_bytes = setting.total_bytes - setting.stream.resident_bytes
    assert streamed_bytes <= setting.pool.used_bytes < setting.total_bytes / 2


def test_one_pass_teaches_all_and_memory_is_locked_once(sim: xpu_sim.Simulation) -> None:
    setting = Setting(0.45, pool=PinnedPool(1 << 30, slab_bytes=1 << 16))
    setting.check()
    assert setting.stream.lesson is not None
    setting.check()
    locked_bytes, resident = setting.pool.used_bytes, setting.stream.resident
    assert locked_bytes
    for _ in range(3):
        setting.check()
    assert (setting.pool.used_bytes, setting.stream.resident) == (locked_bytes, resident)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("xpu-lock")]


def test_fp8_weights_stream_in_their_stored_size(sim: xpu_sim.Simulation) -> None:
    class Cast(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(x, self.weight.to(x.dtype), self.bias.to(x.dtype))

    def network() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(*(Cast(512, 512) for _ in range(6))).requires_grad_(False).to(torch.float8_e4m3fn)

    streamed, whole = network(), network().to(DEVICE)
    leaves = collect_leaves(streamed, streamable=lambda module: True)
    ring_bytes = ring_size([leaf.size_bytes for leaf in leaves], 2 << 20)
    pool = PinnedPool(1 << 30)
    stream = WeightStream(streamed, leaves, DEVICE, pool=pool, ring_bytes=ring_bytes, resident_bytes=0)
    stream.install()
    x = torch.randn(2, 512, device=DEVICE)
    for _ in range(LEARNING_PASSES + 1):
        assert torch.equal(streamed(x), whole(x))
    sim.reset_statistics()
    streamed(x)
    assert sum(copy.bytes for copy in weight_copies(sim)) == pytest.approx(6 * 512 * 513, rel=0.01)


@pytest.mark.parametrize(("passes", "nth"), [(LEARNING_PASSES, 1), (LEARNING_PASSES + 1, 3)])
def test_a_fault_during_a_prefetch_comes_out_of_the_pass_and_the_next_one_works(
    sim: xpu_sim.Simulation, passes: int, nth: int
) -> None:
    setting = Setting(0.0)
    for _ in range(passes):
        setting.check()
    sim.add_fault("copy_", "out_of_device_memory", nth=nth)
    with pytest.raises(RuntimeError, match="OUT_OF_DEVICE_MEMORY"), torch.inference_mode():
        setting.network(setting.x)
    sim.clear_faults()
    setting.check()


def test_two_models_take_turns(sim: xpu_sim.Simulation) -> None:
    first, second = Setting(0.2), Setting(0.6)
    for _ in range(LEARNING_PASSES + 2):
        first.check()
        second.check()
    assert first.stream.settled
    assert second.stream.settled


def test_a_stream_that_is_dropped_leaves_the_model_usable(sim: xpu_sim.Simulation) -> None:
    setting = Setting()
    setting.settle()
    assert sim.statistics().recorded_streams == 1, "its ring may be freed while copies into it are queued"
    setting.stream.remove()
    del setting.stream
    setting.network.to(DEVICE)
    setting.check()
