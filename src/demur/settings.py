"""The grammar of parts: `name:key=value,…` or a TOML table -> a frozen dataclass with checked settings.

A part is a member of an open folder with its settings. On the command line it is `name` or
`name:key=value,key=value`; values are as in TOML, bare words are strings, `generator.base_url=…` reaches a nested
part. In TOML it is `{name = "llm", generator = {name = "http", …}}`. A setting that stands for a secret (its name
ends in `_env`, `api_key`, `token`, `secret` or `password`) holds the *name* of an environment variable.
"""

from __future__ import annotations

import dataclasses
import re
import tomllib
import types as python_types
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from demur import registry
from demur.errors import ConfigError, DemurError, NotFound
from demur.records import file_sha256, fingerprint
from demur.types import Part, to_json

NESTED = {"Benchmark": "benchmarks", "Judge": "judges", "Generator": "generators", "Method": "methods"}
"""Protocols whose name as a field's type makes the field a nested part, and the folder it comes from."""

SECRET = re.compile(r"(^|_)(env|api_key|token|secret|password)$")
VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
CREDENTIALS = re.compile(r"://[^/@\s]*:[^/@\s]*@")


@dataclass(frozen=True, slots=True)
class PartSpec:
    """A part as its user wrote it: not yet checked against its class."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        if not self.settings:
            return self.name
        return f"{self.name}:{','.join(f'{key}={_text(value)}' for key, value in _flat(self.settings))}"


class Problems:
    """Collects what is wrong, so that a user sees every mistake at once."""

    def __init__(self) -> None:
        self.found: list[DemurError] = []

    @contextmanager
    def gather(self) -> Iterator[None]:
        """Keep a `DemurError` raised inside and go on."""
        try:
            yield
        except ConfigError as error:
            self.found += getattr(error, "problems", [error])
        except DemurError as error:
            self.found.append(error)

    def check(self, where: str = "") -> None:
        """Raise what was found: a single problem as it is, several in one `ConfigError`."""
        if len(self.found) == 1:
            raise self.found[0]
        if self.found:
            listed = "\n".join(f"  - {error}" for error in dict.fromkeys(map(str, self.found)))
            error = ConfigError(f"{len(self.found)} problems{f' in {where}' if where else ''}:\n{listed}")
            error.problems = list(self.found)  # type: ignore[attr-defined]
            raise error


def parse_part(text: str) -> PartSpec:
    """Read `name` or `name:key=value,key=value`.

    Raises:
        ConfigError: where a key has no value, a name is missing, or a bracket or quote is left open.
    """
    name, _, rest = text.strip().partition(":")
    if not name:
        raise ConfigError(f"part {text!r} has no name; write name or name:key=value,key=value")
    settings: dict[str, Any] = {}
    for item in split_list(rest, text) if rest else ():
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"{item!r} in {text!r} is not key=value; write name:key=value,key=value")
        put(settings, key.strip(), parse_value(value), where=text)
    return PartSpec(name=name.strip(), settings=settings)


def part_from_table(table: Mapping[str, Any], where: str = "") -> PartSpec:
    """Read a part from a TOML table `{name = "llm", key = value}`.

    Raises:
        ConfigError: where the table has no name.
    """
    settings = dict(table)
    name = settings.pop("name", None)
    if not isinstance(name, str) or not name:
        raise ConfigError(f'{where or "the part"} has no name; write name = "…" in its table')
    return PartSpec(name=name, settings=settings)


def part_from(raw: Any, where: str = "") -> PartSpec:
    """Read a part from whatever a user may write for one: text, a table, or a `PartSpec`."""
    if isinstance(raw, PartSpec):
        return raw
    if isinstance(raw, str):
        return parse_part(raw)
    if isinstance(raw, Mapping):
        return part_from_table(raw, where)
    raise ConfigError(f"{where or 'a part'} is {raw!r}; write a name, name:key=value, or a table with a name")


def parse_value(text: str) -> Any:
    """Read one value as TOML does; what is no TOML value is a string.

    `0.5` -> 0.5, `true` -> True, `[1, 2]` -> [1, 2], `[en,de]` -> ["en", "de"], `tone` -> "tone", `"1"` -> "1".
    """
    text = text.strip()
    if "#" not in text or text[:1] in "\"'[{":
        try:
            read = tomllib.loads(f"value = {text}")
            if set(read) == {"value"} and isinstance(read["value"], bool | int | float | str | list | dict):
                return read["value"]
        except tomllib.TOMLDecodeError:
            pass
    if text.startswith("[") and text.endswith("]"):
        return [parse_value(item) for item in split_list(text[1:-1], text)]
    return text


def split_list(text: str, where: str) -> list[str]:
    """Split at the commas that stand outside quotes and brackets."""
    items, depth, quote, start = [], 0, "", 0
    for at, char in enumerate(text):
        if quote:
            quote = "" if char == quote else quote
        elif char in "\"'" and (at == start or text[at - 1] in "=[,{ "):
            quote = char
        elif char in "[{":
            depth += 1
        elif char in "]}":
            depth -= 1
        elif char == "," and depth == 0:
            items.append(text[start:at])
            start = at + 1
    if quote or depth:
        raise ConfigError(f"a bracket or quote is left open in {where!r}")
    return [item.strip() for item in [*items, text[start:]] if item.strip()]


def put(table: dict[str, Any], path: str, value: Any, *, where: str) -> None:
    """Set `a.b.c` in nested tables; a part written as text on the way becomes its table.

    Raises:
        ConfigError: where the path leads through a value that is no table, or past the end of a list.
    """
    head, _, rest = path.partition(".")
    inner = table.get(head, {})
    if not rest:
        unnamed = isinstance(inner, Mapping) and inner and "name" not in inner and isinstance(value, str)
        table[head] = {"name": value, **inner} if unnamed else value
    elif isinstance(inner, list):
        index = rest.partition(".")[0]
        if not index.isdigit() or int(index) >= len(inner):
            raise ConfigError(f"{path!r} in {where!r}: {head} is a list of {len(inner)}; {head}.0 is its first")
        items = {str(at): item for at, item in enumerate(inner)}
        put(items, rest, value, where=where)
        table[head] = list(items.values())
    else:
        if isinstance(inner, str):
            part = parse_part(inner)
            inner = {"name": part.name, **part.settings}
        if not isinstance(inner, Mapping):
            raise ConfigError(f"{path!r} in {where!r}: {head} is {inner!r}, which has no settings of its own")
        table[head] = dict(inner)
        put(table[head], rest, value, where=where)


def build(kind: str, spec: PartSpec | str, *, where: str = "") -> Any:
    """Make the dataclass of a part, every setting checked against its field's type, nested parts made too.

    Args:
        kind: the open folder, one of `registry.KINDS`.
        spec: the part, or its text.
        where: named in errors, as in `recipe.toml`.

    Raises:
        NotFound: for an unknown name or setting; suggests the nearest.
        Unavailable: where the part's extra is missing.
        ConfigError: for values of the wrong type, all of them together.
    """
    spec = part_from(spec)
    cls = registry.find(kind, spec.name)
    return make(cls, spec.settings, where=_join(f"{registry.WORDS[kind]} {spec.name}", where))


def check(kind: str, spec: PartSpec, *, where: str = "") -> None:
    """Check a part's name and the names of its settings from the source alone, importing nothing."""
    known = [setting.name for setting in registry.fields(kind, spec.name)]
    problems = Problems()
    for key in spec.settings:
        with problems.gather():
            if key not in known:
                raise NotFound("setting", key, known, where=_join(f"{registry.WORDS[kind]} {spec.name}", where))
    problems.check(where)


def make(cls: type, values: Mapping[str, Any], *, where: str = "") -> Any:
    """Make a dataclass from settings as a user writes them; all that is wrong is raised together.

    Raises:
        NotFound: for a key that is no field of `cls`.
        ConfigError: for a value of the wrong type, or a missing one.
    """
    hints = {f.name: f for f in dataclasses.fields(cls) if f.init}
    types = typing.get_type_hints(cls, include_extras=True)
    problems, made = Problems(), {}
    for key, raw in values.items():
        with problems.gather():
            if key not in hints:
                raise NotFound("setting", key, hints, where=where)
            made[key] = _field(hints[key], types[key], raw, where)
    for key, f in hints.items():
        if key not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            problems.found.append(ConfigError(f"{where or cls.__name__} needs the setting {key!r}: write {key}=…"))
    problems.check(where)
    try:
        return cls(**made)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where or cls.__name__}: {error}") from error


def part_of(kind: str, instance: Any) -> Part:
    """Return the record of a part: name, settings as JSON (nested parts as tables with a name), fingerprint.

    The fingerprint covers name and settings, but for those that the class lists in a class variable `neutral`
    (they change speed, not results); the source of a file from outside the package; and what the instance says
    of itself in a `fingerprint` attribute (the hash of a file it reads, for instance).

    Raises:
        NotFound: for a kind that is not one of `registry.KINDS`.
    """
    if kind not in registry.KINDS:
        raise NotFound("kind of part", kind, registry.KINDS)
    name = registry.name_of(type(instance))
    settings = {f.name: _plain(getattr(instance, f.name)) for f in dataclasses.fields(instance)}
    return Part(name=name, settings=settings, fingerprint=fingerprint(_identity(instance)))


def spec_of(part: Part) -> PartSpec:
    """Return the spec from which `build` makes the part of a record again."""
    return PartSpec(name=part.name, settings={k: v for k, v in part.settings.items() if v is not None})


def _identity(instance: Any) -> Any:
    """Return everything by which two parts differ in what they do."""
    if isinstance(instance, tuple | list):
        return [_identity(item) for item in instance]
    if not dataclasses.is_dataclass(instance) or isinstance(instance, type):
        return _plain(instance)
    name = registry.name_of(type(instance))
    neutral = getattr(type(instance), "neutral", ())
    neutral = neutral if isinstance(neutral, tuple) else ()  # a setting may have that name
    settings = {f.name: _identity(getattr(instance, f.name)) for f in dataclasses.fields(instance)}
    source = file_sha256(Path(name).expanduser()) if registry.is_path(name) else ""
    own = getattr(instance, "fingerprint", "")
    own = str(own() if callable(own) else own)
    return [name, {key: value for key, value in settings.items() if key not in neutral}, source, own]


def _plain(value: Any) -> Any:
    """Turn a setting into JSON; a nested part becomes a table with its name."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        inner = {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"name": registry.name_of(type(value)), **inner}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else to_json(value)


def _field(f: dataclasses.Field[Any], hint: Any, raw: Any, where: str) -> Any:
    """Check one setting; errors name the setting and the part."""
    label = f"setting {f.name!r}{f' of {where}' if where else ''}"
    if isinstance(raw, str) and raw and SECRET.search(f.name) and not VARIABLE.fullmatch(raw):
        raise ConfigError(f"{label} holds the name of an environment variable (as in OPENAI_API_KEY), not the secret")
    if isinstance(raw, str) and CREDENTIALS.search(raw):
        raise ConfigError(f"{label} holds a password in an address: keep secrets in environment variables")
    if isinstance(raw, Mapping) and "name" not in raw and dataclasses.is_dataclass(f.default) and _protocol(hint):
        raw = {**_plain(f.default), **raw}
    try:
        return _convert(hint, raw, label)
    except ValueError as error:
        raise ConfigError(f"{label}: {error}") from None


def _convert(hint: Any, raw: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return raw
    if origin is typing.Annotated:
        return _convert(args[0], raw, where)
    if origin in (typing.Union, python_types.UnionType):
        return _union(args, raw, where)
    if origin is Literal:
        if raw not in args or isinstance(raw, bool) != any(isinstance(a, bool) and a == raw for a in args):
            raise ValueError(f"{raw!r} is not one of {', '.join(map(str, args))}")
        return raw
    if hint is tuple or origin in (tuple, list, frozenset):
        return _sequence(origin or tuple, args, raw, where)
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(raw, Mapping):
            raise ValueError(f"expected a table, got {raw!r}")
        return {str(key): _convert(args[1], value, where) for key, value in raw.items()}
    if hint is PartSpec:
        return part_from(raw, where)
    if kind := _protocol(hint):
        return raw if dataclasses.is_dataclass(raw) else build(kind, part_from(raw, where), where=where)
    if dataclasses.is_dataclass(hint) and isinstance(raw, Mapping):
        return make(typing.cast(type, hint), raw, where=where)
    return _scalar(hint, raw)


def _protocol(hint: Any) -> str:
    """Return the folder a nested part comes from, or "" when the type is no protocol of a part."""
    for arg in typing.get_args(hint):
        if found := _protocol(arg):
            return found
    return NESTED.get(getattr(hint, "__name__", ""), "") if getattr(hint, "_is_protocol", False) else ""


def _union(args: tuple[Any, ...], raw: Any, where: str) -> Any:
    """Take the first arm that fits; `none` stands for None where no arm takes it as text."""
    arms, failed = [arg for arg in args if arg is not type(None)], []
    named = any(arm is str or "none" in typing.get_args(arm) for arm in arms)
    if type(None) in args and (raw is None or (raw == "none" and not named)):
        return None
    for arm in sorted(arms, key=lambda arm: (_protocol(arm) != "", arm is float, arm is not type(raw))):
        try:
            return _convert(arm, raw, where)
        except ValueError as error:
            failed.append(str(error))
    raise ValueError("; or ".join(dict.fromkeys(failed)))


def _sequence(origin: Any, args: tuple[Any, ...], raw: Any, where: str) -> Any:
    items = [raw] if isinstance(raw, str | int | float | Mapping | PartSpec) and not isinstance(raw, bool) else raw
    if not isinstance(items, list | tuple):
        raise ValueError(f"expected a list, got {raw!r}")
    if not args or (origin is tuple and args[-1] is not Ellipsis):
        if args and len(args) != len(items):
            raise ValueError(f"expected {len(args)} values, got {raw!r}")
        kinds = list(args) or [Any] * len(items)
    else:
        kinds = [args[0]] * len(items)
    return origin(_convert(kind, item, where) for kind, item in zip(kinds, items, strict=True))


def _scalar(hint: Any, raw: Any) -> Any:
    if hint is float and isinstance(raw, int) and not isinstance(raw, bool):
        return float(raw)
    if hint is Path and isinstance(raw, str):
        return Path(raw)
    if not isinstance(hint, type):
        return raw
    if not isinstance(raw, hint) or (hint is int and isinstance(raw, bool)):
        names = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
        quote = f'; write it in quotes: "{raw}"' if hint is str and isinstance(raw, bool | int | float) else ""
        raise ValueError(f"expected {names.get(hint, hint.__name__)}, got {raw!r}{quote}")
    return raw


def _join(what: str, where: str) -> str:
    return f"{what} in {where}" if where else what


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            inner = dict(value)
            if name := inner.pop("name", None):
                yield f"{prefix}{key}", name
            yield from _flat(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _text(value: Any) -> str:
    """Write a value so that `parse_value` reads it again."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_text, value))}]"
    if isinstance(value, str):
        plain = re.fullmatch(r"[^\s,\[\]{}\"'#=]+", value) and parse_value(value) == value
        return value if plain else '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return str(value).lower() if isinstance(value, bool) else str(value)
