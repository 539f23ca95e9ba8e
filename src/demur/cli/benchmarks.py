"""`demur benchmarks`: questions about the prompt sets themselves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from demur.cli._console import emit_json, progress, table

if TYPE_CHECKING:
    from demur.dedup import Overlap
    from demur.types import Prompt


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    verb = typer.Typer(help="Compare benchmarks with each other.", no_args_is_help=True)
    app.add_typer(verb, name="benchmarks")
    verb.callback()(lambda: None)
    text = "Build a benchmark from mined folders: benign prompts near several boundaries, with twins."
    verb.command("build", help=text)(_build)
    text = "Write benchmarks as a folder of lm-eval tasks, judged by demur."
    verb.command("lm-eval", help=text)(_lm_eval)

    @verb.command(help="Count what sets of prompts share, exactly and nearly; no texts are shown.")
    def overlap(
        parts: list[str] = typer.Argument(
            ..., metavar="A B...", help="Parts, as in `xstest` or `file:path=own.jsonl`."
        ),
        embedder: str = typer.Option(
            "shingles", help="`shingles`, or a sentence-transformers model: hub id or folder."
        ),
        threshold: float | None = typer.Option(
            None, help="From which similarity two prompts are near [default: 0.7 for shingles, 0.85 for a model]"
        ),
        examples: int = typer.Option(3, min=0, help="Pairs of ids shown, or written, for each two sets."),
        as_json: bool = typer.Option(False, "--json", help="Print JSON."),
    ) -> None:
        from itertools import combinations

        from demur import dedup
        from demur.embeddings import embedder as embedder_of
        from demur.errors import ConfigError

        if len(parts) < 2:
            raise ConfigError(f"{len(parts)} benchmark given ({', '.join(parts)}); name at least two to compare")
        made = None if embedder == "shingles" else embedder_of(embedder)
        pairs = list(combinations(_prompts(parts), 2))
        found = []
        with progress(quiet=as_json) as tell:
            for done, ((a, left), (b, right)) in enumerate(pairs, 1):
                found.append(dedup.overlap(left, right, names=(a, b), threshold=threshold, embedder=made))
                tell("pairs of sets", done, len(pairs))
        if as_json:
            emit_json([_record(o, examples) for o in found])
        else:
            _show(found, examples)


def _build(
    folders: list[Path] = typer.Argument(..., metavar="MINED…", help="Folders of `demur mine`, one per model."),
    out: Path = typer.Option(..., help="Folder of the benchmark."),
    name: str = typer.Option(..., help="Its name, as it stands in ids and results."),
    per_cell: int = typer.Option(50, min=1, help="Benign prompts for each language and category."),
    least_models: int = typer.Option(1, min=1, help="Models that must have scored a prompt."),
    training: list[Path] = typer.Option([], help="JSONL of examples whose groups are left out; repeatable."),
    licence: str = typer.Option("", help="Its licence."),
    as_json: bool = typer.Option(False, "--json", help="Print the card as JSON."),
) -> None:
    """Build a benchmark from mined folders."""
    from demur.mining.building import Building
    from demur.mining.building import build as made
    from demur.types import to_json

    how = Building(name=name, per_cell=per_cell, least_models=least_models, licence=licence)
    card = made(folders, how, out, training=training)
    if as_json:
        emit_json(to_json(card))
    else:
        table("card", ("field", "value"), [[k, str(v)] for k, v in to_json(card).items() if v])
        table("use it", ("command",), [[f"demur measure --benchmark built:path={out}"]])


def _lm_eval(
    parts: list[str] = typer.Argument(..., metavar="PART…", help="Benchmarks, as in `world:split=test,limit=200`."),
    out: Path = typer.Option(..., help="Folder of the tasks, for lm_eval's --include_path or --tasks."),
    judge: str = typer.Option("", help="A part [default: the card's]."),
    max_new_tokens: int = typer.Option(512, min=1, help="Longest answer, in tokens."),
    as_json: bool = typer.Option(False, "--json", help="Print the tasks as JSON."),
) -> None:
    """Write benchmarks as lm-eval tasks."""
    from demur.ecosystem.task_folder import write

    files = write(parts, out, judge=judge, max_new_tokens=max_new_tokens)
    if as_json:
        emit_json({name: str(path) for name, path in files.items()})
        return
    table("tasks", ("task", "file"), [[name, str(path)] for name, path in files.items()])
    command = f"lm_eval run --model demur --model_args model=organism --tasks {out} --apply_chat_template"
    table("use them", ("command",), [[command]])


def _prompts(parts: list[str]) -> list[tuple[str, list[Prompt]]]:
    """Return (part as written, prompts) of each part; all that are not here are named together."""
    from demur.assemble import build_benchmarks
    from demur.settings import Problems

    made, problems = [], Problems()
    for text, (_, benchmark) in zip(parts, build_benchmarks(parts), strict=True):
        with problems.gather():
            made.append((text, list(benchmark())))
    problems.check()
    return made


def _record(found: Overlap, examples: int) -> dict[str, Any]:
    from demur.types import to_json

    record = {**to_json(found), "share_a": found.share_a, "share_b": found.share_b}
    return {**record, "matches": record["matches"][:examples]}


def _show(found: list[Overlap], examples: int) -> None:
    rows = [
        [o.a, o.b, _cell(o.exact_a, o.near_a, o.size_a), _cell(o.exact_b, o.near_b, o.size_b)] for o in found
    ]  # fmt: skip
    first = found[0]
    table(f"shared prompts ({first.measure}, near from {first.threshold:g})", ("A", "B", "A in B", "B in A"), rows)
    pairs = [[m.a, m.b, "exact" if m.exact else f"{m.similarity:.2f}"] for o in found for m in o.matches[:examples]]
    if pairs:
        table("examples", ("A", "B", "similarity"), pairs, right=(2,))


def _cell(exact: int, near: int, size: int) -> str:
    """Write `122 of 871 = 14.0 % (111 exact)`."""
    return f"{exact + near} of {size} = {100 * (exact + near) / size:.1f} % ({exact} exact)" if exact + near else "-"
