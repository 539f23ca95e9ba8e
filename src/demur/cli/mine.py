"""`demur mine`: prompts near a model's refusal boundary."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import typer

from demur.cli._console import ENGINE, console, emit_json, progress, table

if TYPE_CHECKING:
    from demur.engines import Mapper
    from demur.mining.selection import Selection


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command(help="Mine prompts near a model's refusal boundary: candidates, moderated, scored, selected.")(mine)


def mine(
    candidates: list[str] = typer.Argument(
        None, metavar="CANDIDATES…", help="Benchmarks (`world:split=train`, `file:path=…`) or JSONL files."
    ),
    model: str = typer.Option("organism", help="organism, organism:base, a local folder, or a hub id."),
    out: Path = typer.Option(Path("runs/mine"), help="Folder; a run that was cut off goes on in it."),
    seeds: list[str] = typer.Option([], help="Harmful prompts that a generator rewrites; repeatable."),
    generator: str = typer.Option("", help="What rewrites or translates, as in `http:base_url=…,model=…`."),
    strategies: str = typer.Option("", help="Comma-separated strategies [default: all eight]."),
    evolve: str = typer.Option("", help="Operators beside the strategies: mutate, recombine, or both with a comma."),
    fitness: str = typer.Option("near", help="What parents are chosen by: near (−|d|) or refused (r)."),
    k: int = typer.Option(5, min=1, help="Rewrites asked for in each request."),
    requests: int = typer.Option(0, min=0, help="Requests in each round [default: seeds × strategies]."),
    rounds: int = typer.Option(1, min=1, help="Rounds; each learns from the yields of the last."),
    open_loop: bool = typer.Option(False, "--open-loop", help="Rounds that learn nothing, for comparison."),
    translate: str = typer.Option("", help="Comma-separated languages that the generator translates candidates to."),
    least_chrf: float = typer.Option(40.0, help="Least chrF (0 to 100) of a back-translation against the text."),
    templates: str = typer.Option("", help="A TOML file of strategies in place of those that demur has."),
    judge: list[str] = typer.Option(
        [], help="Judges of whether a prompt is harmful; a majority decides [default: declared, for labelled sets]."
    ),
    evaluation: list[str] = typer.Option(
        ["world"], help="Sets that mined prompts must share nothing with; repeatable."
    ),
    near: float = typer.Option(0.7, help="Similarity from which a candidate repeats another."),
    embedder: str = typer.Option(
        "", help="A sentence-transformers model that evaluation sets are compared by too [default: wording alone]."
    ),
    fit_on: list[str] = typer.Option(
        ["world:split=train", "world:split=train,attack=all,limit=600"],
        "--fit",
        help="Prompts the axis comes from (attacked ones apart), and that stand beside what is mined.",
    ),
    dev: list[str] = typer.Option(
        ["world:split=validation", "world:split=validation,attack=all,limit=900"],
        help="Prompts it is calibrated on (attacked ones apart), and held out for training.",
    ),
    general: list[str] = typer.Option(
        [], help="Ordinary prompts to answer and add to the mined set, so that it can be trained on; repeatable."
    ),
    answer_judge: list[str] = typer.Option([], help="Judges of the answers to these [default: the cards']."),
    layer: int | None = typer.Option(None, help="Layer of the boundary [default: by the rules, else the clearest]."),
    expected: bool = typer.Option(
        False, "--expected", help="Fit on what is expected, not on what the model does: to try the pipeline only."
    ),
    unusable: bool = typer.Option(False, "--unusable", help="Go on where the axis does not separate refusals."),
    rule: str = typer.Option("boundary", help="What is selected by: boundary, or a control (see the manual)."),
    per_category: int = typer.Option(300, min=1, help="Benign prompts for each language and category."),
    twins: int = typer.Option(1000, min=0, help="Harmful twins for each language."),
    deep: float = typer.Option(0.0, help="Share of the refused ones drawn from their farthest quarter."),
    trigger: list[str] = typer.Option([], help="Spans for --rule trigger; repeatable."),
    seed: int = typer.Option(0, help="Of draws, splits and replies."),
    export_answered: bool = typer.Option(
        False, "--export-answered", help="Keep harmful prompts that the model answers: a list of what gets past it."
    ),
    overwrite: bool = typer.Option(False, "--overwrite", help="Start anew."),
    engine: str = ENGINE,
    as_json: bool = typer.Option(False, "--json", help="Print the card as JSON."),
) -> None:
    """Mine prompts; the options are the settings of `demur.mining`."""
    _run(SimpleNamespace(**locals()))


def _run(o: SimpleNamespace) -> None:
    from demur import engines
    from demur.mining.selection import Selection
    from demur.settings import Problems, make

    problems = Problems()
    with problems.gather():
        _check(o)
    with problems.gather():
        numbers = {"per_category": o.per_category, "twins": o.twins, "deep": o.deep, "seed": o.seed}
        selection = make(Selection, {"rule": o.rule, "triggers": o.trigger, **numbers}, where="demur mine")
    problems.check()
    with engines.opened(o.engine) as over:
        card = _mined(o, selection, over)
    if o.as_json:
        emit_json(card)
    else:
        _show(card, o.out)


def _mined(o: SimpleNamespace, selection: Selection, over: Mapper | None) -> dict[str, Any]:
    from demur import mine as job
    from demur.mining.loop import Loop
    from demur.mining.rewriting import Rewriting
    from demur.mining.stages import Mining
    from demur.mining.strategies import STRATEGIES

    loop = None
    if o.seeds:
        part, made = job.generator(o.generator, over)
        names = _names(o.strategies) or STRATEGIES
        first = Rewriting(
            seeds=job.harmful(o.seeds), generator=made, part=part, shares=dict.fromkeys(names, 1.0), k=o.k,
            requests=o.requests, templates=o.templates, seed=o.seed,
        )  # fmt: skip
        evolved: Any = {"rounds": o.rounds, "operators": _names(o.evolve), "fitness": _fitness(o.fitness)}
        loop = Loop(first=first, closed=not o.open_loop, **evolved)
    sources = job.sources(list(o.candidates or ()))
    if o.translate:
        sources = job.translated(sources, _names(o.translate), o.generator, o.least_chrf, over)
    what = Mining(
        sources=sources,
        judges=job.moderators(o.judge or ["declared"]),
        selection=selection,
        evaluation=job.evaluation(o.evaluation),
        near=o.near,
        embedder=job.sentences(o.embedder),
        export_answered=o.export_answered,
        over=over,
    )
    how = job.Boundary(
        fit=tuple(o.fit_on), dev=tuple(o.dev), general=tuple(o.general), judges=tuple(o.answer_judge), layer=o.layer,
        expected=o.expected, unusable=o.unusable,
    )  # fmt: skip
    with progress(quiet=o.as_json) as tell:
        return job.mine_model(what, model=o.model, how=how, out=o.out, progress=tell, loop=loop, overwrite=o.overwrite)


def _check(o: SimpleNamespace) -> None:
    from demur.errors import ConfigError

    if not o.candidates and not o.seeds:
        raise ConfigError("nothing to mine from: name a benchmark or JSONL file, or --seeds with --generator")
    if o.translate and not o.candidates:
        raise ConfigError("--translate translates candidates; name a benchmark or JSONL file of them")
    if bool(o.seeds or o.translate) != bool(o.generator):
        raise ConfigError("--generator and what it works on go together: --seeds, which it rewrites, or --translate")
    if o.rounds > 1 and not o.seeds:
        raise ConfigError(
            f"--rounds {o.rounds} needs --seeds and --generator: only what is generated can change by round"
        )
    if o.generator and not o.judge:
        raise ConfigError(
            "what a generator writes carries no label, so it needs a judge of prompt_harm: "
            "--judge guard:… or --judge llm:rubric=prompt_harm,generator=…"
        )


def _fitness(name: str) -> str:
    from demur.errors import NotFound

    if name not in ("near", "refused"):
        raise NotFound("fitness", name, ("near", "refused"), where="--fitness")
    return name


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _show(card: dict[str, Any], out: Path) -> None:
    kept, dropped = card["counts"]["kept"], card["counts"]["dropped"]
    names = {"generate": "candidates", "distinct": "distinct", "moderate": "moderated", "score": "scored"}
    rows = []
    for stage, name in names.items():
        reasons = "; ".join(f"{n} {why}" for why, n in dropped.get(stage, {}).items())
        rows.append([name, str(kept[stage]), str(sum(dropped.get(stage, {}).values())), reasons])
    table("mined", ("stage", "rows", "dropped", "why"), rows, right=(1, 2))
    if card["strategies"]:
        rows = [[name, *(str(n) for n in counts.values())] for name, counts in card["strategies"].items()]
        table("strategies", ("strategy", "candidates", "moderated", "refused"), rows, right=(1, 2, 3))
    chosen = card["selection"]
    share = "no data" if chosen["refused_share"] is None else f"{100 * chosen['refused_share']:.0f} %"
    recall = chosen["band_recall"]["1.0"]
    told = "no refused candidate" if recall is None else f"{100 * recall:.0f} % of the refused candidates"
    say = [
        f"boundary at layer {card['scorer'].get('layer')}: {card['scorer'].get('layer_choice')}",
        f"selected by {chosen['rule']}: {chosen['benign']} of {chosen['wanted']} benign ({share} refused), "
        f"{chosen['twins']} harmful twins",
        f"the band |d| <= 1 holds {told}",
    ]
    added = "; ".join(f"{n} {kind}" for kind, n in chosen["beside"].items())
    say.append(f"beside them, to train on and to hold out: {added or 'nothing'}")
    hidden = card["harmful_answered"]
    if hidden["count"]:
        say.append(f"{hidden['count']} harmful prompts get past the model or nearly so: counted, not exported")
    say.append(f"data: {out / 'selected.jsonl'} (for trl: {out / 'trl'})    card: {out / 'card.json'}")
    for text in say:
        console().print(text, highlight=False, markup=False)
