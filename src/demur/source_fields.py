"""The fields of a class as they are written in its source and in that of its base classes, importing nothing."""

from __future__ import annotations

import ast
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from demur.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One field of a class, as it is written in the source."""

    name: str
    type: str
    default: str | None
    """Source of the default value; None where the setting must be given."""
    doc: str = ""


def tree(path: Path) -> ast.Module:
    """Return the syntax tree of a file, parsed anew only where the file has changed.

    Raises:
        ConfigError: where it is not valid Python.
    """
    return _tree(path, path.stat().st_mtime_ns)


def fields(path: Path, cls: str, package: Path) -> tuple[Setting, ...]:
    """Return the fields of a class: those of base classes that are dataclasses first, as dataclasses have it.

    A field that is declared again keeps its place; where it has no docstring of its own, it keeps that, too. Other
    bases give none.

    Args:
        path: the file that holds the class.
        cls: its name; without such a class there are no fields.
        package: the folder of the package in whose modules bases are looked up, beside the file itself.
    """
    found = _class(tree(path).body, cls)
    return tuple(_fields(*found, package).values()) if found else ()


def _class(body: Sequence[ast.stmt], cls: str) -> tuple[ast.ClassDef, Sequence[ast.stmt]] | None:
    """Return a class and the statements that stand above it."""
    for at, node in enumerate(body):
        if isinstance(node, ast.ClassDef) and node.name == cls:
            return node, body[:at]
    return None


def _fields(cls: ast.ClassDef, above: Sequence[ast.stmt], package: Path) -> dict[str, Setting]:
    imported = _imported(above)
    found: dict[str, Setting] = {}
    for base in reversed(cls.bases):
        head, dot, rest = ast.unparse(base).partition(".")
        module, _, name = f"{imported.get(head, head)}{dot}{rest}".rpartition(".")
        where = _class(_body(module, package) if module else above, name)
        if where and _is_dataclass(where[0]):
            found |= _fields(*where, package)
    for own in _declared(cls):
        doc = own.doc or (found[own.name].doc if own.name in found else "")
        found[own.name] = dataclasses.replace(own, doc=doc)
    return found


@functools.cache
def _tree(path: Path, _mtime: int) -> ast.Module:
    try:
        return ast.parse(path.read_text("utf-8"), filename=str(path))
    except (SyntaxError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid Python: {error}") from None


def _imported(body: Sequence[ast.stmt]) -> dict[str, str]:
    """Return what imported names stand for, as `module.name`."""
    nodes = [node for node in body if isinstance(node, ast.ImportFrom)]
    return {alias.asname or alias.name: f"{node.module}.{alias.name}" for node in nodes for alias in node.names}


def _body(module: str, package: Path) -> Sequence[ast.stmt]:
    """Return the statements of a module of the package, none of any other."""
    top, *way = module.split(".")
    path = package.joinpath(*way)
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return tree(path).body if top == package.name and path.is_file() else ()


def _is_dataclass(cls: ast.ClassDef) -> bool:
    marks = [ast.unparse(mark).partition("(")[0] for mark in cls.decorator_list]
    return any(mark in ("dataclass", "dataclasses.dataclass") for mark in marks)


def _declared(cls: ast.ClassDef) -> Iterator[Setting]:
    """Yield the fields that a class itself declares, with the string under each."""
    for node, after in zip(cls.body, [*cls.body[1:], None], strict=True):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        kind = ast.unparse(node.annotation)
        if kind.removeprefix("typing.").startswith("ClassVar"):
            continue
        doc = ""
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
            doc = " ".join(after.value.value.split())
        default = ast.unparse(node.value) if node.value else None
        yield Setting(name=node.target.id, type=kind, default=default, doc=doc)
