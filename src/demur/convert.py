"""Frozen dataclasses to plain JSON values and back, checked. Standard library only."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import types as python_types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

from demur.errors import DataError

T = TypeVar("T")


def to_json(value: Any) -> Any:
    """Turn a noun (or a nest of nouns, tuples and mappings) into plain JSON values."""
    if value is None or type(value) in _PLAIN:
        return value
    if isinstance(value, tuple | list):
        return [to_json(v) for v in value]
    if isinstance(value, Mapping):
        return {str(k): to_json(v) for k, v in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: to_json(getattr(value, name)) for name in _names(type(value))}
    return value


def from_json(cls: type[T], value: Any, *, where: str = "") -> T:
    """Build the noun `cls` from plain JSON values.

    Args:
        cls: a dataclass whose fields are scalars, literals, tuples, mappings and dataclasses.
        value: a mapping as `to_json` makes it; absent fields take their defaults.
        where: named in errors, as in `responses.jsonl:12`.

    Raises:
        DataError: for a missing or unknown field, or a value of the wrong type.
    """
    place = f" at {where}" if where else ""
    if not isinstance(value, Mapping):
        raise DataError(f"expected a {cls.__name__} record{place}, got {type(value).__name__}")
    readers, plain = _readers(typing.cast(type, cls)), _as_they_are(typing.cast(type, cls))
    made = {}
    for name, raw in value.items():
        if type(raw) in plain.get(name, ()):
            made[name] = raw
            continue
        if name not in readers:
            raise DataError(f"unknown field {name!r} in {cls.__name__}{place}; allowed: {', '.join(readers)}")
        try:
            made[name] = readers[name](raw, where)
        except (TypeError, ValueError) as error:
            raise DataError(f"field {name!r} of {cls.__name__}{place}: {error}") from None
    try:
        return cls(**made)
    except DataError as error:
        raise DataError(f"{error}{place}") from None
    except TypeError as error:
        raise DataError(f"{cls.__name__}{place}: {str(error).split(') ', 1)[-1]}") from None


Reader = Callable[[Any, str], Any]
"""Turns a JSON value, named by where it stands, into a field's value, or raises ValueError."""

_PLAIN = frozenset({str, int, float, bool})


@functools.cache
def _names(cls: type) -> tuple[str, ...]:
    return tuple(f.name for f in dataclasses.fields(cls))


@functools.cache
def _readers(cls: type) -> dict[str, Reader]:
    hints = typing.get_type_hints(cls)
    return {name: _reader(hints[name]) for name in _names(cls)}


@functools.cache
def _as_they_are(cls: type) -> dict[str, frozenset[type]]:
    """Return, for each field, the types whose values need no reading: its scalars, and None where that is allowed."""
    hints = typing.get_type_hints(cls)
    found = {}
    for name in _names(cls):
        union = typing.get_origin(hints[name]) in (typing.Union, python_types.UnionType)
        arms = typing.get_args(hints[name]) if union else (hints[name],)
        found[name] = frozenset(arm for arm in arms if arm in _PLAIN or arm is type(None))
    return found


@functools.cache
def _reader(hint: Any) -> Reader:
    """Return the function that reads a field of this type; worked out once per type."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return lambda raw, where: raw
    if origin in (typing.Union, python_types.UnionType):
        return _union_reader(args)
    if origin is Literal:
        return _literal_reader(args)
    if origin is tuple:
        return _tuple_reader(args)
    if dataclasses.is_dataclass(hint):
        return lambda raw, where: from_json(typing.cast(type, hint), raw, where=where)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _mapping_reader(args)
    return _scalar_reader(hint)


def _union_reader(args: tuple[Any, ...]) -> Reader:
    arms = [_reader(arg) for arg in args if arg is not type(None)]

    def read(raw: Any, where: str) -> Any:
        if raw is None and type(None) in args:
            return None
        for arm in arms[:-1]:
            with contextlib.suppress(ValueError):
                return arm(raw, where)
        return arms[-1](raw, where)

    return read


def _literal_reader(args: tuple[Any, ...]) -> Reader:
    def read(raw: Any, where: str) -> Any:
        if raw not in args:
            raise ValueError(f"{raw!r} is not one of {', '.join(repr(a) for a in args)}")
        return raw

    return read


def _tuple_reader(args: tuple[Any, ...]) -> Reader:
    readers = [_reader(arg) for arg in args if arg is not Ellipsis]

    def read(raw: Any, where: str) -> Any:
        if not isinstance(raw, list | tuple):
            raise ValueError(f"expected a list, got {raw!r}")
        each = readers * len(raw) if Ellipsis in args else readers
        if len(each) != len(raw):
            raise ValueError(f"expected {len(each)} values, got {raw!r}")
        return tuple(reader(item, where) for reader, item in zip(each, raw, strict=True))

    return read


def _mapping_reader(args: tuple[Any, ...]) -> Reader:
    key, value = map(_reader, args)

    def read(raw: Any, where: str) -> Any:
        if not isinstance(raw, Mapping):
            raise ValueError(f"expected a mapping, got {raw!r}")
        return {key(k, where): value(v, where) for k, v in raw.items()}

    return read


def _scalar_reader(hint: Any) -> Reader:
    def read(raw: Any, where: str) -> Any:
        if type(raw) is hint:
            return raw
        if hint is float and type(raw) is int:
            return float(raw)
        if not isinstance(raw, hint) or isinstance(raw, bool):
            raise ValueError(f"expected {hint.__name__}, got {raw!r}")
        return raw

    return read
