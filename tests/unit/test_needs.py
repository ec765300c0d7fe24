"""What is learnt from memory that ran out, and how work begins by it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from xpu_utils.memory.needs import MARGIN, Need, Needs
from xpu_utils.recovery.faults import requested_bytes

BYTES = st.integers(0, 1 << 40)
NEEDS = st.builds(Need, BYTES, BYTES, st.none() | BYTES, st.booleans())


@given(NEEDS, BYTES)
def test_work_begins_in_parts_only_where_the_room_is_short_of_it_whole(need: Need, room_bytes: int) -> None:
    begun = need.within(room_bytes)
    if room_bytes >= MARGIN * need.whole_bytes:
        assert (begun.attention_bytes, begun.alone) == (None, False)
        assert begun.work_bytes >= need.whole_bytes
    else:
        assert begun == need


@given(st.lists(NEEDS, min_size=1))
def test_what_the_whole_takes_is_not_forgotten(needs: list[Need]) -> None:
    known = Needs()
    for need in needs:
        known.learn("work", need)
    last = known.of("work")
    assert last is not None
    assert last.whole_bytes == max(need.whole_bytes for need in needs)
    assert (last.attention_bytes, last.alone) == (needs[-1].attention_bytes, needs[-1].alone)


def test_what_an_allocation_asked_for_is_read_from_its_error() -> None:
    assert requested_bytes("XPU out of memory. Tried to allocate 1.50 GiB. GPU 0 has") == 3 << 29
    assert requested_bytes("CUDA out of memory. Tried to allocate 512 bytes") == 512
    assert requested_bytes("UR_RESULT_ERROR_OUT_OF_RESOURCES") == 0
