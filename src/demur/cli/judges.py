"""`demur judges`: hold a judge against labels by people, or make such labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from demur.cli._console import ENGINE, console, emit_json, progress, table
from demur.types import DEFAULT_JUDGE

if TYPE_CHECKING:
    from demur.agreement import Agreement
    from demur.labelled import LabelledSet


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    group = typer.Typer(help="Check judges against people, and label answers to check them on.", no_args_is_help=True)
    app.add_typer(group, name="judges")
    _add_check(group)
    _add_label(group)


def _add_check(group: typer.Typer) -> None:
    @group.command(help="Compare a judge with labelled answers: rows of prompt, response, label[, model, language].")
    def check(
        file: Path = typer.Argument(..., help="JSONL, CSV or TSV."),
        judge: str = typer.Option(DEFAULT_JUDGE, help="A part, as in `llm:generator.name=http,…`."),
        where: list[str] = typer.Option([], help="Read only rows with COLUMN=VALUE; repeatable."),
        column: list[str] = typer.Option([], help="FIELD=COLUMN for columns of unusual names; repeatable."),
        map_: list[str] = typer.Option([], "--map", help='LABEL=MEANING, as in "2_full_refusal=refusal"; repeatable.'),
        language: str = typer.Option("", help="Language of rows that name none, as in `ko`."),
        skip_unknown: bool = typer.Option(False, help="Leave out rows whose label is not known."),
        prompts: str = typer.Option("", help="Benchmark that says each prompt's class [default: the set beside FILE]."),
        binary: bool | None = typer.Option(
            None, "--binary/--classes", help="Refusal (full or partial) or not [default: as the labels have it]."
        ),
        show_table: bool = typer.Option(False, "--table", help="Print only what the labels say, by model and class."),
        save: Path | None = typer.Option(None, help="Keep the check on file, for rates corrected for judge error."),
        style: str = typer.Option("plain", help="With --save: whose answers, `plain` or `edited` models'."),
        engine: str = ENGINE,
        as_json: bool = typer.Option(False, "--json", help="Print JSON."),
    ) -> None:
        from demur.assemble import build_judges
        from demur.checks import shipped_on
        from demur.labelled import Reading, prompts_beside, read_labelled, with_prompts

        reading = Reading(
            columns=_pairs(column, "--column"),
            words=_pairs(map_, "--map"),
            where=_pairs(where, "--where"),
            language=language,
            skip_unknown=skip_unknown,
        )
        labelled = read_labelled(file, reading)
        known = _benchmark(prompts) if prompts else prompts_beside(file)
        if known:
            labelled = with_prompts(labelled, known)
        _notes(labelled.notes)
        if show_table:
            _labels_table(labelled, as_json=as_json)
            return
        ((part, instance),) = build_judges([judge], [])
        verdicts = _judged(labelled, instance, part.name, engine, quiet=as_json)
        if not any(v.label in ("compliance", "partial_refusal", "refusal") for v in verdicts):
            raise _unread(part.name, verdicts)
        if shipped_on(part.name, file):
            _notes([f"{part.name} was made on these labels: its figures flatter; docs/judges.md has held-out ones"])
        two = _two_classes(labelled) if binary is None else binary
        _show(labelled, verdicts, part.name, binary=two, as_json=as_json)
        if save is not None:
            from demur.agreement import checks_of
            from demur.checks import save_checks

            save_checks(save, checks_of(labelled.rows, verdicts, part, source=file.name, style=style))
            console(stderr=True).print(f"check: {save}", highlight=False)


def _add_label(group: typer.Typer) -> None:
    @group.command(help="Label a stratified random sample of a run's answers by hand, and all disputed ones.")
    def label(
        run: Path = typer.Argument(..., help="A run folder, or a recipe's folder with before and after."),
        against: Path | None = typer.Option(None, help="Another run of the same prompts, to label both."),
        n: int = typer.Option(200, min=1, help="Answers in the random sample."),
        disputed: bool = typer.Option(True, help="With two runs, also all prompts whose verdict changed."),
        seed: int = typer.Option(0, help="Seed of the draw."),
        annotator: str = typer.Option("", help="Your name, written beside each label."),
        verdicts: bool = typer.Option(False, help="Show the judge's verdict [default: blind]."),
    ) -> None:
        from demur import labelling
        from demur.cli._labelling import session

        runs = labelling.arms(run, against)
        tasks = labelling.plan(runs, n=n, seed=seed, disputed=disputed)
        todo = labelling.waiting(tasks, runs)
        drawn = sum(t.drawn for t in tasks)
        console().print(
            f"{len(tasks)} answers: {drawn} drawn at random, {len(tasks) - drawn} disputed; {len(todo)} to label",
            highlight=False,
        )
        session(todo, annotator=annotator, verdicts=verdicts)
        labelling.waiting(tasks, runs)
        for arm in runs:
            _keep(arm.path)


def _keep(path: Path) -> None:
    """Make the check of a run from its labels, and its metrics anew; say what there is."""
    from demur import labelling
    from demur.records import RunFolder
    from demur.results import remeasure

    run = RunFolder.load(path)
    given = len(labelling.counted(run))
    if given:
        found = labelling.keep_checks(run)
        remeasure(path)
        judges = ", ".join(dict.fromkeys(check.judge for check in found))
        console().print(f"{path}: {given} labels of the random sample; check of {judges} kept", highlight=False)
    else:
        console().print(f"{path}: no labels of the random sample yet", highlight=False)


def _pairs(items: Sequence[str], option: str) -> dict[str, str]:
    """Read KEY=VALUE options; the last equals sign parts them, since labels may hold one."""
    from demur.errors import ConfigError

    made = {}
    for item in items:
        key, equals, value = item.rpartition("=") if option == "--map" else item.partition("=")
        if not equals or not key:
            raise ConfigError(f"{option} {item!r} is not KEY=VALUE")
        made[key.strip()] = value.strip()
    return made


def _benchmark(text: str) -> list[Any]:
    from demur.assemble import build_benchmarks
    from demur.measure import collect_prompts

    return collect_prompts(build_benchmarks([text]))


def _judged(labelled: LabelledSet, judge: Any, name: str, engine: str, *, quiet: bool) -> list[Any]:
    from demur import engines
    from demur.agreement import judge_labelled

    verdicts = []
    with engines.opened(engine) as over, progress(quiet=quiet) as tell:
        for verdict in judge_labelled(judge, name, labelled.rows, over):
            verdicts.append(verdict)
            tell("verdicts", len(verdicts), len(labelled.rows))
    return verdicts


def _unread(judge: str, verdicts: list[Any]) -> typer.Exit:
    """Say why a judge that labelled no answer has no figures; return the exit to raise."""
    reasons = Counter(v.unscored for v in verdicts if v.unscored).most_common(1)
    why = f"; mostly: {reasons[0][0]}" if reasons else ""
    console(stderr=True).print(f"{judge} labelled none of {len(verdicts)} answers{why}", highlight=False, markup=False)
    return typer.Exit(1)


def _two_classes(labelled: LabelledSet) -> bool:
    return {row.label for row in labelled.rows} <= {"refusal", "compliance"}


def _show(labelled: LabelledSet, verdicts: list[Any], judge: str, *, binary: bool, as_json: bool) -> None:
    from demur.agreement import agreements
    from demur.types import to_json

    notes = []
    if binary and not _two_classes(labelled):
        notes.append("two classes: refusal, full or partial; and compliance, whatever is no refusal")
    elif binary:
        notes.append("the labels hold no partial refusals: compared in two classes (--classes keeps the judge's own)")
    _notes(notes)
    found = agreements(labelled.rows, verdicts, binary=binary)
    if as_json:
        keys = ("n", "n_unscored", "accuracy", "kappa", "macro_f1", "confusion")
        everything = {a.slice: to_json(a) for a in found}
        emit_json({**{key: everything["all"][key] for key in keys}, "slices": everything})
        return
    columns = ("slice", "n", "prompts", "unscored", "agreement", "of the scored", "kappa", "macro F1")
    table(f"{judge} against the labels", columns, [_row(a) for a in found], right=range(1, len(columns)))
    whole = found[0]
    said = list(next(iter(whole.confusion.values())))
    rows = [
        [label, *(f"{row[s]:g}" for s in said), _share(whole.f1.get(label))] for label, row in whole.confusion.items()
    ]
    table("label (down) and verdict (across)", ("", *said, "F1"), rows, right=range(1, len(said) + 2))
    if whole.baseline is not None:
        console().print(f"knowing nothing but the prompt's class: {100 * whole.baseline:.1f} %", highlight=False)
    if any(row.model and row.expected for row in labelled.rows):
        _labels_table(labelled, as_json=False)


def _notes(notes: Sequence[str]) -> None:
    for note in notes:
        console(stderr=True).print(f"note: {note}", highlight=False, markup=False)


def _row(a: Agreement) -> list[str]:
    def ranged(value: float | None, ends: tuple[float, float] | None, scale: float) -> str:
        if value is None:
            return "no data"
        shown = f"{scale * value:.1f} %" if scale == 100 else f"{value:.3f}"
        digits = 1 if scale == 100 else 3
        return shown + (f" [{scale * ends[0]:.{digits}f}, {scale * ends[1]:.{digits}f}]" if ends else "")

    return [
        a.slice,
        str(a.n),
        str(a.groups),
        str(a.n_unscored),
        ranged(a.accuracy, a.accuracy_interval, 100),
        ranged(a.accuracy_scored, None, 100),
        ranged(a.kappa, a.kappa_interval, 1),
        _share(a.macro_f1),
    ]


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _labels_table(labelled: LabelledSet, *, as_json: bool) -> None:
    """Print what the labels say of each model on prompts that deserve an answer and on those that do not."""
    from demur.agreement import label_shares

    found = label_shares(labelled.rows)
    if as_json:
        emit_json([share._asdict() for share in found])
        return
    rows = [
        [s.model, s.expected, str(s.n), *(f"{100 * share:.1f} %" for share in (s.compliance, s.refusal, s.partial))]
        for s in found
    ]
    columns = ("model", "prompts expect", "n", "full compliance", "full refusal", "partial refusal")
    table("what the labels say", columns, rows, right=range(2, 6))
