"""The page of `demur explain boundary`: what was claimed, what was found, with pictures and numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demur.files import replace
from demur.report import boundary_figures, boundary_tables, experiment_figures
from demur.report.picture import Picture
from demur.report.tables import Table

Record = Mapping[str, Any]
PAGE, FIGURES = "boundary.html", "figures"
TITLES = (
    ("line", "The line"),
    ("E1", "E1: the map"),
    ("E2", "E2: what flips a decision"),
    ("E3", "E3: does the coordinate suffice?"),
    ("E4", "E4: languages"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A heading with findings, pictures and tables."""

    name: str
    title: str
    findings: Sequence[Mapping[str, str]] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What the template shows."""

    title: str
    lede: str
    organism: bool
    sections: Sequence[Section]
    notes: Sequence[str] = ()


def write(folder: Path, record: Record) -> Path:
    """Write `boundary.html` and the pictures, as SVG files in `figures/`, from an `explain.json`.

    Args:
        folder: where.
        record: what explain.json holds.

    Returns:
        the path of the page.
    """
    return _written(folder, one(record))


def write_comparison(folder: Path, comparison: Record, records: Sequence[Record]) -> Path:
    """Write the same for several sides, from a `comparison.json`.

    Args:
        folder: where.
        comparison: what comparison.json holds.
        records: of the sides, each with `label`.

    Returns:
        the path of the page.
    """
    return _written(folder, several(comparison, records))


def one(record: Record) -> Page:
    """Return the page of one model."""
    pictures = experiment_figures.experiments(record)
    drawn = boundary_figures.boundary(record)
    pictures["line"] = [*drawn[:2], *pictures["line"]]
    pictures["E2"] = [*pictures["E2"], *drawn[2:]]
    tables: dict[str, list[Table]] = {
        "E1": [boundary_tables.overlap(record)],
        "E2": [boundary_tables.flips(record)] if record["e2"]["groups"] else [],
        "E3": [boundary_tables.mediation(record)],
        "E4": list(boundary_tables.languages(record)),
    }
    if record["distances"]:
        tables["E2"].append(boundary_tables.distances(record))
    if record.get("moved"):
        tables["line"] = [boundary_tables.moved(pair) for pair in record["moved"]]
    sections = [
        Section(
            name=name,
            title=title,
            findings=[f for f in record["findings"] if f["id"].split()[0] == name],
            pictures=pictures[name],
            tables=tables.get(name, []),
        )
        for name, title in TITLES
    ]
    lede = (
        f"{record['n']:,} prompts, states after block {record['layer']} at the last prompt token. Directions come from "
        "other prompts. A claim is supported or contradicted only where an interval says so."
    )
    return Page(
        title=f"Where {record['model']} refuses",
        lede=lede,
        organism=record["model"].split(":")[0] == "organism",
        sections=sections,
        notes=record["notes"],
    )


def several(comparison: Record, records: Sequence[Record]) -> Page:
    """Return the page of several sides."""
    picture = experiment_figures.moved(comparison["moved"])
    sections = [
        Section(
            name="moved",
            title="Did the line move or sharpen?",
            pictures=[picture] if picture else [],
            tables=[boundary_tables.moved(pair) for pair in comparison["moved"]],
        ),
        Section(
            name="transfer",
            title="Does one model's axis serve another?",
            tables=[boundary_tables.transfer(comparison["transfer"])],
        ),
    ]
    if records:
        sections.append(Section(name="findings", title="What each experiment found", tables=[_verdicts(records)]))
    lede = f"{len(comparison['sides'])} sides on the same prompts, the others compared with {comparison['sides'][0]}."
    organism = all(name.split("-")[0].split(" ")[0] == "organism" for name in comparison["sides"])
    return Page(title=" · ".join(comparison["sides"]), lede=lede, organism=organism, sections=sections)


def _verdicts(records: Sequence[Record]) -> Table:
    names = list(dict.fromkeys(f["id"] for r in records for f in r["findings"]))
    rows = []
    for name in names:
        found = [next((f["verdict"] for f in r["findings"] if f["id"] == name), "–") for r in records]
        rows.append((name, *found))
    return Table(caption="Verdicts", head=("Experiment", *(r["label"] for r in records)), rows=tuple(rows))


def _written(folder: Path, page: Page) -> Path:
    import jinja2
    from markupsafe import Markup

    from demur.report.html import TEMPLATES

    loader = jinja2.FileSystemLoader(TEMPLATES)
    templates = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style = Markup((TEMPLATES / "report.css").read_text(encoding="utf-8"))
    text = templates.get_template("boundary.html.j2").render(page=page, style=style)
    folder.mkdir(parents=True, exist_ok=True)
    replace(folder / PAGE, text.encode("utf-8", "backslashreplace"))
    for picture in (p for section in page.sections for p in section.pictures):
        alone = picture.svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" font-family="sans-serif" ', 1)
        replace(folder / FIGURES / f"{picture.name}.svg", alone.encode())
    return folder / PAGE
