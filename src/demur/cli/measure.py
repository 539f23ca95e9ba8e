"""`demur measure`: both axes of one model on one or more benchmarks."""

from __future__ import annotations

import enum
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from demur.cli._console import (
    ENGINE,
    HEADLINES,
    NO_CACHE,
    console,
    emit_json,
    failure_note,
    metric_rows,
    progress,
    table,
    validation_note,
    warn,
)

if TYPE_CHECKING:
    from demur.checks import Check
    from demur.records import LoadedRun
    from demur.settings import PartSpec
    from demur.types import Sampling

WORLDLY = ("organism", "fake")
"""Models that know the synthetic world."""
NO_BENCHMARK = (
    "no --benchmark named, so the prompts are of the synthetic world, which the embedded model alone knows; name a set "
    "(`--benchmark xstest`), a suite (`--suite quick`) or your own prompts (`--benchmark file:path=FILE`)"
)


class Thinking(enum.StrEnum):
    """What `--thinking` may be."""

    auto = "auto"
    on = "on"
    off = "off"


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""

    @app.command(help="Measure over-refusal and harmful compliance of a model, together.")
    def measure(
        model: str = typer.Option("", help="A folder, a hub id or organism[:base] [default: the generator's own]"),
        benchmark: list[str] = typer.Option(
            [], help="A part, as in `xstest:limit=50,attack=prefill:3`; repeatable [default: world]"
        ),
        suite: str = typer.Option("", help="Benchmarks by one name, as in `quick`; see `demur list suites`."),
        judge: list[str] = typer.Option([], help="A part; repeatable; the first is the headline [default: the card's]"),
        generator: str = typer.Option("local", help="A part: what produces the answers."),
        with_: Path | None = typer.Option(None, "--with", help="Folder of a saved intervention to attach."),
        with_guard: str = typer.Option("", help="A judge of prompt_harm that decides before the model, as a part."),
        out: Path | None = typer.Option(None, help="Run folder [default: runs/MODEL-BENCHMARK]."),
        max_new_tokens: int = typer.Option(512, min=1, help="Longest answer, in tokens."),
        sampling_of: str = typer.Option("", "--sampling", help="`model`: its own temperature and top_p."),
        temperature: float = typer.Option(0.0, min=0.0, help="0 is greedy."),
        top_p: float = typer.Option(1.0, min=0.0, max=1.0, help="Nucleus sampling: the mass kept."),
        samples: int = typer.Option(1, min=1, help="Answers per prompt."),
        thinking: Thinking = typer.Option(Thinking.auto, help="Have a thinking model think, or not."),
        prefill: str = typer.Option("", help="Text that every answer begins with."),
        seed: int = typer.Option(0, help="Seed of sampled answers."),
        check: list[Path] = typer.Option([], help="Check of a judge, from `demur judges check --save`; repeatable."),
        overwrite: bool = typer.Option(False, help="Start anew where the folder holds another run."),
        engine: str = ENGINE,
        no_cache: bool = NO_CACHE,
        as_json: bool = typer.Option(False, "--json", help="Print the metric rows as JSON."),
    ) -> None:
        from demur import engines, report
        from demur.assemble import generator_part, measurement
        from demur.cache import opened
        from demur.measure import measure as run_measure
        from demur.types import Sampling, to_json

        sampling = Sampling(
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            samples=samples,
            seed=seed,
            prefill=prefill,
            thinking=thinking.value,
        )
        if sampling_of:
            sampling = _own(sampling_of, generator_part(generator, model=model), sampling)
        words, chosen = _benchmarks(suite, benchmark)
        by: dict[str, Any] = {"model": model, "generator": generator, "intervention": with_, "guard": with_guard}
        what = measurement(benchmarks=chosen, judges=judge, sampling=sampling, **by)
        what = replace(what, checks=_checks(check, [part.name for part, _ in what.judges]))
        _warn_of_world(suite, benchmark, what.model.id)
        folder = out or Path("runs") / _name(model or what.model.id, words)
        with engines.opened(engine) as over, progress(quiet=as_json) as tell:
            run = run_measure(what, folder, overwrite=overwrite, progress=tell, cache=opened(), over=over)
        pages = report.write(folder, run)
        if as_json:
            emit_json(to_json(run.metrics))
        else:
            _show(run, f"{what.model.id} on {', '.join(words)}", pages[0])
        if not _measured(run):
            raise typer.Exit(1)


def _benchmarks(suite: str, benchmark: list[str]) -> tuple[list[str], list[str]]:
    """Return what was named, and the benchmarks that it stands for."""
    from demur import suites

    words = [*([suite] if suite else []), *benchmark] or ["world"]
    return words, [*(suites.find(suite).parts if suite else ()), *benchmark] or ["world"]


def _warn_of_world(suite: str, benchmark: list[str], model: str) -> None:
    """Warn where the prompts are of the synthetic world by default, and the model does not know it."""
    if not (suite or benchmark) and model.partition(":")[0] not in WORLDLY:
        warn(NO_BENCHMARK)


def _measured(run: LoadedRun) -> bool:
    """Say whether the headline judge gave either rate on any benchmark."""
    rates, headline = dict(HEADLINES[:2]), run.spec.judges[0].name
    own = (m for m in run.metrics if m.name in rates and m.judge == headline and m.slice == "all")
    return any(m.value is not None for m in own)


def _show(run: LoadedRun, title: str, page: Path) -> None:
    """Print the headline table, what it rests on, and where everything lies."""
    columns = ("benchmark", "measure", "value", "n", "groups")
    table(title, columns, metric_rows(run.metrics, run.validations), right=(2, 3, 4))
    validation_note(run.validations)
    failure_note(run.verdicts)
    _cut_note(run)
    console().print(f"run: {run.path}\nreport: {page}", highlight=False)


def _cut_note(run: LoadedRun) -> None:
    """Print how many answers met the limit of tokens: the model's fault in both rates, and often the limit's."""
    cut = sum(response.finish == "length" for response in run.responses)
    if cut:
        limit = run.spec.sampling.max_new_tokens
        text = f"{cut} of {len(run.responses)} answers were cut off at {limit} tokens and count against both rates"
        console().print(f"{text}: --max-new-tokens sets the limit", highlight=False, markup=False)


def _checks(files: list[Path], judges: list[str]) -> tuple[Check, ...]:
    from demur.checks import load_checks
    from demur.errors import ConfigError

    found = tuple(check for file in files for check in load_checks(file))
    for check in found:
        if check.judge not in judges:
            raise ConfigError(
                f"--check holds a check of judge {check.judge!r}; the judges here are {', '.join(judges)}"
            )
    return found


def _own(word: str, generator: PartSpec, sampling: Sampling) -> Sampling:
    """Return the sampling with the model's own settings; say on standard error which of them are not applied."""
    from demur.errors import ConfigError, NotFound
    from demur.sampling import own_sampling

    if word != "model":
        raise NotFound("sampling", word, ("model",), where="--sampling")
    model = str(generator.settings.get("model") or ("organism" if generator.name == "local" else ""))
    if not model:
        raise ConfigError(f"--sampling model: generator {generator.name} names no model whose settings are known here")
    found, left_out = own_sampling(model, sampling, revision=str(generator.settings.get("revision", "")))
    note = f"; not applied: {', '.join(left_out)}" if left_out else ""
    console(stderr=True).print(
        f"sampling as {model} says: temperature {found.temperature}, top_p {found.top_p}{note}", highlight=False
    )
    return found


def _name(model: str, benchmarks: list[str]) -> str:
    text = "-".join([Path(model).name, *benchmarks])
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in text)[:100]
