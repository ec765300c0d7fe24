"""What a newer host offers otherwise, of what we touch: for the nightly look at upstream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from .contract import Contract, MissingError, NotRecordedError, Record
from .facts import Facts, Wrapped
from .signatures import Call
from .touches import Kind, Touch


def news(old: Facts, new: Facts, touches: Iterable[Touch]) -> str:
    """The differences between two records in Markdown, one line for each name that we touch."""
    before, after = Contract(Record(old)), Contract(Record(new))
    paths = sorted({touch.path for touch in touches if touch.kind is not Kind.WRAPPER})
    lines = [f"`{path}`: {was} → {now}" for path in paths if (was := _is(path, before)) != (now := _is(path, after))]
    lines += _of_wrappers(old.wrapped, new.wrapped, sorted({t.path for t in touches if t.kind is Kind.WRAPPER}))
    title = f"What we touch, ComfyUI {new.version} beside {old.version}"
    return "\n".join([f"### {title}", "", *(f"- {line}" for line in lines or ["no difference"])])


def _is(path: str, contract: Contract) -> str:
    """What a path is there, in a few words; what is not known is taken to be there."""
    try:
        signatures = contract.call(contract.find(path))
    except MissingError:
        return "missing"
    except NotRecordedError:
        return "not recorded"
    return f"`{' or '.join(map(str, signatures))}`" if signatures else "there"


def _of_wrappers(old: dict[str, Wrapped], new: dict[str, Wrapped], kinds: Iterable[str]) -> Iterator[str]:
    for kind in kinds:
        was, now = (sorted(map(_called, wrapped.get(kind, Wrapped()).calls)) for wrapped in (old, new))
        if was != now:
            yield f"`{kind}`: called with {'; '.join(was) or 'nothing'} → {'; '.join(now) or 'nothing'}"


def _called(call: Call) -> str:
    return ", ".join([f"{call.positional} arguments", *call.keywords])
