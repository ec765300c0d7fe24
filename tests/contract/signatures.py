"""Parameters of functions: written in one line, bound by calls, and taken over by what stands in."""

from __future__ import annotations

import ast
import dataclasses
import functools


@dataclasses.dataclass(frozen=True)
class Call:
    """How something is called."""

    positional: int = 0
    keywords: tuple[str, ...] = ()
    more_positional: bool = False
    """Whether there is a `*arguments` in it."""
    more_keywords: bool = False

    @classmethod
    def of(cls, node: ast.Call) -> Call:
        plain = [argument for argument in node.args if not isinstance(argument, ast.Starred)]
        keywords = tuple(keyword.arg for keyword in node.keywords if keyword.arg is not None)
        return cls(len(plain), keywords, len(plain) < len(node.args), len(keywords) < len(node.keywords))

    def __add__(self, further: Call) -> Call:
        return Call(
            self.positional + further.positional,
            (*self.keywords, *further.keywords),
            self.more_positional or further.more_positional,
            self.more_keywords or further.more_keywords,
        )


@dataclasses.dataclass(frozen=True)
class Parameter:
    name: str
    required: bool
    positional_only: bool = False


@dataclasses.dataclass(frozen=True)
class Signature:
    """What a function takes."""

    positional: tuple[Parameter, ...] = ()
    """In order; all but the positional-only ones by keyword too."""
    by_keyword: tuple[Parameter, ...] = ()
    """By keyword only."""
    more_positional: bool = False
    more_keywords: bool = False
    read_as: tuple[str, ...] = ()
    """What the first of its `*arguments` are to it, by their names in the host."""

    @classmethod
    def of(cls, arguments: ast.arguments) -> Signature:
        ordered = [*arguments.posonlyargs, *arguments.args]
        required = len(ordered) - len(arguments.defaults)
        return cls(
            tuple(
                Parameter(entry.arg, index < required, index < len(arguments.posonlyargs))
                for index, entry in enumerate(ordered)
            ),
            tuple(
                Parameter(entry.arg, default is None)
                for entry, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
            ),
            arguments.vararg is not None,
            arguments.kwarg is not None,
        )

    @classmethod
    @functools.cache
    def parse(cls, text: str) -> Signature:
        """Of a line that `str` gave."""
        (function,) = ast.parse(f"def f{text}: ...").body
        assert isinstance(function, ast.FunctionDef)
        return cls.of(function.args)

    def __str__(self) -> str:
        only = sum(parameter.positional_only for parameter in self.positional)
        parts = [_text(parameter) for parameter in self.positional]
        if only:
            parts.insert(only, "/")
        if self.more_positional:
            parts.append("*args")
        elif self.by_keyword:
            parts.append("*")
        parts += [_text(parameter) for parameter in self.by_keyword]
        if self.more_keywords:
            parts.append("**kwargs")
        return f"({', '.join(parts)})"

    @property
    def names(self) -> set[str]:
        """What may be given by keyword."""
        return {parameter.name for parameter in (*self.positional, *self.by_keyword) if not parameter.positional_only}

    def bound(self, given: Call) -> Signature:
        """What is left when `functools.partial`, or a method's object, has given some."""
        left = [parameter for parameter in self.positional[given.positional :] if parameter.name not in given.keywords]
        keywords = [parameter for parameter in self.by_keyword if parameter.name not in given.keywords]
        return dataclasses.replace(self, positional=tuple(left), by_keyword=tuple(keywords))

    def refusal(self, call: Call) -> str:
        """Why a call does not bind; empty where it does, as far as its stars let one know."""
        if call.positional > len(self.positional) and not self.more_positional:
            return f"takes {len(self.positional)} positional arguments, {call.positional} are given"
        unknown = [name for name in call.keywords if name not in self.names]
        if unknown and not self.more_keywords:
            return f"takes no {unknown[0]}"
        twice = {parameter.name for parameter in self.positional[: call.positional]} & set(call.keywords)
        if twice:
            return f"is given {twice.pop()} twice"
        if call.more_positional or call.more_keywords:
            return ""
        left = (*self.positional[call.positional :], *self.by_keyword)
        missing = [entry.name for entry in left if entry.required and entry.name not in call.keywords]
        return f"needs {missing[0]}" if missing else ""

    def refuses(self, host: Signature) -> str:
        """Why what has this signature cannot stand in for a function of the host with that one; empty where it can.

        Whatever the host's function takes must be taken, by position and by keyword, and nothing else be needed.
        """
        problems = [self._refuses_parameter(index, theirs) for index, theirs in enumerate(host.positional)]
        further = self.positional[len(host.positional) :]
        if not host.more_positional:
            problems += [f"needs {ours.name}, which the host does not give" for ours in further if ours.required]
        taken = self.names
        problems += [
            f"takes no {theirs.name}"
            for theirs in host.by_keyword
            if theirs.name not in taken and not self.more_keywords
        ]
        problems += [
            f"needs {ours.name}, which the host does not give"
            for ours in self.by_keyword
            if ours.required and ours.name not in host.names and not host.more_keywords
        ]
        if host.more_positional and not self.more_positional:
            problems.append("takes no further positional arguments")
        if host.more_keywords and not self.more_keywords:
            problems.append("takes no further keywords")
        problems.append(self.misreads(host))
        return ", ".join(filter(None, problems))

    def misreads(self, host: Signature) -> str:
        """Which of the host's parameters is taken for another one; empty where none is."""
        both = zip(host.positional, self.read_as, strict=False)
        return next((f"reads {theirs.name} as {ours}" for theirs, ours in both if theirs.name != ours), "")

    def _refuses_parameter(self, index: int, theirs: Parameter) -> str:
        ours = self.positional[index] if index < len(self.positional) else None
        if ours is None:
            if not (self.more_keywords or theirs.name in self.names):
                return f"takes no {theirs.name}"
            return "" if self.more_positional else f"takes {theirs.name} by keyword only"
        if ours.required and not theirs.required:
            return f"needs {ours.name}, which callers may leave out"
        if theirs.positional_only or ours.name == theirs.name or (self.more_keywords and not ours.required):
            return ""
        return f"takes {theirs.name} by position only, as {ours.name}"


NOTHING_GIVEN, NOTHING_TAKEN = Call(), Signature()


def _text(parameter: Parameter) -> str:
    return parameter.name if parameter.required else f"{parameter.name}=..."
