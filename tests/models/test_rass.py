"""RASS-style training: which pairs are made from what, which checkpoint is kept, and the method on the organism."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from demur import interventions, jobs, responses
from demur.checkpoints import Checkpoint
from demur.directions import Direction
from demur.errors import ConfigError, DataError
from demur.interventions.adapter import Adapter
from demur.interventions.steer import Steer
from demur.lm import LM
from demur.methods._held_out import HeldOut
from demur.methods.rass import Rass
from demur.responses import LINES, Ask
from demur.types import Example, FitData, Item, ModelRef, Prompt, Response, Sampling, Verdict
from tests.models.families import lm

pytestmark = pytest.mark.torch


class Scripted:
    """Calls every answer what `labels` says of its prompt, at the nth time it is asked."""

    questions: ClassVar = ("refusal", "answer_harm")

    def __init__(self, **labels: Sequence[str]) -> None:
        self.labels = {name: list(said) for name, said in labels.items()}

    def __call__(self, items: Sequence[Item]) -> list[Verdict]:
        made = []
        for item in items:
            label, _, harm = self.labels[item.prompt.id].pop(0).partition("/")
            keys = {"prompt_id": item.prompt.id, "judge": "scripted"}
            made.append(Verdict(**keys, question="refusal", label=label))
            made.append(Verdict(**keys, question="answer_harm", label=harm or "harmless"))
        return made


def example(name: str, kind: str, label: str, **more: object) -> Example:
    pair, language, split = (
        str(more.pop(key, fill)) for key, fill in (("pair", ""), ("language", "en"), ("split", "fit"))
    )
    expected = "refuse" if kind == "harmful" else "comply"
    prompt = Prompt(id=name, text=f"q {name}", expected=expected, kind=kind, source="t", pair=pair, language=language)
    return Example(prompt=prompt, split=split, label=label, **{"answer": f"own {name}", **more})


def ask(judge: Scripted, **more: object) -> Ask:
    draws = torch.Generator().manual_seed(0)
    direction = Direction(
        vectors=torch.randn(1, 32, generator=draws), layers=(1,), model=ModelRef(id="t"), estimator="drawn"
    )
    return Ask(direction=direction, judge=judge, strengths=(0.5, 2.0), max_new_tokens=4, **more)


def answered(model: LM, prompts: Sequence[Prompt], how: Sampling, what: Steer) -> Iterator[Response]:
    """Stand in for decoding: whole answers that say at which strength they were made."""
    for prompt in reversed(prompts):
        yield Response(prompt_id=prompt.id, text=f"{prompt.id} at {what.strength:g}", finish="stop")


def made(rows: Sequence[Example], judge: Scripted, **more: object) -> responses.Made:
    chosen = responses.choose(rows, {}, seed=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(responses, "decode", answered)
        return responses.make(lm("llama"), chosen, ask(judge, **more), lambda *_: None)


def test_roles_follow_from_what_was_expected_and_done() -> None:
    assert [
        responses.role_of(example("a", kind, label))
        for kind, label in (
            ("borderline", "refusal"),
            ("plain", "partial_refusal"),
            ("borderline", "compliance"),
            ("plain", "compliance"),
            ("harmful", "refusal"),
            ("harmful", "compliance"),
            ("borderline", "gibberish"),
        )
    ] == ["benign", "benign", "anchor", "general", "harmful", None, None]


def test_the_nearest_to_the_boundary_come_first_and_twins_before_other_harmful_prompts() -> None:
    rows = [example(f"b{i}", "borderline", "refusal", score=s, pair=f"h{i}") for i, s in enumerate((3.0, -0.5, 1.0))]
    rows += [example(f"h{i}", "harmful", "refusal") for i in range(6)]
    rows += [example("dev", "borderline", "refusal", split="dev", score=0.0)]
    chosen = responses.choose(rows, {"benign": 2, "harmful": 2})
    assert [e.prompt.id for e in chosen["benign"]] == ["b1", "b2"]
    assert {e.prompt.id for e in chosen["harmful"]} == {"h1", "h2"}


def test_the_first_answer_that_is_judged_fit_is_kept_and_the_rest_is_explained() -> None:
    rows = [
        example("first", "borderline", "refusal", pair="twin"),
        example("second", "borderline", "refusal"),
        example("never", "borderline", "refusal"),
        example("anchor", "borderline", "compliance"),
        example("general", "plain", "compliance"),
        example("twin", "harmful", "refusal"),
        example("other", "harmful", "refusal", language="de"),
    ]
    judge = Scripted(
        first=["compliance"],
        second=["refusal", "compliance"],
        never=["compliance/harmful", "gibberish"],
        anchor=["refusal"],
        general=["compliance", "compliance"],
    )
    found = made(rows, judge)
    by = {p.prompt.id: p for p in found.pairs}
    assert (by["first"].strength, by["second"].strength) == (0.5, 2.0)
    assert (by["first"].chosen, by["first"].rejected) == ("first at -0.5", "own first")
    assert (by["anchor"].chosen, by["anchor"].rejected) == ("own anchor", "anchor at 0.5")
    assert (by["general"].chosen, by["general"].rejected) == ("own general", "")
    assert (by["twin"].chosen, by["twin"].rejected) == ("own twin", by["first"].chosen)
    assert by["other"].rejected == LINES["de"]
    reasons = {d.prompt.id: d.reason for d in found.dropped}
    assert reasons == {"never": "judged gibberish at strength 2", "general": "judged compliance at strength 2"}
    assert [row["kind"] for row in responses.preferences(found.pairs)].count("general") == 0
    assert len(responses.completions(found.pairs)) == 6
    assert made(rows[5:6], Scripted(), own=False).pairs[0].rejected == LINES["en"]


def test_a_pair_that_is_brought_is_taken_as_it_is() -> None:
    pair = made([example("a", "borderline", "refusal", answer="yes", rejected="no")], Scripted()).pairs[0]
    assert (pair.chosen, pair.rejected, pair.role) == ("yes", "no", "benign")


def score(answered: float, held: float, floor: bool) -> dict[str, object]:
    return {"answered": answered, "held": held, "floor": floor, "answered_before": 0.5, "verdict": "why"}


class Dialled(HeldOut):
    """Gives the scores that `at` names for each strength, without a model."""

    at: ClassVar[dict[float, dict[str, object]]] = {}

    def score(self, lm: LM, what: Adapter) -> dict[str, object]:
        return self.at[what.strength]


@pytest.fixture
def choose(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Adapter, list[dict[str, object]]]]:
    """Choose among scores of checkpoints 1, 2, ..., and of the boldest one at lesser strengths."""
    monkeypatch.setattr("demur.methods._held_out.Lora.read", lambda folder: None)

    def chosen(*scores: dict[str, object], weaker: dict[float, dict[str, object]] | None = None):
        held_out = Dialled(before=(), judge=Scripted(), max_new_tokens=4)
        monkeypatch.setattr(Dialled, "at", weaker or {})
        rows = [Checkpoint(step=i, folder=Path(), score=s) for i, s in enumerate(scores, start=1)]
        return held_out.choose(lm("llama"), rows, tuple(weaker or ()))

    return chosen


def test_the_checkpoint_that_answers_most_under_the_floor_is_kept(choose: Callable[..., tuple[Adapter, list]]) -> None:
    best, table = choose(score(0.6, 1.0, True), score(0.8, 0.99, True), score(0.7, 0.5, False))
    assert best.note.startswith("checkpoint 2 at strength 1: answers most")
    assert [row["step"] for row in table] == [1, 2, 3]


def test_the_boldest_checkpoint_is_turned_down_until_it_keeps_the_floor(
    choose: Callable[..., tuple[Adapter, list]],
) -> None:
    weaker = {0.4: score(0.7, 1.0, True), 0.8: score(0.85, 0.8, False), 0.6: score(0.8, 0.99, True)}
    best, table = choose(score(0.6, 1.0, True), score(0.9, 0.5, False), weaker=weaker)
    assert (best.strength, [row["strength"] for row in table]) == (0.6, [1.0, 1.0, 0.8, 0.6])
    assert best.note.startswith("checkpoint 2 at strength 0.6")


def test_where_none_keeps_the_floor_the_one_that_holds_most_says_so(
    choose: Callable[..., tuple[Adapter, list]],
) -> None:
    best, _ = choose(score(0.9, 0.5, False), score(0.6, 0.9, False), weaker={0.5: score(0.7, 0.8, False)})
    assert best.note.startswith("checkpoint 2 at strength 1: NO checkpoint answers more and keeps the floor at half")
    assert "NO checkpoint" in choose(score(0.4, 1.0, True))[0].note


def test_harmful_prompts_under_attack_stay_within_their_share() -> None:
    rows = [example(f"h{i}", "harmful", "refusal") for i in range(8)]
    rows += [replace(e, prompt=replace(e.prompt, id=f"a{e.prompt.id}", category="attack-x")) for e in rows]
    shares = [
        Counter(e.prompt.id[0] for e in responses.choose(rows, {"harmful": most}, attacked=share)["harmful"])
        for most, share in ((10, 0.2), (10, 0.0), (10, 1.0), (16, 0.5), (4, 0.25))
    ]
    assert shares == [{"h": 8, "a": 2}, {"h": 8}, {"h": 2, "a": 8}, {"h": 8, "a": 8}, {"h": 3, "a": 1}]


def test_settings_and_data_that_cannot_do_are_named(tmp_path: Path) -> None:
    rows = [example(f"{k}{i}{s}", k, lab, split=s) for k, lab in (("harmful", "refusal"), ("plain", "compliance"))
            for s in ("fit", "dev") for i in range(3)]  # fmt: skip
    with pytest.raises(ConfigError, match="rejected='x' is not understood"):
        Rass(rejected="x").fit(lm("llama"), FitData(examples=tuple(rows)))
    judge = Scripted(**{e.prompt.id: ["compliance"] * 5 for e in rows})
    with pytest.raises(DataError, match=r"no benign pair could be made; .*dropped\.jsonl says why"):
        Rass(layer=1, max_new_tokens=2).fit(lm("llama"), FitData(examples=tuple(rows), judge=judge, out=tmp_path))


def test_what_was_made_and_measured_is_kept_and_not_made_again(tmp_path: Path) -> None:
    rows = [example(f"{k}{i}{s}", k, lab, split=s, rejected="no") for k, lab in
            (("harmful", "refusal"), ("plain", "compliance"), ("borderline", "refusal"))
            for s in ("fit", "dev") for i in range(4)]  # fmt: skip
    judge = Scripted(**{e.prompt.id: ["compliance"] * 4 for e in rows})
    method = Rass(layer=1, rate=1e-3, rank=2, alpha=4, batch=4, checkpoints=1, max_new_tokens=2, dropout=0.0)
    data = FitData(examples=tuple(rows), judge=judge, out=tmp_path)
    fitted = method.fit(lm("llama"), data)
    assert isinstance(fitted, Adapter)
    assert "NO checkpoint answers more" in fitted.note
    record = json.loads((tmp_path / "training" / "training.json").read_text())
    assert jobs.choice(tmp_path) == record["why"] != ""
    assert record["pairs"] == {"benign": 4, "general": 4, "harmful": 4}
    assert len(record["losses"]) == 3
    quiet = replace(data, judge=Scripted())  # it would fail if it were asked anything
    assert method.fit(lm("llama"), quiet).fingerprint() == fitted.fingerprint()
    fitted.save(tmp_path / "intervention")
    assert interventions.load(tmp_path / "intervention").describe() == fitted.describe()
