"""How `demur explain` shows its records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from demur.cli._console import console, table

if TYPE_CHECKING:
    from demur.causes import Trigger


def show_boundary(record: dict[str, Any], page: Path) -> None:
    """Print the explanation of one model."""
    rows = [[str(n), *(_auc(record["auc"][name][i]) for name in record["auc"])] for i, n in enumerate(record["layers"])]
    names = [name.replace("_", " ") for name in record["auc"]]
    table(f"AUC by layer, {record['point']}, last prompt token", ("layer", *names), rows, right=range(1, 4))
    groups = record["e2"]["groups"]
    rows = []
    for name, at in record["e1"].items():
        flip = groups[name]
        controls = [c[name] for c in record["e2"]["random"] if c[name] is not None]
        random = f"{100 * min(controls):.0f} to {100 * max(controls):.0f} %" if controls else "no data"
        flipped = "no data" if flip["flipped"] is None else f"{100 * flip['flipped']:.0f} %"
        rows.append([name.replace("_", " "), str(at["n"]), _number(at, "t"), _number(flip, "median"), flipped, random])
    names = ["group", "n", "mean t", "median alpha*", "flipped", "flipped by random directions"]
    table(f"Map and flips at layer {record['layer']} (E1, E2)", names, rows, right=range(1, 6))
    b, words = record["e3"]["b"], record["e3"]["words"]
    out = console()
    if b is not None:
        line = f"E3: harm beside t weighs {b['value']:.2f} [{b['low']:.2f}, {b['high']:.2f}]"
        if words["difference"] is not None:
            line += f"; AUROC on benign prompts: t {words['t']:.3f}, words alone {words['words']:.3f}"
        out.print(line, highlight=False)
    rows = [_language(row) for row in record["e4"]]
    names = ["language", "n", "cosine", "own t*", "t* on the English axis", "right by the English t*"]
    table("Languages (E4)", names, rows, right=range(1, 6))
    rows = [[r["distance"], _two(r["spearman"]), _two(r["auroc_benign"]), r["unusable"]] for r in record["distances"]]
    table("Distances", ("distance", "Spearman(|d|, alpha*)", "AUROC, benign", ""), rows, right=(1, 2))
    for note in record["notes"]:
        out.print(note, highlight=False)
    out.print(f"report: {page}", highlight=False)


def _language(row: dict[str, Any]) -> list[str]:
    own, home, applied = row["own"] or {}, row["home_v"] or {}, row["home_v_home_t_star"] or {}
    values = (row["cosine"], own.get("t_star"), home.get("t_star"), applied.get("accuracy"))
    return [row["language"], str(row["n"]), *map(_two, values)]


def _two(value: float | None) -> str:
    return "no data" if value is None else f"{value:.2f}"


def _number(point: dict[str, Any], name: str) -> str:
    if point[name] is None:
        return "no data"
    bounds = ", ".join("above" if point[end] is None else f"{point[end]:.2f}" for end in ("low", "high"))
    return f"{point[name]:.2f} [{bounds}]"


def side_by_side(records: list[dict[str, Any]]) -> None:
    """Print several models in one table."""
    rows = []
    for record in records:
        line, flips = record["boundary"], record["e2"]["groups"]
        rows.append(
            [record["model"], str(record["layer"]), _two(line["t_star"]), _two(line["tau"]), _two(line["auroc"])]
            + [_two(flips[name]["median"]) for name in ("benign_refused", "harmful_refused")]
        )
    names = ["model", "layer", "t*", "tau", "AUROC, benign", "alpha* benign refused", "alpha* harmful"]
    table("Models side by side", names, rows, right=range(1, 7))


def show_prompt(found: dict[str, Any], folder: Path) -> None:
    """Print the explanation of one prompt; harmful neighbours by id only."""
    out = console()
    out.print(f"P(refuse) at the first token: {found['p_refuse']:.3f}", highlight=False)
    rows = [
        [str(at["layer"]), *(_two(at[name]) for name in ("t", "t_star", "d")), at["unusable"] or "yes"]
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


def share(value: float | None, low: float | None, high: float | None) -> str:
    """Return a share with its interval, in per cent."""
    if value is None or low is None or high is None:
        return "no data"
    return f"{100 * value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def _auc(point: dict[str, float | None]) -> str:
    if point["value"] is None or point["low"] is None or point["high"] is None:
        return "no data"
    return f"{point['value']:.3f} [{point['low']:.3f}, {point['high']:.3f}]"
