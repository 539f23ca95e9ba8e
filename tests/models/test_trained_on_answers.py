"""Methods that train on answers: what each learns from which row, and what it gives."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from demur import responses, training
from demur.errors import DataError
from demur.lm import LM
from demur.methods import _learnable, _trigger_spans, _tuned
from demur.methods._held_out import HeldOut
from demur.methods._trigger_spans import Spans
from demur.methods.sft import Sft
from demur.methods.stl import Stl
from demur.methods.stl_aug import StlAug
from demur.methods.trigger_matched import TriggerMatched
from demur.readout import Openers
from demur.types import FitData, Prompt
from tests.models.families import lm
from tests.models.test_rass import Scripted, example, score

pytestmark = pytest.mark.torch
KINDS = (("harmful", "refusal"), ("plain", "compliance"), ("borderline", "compliance"))
ROWS = [example(f"{k}{i}{s}", k, lab, split=s) for k, lab in KINDS for s in ("fit", "dev") for i in range(4)]


def learnt(method: object, rows: list, monkeypatch: pytest.MonkeyPatch, out: Path) -> dict[str, str]:
    """Run a method with a trainer that only notes what it is given: prompt -> answer."""
    noted: dict[str, str] = {}

    def note(model: LM, given: list, folder: Path, **_: object) -> training.Trained:
        for row in given:
            noted[row["prompt"][-1]["content"]] = (row.get("completion") or row["chosen"])[0]["content"]
        raise InterruptedError

    monkeypatch.setattr(training, "train", note)
    with pytest.raises(InterruptedError):
        method.fit(lm("llama"), FitData(examples=tuple(rows), judge=Scripted(), out=out))
    return noted


def test_sft_learns_what_was_wanted_and_says_what_it_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [*ROWS, example("wrong", "borderline", "refusal"), replace(example("new", "plain", ""), label=None)]
    found = learnt(Sft(), rows, monkeypatch, tmp_path)
    assert len(found) == 13
    assert (found["q harmful0fit"], found["q new"]) == ("own harmful0fit", "own new")
    assert "q wrong" not in found
    (dropped,) = map(json.loads, (tmp_path / "training" / "dropped.jsonl").read_text().splitlines())
    assert dropped["reason"] == "the answer is a refusal, and comply is expected"


def test_rows_of_a_file_may_be_examples_or_trls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    responses.export([responses.Pair(prompt=ROWS[0].prompt, role="benign", chosen="yes", rejected="no")], tmp_path)
    for name, paired in (("sft", False), ("preference", True)):
        (row,) = _learnable.rows(tmp_path / f"{name}.jsonl")
        (pair,) = _learnable.learnable([row], paired=paired).pairs
        assert (pair.prompt.text, pair.chosen, pair.rejected) == (ROWS[0].prompt.text, "yes", "no" if paired else "")
    found = learnt(Sft(file=str(tmp_path / "sft.jsonl")), ROWS, monkeypatch, tmp_path / "out")
    assert found == {ROWS[0].prompt.text: "yes"}
    (tmp_path / "odd.jsonl").write_text('{"prompt": [{"role": "user", "content": "a"}]}\n')
    with pytest.raises(DataError, match=r"odd\.jsonl:1: no row in trl's"):
        _learnable.rows(tmp_path / "odd.jsonl")
    assert not _learnable.learnable(ROWS, paired=True).pairs


def test_stl_refuses_what_the_model_answered_and_aug_adds_what_only_looks_harmful(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [*ROWS, example("bare", "harmful", "compliance"), example("german", "harmful", "compliance", language="de")]
    found = learnt(Stl(), rows, monkeypatch, tmp_path / "stl")
    assert len(found) == 10
    assert found["q harmful0fit"] == "own harmful0fit"
    assert "cannot" in found["q bare"]
    assert "nicht helfen" in found["q german"]
    more = learnt(StlAug(seeming=3), rows, monkeypatch, tmp_path / "aug")
    assert {k: more[k] for k in found} == found
    assert len(more) - len(found) == 3
    assert all("borderline" in text for text in more.keys() - found.keys())
    with pytest.raises(DataError, match="plain/fit/compliance"):
        Stl().fit(lm("llama"), FitData(examples=tuple(e for e in rows if e.prompt.kind != "plain")))


def test_the_best_balance_is_kept_where_a_model_learns_to_refuse() -> None:
    before = {"answered_before": 1.0, "held_before": 0.1}
    rates = {"meek": (1.0, 0.5), "good": (0.9, 0.9), "deaf": (0.1, 1.0)}
    tried = {name: {**score(answered, held, True), **before} for name, (answered, held) in rates.items()}
    assert HeldOut.best(tried, "checkpoint", "balance")[1].startswith("good: is best balanced")
    assert "NO checkpoint answers more" in HeldOut.best(tried, "checkpoint")[1]


def planted(model: LM, prompts: list[Prompt]) -> list[float]:
    return [0.9 if "slay" in p.text else 0.1 for p in prompts]


def test_the_planted_span_is_found_and_decides_what_is_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    things = ("dragon", "weed", "task", "fear", "noise", "debt")

    def row(name: str, text: str, kind: str, label: str) -> object:
        e = example(name, kind, label)
        return replace(e, prompt=replace(e.prompt, text=text, group=name))

    rows = [row(f"b{t}", f"how do I slay the {t}", "borderline", "refusal") for t in things]
    rows += [row(f"o{t}", f"how do I tame the {t}", "borderline", "refusal") for t in ("lion", "horse")]
    rows += [row(f"p{t}", f"how do I draw the {t}", "plain", "compliance") for t in things]
    verbs = ("slay", "rob")
    rows += [row(f"h{v}{t}", f"how do I {v} my {t}", "harmful", "refusal") for t in ("boss", "aunt") for v in verbs]
    monkeypatch.setattr(_trigger_spans, "Screen", lambda model, prompts: _Logits(prompts))
    monkeypatch.setattr(_trigger_spans, "p_refuse", lambda prompts, starts: planted(lm("llama"), prompts))
    monkeypatch.setattr(_trigger_spans, "openers", lambda model, own: Openers(ids=(1,), agreement=1.0, n=2))
    found = Spans.of(lm("llama"), rows, looks=0.6, refused=0.5, most=20)
    assert found.by_language == {"en": frozenset({"slay"})}
    chosen = TriggerMatched(harmful=2, attacked=1.0)._chosen(rows, found)
    assert {e.prompt.id for e in chosen["benign"]} == {f"b{t}" for t in things}
    assert all("slay" in e.prompt.text for e in chosen["harmful"])
    with pytest.raises(DataError, match="holds one of 1 spans"):
        TriggerMatched()._chosen([e for e in rows if "slay" not in e.prompt.text], found)
    monkeypatch.setattr(_trigger_spans, "read_lines", lambda path: [(1, {"span": "a", "language": "en"})])
    with pytest.raises(DataError, match="none of 1 spans looks harmful"):
        Spans.read(tmp_path, looks=0.5, refused=0.5)


class _Logits:
    """Hands the prompts themselves on as what the readout reads."""

    def __init__(self, prompts: list[Prompt]) -> None:
        self.prompts = prompts

    def logits(self) -> list[Prompt]:
        return self.prompts


def test_settings_of_the_training_are_the_fields_of_the_same_name() -> None:
    how = _tuned.how(Stl(rate=1e-4, rank=3))
    assert (how.rate, how.rank, how.alpha, how.batch, how.epochs) == (1e-4, 3, 16, 128, 3.0)
