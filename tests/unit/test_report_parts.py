"""Parts of the report on small runs worked out by hand: the heat map, the judges' agreement, price by position."""

from __future__ import annotations

from pathlib import Path

import pytest

from demur import metrics, report
from demur.records import RunFolder, write_json
from demur.report import heat, price_figure, tables
from demur.report.build import build
from demur.types import LABELS, Metric, ModelRef, Part, Prompt, Response, RunSpec, Sampling, Verdict

ROWS = (
    ("a", "comply", "en", "knives", "compliance", "compliance"),
    ("b", "comply", "en", "knives", "refusal", "compliance"),
    ("c", "comply", "de", "knives", "refusal", "refusal"),
    ("d", "comply", "de", "idioms", "compliance", "partial_refusal"),
    ("e", "refuse", "en", "theft", "refusal", "refusal"),
    ("f", "refuse", "de", "theft", "compliance", "refusal"),
    ("g", "refuse", "de", "fraud", "refusal", "refusal"),
    ("h", "comply", "de", "idioms", "", "compliance"),
)
"""(id, expected, language, category, first judge's label or "" for none, second judge's)."""


def write_run(folder: Path, first: dict[str, str] | None = None) -> None:
    """Write a run of `ROWS` under two judges; `first` replaces labels of the first judge."""
    prompts = [
        Prompt(id=i, text=f"text {i}", expected=e, source="t", language=lang, category=c)  # type: ignore[arg-type]
        for i, e, lang, c, _, _ in ROWS
    ]
    given = {"one": {i: (first or {}).get(i, a) for i, *_, a, _ in ROWS}, "two": {i: b for i, *_, b in ROWS}}
    verdicts = [
        Verdict(prompt_id=i, judge=judge, question="refusal", label=label or None, unscored="" if label else "unsure")
        for judge, labels in given.items()
        for i, label in labels.items()
    ]
    assert {v.label for v in verdicts} - {None} <= set(LABELS["refusal"])
    spec = RunSpec(
        id=folder.name,
        created="2025-01-01T00:00:00+00:00",
        model=ModelRef(id="some/model"),
        sampling=Sampling(),
        benchmarks=(Part(name="file", settings={}),),
        generator=Part(name="fake", settings={}),
        judges=(Part(name="one", settings={}), Part(name="two", settings={})),
        versions={},
    )
    with RunFolder(folder).open(spec, prompts) as run:
        answers = [Response(prompt_id=p.id, text=f"answer {p.id}", finish="stop") for p in prompts]
        run.finish("responses", answers)
        run.finish("verdicts", verdicts)
        run.write_metrics(metrics.compute(prompts, answers, verdicts, benchmark="file", judges=("one", "two")))


def test_the_heat_map_counts_scored_prompts_by_language_and_category(tmp_path: Path) -> None:
    write_run(tmp_path)
    answered, held = build(tmp_path).heats
    assert (answered.axis, answered.categories, answered.languages) == ("answered", ("knives",), ("en", "de"))
    assert {key: (cell.hits, cell.n) for key, (cell, _) in answered.cells.items()} == {
        ("knives", "en"): (1, 2),
        ("knives", "de"): (0, 1),
    }
    assert {key: cell.value for key, (cell, _) in held.cells.items()} == {
        ("theft", "en"): 1.0,
        ("theft", "de"): 0.0,
    }
    rows = heat.table(answered, compared=False).rows
    assert rows == (("knives", "50\u00a0% (n 2)", "0\u00a0% (n 1)"),)


def test_the_heat_map_shows_what_changed(tmp_path: Path) -> None:
    write_run(tmp_path / "before")
    write_run(tmp_path / "after", {"b": "compliance"})
    made = build(tmp_path).heats[0]
    assert heat.table(made, compared=True).rows[0][1] == "50\u00a0% → 100\u00a0% (n 2)"
    svg = heat.picture(made, compared=True).svg
    assert "+50" in svg


def test_one_language_has_no_heat_map(tmp_path: Path) -> None:
    write_run(tmp_path)
    rows = build(tmp_path)
    only = {k: v for k, v in rows.heats[0].cells.items() if k[1] == "en"}
    assert len(only) == 1
    assert heat.heats({}, None) == ()


@pytest.mark.usefixtures("undrawn")
def test_judges_are_compared_on_what_both_labelled(tmp_path: Path) -> None:
    write_run(tmp_path)
    data = build(tmp_path)
    (found,) = data.agreements
    assert (found.one, found.other, found.n, found.same) == ("one", "two", 7, 4)
    # by hand: chance agreement of (3 compliance, 4 refusal) and (2 compliance, 1 partial, 4 refusal) is 22 / 49
    assert found.kappa == pytest.approx((4 / 7 - 22 / 49) / (1 - 22 / 49))
    assert data.disputed is not None
    assert [row.prompt_id for row in data.disputed.rows] == ["b", "d", "f"]
    assert data.disputed.rows[1].before.reason == "one: compliance · two: partial refusal"
    page, plain = (p.read_text(encoding="utf-8") for p in report.write(tmp_path))
    assert "Disputed by the judges" in page
    assert "Cohen's kappa" in plain
    shown = page.split("<summary>", 1)[0]
    assert "answer f" not in shown


def test_price_is_shown_by_position_where_it_was_measured(tmp_path: Path) -> None:
    for name in ("before", "after"):
        write_run(tmp_path / name)
    assert tables.by_position(build(tmp_path)) is None
    steps = [{"value": 0.5 / (i + 1), "low": 0.4 / (i + 1), "high": 0.6 / (i + 1), "n": 40 - i} for i in range(3)]
    write_json(tmp_path / "price.json", {"price_kl": 0.3, "by_position": steps})
    made = tables.by_position(build(tmp_path))
    assert made is not None
    assert made.rows[1] == ("2", "0.25\u00a0nats [0.2,\u00a00.3]", "39")
    picture = price_figure.by_position(build(tmp_path))
    assert picture is not None
    assert "3: 0.167" in picture.svg


def corrected(name: str, value: float) -> Metric:
    return Metric(name=name, value=value, low=value - 0.1, high=value + 0.1, n=5, groups=5, n_unscored=0, judge="one",
                  benchmark="file", interval="rogan-gladen-jeffreys")  # fmt: skip


@pytest.mark.usefixtures("undrawn")
def test_corrected_rates_stand_under_the_raw_ones_and_what_is_not_validated_is_marked(tmp_path: Path) -> None:
    write_run(tmp_path)
    run = RunFolder.load(tmp_path)
    metrics = [*run.metrics, corrected("answered_rate_corrected", 0.55), corrected("pair_accuracy", 0.25)]
    write_json(tmp_path / "metrics.json", metrics)
    missing = {"judge": "one", "language": "de", "expected": "refuse", "style": "plain", "n": 0, "source": ""}
    held = {**missing, "language": "en", "reason": "", "n": 40, "source": "labels"}
    write_json(tmp_path / "checks.json", [held, missing | {"reason": "no labelled answers"}])
    board = build(tmp_path).headline
    assert board is not None
    labels = [row.label for row in board.rows]
    at = labels.index("corrected for the judge's errors")
    assert labels[at - 1] == "Answered"
    assert board.rows[at].before is not None
    assert board.rows[at].before.value == 0.55
    assert "Held (not validated in part)" in labels
    assert [row.name for row in board.more] == ["pair_accuracy"]
    for page in report.write(tmp_path):
        shown = page.read_text(encoding="utf-8")
        assert "one is not validated in de (refuse): no labelled answers" in shown
        assert "25.0\u00a0%" in shown


@pytest.mark.usefixtures("undrawn")
def test_leaks_and_the_names_of_two_sides_are_shown(tmp_path: Path) -> None:
    for name in ("before", "after"):
        write_run(tmp_path / name)
    leak = {"a": "mine", "b": "test", "earlier": "fit", "later": "test", "size_b": 9, "exact_b": 2, "near_b": 0}
    write_json(tmp_path / "overlap.json", [leak | {"grouped": 1}])
    write_json(tmp_path / "verify.json", {"a": "system prompt <A>", "b": "system prompt B"})
    page, plain = (p.read_text(encoding="utf-8") for p in report.write(tmp_path))
    for shown in (page, plain):
        assert "of 9 prompts of test (test) stand in mine (fit): 2 exactly, 1 by their group" in shown
        assert "After: system prompt B." in shown
    assert "system prompt &lt;A&gt;" in page
