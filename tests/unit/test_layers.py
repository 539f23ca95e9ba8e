"""The architecture, read from the source: who may import torch, register hooks, print, and open run files."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import demur

ROOT = Path(demur.__file__).parent
ABOVE_THE_LINE = {
    "", "addresses", "agreement", "answers", "assemble", "attacks", "background", "benchmarks", "blocks", "cache",
    "causes", "checks", "cli", "comparison", "convert", "correction", "counted", "dedup", "differences", "doctor",
    "ecosystem", "embeddings", "engines", "errors", "files", "finishes", "fitted", "flips", "floor",
    "floor_records", "generators", "judges", "labelled", "labelling", "languages", "leaks", "measure", "metrics",
    "mining", "modifiers", "opening", "paired", "pairs", "pairwise", "reasoning", "recipes", "records", "registry",
    "report", "results", "serving", "settings", "sides", "sketches", "source_fields", "stats", "suites", "triage",
    "tuning", "types", "verify", "world",
}  # fmt: skip
"""Modules and folders that import no torch; a file in them that needs an extra says so in EXTRA."""

TORCH_SIDE = {
    "torch", "transformers", "safetensors", "tokenizers", "accelerate", "sklearn", "scipy", "peft", "trl", "datasets",
    "vllm", "ray", "inspect_ai", "lm_eval", "optuna", "fastapi", "uvicorn", "jaxtyping", "pandas",
}  # fmt: skip
LATE = {"matplotlib", "huggingface_hub", "openai"}
"""Base dependencies that are slow to import: only inside functions."""

HOOKS = ("register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook", "register_hook")
RUN_FILES = {"run.json", "prompts.jsonl", "responses.jsonl", "verdicts.jsonl", "metrics.json", "timings.jsonl"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text("utf-8"))


def extra(name: str) -> bool:
    """Say whether a module declares that it needs an extra."""
    targets = [t for node in tree(name).body if isinstance(node, ast.Assign) for t in node.targets]
    return any(isinstance(t, ast.Name) and t.id == "EXTRA" for t in targets)


def is_above(name: str) -> bool:
    head = name.split(".")[1] if "." in name else ""
    return head in ABOVE_THE_LINE and not extra(name)


ABOVE = [name for name in MODULES if is_above(name)]


def executed(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements that run on import: not those in functions or under TYPE_CHECKING."""
    for node in body:
        yield node
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from executed(node.orelse)
        elif isinstance(node, ast.If | ast.Try | ast.With | ast.ClassDef | ast.For | ast.While):
            for inner in ("body", "orelse", "finalbody"):
                yield from executed(getattr(node, inner, []))
            for handler in getattr(node, "handlers", []):
                yield from executed(handler.body)


@cache
def imports(name: str) -> frozenset[str]:
    """Return the modules that a module imports when it is imported, parents included."""
    found = set()
    for node in executed(tree(name).body):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
            base = ".".join(package.split(".")[: -(node.level - 1) or None]) if node.level else ""
            target = ".".join(filter(None, [base, node.module]))
            found |= {target, *(f"{target}.{a.name}" for a in node.names if f"{target}.{a.name}" in MODULES)}
    parents = {module.rsplit(".", n)[0] for module in found for n in range(1, module.count(".") + 1)}
    return frozenset(found | parents)


def reach(name: str) -> dict[str, str]:
    """Return every module that importing `name` imports, with the way there."""
    way, waiting = {name: name}, [name]
    while waiting:
        at = waiting.pop()
        for module in imports(at):
            if module not in way:
                way[module] = f"{way[at]} -> {module}"
                if module in MODULES:
                    waiting.append(module)
    return way


@pytest.mark.parametrize("name", ABOVE)
def test_nothing_above_the_line_imports_torch(name: str) -> None:
    heavy = [way for module, way in reach(name).items() if module.split(".")[0] in TORCH_SIDE | LATE]
    assert not heavy, f"import inside the function that needs it: {heavy[0]}"


def test_importing_everything_above_the_line_loads_no_torch() -> None:
    heavy = sorted(TORCH_SIDE | LATE)
    names = [name for name in ABOVE if not name.endswith("__main__")]
    code = f"import sys, importlib\nfor n in {names}: importlib.import_module(n)\n"
    code += f"print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


@cache
def nodes(name: str) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(tree(name)))


def attributes(name: str) -> set[str]:
    return {node.attr for node in nodes(name) if isinstance(node, ast.Attribute)}


def test_only_residuals_registers_hooks() -> None:
    wrong = [name for name in MODULES if attributes(name) & set(HOOKS) and name != "demur.residuals"]
    assert not wrong


def test_only_the_command_line_and_the_report_print() -> None:
    wrong = [
        f"{name}:{node.lineno}"
        for name in MODULES
        if name.split(".")[1:2] not in (["cli"], ["report"])
        for node in nodes(name)
        if (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print")
        or (isinstance(node, ast.Attribute) and ast.unparse(node) in ("sys.stdout", "sys.stderr"))
    ]
    assert not wrong


def written_strings(name: str) -> Iterator[ast.Constant]:
    """Yield the strings of a module that are no docstrings."""
    docs = {id(node.value) for node in nodes(name) if isinstance(node, ast.Expr)}
    for node in nodes(name):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node


def test_only_records_knows_the_files_of_a_run() -> None:
    wrong = [
        f"{name}:{node.lineno} {node.value!r}"
        for name in MODULES
        if name != "demur.records"
        for node in written_strings(name)
        if node.value.rsplit("/", 1)[-1] in RUN_FILES
    ]
    assert not wrong


@pytest.mark.parametrize("name", MODULES)
def test_files_and_functions_stay_small(name: str) -> None:
    lines = len(MODULES[name].read_text("utf-8").splitlines())
    assert lines <= 400, f"{name} has {lines} lines"
    for node in nodes(name):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            doc = node.body[0] if ast.get_docstring(node) else None
            size = (node.end_lineno or 0) - node.lineno + 1
            size -= (doc.end_lineno or 0) - doc.lineno + 1 if doc else 0
            assert size <= 60, f"{name}:{node.lineno} {node.name} has {size} lines without its docstring"


def public_names(name: str) -> list[str] | None:
    """Return `__all__` as written, or None."""
    for node in tree(name).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    return None


def order(public: str) -> tuple[int, str]:
    """Constants, classes, functions, each by the alphabet: the order that ruff keeps."""
    return (0 if public.isupper() else 1 if public[:1].isupper() else 2, public)


@pytest.mark.parametrize("name", [name for name in MODULES if public_names(name)])
def test_public_names_are_sorted_and_there(name: str) -> None:
    listed = public_names(name) or []
    assert listed == sorted(listed, key=order)
    assert len(listed) == len(set(listed))
    if is_above(name) and name != "demur":
        module = importlib.import_module(name)
        assert not [public for public in listed if not hasattr(module, public)]


def test_no_module_is_left_unfinished() -> None:
    marks = ("TO" + "DO", "FIX" + "ME", "NotImplemented" + "Error")
    wrong = [f"{name}: {mark}" for name, path in MODULES.items() for mark in marks if mark in path.read_text("utf-8")]
    assert not wrong
