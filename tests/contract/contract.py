"""What a path of our code is on a host: a checkout that is there, or a record of one."""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Iterator
from typing import Protocol

from . import holders
from .facts import ClassFacts, Facts, ModuleFacts
from .signatures import Call, Signature
from .touches import steps


class NotRecordedError(Exception):
    """A record says nothing of a module that our code touches."""


class Source(Protocol):
    """Where a contract's facts come from."""

    @property
    def roots(self) -> list[str]: ...

    @property
    def partial(self) -> bool: ...

    def module(self, name: str) -> ModuleFacts | None: ...


class Record:
    """Facts that were recorded."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self.roots, self.partial = facts.roots, facts.partial

    def module(self, name: str) -> ModuleFacts | None:
        """Raises: NotRecordedError."""
        known = self._facts.modules.get(name)
        if known is not None:
            return known
        parent, _, last = name.rpartition(".")
        package = self.module(parent) if parent else None
        there = self.roots if not parent else package.contents if package is not None else ()
        if last in there:
            raise NotRecordedError(name)
        return None


@dataclasses.dataclass(frozen=True)
class Found:
    """What a path leads to. None of the fields: something that is there, of which no more is known."""

    module: str = ""
    cls: str = ""
    """Dotted name of a class, or of the class of an object."""
    instance: bool = False
    signatures: tuple[Signature, ...] = ()
    abstract: bool = False
    known: bool = True
    """False for what may be there or not."""
    given: frozenset[str] = frozenset()
    """Names that the owner's methods set on it."""
    items: tuple[tuple[str, str], ...] = ()
    """A table's entries: key -> dotted name."""


ANYTHING = Found(known=False)
SOMETHING = Found()


class MissingError(Exception):
    """A path ends at a name that the host does not have."""

    def __init__(self, owner: str, name: str) -> None:
        super().__init__(f"{owner} has no {name}")
        self.name = name


class Contract:
    """Finds what paths lead to."""

    def __init__(self, source: Source) -> None:
        self._source = source

    @functools.cache  # noqa: B019 (lives as long as a check)
    def find(self, path: str) -> Found:
        """What a path of a touch leads to.

        Raises:
            MissingError: to nothing.
            NotRecordedError: the record does not tell.
        """
        parts = steps(path)
        found, way = self._module(parts[0]), parts[0]
        for part in parts[1:]:
            found = self._step(found, part, way)
            way += part if part[0] in "([" else f".{part}"
        return found

    def _step(self, found: Found, part: str, way: str) -> Found:
        if not found.known or found == SOMETHING:
            return ANYTHING
        if part == "()":
            return self._result(found)
        if part.startswith("["):
            key = dict(found.items).get(part[1:-1])
            if found.items and key is None and part != "[]":
                raise MissingError(way, part)
            return self._named(key) if key else self._described(f"{way}[]")
        if found.module:
            return self._in_module(found.module, part, way)
        if found.cls:
            return self._in_class(found, part, way)
        return ANYTHING

    # -- modules

    def _module(self, name: str) -> Found:
        if self._source.module(name) is not None:
            return Found(module=name)
        if self._source.partial:
            return ANYTHING
        owner, _, last = name.rpartition(".")
        raise MissingError(owner or "the host", last)

    def _in_module(self, module: str, name: str, way: str) -> Found:
        facts = self._source.module(module)
        if facts is None:
            return ANYTHING
        if name in ("__name__", "__file__", "__path__"):
            return SOMETHING
        if name in facts.functions:
            return Found(signatures=tuple(map(Signature.parse, facts.functions[name])))
        if name in facts.classes:
            return Found(cls=f"{module}.{name}")
        if name in facts.aliases:
            return self._named(facts.aliases[name], instance=facts.aliases[name].endswith(".Arguments"))
        if name in facts.values:
            return self._described(f"{module}.{name}", items=tuple(facts.items.get(name, {}).items()))
        for star in facts.stars:
            try:
                return self._in_module(star, name, way)
            except MissingError:
                continue
        inside = name in facts.contents or (facts.contents and self._source.partial)
        if inside and self._source.module(f"{module}.{name}") is not None:
            return Found(module=f"{module}.{name}")
        if inside or "__getattr__" in facts.functions:
            return ANYTHING
        raise MissingError(way, name)

    def _named(self, name: str, *, instance: bool = False) -> Found:
        """What a dotted name stands for; something outside of the host is not looked into."""
        root = name.partition(".")[0]
        if root not in self._source.roots:
            return ANYTHING
        found = self._module(root)
        for part in name.split(".")[1:]:
            found = self._step(found, part, name)
        return dataclasses.replace(found, instance=instance) if instance else found

    def _described(self, path: str, items: tuple[tuple[str, str], ...] = ()) -> Found:
        """What `holders` says an attribute or a result is."""
        name = path.replace("()", "", path.count("()") - path.endswith("()"))
        held = holders.ATTRIBUTES.get(name)
        if held:
            return self.find(held)
        return Found(items=items) if items else SOMETHING

    # -- classes

    def _class(self, name: str) -> ClassFacts | None:
        """A class's facts by its dotted name, which may lead through other classes; None where it is not known."""
        parts = name.split(".")
        for length in range(1, len(parts)):
            facts = self._source.module(".".join(parts[:length]))
            if facts is None:
                return None
            if parts[length] in facts.classes:
                known: ClassFacts | None = facts.classes[parts[length]]
                for part in parts[length + 1 :]:
                    known = known.classes.get(part) if known else None
                return known
        return None

    def lineage(self, name: str) -> Iterator[str]:
        """A class and those it derives from, as far as they are the host's; then the names of the others."""
        yield name
        facts = self._class(name)
        for base in facts.bases if facts else ():
            if base.partition(".")[0] not in self._source.roots:
                yield base
            else:
                found = self._named(base) if "." in base else ANYTHING
                yield from self.lineage(found.cls) if found.cls else [base]

    def _in_class(self, found: Found, name: str, way: str) -> Found:
        if found.instance and name in found.given:
            return SOMETHING
        complete = True
        for cls in self.lineage(found.cls):
            facts = self._class(cls)
            if facts is None:
                outside = _outside_attribute(cls, name)
                if outside is True:
                    return SOMETHING
                complete = complete and outside is False
            elif (there := self._member(cls, facts, name, found.instance)) is not None:
                return there
            elif "__getattr__" in facts.methods and found.instance:
                complete = False
        if hasattr(object, name) or name in ("__dict__", "__class__"):
            return SOMETHING
        if complete:
            raise MissingError(way, name)
        return ANYTHING

    def _member(self, cls: str, facts: ClassFacts, name: str, instance: bool) -> Found | None:
        if name in facts.methods:
            return self._method(f"{cls}.{name}", facts.methods[name], instance)
        if name in facts.classes:
            return Found(cls=f"{cls}.{name}")
        if name in facts.attributes:
            held = self._described(f"{cls}.{name}")
            return dataclasses.replace(held, given=frozenset(facts.given.get(name, ())))
        return None

    def _method(self, path: str, texts: list[str], instance: bool) -> Found:
        signatures = []
        for text in texts:
            kind = text.partition("(")[0]
            signature = Signature.parse(text[len(kind) :])
            bound = "static" not in kind and (instance or "class" in kind)
            signatures.append(signature.bound(Call(1)) if bound else signature)
        abstract = any(text.startswith("abstract") for text in texts)
        return Found(signatures=tuple(signatures), abstract=abstract, items=(("()", f"{path}()"),))

    def _result(self, found: Found) -> Found:
        if found.cls and not found.instance:
            return dataclasses.replace(found, instance=True)
        path = dict(found.items).get("()", "")
        return self._described(path) if path else ANYTHING

    def call(self, found: Found) -> tuple[Signature, ...]:
        """The signatures that a call of it must bind to, one of them; none where they are not known."""
        if not found.cls:
            return found.signatures
        if found.instance:
            return ()
        made = dataclasses.replace(found, instance=True)
        try:
            return self._in_class(made, "__init__", "").signatures
        except MissingError:
            return ()


def _outside_attribute(cls: str, name: str) -> bool | None:
    """Whether a class that is not the host's has an attribute; None where that is not known here."""
    module, _, last = cls.rpartition(".")
    try:
        there = getattr(importlib.import_module(module), last) if module else None
    except (ImportError, AttributeError):
        return None
    return hasattr(there, name) if isinstance(there, type) else None
