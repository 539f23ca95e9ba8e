"""`demur explain`: where the refusal boundary lies."""

from __future__ import annotations

from pathlib import Path

import typer

from demur.cli._console import console, emit_json, progress
from demur.cli._explaining import (
    show_boundary,
    show_causes,
    show_kernels,
    show_prompt,
    show_spill,
    show_triggers,
    side_by_side,
)


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    group = typer.Typer(help="Explain what a model refuses.", no_args_is_help=True)
    app.add_typer(group, name="explain")

    @group.callback()
    def _group() -> None:
        """Explain what a model refuses."""

    for add in (_boundary, _causes, _triggers, _prompt, _kernels, _spill):
        add(group)


def _boundary(group: typer.Typer) -> None:
    @group.command(help="Where the refusal boundary lies, with controls; several models are compared with the first.")
    def boundary(
        models: list[str] = typer.Argument(None, metavar="[MODEL]...", help="Models [default: organism]."),
        model: list[str] = typer.Option([], help="The same, by option; repeatable."),
        attached: list[Path] = typer.Option(
            [], "--with", help="Folder of a saved intervention: the first model with it is one more side; repeatable."
        ),
        benchmark: list[str] = typer.Option(["world"], help="Prompts that are explained; repeatable."),
        fit_on: list[str] = typer.Option(["world:split=train"], "--fit", help="Prompts the direction comes from."),
        judge: list[str] = typer.Option([], help="Judges of the answers [default: the cards']."),
        layer: int | None = typer.Option(None, help="Layer of all experiments [default: by the rules, on the first]."),
        flips: int = typer.Option(600, min=3, help="Prompts whose decision is flipped by steering, the dearest part."),
        compare_only: bool = typer.Option(False, help="Several models: compare them, and leave E1 to E4 out."),
        out: Path | None = typer.Option(None, help="Folder [default: runs/explain-MODEL]."),
        as_json: bool = typer.Option(
            False, "--json", help="Print the explanation as JSON; for several sides, all of them and the comparison."
        ),
    ) -> None:
        from demur.explain.experiments import Settings
        from demur.explain.jobs import Asked, boundaries
        from demur.report import boundary_page, write

        names = [*(models or []), *model] or ["organism"]
        asked = [Asked(model=name) for name in names]
        asked[1:1] = [Asked(model=names[0], intervention=path) for path in attached]
        folder = out or Path("runs") / f"explain-{Path(names[0]).name.replace(':', '-')}"
        settings = Settings(layer=layer, flipped=flips, controlled=max(3, flips // 5))
        with progress(quiet=as_json) as tell:
            records, comparison = boundaries(
                asked,
                benchmarks=benchmark,
                fit=fit_on,
                judges=judge,
                settings=settings,
                compared_only=compare_only and len(asked) > 1,
                out=folder,
                progress=tell,
            )
        for record in records:
            place = Path(record["folder"])
            page = boundary_page.write(place, record)
            write(place)
            if not as_json:
                show_boundary(record, page)
        if comparison is not None:
            page = boundary_page.write_comparison(folder, comparison, records)
            if not as_json:
                side_by_side(comparison, page)
        if as_json:
            emit_json({"sides": records, "comparison": comparison} if comparison else records[0])


def _causes(group: typer.Typer) -> None:
    @group.command(help="Why benign requests of a run were refused: classes, counts, and the remedy each suggests.")
    def causes(
        run: Path = typer.Argument(..., help="Folder of a measured run."),
        fit_on: list[str] = typer.Option(
            ["world:split=train"],
            "--fit",
            help="Prompts that say which words look harmful, and that the harm probe is fitted on.",
        ),
        black_box: bool = typer.Option(False, help="Ask from outside only; the model is not opened."),
        generator: str = typer.Option("", help="The model as a part, asked from outside [default: the run's own]."),
        samples: int = typer.Option(10, min=1, help="Answers drawn of each refused prompt; 1: none."),
        limit: int = typer.Option(500, min=0, help="Refusals that are sorted at most; 0: all."),
        low: float = typer.Option(0.1, help="P(refuse) from here up to --high or --firm is hesitant."),
        high: float = typer.Option(0.97, help="P(refuse) above which a refusal over a harmful-looking span is firm."),
        firm: float = typer.Option(0.7, help="P(refuse) above which any other refusal is firm."),
        looks: float = typer.Option(0.8, help="How harmful a span must look to be held a trigger, 0 to 1."),
        flip: float = typer.Option(0.5, help="P(refuse) below which taking out a span has flipped the decision."),
        belief: str = typer.Option("words", help="Whose word counts for harm: both, words, or probe."),
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
            thresholds=Thresholds(low=low, high=high, firm=firm, looks=looks, flip=flip, belief=belief),  # type: ignore[arg-type]
            cutting=Cutting(longest=span_words),
            samples=Sampling(samples=samples, temperature=1.0),
            limit=limit,
        )
        with progress(quiet=as_json) as tell:
            if black_box or generator or loaded.spec.generator.name != "local":
                from demur.assemble import build_benchmarks

                asked = outside.generator_of(loaded, generator)
                known = [prompt for _, benchmark in build_benchmarks(fit_on) for prompt in benchmark()]
                found = outside.diagnose(loaded, generator=asked, known=known, settings=settings, tell=tell)
                outside.write(found, folder)
            else:
                from demur.explain import jobs

                found = jobs.causes(loaded, fit=fit_on, out=folder, settings=settings, layer=layer, progress=tell)
        if as_json:
            emit_json(found.record)
        else:
            show_causes(found.record, folder)


def _triggers(group: typer.Typer) -> None:
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
        show_triggers(found)
        console().print(f"brief: {path} ({len(found)} spans)", highlight=False)


def _prompt(group: typer.Typer) -> None:
    @group.command(help="Why one prompt is refused: coordinate by layer, neighbours, tokens, what flips it.")
    def prompt(
        text: str = typer.Argument(..., help="The prompt."),
        model: str = typer.Option("organism", help="organism, organism:base, a local folder, or a hub id."),
        fit_on: list[str] = typer.Option(
            ["world:split=train"], "--fit", help="Prompts that axis and neighbours are of."
        ),
        layer: int | None = typer.Option(None, help="Layer of neighbours, tokens and flip [default: the clearest]."),
        language: str = typer.Option("en", help="Language of the prompt."),
        out: Path | None = typer.Option(None, help="Folder [default: runs/explain-prompt-MODEL]."),
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
            show_prompt(found, folder)


def _kernels(group: typer.Typer) -> None:
    @group.command(help="How harmful, harmful-looking and plain prompts are tied: kernel, overlap, boundary, lens.")
    def kernels(
        model: str = typer.Argument("organism", help="organism, organism:base, a local folder, or a hub id."),
        attached: Path | None = typer.Option(None, "--with", help="Folder of a saved adapter."),
        benchmark: list[str] = typer.Option(["world"], help="Prompts that are explained; repeatable."),
        fit_on: list[str] = typer.Option(["world:split=train"], "--fit", help="Prompts of the probe and the openers."),
        training: Path | None = typer.Option(None, help="Folder with checkpoints: P(refuse) along the training."),
        openers: str = typer.Option("", help="Model whose refusals give the openers, where this one refuses nothing."),
        each: int = typer.Option(25, min=2, help="Prompts of each class in the kernel."),
        tokens: int = typer.Option(10, min=1, help="Next tokens of each prompt in the kernel."),
        last: int = typer.Option(2, min=0, help="Weights of the last so many blocks and the head; 0: all weights."),
        way: str = typer.Option("auto", help="auto, exact (by autograd), or differences (needs little memory)."),
        out: Path | None = typer.Option(None, help="Folder [default: runs/explain-kernels-MODEL]."),
        as_json: bool = typer.Option(False, "--json", help="Print kernels.json."),
    ) -> None:
        from demur.errors import NotFound

        if way not in ("auto", "exact", "differences"):
            raise NotFound("way", way, ("auto", "exact", "differences"))
        from demur.explain.kernel_job import Asked, explain_kernels
        from demur.explain.kernels import Settings
        from demur.report import kernel_figures

        folder = out or Path("runs") / f"explain-kernels-{Path(model).name.replace(':', '-')}"
        asked = Asked(
            model=model,
            benchmarks=benchmark,
            fit=fit_on,
            intervention=attached,
            training=training,
            openers=openers,
            each=each,
            kernel=Settings(tokens=tokens, last=last, way=way),  # type: ignore[arg-type]
        )
        with progress(quiet=as_json) as tell:
            found = explain_kernels(asked, out=folder, progress=tell)
        pictures = kernel_figures.write(folder, found)
        if as_json:
            emit_json(found)
        else:
            show_kernels(found, folder, pictures)


def _spill(group: typer.Typer) -> None:
    @group.command(help="How far refusals spill while a model learns to refuse: P(refuse) by class along trainings.")
    def spill(
        folders: list[Path] = typer.Argument(..., help="Folders of recipes or fits of stl, stl_aug or dcr."),
        level: float = typer.Option(0.5, help="P(refuse) of harmful prompts at which methods are compared."),
        step: list[int] = typer.Option([], help="Updates at which they are, too [default: quarters]; repeatable."),
        out: Path | None = typer.Option(None, help="The picture, SVG [default: spill.svg in the first folder]."),
        as_json: bool = typer.Option(False, "--json", help="Print the table as JSON."),
    ) -> None:
        from demur.explain.spill import curves, draw, table

        found = curves(folders)
        rows = table(found, level=level, steps=step)
        picture = draw(found, out or folders[0] / "spill.svg")
        if as_json:
            emit_json(rows)
        else:
            show_spill(rows, picture)
