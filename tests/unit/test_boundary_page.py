"""Verdicts on the experiments of the boundary, from numbers made by hand, and the page that shows them."""

from __future__ import annotations

import copy
from typing import Any
from xml.etree import ElementTree

import pytest

from demur.explain.findings import findings
from demur.report import boundary_page, boundary_tables

GRID = (0.1, 0.5, 1.0)
LINE = {"t_star": 0.5, "tau": 0.2, "unusable": ""}


def group(t: float) -> dict[str, Any]:
    return {
        "n": 40,
        "groups": 30,
        "t": t,
        "low": t - 0.05,
        "high": t + 0.05,
        "pc": 1.0,
        "between": 0.9,
        "random": [0.1, -0.1],
    }


def curve(*values: float) -> list[dict[str, float]]:
    return [
        {"alpha": a, "value": v, "low": max(0.0, v - 0.1), "high": min(1.0, v + 0.1)}
        for a, v in zip(GRID, values, strict=True)
    ]


def flipping(median: float, *values: float) -> dict[str, Any]:
    ends = {"low": median, "high": median}
    return {
        "n": 40,
        "groups": 30,
        "median": median,
        **ends,
        "flipped": values[-1],
        "curve": curve(*values),
        "slope": 1.5,
    }


def point(value: float, width: float = 0.02) -> dict[str, float]:
    return {"value": value, "low": value - width, "high": value + width}


def language(name: str, cosine: float | None, shift: float) -> dict[str, Any]:
    line = {"t_star": point(0.5 + shift), "tau": point(0.2), "auroc": 0.9, "m": None, "unusable": ""}
    told = {way: {**point(0.9), "n": 50} for way in ("home_v_home_t", "home_v_own_t", "own_v_own_t")}
    return {
        "language": name,
        "n": 50,
        "groups": 40,
        "refused": {"harmful": 1.0, "benign": 0.3},
        "cosine": None if cosine is None else point(cosine),
        "own": line,
        "home_v": line,
        "shift": {"t_star": point(shift), "tau": point(0.0)},
        "shift_random": [] if name == "en" else [0.1, -0.1],
        "cosine_random": [0.2, -0.1],
        "told": {**told, "random": [0.6, 0.7], "base": 0.65},
    }


def record() -> dict[str, Any]:
    """What explain.json holds, with every claim supported but the one on mediation."""
    names = ("harmful_refused", "benign_refused", "benign_answered")
    mixture = {
        "n": 80, "harmful": 40, "t_star": 0.5, "t_star_interval": [0.45, 0.55], "tau": 0.2, "tau_interval": [0.1, 0.3],
        "unusable": "",
    }  # fmt: skip
    words = {
        "t": 0.9, "t_interval": [0.85, 0.95], "words": 0.7, "words_interval": [0.6, 0.8], "difference": 0.2,
        "low": 0.1, "high": 0.3, "n": 40, "groups": 30,
    }  # fmt: skip
    made: dict[str, Any] = {
        "model": "organism",
        "layer": 1,
        "layers": [0, 1],
        "point": "resid_post",
        "n": 120,
        "boundary": LINE,
        "notes": ["a note with <marks>"],
        "e1": {
            "groups": dict(zip(names, (group(1.0), group(0.55), group(0.1)), strict=True)),
            "overlap": [{"high": names[0], "low_group": names[1], "auroc": point(0.8), "random": [0.6, None]}],
            "points": {name: [[0.1, 2.0], [0.4, -3.0]] for name in names},
        },
        "e2": {
            "grid": list(GRID),
            "groups": {
                names[0]: flipping(1.0, 0.0, 0.2, 0.9),
                names[1]: flipping(0.5, 0.2, 0.6, 1.0),
                names[2]: flipping(1.0, 0.1, 0.3, 0.8),
            },
            "random": [{name: [0.0, 0.1, end] for name in names} for end in (0.2, 0.1)],
            "random_n": dict.fromkeys(names, 10),
            "order": {**point(0.8), "n": 80},
            "unmeasured": "",
        },
        "e3": {
            "w": point(8.0),
            "b": point(1.0),
            "b_random": [1.5, 3.0],
            "n": 120,
            "mixtures": {"all": mixture},
            "words": words,
            "random_auroc": [0.6, 0.7],
        },
        "e4": [language("de", 0.7, 0.2), language("en", 1.0, 0.0)],
        "distances": [
            {"distance": "projection", "spearman": 0.5, "spearman_refused_benign": None, "auroc_benign": 0.9, "n": 80,
             "unusable": ""}
        ],
        "calibration": {
            "t_star": [0.45, 0.55],
            "tau": [0.15, 0.25],
            "auroc": [0.8, 0.95],
            "usable": 1.0,
            "reliability": [{"predicted": 0.1, "refused": 0.12, "n": 60.0, "low": 0.05, "high": 0.2}] * 2,
        },
    }  # fmt: skip
    return made | {"findings": findings(made, LINE)}


def verdicts(made: dict[str, Any], line: dict[str, Any] = LINE) -> dict[str, str]:
    return {f["id"]: f["verdict"] for f in findings(made, line)}


def test_each_claim_is_judged_by_its_interval():
    assert verdicts(record()) == {
        "line": "supports",
        "E1": "supports",
        "E2": "supports",
        "E2 control": "supports",
        "E3 mediation": "contradicts",
        "E3 words": "supports",
        "E4 de": "supports",
    }


@pytest.mark.parametrize(
    ("where", "value", "name", "verdict"),
    [
        (("calibration", "auroc"), [0.55, 0.7], "line", "not shown"),
        (("e1", "groups", "benign_refused"), group(0.9), "E1", "contradicts"),
        (("e1", "groups", "benign_refused"), group(0.7), "E1", "not shown"),
        (("e1", "groups", "benign_refused"), {**group(0.5), "n": 0}, "E1", "not shown"),
        (("e2", "order"), point(0.51), "E2", "not shown"),
        (("e2", "order"), point(0.3), "E2", "contradicts"),
        (("e2", "random"), [{"benign_refused": [0.0, 0.5, 0.95]}], "E2 control", "not shown"),
        (("e3", "b"), {"value": 0.1, "low": -0.2, "high": 0.4}, "E3 mediation", "supports"),
        (("e3", "b"), {"value": 0.1, "low": -2.0, "high": 2.0}, "E3 mediation", "not shown"),
        (("e3", "random_auroc"), [0.6, 0.9], "E3 words", "not shown"),
        (("e3", "words", "low"), -0.1, "E3 words", "not shown"),
        (("e4", 0, "cosine"), point(0.1), "E4 de", "contradicts"),
        (("e4", 0, "shift", "t_star"), point(0.01), "E4 de", "not shown"),
        (("e4", 0, "shift_random"), [0.3, None], "E4 de", "not shown"),
        (("e4", 0, "cosine"), None, "E4 de", "not shown"),
    ],
)
def test_a_claim_falls_where_its_numbers_do(where, value, name, verdict):
    made = copy.deepcopy(record())
    at: Any = made
    for key in where[:-1]:
        at = at[key]
    at[where[-1]] = value
    if name == "E2" and verdict != "supports":
        at[where[-1]] = {**value, "n": 80}
    assert verdicts(made)[name] == verdict


def test_an_unusable_axis_contradicts_and_an_absent_one_shows_nothing():
    assert (
        verdicts(record(), {**LINE, "unusable": "AUROC on benign prompts is 0.5, below 0.6"})["line"] == "contradicts"
    )
    absent = verdicts(record(), {"t_star": None, "tau": None, "unusable": "no prompt was refused"})
    assert absent["line"] == absent["E1"] == "not shown"


@pytest.mark.slow
def test_the_page_holds_every_claim_and_its_pictures(tmp_path):
    made = record()
    text = boundary_page.write(tmp_path, made).read_text("utf-8")
    for found in made["findings"]:
        assert found["claim"].replace("'", "&#39;") in text
    assert "<script" not in text
    assert "a note with &lt;marks&gt;" in text
    drawn = sorted(path.stem for path in (tmp_path / "figures").iterdir())
    assert drawn == ["flips", "languages", "map", "reliability", "sufficiency", "told"]
    for path in (tmp_path / "figures").iterdir():
        assert ElementTree.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"


def test_what_could_not_be_measured_is_said_and_not_drawn():
    made = record()
    made["e2"] |= {"groups": {}, "random": [], "order": None, "unmeasured": "a gate is attached"}
    made |= {"distances": [], "e4": []}
    made["e1"]["points"], made["calibration"]["reliability"] = {}, []  # what is drawn is not looked at here
    made["findings"] = findings(made, LINE)
    made["e3"]["words"] = {"t": None}
    page = {s.name: s for s in boundary_page.one(made).sections}
    assert [f["why"] for f in page["E2"].findings] == ["a gate is attached"] * 2
    assert not page["E2"].pictures
    assert not page["E2"].tables


def test_several_sides_are_shown_against_the_first(tmp_path):
    measures = {
        name: {"before": point(0.5), "after": point(0.7), "difference": point(0.2)}
        for name in ("t_star", "tau", "auroc", "refused_benign", "refused_harmful")
    }
    scope = {"scope": "all", "n": 80, "groups": 60, "measures": measures, "said": ["moved up", "blurred"]}
    pair = {"before": "a", "after": "b", "layers": [1, 1], "scopes": [scope]}
    carried = {
        "axis": "a", "model": "b", "unmeasured": "", "auroc": point(0.8), "loss": point(0.1), "told": point(0.9),
        "nearest": point(0.5), "random": [0.6], "refused": 0.3, "cosine": 0.4, "n": 80, "groups": 60,
    }  # fmt: skip
    other = {"axis": "c", "model": "b", "unmeasured": "the models differ in layer or width"}
    comparison = {"sides": ["a", "b"], "moved": [pair], "transfer": [carried, other]}
    records = [{**record(), "label": "a"}, {**record(), "label": "b"}]
    text = boundary_page.write_comparison(tmp_path, comparison, records).read_text("utf-8")
    assert "moved up" in text
    assert "the models differ in layer or width" in text
    assert boundary_tables.moved(pair).rows[0][4] == "+0.20 [+0.18, +0.22]".replace(", ", ",\u00a0")
    assert (tmp_path / "figures" / "moved.svg").is_file()
