"""`demur explain`: where the refusal boundary lies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from demur.cli._console import console, emit_json, progress, table


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    group = typer.Typer(help="Explain what a model refuses.", no_args_is_help=True)
    app.add_typer(group, name="explain")

    @group.callback()
    def _group() -> None:
        """Explain what a model refuses."""

    @group.command(help="Where the refusal boundary lies in the residual stream, with controls.")
    def boundary(
        model: str = typer.Option("organism", help="organism, organism:base, a local folder, or a hub id."),
        benchmark: list[str] = typer.Option(["world"], help="Prompts that are explained; repeatable."),
        fit_on: list[str] = typer.Option(["world:split=train"], "--fit", help="Prompts the direction comes from."),
        judge: list[str] = typer.Option([], help="Judges of the answers [default: the cards']."),
        layer: int | None = typer.Option(None, help="Layer of densities and sweep [default: the clearest]."),
        out: Path | None = typer.Option(None, help="Folder [default: runs/explain-<model>]."),
        as_json: bool = typer.Option(False, "--json", help="Print the explanation as JSON."),
    ) -> None:
        from demur import report
        from demur.jobs import explain_model

        folder = out or Path("runs") / f"explain-{Path(model).name.replace(':', '-')}"
        with progress(quiet=as_json) as tell:
            record = explain_model(
                model=model, benchmarks=benchmark, fit=fit_on, judges=judge, layer=layer, out=folder, progress=tell
            )
        pages = report.write(folder)
        if as_json:
            emit_json(record)
            return
        rows = [
            [str(n), *(_auc(record["auc"][name][i]) for name in record["auc"])] for i, n in enumerate(record["layers"])
        ]
        names = [name.replace("_", " ") for name in record["auc"]]
        table(f"AUC by layer, {record['point']}, last prompt token", ("layer", *names), rows, right=range(1, 4))
        for note in record["notes"]:
            console().print(note, highlight=False)
        console().print(f"report: {pages[0]}", highlight=False)

    @group.command(help="Why benign requests of a run were refused: classes, counts, and the remedy each suggests.")
    def causes(
        run: Path = typer.Argument(..., help="Folder of a measured run."),
        fit_on: list[str] = typer.Option(["world:split=train"], "--fit", help="Prompts the harm probe comes from."),
        black_box: bool = typer.Option(False, help="Ask from outside only; the model is not opened."),
        generator: str = typer.Option("", help="The model as a part, asked from outside [default: the run's own]."),
        samples: int = typer.Option(5, min=1, help="Answers drawn of each refused prompt; 1: none."),
        limit: int = typer.Option(500, min=0, help="Refusals that are sorted at most; 0: all."),
        low: float = typer.Option(0.1, help="P(refuse) from here up to --high is hesitant."),
        high: float = typer.Option(0.9, help="P(refuse) above which a refusal is firm."),
        flip: float = typer.Option(0.5, help="P(refuse) below which taking out a span has flipped the decision."),
        belief: str = typer.Option("both", help="Whose word counts for harm: both, words, or probe."),
        span_words: int = typer.Option(2, min=1, help="Words of a span at most."),
        layer: int | None = typer.Option(None, help="Layer of probe and directions [default: the best out of fold]."),
        out: Path | None = typer.Option(None, help="Folder [default: RUN/causes]."),
        as_json: bool = typer.Option(False, "--json", help="Print causes.json."),
    ) -> None:
        from demur.causes import Cutting, Thresholds
        from demur.causes import job as outside
        from demur.records import RunFolder
        from demur.types import Sampling

        loaded, folder = RunFolder.load(run), out or run / "causes"
        settings = outside.Settings(
            thresholds=Thresholds(low=low, high=high, flip=flip, belief=belief),  # type: ignore[arg-type]
            cutting=Cutting(longest=span_words),
            samples=Sampling(samples=samples, temperature=1.0),
            limit=limit,
        )
        with progress(quiet=as_json) as tell:
            if black_box or generator or loaded.spec.generator.name != "local":
                asked = outside.generator_of(loaded, generator)
                found = outside.diagnose(loaded, generator=asked, settings=settings, tell=tell)
                outside.write(found, folder)
            else:
                from demur.explain import jobs

                found = jobs.causes(loaded, fit=fit_on, out=folder, settings=settings, layer=layer, progress=tell)
        if as_json:
            emit_json(found.record)
        else:
            _show_causes(found.record, folder)

    @group.command(help="The spans that set benign refusals off, and the brief for contrast data.")
    def triggers(
        folder: Path = typer.Argument(..., help="Folder that `demur explain causes` wrote."),
        flip: float = typer.Option(0.5, help="P(refuse) below which taking out a span has flipped the decision."),
        least: int = typer.Option(3, min=1, help="Groups that a span must stand in."),
        out: Path | None = typer.Option(None, help="The brief, JSONL [default: FOLDER/triggers.jsonl]."),
        as_json: bool = typer.Option(False, "--json", help="Print the brief as JSON."),
    ) -> None:
        from demur.causes import brief
        from demur.causes.job import spans_of
        from demur.files import write_rows

        found = spans_of(folder, flip=flip, least=least)
        path = out or folder / "triggers.jsonl"
        write_rows(path, brief(found))
        if as_json:
            emit_json(brief(found))
            return
        rows = [
            [
                t.span,
                t.language,
                f"{t.flips} of {t.n}",
                _share(t.share, t.low, t.high),
                f"{t.effect:.2f}",
                str(t.groups),
            ]
            for t in found[:25]
        ]
        names = ("span", "language", "flips", "share", "fall of P(refuse)", "groups")
        table("Spans whose removal flips a benign refusal", names, rows, right=range(2, 6))
        console().print(f"brief: {path} ({len(found)} spans)", highlight=False)

    @group.command(help="Why one prompt is refused: coordinate by layer, neighbours, tokens, what flips it.")
    def prompt(
        text: str = typer.Argument(..., help="The prompt."),
        model: str = typer.Option("organism", help="organism, organism:base, a local folder, or a hub id."),
        fit_on: list[str] = typer.Option(
            ["world:split=train"], "--fit", help="Prompts that axis and neighbours are of."
        ),
        layer: int | None = typer.Option(None, help="Layer of neighbours, tokens and flip [default: the clearest]."),
        language: str = typer.Option("en", help="Language of the prompt."),
        out: Path | None = typer.Option(None, help="Folder [default: runs/explain-prompt-<model>]."),
        as_json: bool = typer.Option(False, "--json", help="Print JSON."),
    ) -> None:
        from demur.explain import jobs

        folder = out or Path("runs") / f"explain-prompt-{Path(model).name.replace(':', '-')}"
        with progress(quiet=as_json) as tell:
            found = jobs.prompt(
                text, model=model, fit=fit_on, out=folder, layer=layer, language=language, progress=tell
            )
        if as_json:
            emit_json(found)
        else:
            _show_prompt(found, folder)


def _show_prompt(found: dict[str, Any], folder: Path) -> None:
    out = console()
    out.print(f"P(refuse) at the first token: {found['p_refuse']:.3f}", highlight=False)

    def shown(value: float | None) -> str:
        return "no data" if value is None else f"{value:.2f}"

    rows = [
        [str(at["layer"]), *(shown(at[name]) for name in ("t", "t_star", "d")), at["unusable"] or "yes"]
        for at in found["by_layer"]
    ]
    table("Coordinate: 0 at the harmless mean, 1 at the harmful mean", ("layer", "t", "t*", "d", "usable"), rows)
    rows = [[repr(t["token"]), f"{t['t']:.2f}", "" if t["instruction"] else "template"] for t in found["tokens"]]
    table(f"Tokens at layer {found['layer']}", ("token", "t", ""), rows, right=(1,))
    rows = [
        [f"{n['cosine']:.2f}", side, n["label"], n["prompt_id"], n.get("text", "")]
        for side in ("harmful", "harmless")
        for n in found[side]
    ]
    table("Nearest prompts", ("cosine", "kind", "answered with", "id", "text"), rows, right=(0,))
    strength = "no strength of the grid" if found["alpha"] is None else f"{found['alpha']:g} of the direction"
    n, of = len(found["alpha_random"]), found["alpha_random_n"]
    out.print(f"flipped by {strength}; {n} of {of} random directions of equal length flip it", highlight=False)
    out.print(f"files: {folder}", highlight=False)


def _show_causes(record: dict[str, Any], folder: Path) -> None:
    rows = [
        [c["name"], str(c["count"]), _share(c["value"], c["low"], c["high"]), str(c["groups"]), c["remedy"]]
        for c in record["classes"]
    ]
    title = f"{record['n_refused']} of {record['n_benign_refused']} benign refusals of {record['model']}, by cause"
    table(title, ("cause", "refusals", "share", "groups", "remedy"), rows, right=(1, 2, 3))
    out = console()
    same = record["agreement"]
    if same["n"]:
        out.print(
            f"asked in words and by the probe: the same of {100 * same['same']:.0f} % of {same['n']}", highlight=False
        )
    control = record["control"]
    if control["n"]:
        share = _share(control["harmful_flipped"], control["low"], control["high"])
        out.print(
            f"control: some span's removal flips {share} of {control['n']} refused harmful prompts", highlight=False
        )
    if "inside" in record and record["inside"]["probe"]["unusable"]:
        out.print(f"no harm probe: {record['inside']['probe']['unusable']}", highlight=False)
    for note in record["notes"]:
        out.print(note, highlight=False)
    out.print(f"files: {folder}", highlight=False)


def _share(value: float | None, low: float | None, high: float | None) -> str:
    if value is None or low is None or high is None:
        return "no data"
    return f"{100 * value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def _auc(point: dict[str, float | None]) -> str:
    if point["value"] is None or point["low"] is None or point["high"] is None:
        return "no data"
    return f"{point['value']:.3f} [{point['low']:.3f}, {point['high']:.3f}]"
