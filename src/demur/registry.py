"""File name -> class: the open folders, read without importing them.

`judges/keyword.py` is the judge `keyword`; its class is `Keyword`. Names, first docstring lines and settings (those of
base classes, too) are read from the source by `ast`, so listing is quick and works where an extra is missing; a class
is imported only when it is used. A name that is a path (`./tone.py`) loads a member from outside the package.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from demur import source_fields
from demur.errors import ConfigError, NotFound, Unavailable
from demur.source_fields import Setting

KINDS = ("benchmarks", "judges", "generators", "methods", "interventions", "export")
"""The open folders."""

WORDS = {
    "benchmarks": "benchmark",
    "judges": "judge",
    "generators": "generator",
    "methods": "method",
    "interventions": "intervention",
    "export": "exporter",
}
"""What one member of each folder is called in messages."""

EXTRAS: dict[str, tuple[str, ...]] = {
    "local": ("torch", "transformers", "safetensors", "sklearn"),
    "train": ("torch", "transformers", "datasets", "peft", "trl"),
    "gguf": ("torch", "transformers", "gguf"),
    "tune": ("torch", "transformers", "optuna"),
    "serve": ("torch", "transformers", "fastapi", "uvicorn"),
    "eval": ("torch", "transformers", "inspect_ai", "lm_eval"),
    "vllm": ("vllm",),
    "ray": ("ray",),
}
"""The modules whose presence says that an extra is installed."""

PACKAGE = "demur"
OUTSIDE = "demur_outside_"
"""How the modules of parts from outside the package begin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One file of an open folder, as a list shows it."""

    name: str
    summary: str
    """First line of the docstring."""
    extra: str = ""
    """The extra it needs, or ""."""
    installed: bool = True
    hint: str = ""
    """The install command, where the extra is missing."""
    comparison_only: str = ""
    """Why it may be measured and compared but neither chosen nor exported, or ""."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """What `ast` reads from one file."""

    summary: str
    doc: str
    extra: str
    comparison_only: str
    reads: str
    space: Mapping[str, object]
    classes: tuple[str, ...]


def names(kind: str) -> tuple[str, ...]:
    """Return the sorted names of an open folder.

    Raises:
        NotFound: for a kind that is not one of `KINDS`.
    """
    return tuple(sorted(path.stem for path in _folder(kind).glob("*.py") if not path.name.startswith("_")))


def members(kind: str) -> tuple[Member, ...]:
    """Return what a list shows of each member, those with a missing extra included."""
    return tuple(_member(kind, name) for name in names(kind))


def summary(kind: str, name: str) -> str:
    """Return the first line of the member's docstring, without importing it."""
    return _read(_path(kind, name)).summary


def documentation(kind: str, name: str) -> str:
    """Return the whole docstring of the member's class, without importing it."""
    return _read(_path(kind, name)).doc


def comparison_only(kind: str, name: str) -> str:
    """Return why a member may be measured and compared but neither chosen nor exported; "" where it may.

    A file says so with the constant `COMPARISON_ONLY = "reason"`, which is read without importing it.
    """
    return _read(_path(kind, name)).comparison_only


def reads(method: str, settings: Mapping[str, object]) -> tuple[str, ...]:
    """Return which splits of the data a method looks at: both, unless its file says less.

    A file says so with the constant `READS = "nothing"`, `"dev"` or `"dev unless text"` (nothing where the setting
    `text` is given), which is read without importing it.
    """
    said, _, setting = _read(_path("methods", method)).reads.partition(" unless ")
    return () if said == "nothing" or settings.get(setting) else tuple(said.split()) or ("fit", "dev")


def space(method: str) -> Mapping[str, object]:
    """Return what `demur tune` may set a method's settings to; empty where the method is not searched.

    A file says so with the constant `SPACE`, a table that is read without importing it; `demur.tuning.space` says what
    stands in it.
    """
    return _read(_path("methods", method)).space


def fields(kind: str, name: str) -> tuple[Setting, ...]:
    """Return the member's settings in the order of the source, those of its base classes first, importing nothing."""
    path = _path(kind, name)
    return written_fields(path, class_name(path.stem))


def written_fields(path: Path, cls: str) -> tuple[Setting, ...]:
    """Return the fields of a class in a file, bases in the file or the package included, importing nothing."""
    return source_fields.fields(path, cls, _package())


def missing(extra: str) -> tuple[str, ...]:
    """Return the modules of an extra that are not installed: empty when it is complete."""
    return tuple(module for module in EXTRAS.get(extra, ()) if not _present(module))


def install_hint(extra: str) -> str:
    """Return the command that installs an extra."""
    return f"pip install 'demur[{extra}]'"


def find(kind: str, name: str) -> type:
    """Import the class of a member.

    Args:
        kind: one of `KINDS`.
        name: a member's name, or the path of a Python file (`./tone.py`, relative to the working folder).

    Raises:
        NotFound: where there is no such member or file; the message suggests the nearest.
        Unavailable: where the member's extra is not installed; the message holds the command.
        ConfigError: where a file from outside cannot be loaded or holds no fitting class.
    """
    path = _path(kind, name)
    extra = _read(path).extra
    if gone := missing(extra):
        what = f"{WORDS[kind]} {name!r} needs {', '.join(gone)}"
        raise Unavailable(f"{what}, which {'is' if len(gone) == 1 else 'are'} not installed: {install_hint(extra)}")
    if is_path(name):
        return _outside(kind, name, path)
    cls: type = getattr(importlib.import_module(f"{PACKAGE}.{kind}.{name}"), class_name(name))
    return cls


def name_of(cls: type) -> str:
    """Return the name by which `find` gives `cls`: a member's file name, or the path of a file from outside."""
    module = sys.modules[cls.__module__]
    return getattr(module, "__demur_path__", None) or cls.__module__.rpartition(".")[2]


def outside() -> list[tuple[str, Path]]:
    """Return the parts from outside the package that were loaded, by name and file, for another process to load."""
    loaded = [m for name, m in sys.modules.items() if name.startswith(OUTSIDE)]
    return [(str(m.__dict__["__demur_path__"]), Path(str(m.__file__))) for m in loaded]


def load_outside(name: str, path: Path) -> None:
    """Load the file of a part from outside the package, so that its class can be unpickled.

    Raises:
        ConfigError: where it cannot be loaded.
    """
    _load(name, path, path.stat().st_mtime_ns)


def is_path(name: str) -> bool:
    """Say whether a part's name is the path of a file rather than the name of a member."""
    return name.endswith(".py") or "/" in name


def class_name(name: str) -> str:
    """Return the class that a file must hold: `or_bench` -> `OrBench`."""
    return "".join(word[:1].upper() + word[1:] for word in name.split("_"))


def _folder(kind: str) -> Path:
    if kind not in KINDS:
        raise NotFound("kind of part", kind, KINDS)
    return _package() / kind


def _package() -> Path:
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise ConfigError(f"package {PACKAGE!r} is not installed as a folder")
    return Path(next(iter(found.submodule_search_locations)))


def _path(kind: str, name: str) -> Path:
    """Return the file of a member, or of a path from outside."""
    if is_path(name):
        path = Path(name).expanduser()
        if not path.is_file():
            raise ConfigError(f"no file {name!r} for a {WORDS.get(kind, kind)}; looked in {Path.cwd()}")
        return path.resolve()
    known = names(kind)
    if name not in known:
        raise NotFound(WORDS[kind], name, known)
    return _folder(kind) / f"{name}.py"


def _member(kind: str, name: str) -> Member:
    source = _read(_path(kind, name))
    installed = not missing(source.extra)
    hint = "" if installed else install_hint(source.extra)
    return Member(
        name=name,
        summary=source.summary,
        extra=source.extra,
        installed=installed,
        hint=hint,
        comparison_only=source.comparison_only,
    )


def _present(module: str) -> bool:
    return module in sys.modules or importlib.util.find_spec(module) is not None


def _read(path: Path) -> _Source:
    return _parse(path, path.stat().st_mtime_ns)


@functools.cache
def _parse(path: Path, _mtime: int) -> _Source:
    tree = source_fields.tree(path)
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    cls = classes.get(class_name(path.stem))
    doc = (ast.get_docstring(cls) if cls else None) or ast.get_docstring(tree) or ""
    return _Source(
        summary=doc.partition("\n")[0].strip(),
        doc=doc,
        extra=_constant(tree, "EXTRA"),
        comparison_only=_constant(tree, "COMPARISON_ONLY"),
        reads=_constant(tree, "READS"),
        space=_table(tree, "SPACE", path),
        classes=tuple(classes),
    )


def _constant(tree: ast.Module, name: str) -> str:
    """Return the text of a module constant, or "" when there is none."""
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Constant):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(target, ast.Name) and target.id == name for target in targets):
                return str(node.value.value)
    return ""


def _table(tree: ast.Module, name: str, path: Path) -> Mapping[str, object]:
    """Return a module constant that is a table of literals; empty where there is none."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            try:
                return dict(ast.literal_eval(node.value))
            except (ValueError, TypeError) as error:
                raise ConfigError(f"{name} in {path} is no table of plain values: {error}") from None
    return {}


def _outside(kind: str, name: str, path: Path) -> type:
    """Load the class of a file outside the package; the same unchanged file gives the same class."""
    wanted = class_name(path.stem)
    found = getattr(_load(name, path, path.stat().st_mtime_ns), wanted, None)
    if not isinstance(found, type):
        held = ", ".join(_read(path).classes) or "no class"
        raise ConfigError(f"{name} should define the {WORDS[kind]} class {wanted!r}; it holds {held}")
    if not dataclasses.is_dataclass(found):
        raise ConfigError(f"class {wanted} in {name} must be a dataclass(frozen=True): its fields are its settings")
    return found


@functools.cache
def _load(name: str, path: Path, mtime: int) -> object:
    module_name = f"{OUTSIDE}{path.stem}_{sha256(f'{path}:{mtime}'.encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{name} cannot be loaded: its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    module.__demur_path__ = name  # type: ignore[attr-defined]
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[module_name]
        raise ConfigError(f"{name} cannot be loaded: {type(error).__name__}: {error}") from error
    return module
