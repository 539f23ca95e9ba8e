"""Mining: near-duplicates over streams, selection and its controls, the stages, resumed after a kill."""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from demur import dedup
from demur.errors import ConfigError, DataError
from demur.files import read_json, read_rows
from demur.judges.declared import Declared
from demur.mining import stages, words
from demur.mining.near import Near
from demur.mining.rows import Appender, Score, line, stream
from demur.mining.selection import Scored, Selection, band, choose, relevant
from demur.mining.sources import Rows
from demur.mining.stages import Mining, mine
from demur.types import Example, Part, Prompt

WORDS = [a + b for a in ("ba", "do", "ki", "lu", "me", "no", "pi", "ra") for b in ("st", "mp", "rk", "ll", "nd", "gg")]


def texts(count: int, seed: int = 0) -> list[str]:
    """Random sentences, a fifth of them an earlier one with a small change or none."""
    draw, made = random.Random(seed), list[str]()
    for n in range(count):
        if n % 5 == 4:
            made.append(draw.choice(made) + draw.choice(["", "!", " " + draw.choice(WORDS)]))
        else:
            made.append(" ".join(draw.choices(WORDS, k=draw.randint(6, 12))))
    return made


def test_a_stream_keeps_what_the_whole_set_keeps():
    rows = [Prompt(id=str(n), text=text, expected=None, source="t") for n, text in enumerate(texts(1500))]
    whole = {match.a for match in dedup.duplicates(rows)}
    index, found = Near(), []
    for start in range(0, len(rows), 400):
        found += index.add([p.text for p in rows[start : start + 400]])
    assert {str(n) for n, twin in enumerate(found) if twin is not None} == whole
    assert index.size == len(rows) - len(whole)
    assert len(whole) >= 250


def test_what_is_near_names_the_kept_row():
    index = Near()
    first, other = "how do I stop the small engine quickly", "where is the garden of the old house"
    assert index.add([first, other, first.upper() + "?"]) == [None, None, (0, 1.0)]
    assert [t and t.row for t in index.find([other + " now", "something else again entirely"])] == [1, None]
    assert index.size == 2


def test_relevance_by_hand():
    score = np.array([1.0, 0.9, 0.5])
    vectors = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    assert relevant(score, vectors, 3, 0.7).tolist() == [0, 2, 1]  # .63 − .3 < .35
    assert relevant(score, vectors, 2, 1.0).tolist() == [0, 1]


def scored(count: int = 400, seed: int = 0) -> Scored:
    draw = np.random.default_rng(seed)
    d = draw.normal(0, 1.5, count)
    made = texts(count, seed)
    return Scored(
        d=d, r=d * 2, refused=draw.random(count) < 1 / (1 + np.exp(-2.2 * d)), cell=np.arange(count) % 2,
        texts=lambda rows: [made[i] for i in rows], harmful=made[:3],
    )  # fmt: skip


def test_the_boundary_rule_takes_the_nearest_and_few_anchors():
    what = scored()
    how = Selection(per_category=20, balance=1.0)
    found = choose(what, how)
    strata = np.array(found.strata)
    assert len(found.rows) == found.wanted == 40
    assert len(set(found.rows.tolist())) == 40
    assert what.refused[found.rows].mean() == pytest.approx(0.8)
    near = found.rows[strata == "near"]
    for cell in (0, 1):
        own = np.flatnonzero(what.refused & (what.cell == cell))
        best = own[np.argsort(np.abs(what.d[own]))[:16]]
        assert set(near[what.cell[near] == cell]) == set(best)
    anchors = what.d[found.rows[strata == "anchor"]]
    assert ((anchors >= -1) & (anchors <= 0)).all()


@pytest.mark.parametrize("rule", ["random_refused", "hardest", "far", "near_harmful", "words", "trigger"])
def test_controls_have_the_same_size_and_share_of_refused(rule):
    what = scored()
    found = choose(what, Selection(rule=rule, per_category=20, triggers=("bast",)))
    assert len(found.rows) == 40
    assert what.refused[found.rows].mean() == pytest.approx(0.8)
    assert choose(what, Selection(rule=rule, per_category=20, triggers=("bast",))).rows.tolist() == found.rows.tolist()


def test_controls_rank_by_what_they_say():
    what = scored()
    near = {rule: choose(what, Selection(rule=rule, per_category=20, balance=1)) for rule in ("far", "hardest")}
    boundary = choose(what, Selection(per_category=20))
    far = [np.abs(what.d[f.rows[np.array(f.strata) == "near"]]).mean() for f in (near["far"], boundary)]
    assert far[0] > 2 > far[1] * 4
    hardest = near["hardest"].rows[np.array(near["hardest"].strata) == "near"]
    own = np.flatnonzero(what.refused & (what.cell == 0))
    assert what.r[hardest[what.cell[hardest] == 0]].min() >= np.sort(what.r[own])[-16]


def test_random_among_all_keeps_the_models_own_rate():
    what = scored(4000)
    found = choose(what, Selection(rule="random_all", per_category=1000))
    assert what.refused[found.rows].mean() == pytest.approx(what.refused.mean(), abs=0.04)


def test_the_deep_stratum_comes_from_the_farthest_quarter():
    what = scored()
    found = choose(what, Selection(per_category=20, deep=0.5))
    deep = found.rows[np.array(found.strata) == "deep"]
    assert len(deep) == 16
    for cell in (0, 1):
        own = np.sort(np.abs(what.d[what.refused & (what.cell == cell)]))
        assert np.abs(what.d[deep[what.cell[deep] == cell]]).min() >= own[-(len(own) // 4)]


def test_too_few_refused_prompts_are_said_and_not_made_up_with_answered_ones():
    what = scored()
    found = choose(what, Selection(per_category=1000))
    assert what.refused[found.rows].mean() >= 0.8
    assert sum(found.short.values()) == found.wanted - len(found.rows) > 0


def test_band_recall_by_hand():
    refused = np.array([True, True, False])
    assert band(np.array([0.5, 3.0, 0.1]), refused) == 0.5
    assert band(np.zeros(3), np.zeros(3, bool)) is None


class Planted:
    """A scorer whose distance stands in the text: `… d=-0.5`."""

    def __init__(self) -> None:
        self.record = {"scorer": "planted"}
        self.asked = 0

    def __call__(self, prompts: Sequence[Prompt]) -> list[Score]:
        self.asked += len(prompts)
        made = []
        for p in prompts:
            if planted := p.get("d"):
                d = float(planted)
                made.append(Score(prompt_id=p.id, d=d, t=d, r=d, refused=d > 0))
            else:
                made.append(Score(prompt_id=p.id, d=None, unscored="no distance planted"))
        return made


def rows(count: int = 60) -> list[Prompt]:
    made = [
        Prompt(id=f"h/{n}", text=f"harmful {text}", expected="refuse", kind="harmful", source="t",
               meta=(("d", str(2.0 - n)),))
        for n, text in enumerate(texts(4, 9))
    ]  # fmt: skip
    for n, text in enumerate(texts(count, 3)):
        expected = "refuse" if n == 7 else "contested" if n == 8 else "comply"
        kind = "borderline" if expected != "refuse" else ""
        d = "" if n == 10 else f"{(n % 11 - 5) / 2 + 0.1:.2f}"
        made.append(
            Prompt(id=f"b/{n}", text=text, expected=expected, kind=kind, source="t", pair=f"h/{n % 4}",
                   category="ab"[n % 2], meta=(("d", d),))
        )  # fmt: skip
    return made


def what(path: Path, scorer: Any = None, **more: Any) -> Mining:
    more.setdefault("selection", Selection(per_category=5, twins=2))
    judges = ((Part(name="declared", settings={}), Declared()),)
    return Mining(sources=(Rows(path=path),), judges=judges, scorer=scorer or Planted(), **more)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"".join(map(line, rows())))
    return path


def test_nothing_is_lost_on_the_way(source, tmp_path):
    with source.open("a") as file:
        file.write('{"id": "odd"}\n')
    card = mine(what(source), tmp_path / "out")
    out = tmp_path / "out"
    kept, dropped = card["counts"]["kept"], card["counts"]["dropped"]
    assert kept["generate"] + sum(dropped["generate"].values()) == 65
    assert dropped["generate"] == {"not a prompt row": 1}
    for before, stage in (("generate", "distinct"), ("distinct", "moderate"), ("moderate", "score")):
        assert kept[before] == kept[stage] + sum(dropped[stage].values())
    assert dropped["moderate"] == {"not judged benign: contested": 1}
    assert dropped["score"]["no distance planted"] == 1
    assert sum(sum(reasons.values()) for reasons in dropped.values()) == len(list(stream(out / "dropped.jsonl")))
    assert all(row["reason"] and row["id"] for row in stream(out / "dropped.jsonl"))
    chosen = read_rows(out / "selected.jsonl", Example)
    for_trl = [json.loads(line) for line in (out / "trl" / "prompts.jsonl").read_text("utf-8").splitlines()]
    assert [row["prompt"][-1]["content"] for row in for_trl] == [e.prompt.text for e in chosen if e.split == "fit"]
    assert {e.prompt.get("stratum") for e in chosen} == {"near", "anchor", "twin"}
    assert all((e.label == "refusal") == (e.score > 0) for e in chosen)
    assert card["selection"]["refused_share"] >= 0.8


def test_harmful_prompts_that_are_answered_are_counted_and_not_exported(source, tmp_path):
    card = mine(what(source), tmp_path / "out")
    assert card["harmful_answered"] == {"count": 2, "exported": False}  # of distances 2, 1, 0 and −1
    for name in ("scored.jsonl", "selected.jsonl", "dropped.jsonl"):
        held = (tmp_path / "out" / name).read_text()
        assert '"h/2"' not in held.replace('"pair": "h/2"', "") or name == "dropped.jsonl"
    hidden = [r for r in stream(tmp_path / "out" / "dropped.jsonl") if r["id"] in ("h/2", "h/3")]
    assert [r["text"] for r in hidden] == ["", ""]
    card = mine(what(source, export_answered=True), tmp_path / "out")
    assert card["harmful_answered"]["exported"]
    assert {"h/2", "h/3"} <= {r["prompt"]["id"] for r in stream(tmp_path / "out" / "scored.jsonl")}


def test_a_stage_is_done_once_and_another_rule_scores_nothing_again(source, tmp_path):
    scorer = Planted()
    mine(what(source, scorer), tmp_path / "out")
    first = scorer.asked
    mine(what(source, scorer), tmp_path / "out")
    mine(what(source, scorer, selection=Selection(rule="far", per_category=5)), tmp_path / "out")
    assert scorer.asked == first
    source.write_bytes(source.read_bytes() + line(rows()[0]))
    with pytest.raises(ConfigError, match="other settings"):
        mine(what(source, scorer), tmp_path / "out")
    mine(what(source, scorer), tmp_path / "out", overwrite=True)
    assert scorer.asked > first


def test_a_cut_off_stage_goes_on_behind_its_last_row(source, tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "_ASKED", 8)

    class Dies(Planted):
        def __call__(self, prompts):
            if self.asked >= 16:
                raise KeyboardInterrupt
            return super().__call__(prompts)

    with pytest.raises(KeyboardInterrupt):
        mine(what(source, Dies()), tmp_path / "out")
    part = tmp_path / "out" / "parts" / "score.jsonl"
    with part.open("ab") as file:
        file.write(b'{"prompt_id": "torn')
    again, whole = Planted(), Planted()
    mine(what(source, again), tmp_path / "out")
    mine(what(source, whole), tmp_path / "whole")
    assert again.asked == whole.asked - 16
    for name in ("scored.jsonl", "selected.jsonl", "dropped.jsonl"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    one, two = (read_json(tmp_path / n / "card.json") | {"seconds": {}} for n in ("out", "whole"))
    assert one == two


def test_evaluation_prompts_their_phrases_and_twins_are_kept_out(source, tmp_path):
    held = [p for p in rows() if p.id in ("h/1", "b/3")]
    long = next(p for p in rows() if p.id.startswith("b/") and p.pair != "h/1" and len(p.text.split()) >= 9)
    phrase = " ".join(long.text.split()[1:9])
    held.append(Prompt(id="e/1", text=f"entirely new {phrase} {'and so on ' * 9}", expected="comply", source="e"))
    card = mine(what(source, evaluation={"own": held}), tmp_path / "out")
    reasons = {r["id"]: r["reason"] for r in stream(tmp_path / "out" / "dropped.jsonl")}
    assert reasons["b/3"] == reasons["h/1"] == "stands in an evaluation set"
    assert reasons[long.id] == "shares an n-gram with an evaluation set"
    assert reasons["b/5"] == "its harmful twin stands in an evaluation set"
    assert card["decontaminated_against"]["own"]["prompts"] == 3
    assert len(card["decontaminated_against"]["own"]["texts"]) == 16


def test_with_a_sentence_model_paraphrases_of_evaluation_prompts_are_kept_out(source, tmp_path):
    class Meanings:
        name, threshold = "meanings", 0.85

        def __call__(self, given: Sequence[str]) -> np.ndarray:
            like = rows()[9].text  # a text and the one below point the same way but for a little
            angles = [
                0.0 if t == "in other words" else 0.5 if t == like else 0.6 if t == rows()[10].text else 2
                for t in given
            ]
            return np.array([[np.cos(a), np.sin(a)] for a in angles], np.float32)  # cos .5 = .88, cos .6 = .83

    held = {"own": [Prompt(id="e/1", text="in other words", expected="comply", source="e")]}
    card = mine(what(source, evaluation=held, embedder=Meanings()), tmp_path / "out")
    caught = [r["id"] for r in stream(tmp_path / "out" / "dropped.jsonl") if r["reason"].startswith("means much")]
    assert caught == [rows()[9].id]
    assert card["decontaminated_by"] == ["wording", "meanings"]


def test_the_words_rule_reads_no_prompt_of_the_group_it_scores():
    text = [f"{w} alpha" for w in WORDS for _ in range(2)]
    refused = np.array([zlib.crc32(t.encode()) % 2 == 1 for t in text])  # by word: nothing to learn from other words
    group = np.repeat(np.arange(len(WORDS)), 2)
    read = lambda rows: [text[i] for i in rows]  # noqa: E731
    at = np.arange(len(text))
    inside = words.fit(read, refused)(text)
    outside = words.out_of_fold(read, refused, group)(at)
    assert ((inside > 0) == refused).mean() > 0.95
    assert ((outside > 0) == refused).mean() < 0.75


def test_judges_that_do_not_answer_the_question_are_refused(source, tmp_path):
    from demur.judges.keyword import Keyword

    bad = Mining(
        sources=(Rows(path=source),), judges=((Part(name="keyword", settings={}), Keyword()),), scorer=Planted()
    )
    with pytest.raises(ConfigError, match="prompt_harm"):
        mine(bad, tmp_path / "out")


def test_the_worlds_test_split_is_never_mined(tmp_path):
    from demur import world

    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"".join(map(line, world.prompts("test")[:3])))
    with pytest.raises(DataError, match="test split"):
        mine(what(path), tmp_path / "out")


def test_a_torn_batch_is_cut_off(tmp_path):
    path = tmp_path / "rows"
    path.write_bytes(b'{"a": 1}\n{"a": 2}\n{"a"')
    with Appender(path) as rows:
        assert rows.done == 2
        rows.write([{"a": 3}])
    assert [json.loads(x)["a"] for x in path.read_text().splitlines()] == [1, 2, 3]
