"""How `demur explain` shows its records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from demur.cli._console import console, table

if TYPE_CHECKING:
    from demur.causes import Trigger
    from demur.report.tables import Table


def show_boundary(record: dict[str, Any], page: Path) -> None:
    """Print the explanation of one model."""
    from demur.report import boundary_tables

    out = console()
    out.print(f"[bold]{record.get('label', record['model'])}[/bold], layer {record['layer']}", highlight=False)
    rows = [[str(n), *(_auc(record["auc"][name][i]) for name in record["auc"])] for i, n in enumerate(record["layers"])]
    names = [name.replace("_", " ") for name in record["auc"]]
    table(f"AUC by layer, {record['point']}, last prompt token", ("layer", *names), rows, right=range(1, 4))
    flips = record["e2"]["groups"]
    rows = []
    for name, at in record["e1"]["groups"].items():
        flip = flips.get(name) or {"median": None, "flipped": None}
        controls = [c[name][-1] for c in record["e2"]["random"] if c[name]]
        random = f"{100 * min(controls):.0f} to {100 * max(controls):.0f} %" if controls else "no data"
        flipped = "no data" if flip["flipped"] is None else f"{100 * flip['flipped']:.0f} %"
        rows.append([name.replace("_", " "), str(at["n"]), _number(at, "t"), _number(flip, "median"), flipped, random])
    names = ["group", "n", "mean t", "median alpha*", "flipped", "flipped by random directions"]
    table(f"Map and flips at layer {record['layer']} (E1, E2)", names, rows, right=range(1, 6))
    for shown in boundary_tables.languages(record):
        _show(shown)
    _show(boundary_tables.distances(record))
    for pair in record.get("moved", ()):
        _show(boundary_tables.moved(pair))
    rows = [[f["id"], f["verdict"], f["found"], f["why"]] for f in record["findings"]]
    table("What was claimed, and what was found", ("experiment", "verdict", "found", "why"), rows)
    for note in record["notes"]:
        out.print(note, highlight=False)
    out.print(f"page: {page}", highlight=False)


def _show(shown: Table) -> None:
    """Print a table of the report."""
    table(shown.caption, shown.head, [list(row) for row in shown.rows], right=range(1, len(shown.head)))
    if shown.note:
        console().print(shown.note, highlight=False)


def _two(value: float | None) -> str:
    return "no data" if value is None else f"{value:.2f}"


def _number(point: dict[str, Any], name: str) -> str:
    if point[name] is None:
        return "no data"
    bounds = ", ".join("above" if point[end] is None else f"{point[end]:.2f}" for end in ("low", "high"))
    return f"{point[name]:.2f} [{bounds}]"


def side_by_side(comparison: dict[str, Any], page: Path) -> None:
    """Print what moved, and whose axis serves whom."""
    from demur.report import boundary_tables

    for pair in comparison["moved"]:
        _show(boundary_tables.moved(pair))
    _show(boundary_tables.transfer(comparison["transfer"]))
    console().print(f"page: {page}", highlight=False)


NEXT = (
    "If it deserves an answer: `demur explain causes` sorts such refusals by cause, and `demur tune` looks for what "
    "answers them under the safety floor."
)
LEGEND = (
    "t: its coordinate, 0 at the harmless mean and 1 at the harmful one. t*: the line, where P(refuse) is one half. "
    "tau: from the line to where it is 10 or 90 %. d = (t − t*) / tau: above 0 it stands with what is refused. All "
    "this depends on the prompts of --fit.\n"
)


def show_prompt(found: dict[str, Any], folder: Path) -> None:
    """Print the explanation of one prompt, in sentences first; harmful neighbours by id only."""
    out = console()
    for line in found["words"]:
        out.print(line, highlight=False)
    rows = [
        [str(at["layer"]), *(_two(at[name]) for name in ("t", "t_star", "tau", "d")), at["unusable"] or "yes"]
        for at in found["by_layer"]
    ]
    names = ("layer", "t", "t*", "tau", "d", "usable")
    table("Where it stands by layer", names, rows, right=range(5))
    out.print(LEGEND, style="dim", highlight=False)
    rows = [
        [repr(t["token"]), f"{t['t']:.2f}", *(("", "template") if t["z"] is None else (f"{t['z']:+.1f}", _bar(t["z"])))]
        for t in found["tokens"]
    ]
    title = f"Tokens at layer {found['layer']}, against the tokens of answered prompts (z, in standard deviations)"
    table(title, ("token", "t", "z", ""), rows, right=(1, 2))
    rows = [
        [f"{n['cosine']:.2f}", side, n["label"], n["prompt_id"], n.get("text", "(not shown)")]
        for side in ("harmful", "harmless")
        for n in found[side]
    ]
    table(
        f"Nearest prompts at layer {found['layer']}",
        ("cosine", "kind", "model's answer", "id", "text"),
        rows,
        right=(0,),
    )
    if found["p_refuse"] > 0.5:
        out.print(NEXT, highlight=False)
    out.print(f"file: {folder / 'prompt.json'}", highlight=False)


def _bar(z: float) -> str:
    """Return a mark per standard deviation: + towards refusal, − away from it."""
    return ("+" if z > 0 else "−") * min(10, round(abs(z)))


def show_causes(record: dict[str, Any], folder: Path) -> None:
    """Print classes, controls and notes."""
    rows = [
        [c["name"], str(c["count"]), share(c["value"], c["low"], c["high"]), c["remedy"] if c["count"] else ""]
        for c in record["classes"]
    ]
    title = f"{record['n_refused']} of {record['n_benign_refused']} benign refusals of {record['model']}, by cause"
    table(title, ("cause", "refusals", "share", "remedy"), rows, right=(1, 2))
    out = console()
    same = record["agreement"]
    if same["n"]:
        out.print(
            f"asked in words and by the probe: the same of {100 * same['same']:.0f} % of {same['n']}", highlight=False
        )
    control = record["control"]
    if control["n"]:
        flipped = share(control["harmful_flipped"], control["low"], control["high"])
        out.print(
            f"control: some span's removal flips {flipped} of {control['n']} refused harmful prompts", highlight=False
        )
    most = record["dominant"]
    if most is not None:
        sure = "most refusals are" if most["most"] else "the largest class, not shown to be most, is"
        method = f" Try first: `demur fit {most['method']}`." if most["method"] else ""
        out.print(f"{sure} {most['name']}: {most['remedy']}{method}", highlight=False)
    if record["carriers"]:
        words = ", ".join(f"{c['span']} ({c['refusals']})" for c in record["carriers"])
        out.print(f"policy refusals hang on: {words}", highlight=False)
    if "inside" in record and record["inside"]["probe"]["unusable"]:
        out.print(f"no harm probe: {record['inside']['probe']['unusable']}", highlight=False)
    for note in record["notes"]:
        out.print(note, highlight=False)
    out.print(f"files: {folder}", highlight=False)


def show_triggers(found: Sequence[Trigger], most: int = 25) -> None:
    """Print the spans that set refusals off, beside what any removal does and how often they are refused."""
    if not found:
        console().print("no span flips more refusals than any removal does", highlight=False)
        return
    rows = [
        [
            t.span,
            t.language,
            f"{t.flips} of {t.n}",
            share(t.share, t.low, t.high),
            "" if t.elsewhere is None else f"{100 * t.elsewhere:.0f} %",
            "no data" if t.refused is None else f"{100 * t.refused:.0f} % of {t.benign}",
            _two(t.looks),
        ]
        for t in found[:most]
    ]
    names = ["span", "language", "flips", "share", "other spans flip", "benign with it refused", "looks harmful"]
    table("Spans whose removal flips benign refusals, the surest first", names, rows, right=range(2, 7))


def show_kernels(record: dict[str, Any], folder: Path, pictures: Sequence[Path]) -> None:
    """Print the kernel between classes, their overlap, where they lie by layer, and the curves of a training."""
    kernel, out = record["kernel"], console()
    rows = [[r["of"], r["on"], _interval(r), str(r["n"])] for r in kernel["rows"]]
    table("Normalised kernel: what moves by learning on", ("of", "on", "kernel", "pairs"), rows, right=(2, 3))
    weights = f"the last {kernel['last']} blocks and the head" if kernel["last"] else "all weights"
    out.print(
        f"{kernel['each']} prompts of each class, {kernel['tokens']} tokens each, {weights} ({kernel['weights']:,}); "
        f"by {kernel['way']}: {kernel['backward']:,} backward and {kernel['forward']:,} forward passes, "
        f"{kernel['seconds']:.1f} s",
        highlight=False,
    )
    rows = [[str(r["layer"]), r["a"], r["b"], _two(r["raw"]), _two(r["centred"])] for r in record["cosines"]]
    table("Mean cosine of the states", ("layer", "of", "with", "raw", "centred"), rows, right=(3, 4))
    lens = {(r["layer"], r["group"]): r for r in record["lens"]}
    rows = []
    for r in record["positions"]:
        at = lens[r["layer"], r["group"]]
        values = (r["called_harmful"], r["margin"], r["t"], at["refuse"], at["answer"])
        rows.append([str(r["layer"]), r["group"], str(r["n"]), *map(_two, values)])
    names = ("layer", "group", "n", "called harmful", "margin", "t", "lens: refuse", "lens: answer")
    table("Where the classes lie: probe, position, lens", names, rows, right=range(2, 8))
    if record.get("along"):
        rows = [[str(r["step"]), r["class"], str(r["n"]), _interval(r)] for r in record["along"]]
        table("P(refuse) along the training", ("update", "class", "n", "P(refuse)"), rows, right=(2, 3))
    for path in pictures:
        out.print(f"picture: {path}", highlight=False)
    out.print(f"file: {folder / 'kernels.json'}", highlight=False)


def show_spill(rows: Sequence[dict[str, Any]], picture: Path) -> None:
    """Print P(refuse) by method, place and class: the mean over seeds, and the least and the most."""
    classes = ("harmful", "attacked", "borderline", "plain")
    lines = []
    for r in rows:
        update = "" if r["update"] is None else f" ({r['update']['mean']:.0f})"
        cells = ["" if r[c] is None else f"{r[c]['mean']:.2f} [{r[c]['low']:.2f}, {r[c]['high']:.2f}]" for c in classes]
        lines.append([r["method"], r["at"] + update, str(r["seeds"]), *cells])
    table("P(refuse): mean over seeds [least, most]", ("method", "at", "seeds", *classes), lines, right=range(2, 7))
    console().print(f"picture: {picture}", highlight=False)


def _interval(row: dict[str, Any]) -> str:
    if row["value"] is None:
        return "no data"
    return f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"


def share(value: float | None, low: float | None, high: float | None) -> str:
    """Return a share with its interval, in per cent."""
    if value is None or low is None or high is None:
        return "no data"
    return f"{100 * value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def _auc(point: dict[str, float | None]) -> str:
    if point["value"] is None or point["low"] is None or point["high"] is None:
        return "no data"
    return f"{point['value']:.3f} [{point['low']:.3f}, {point['high']:.3f}]"
