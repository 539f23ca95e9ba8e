"""Pages of the library, read from its source without importing it: for `docs/build.py`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from docstrings import cell, code, folded, line, table, text

import demur
from demur import registry

PACKAGE = Path(demur.__file__).parent
MODULES = (
    "agreement", "attacks", "cache", "checks", "comparison", "correction", "counted", "dedup", "errors", "floor",
    "languages", "metrics", "modifiers", "opening", "paired", "pairs", "pairwise", "reasoning", "recipes", "records",
    "registry", "results", "settings", "sides", "sketches", "stats", "suites", "types", "verify",
)  # fmt: skip
"""The modules that serve as a library and need no torch."""


def page() -> str:
    """Return the public names of `demur`."""
    parts = []
    for name in sorted(demur.__all__, key=str.lower):
        home = demur._HOMES[name]
        node = next(node for node in _body(home) if getattr(node, "name", "") == name)
        parts.append(f"## {name}\n\nFrom `demur.{home}`.\n\n{_member(node, home)}")
    return "\n\n".join(parts)


def modules() -> str:
    """Return the functions and classes of the torch-free modules."""
    parts = []
    for home in MODULES:
        tree = ast.parse(_source(home))
        parts += [f"## demur.{home}", text(ast.get_docstring(tree) or "").partition("\n\n")[0]]
        parts += [folded(_title(node), _member(node, home)) for node in _public(tree.body)]
    return "\n\n".join(parts)


@cache
def _source(home: str) -> str:
    return (PACKAGE / f"{home}.py").read_text("utf-8")


def _body(home: str) -> list[ast.stmt]:
    return ast.parse(_source(home)).body


def _public(body: list[ast.stmt]) -> Iterator[ast.ClassDef | ast.FunctionDef]:
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            yield node


def _title(node: ast.ClassDef | ast.FunctionDef) -> str:
    name = f"class {node.name}" if isinstance(node, ast.ClassDef) else f"{node.name}()"
    return f"`{name}` {line((ast.get_docstring(node) or '').partition(chr(10))[0])}"


def _member(node: ast.stmt, home: str) -> str:
    """Return signature and documentation of a function, or fields, documentation and methods of a class."""
    assert isinstance(node, ast.ClassDef | ast.FunctionDef)
    doc = text(ast.get_docstring(node) or "")
    if isinstance(node, ast.FunctionDef):
        return f"```python\n{_signature(node)}\n```\n\n{doc}"
    bases = ", ".join(map(ast.unparse, node.bases))
    parts = [f"```python\nclass {node.name}{f'({bases})' if bases else ''}\n```", doc]
    fields = [s for s in registry.written_fields(PACKAGE / f"{home}.py", node.name) if not s.name.startswith("_")]
    if fields:
        rows = [[code(s.name), code(s.type), code(s.default or "") or "required", cell(s.doc)] for s in fields]
        parts.append(table(("field", "type", "default", "meaning"), rows))
    for inner in _public(node.body):
        assert isinstance(inner, ast.FunctionDef)
        parts.append(f"```python\n{_signature(inner)}\n```\n\n{text(ast.get_docstring(inner) or '')}")
    return "\n\n".join(parts)


def _signature(node: ast.FunctionDef) -> str:
    """Return the signature on one line, or with an argument on each where that is too long."""
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    kind = {"property", "cached_property"} & {ast.unparse(one) for one in node.decorator_list}
    if kind:
        return f"{node.name}{returns.replace(' -> ', ': ')}"
    one_line = f"{node.name}({ast.unparse(node.args)}){returns}"
    if len(one_line) <= 90:
        return one_line
    pieces = _arguments(node.args)
    return f"{node.name}(\n" + "".join(f"    {piece},\n" for piece in pieces) + f"){returns}"


def _arguments(args: ast.arguments) -> list[str]:
    """Return each argument as it is written, with the signs that stand between them."""
    plain = [*args.posonlyargs, *args.args]
    defaults: list[ast.expr | None] = [None] * (len(plain) - len(args.defaults)) + list(args.defaults)
    found = [_argument(one, default) for one, default in zip(plain, defaults, strict=True)]
    if args.posonlyargs:
        found.insert(len(args.posonlyargs), "/")
    if args.vararg:
        found.append(f"*{_argument(args.vararg, None)}")
    elif args.kwonlyargs:
        found.append("*")
    found += [_argument(one, default) for one, default in zip(args.kwonlyargs, args.kw_defaults, strict=True)]
    return [*found, f"**{_argument(args.kwarg, None)}"] if args.kwarg else found


def _argument(one: ast.arg, default: ast.expr | None) -> str:
    return ast.unparse(one) + (f" = {ast.unparse(default)}" if default is not None else "")
