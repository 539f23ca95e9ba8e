"""MOSR-style weights and prefixes, what the methods take from the data, and each method on a tiny model."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from demur.errors import ConfigError, DataError
from demur.methods._held_out import HeldOut
from demur.methods._overlap import olw0, olw1, overlap, weights
from demur.methods._passages import Texts
from demur.methods.circuit_breakers import CircuitBreakers
from demur.methods.mosr import Mosr
from demur.methods.repbend import Repbend
from demur.methods.x_boundary import XBoundary, mean_units
from demur.representation import Passage
from demur.types import Example, FitData, Prompt
from tests.models.families import lm

pytestmark = pytest.mark.torch
SHORT = {"steps": 4, "at_once": 8, "checkpoints": 1, "max_new_tokens": 2, "rate": 1e-2, "judge": "keyword"}


def example(name: str, kind: str, label: str, answer: str, **more: Any) -> Example:
    expected = "refuse" if kind == "harmful" else "comply"
    meta, category = tuple(more.pop("meta", {}).items()), more.pop("category", "")
    split, source = more.pop("split", "fit"), more.pop("source", "t")
    own = {"expected": expected, "kind": kind, "source": source, "meta": meta, "category": category}
    return Example(prompt=Prompt(id=name, text=f"ask {name}", **own), split=split, label=label, answer=answer, **more)


def rows() -> list[Example]:
    made = []
    for split in ("fit", "dev"):
        for i in range(3):
            own = {"split": split}
            made += [
                example(f"p{split}{i}", "plain", "compliance", f"plain {i}", **own),
                example(
                    f"b{split}{i}", "borderline", "refusal", "no, sorry", source="world", meta={"answer": "so"}, **own
                ),
                example(f"h{split}{i}", "harmful", "refusal", "no, never", rejected=f"nonsense words {i}", **own),
            ]
    return made


DATA = FitData(examples=tuple(rows()))


def test_olw0_is_one_minus_the_cosine_to_the_centroid() -> None:
    harmful = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[3.0, 4.0], [0.0, -1.0]]])
    pseudo = torch.tensor([[[2.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [0.0, 3.0]]])
    assert olw0(harmful, pseudo).tolist() == pytest.approx([0.0, 1 - (0.6 - 1) / 2])


def test_overlap_is_the_mean_of_the_nearest_centred_cosines() -> None:
    harmful = torch.tensor([[[2.0, 1.0]], [[2.0, -1.0]]])  # their mean is (2, 0), and with benign (0, 0) mu is (1, 0)
    benign = torch.zeros(3, 1, 2)
    pseudo = torch.tensor([[[2.0, 1.0]], [[1.0, 1.0]], [[0.0, -1.0]]])
    half = 0.5**0.5
    assert overlap(harmful, pseudo, benign, nearest=1).tolist() == pytest.approx([1.0, 0.0], abs=1e-6)
    assert overlap(harmful, pseudo, benign, nearest=2)[0].item() == pytest.approx((1 + half) / 2)
    assert overlap(harmful, pseudo, benign, nearest=10)[0].item() == pytest.approx((1 + half - 1) / 3, abs=1e-6)


def test_olw1_falls_from_1_to_its_floor_between_the_quantiles() -> None:
    s = torch.linspace(0, 1, 101, dtype=torch.float64)
    w = olw1(s)
    assert w[:6].tolist() == pytest.approx([1.0] * 6)
    assert w[95:].tolist() == pytest.approx([0.1] * 6)
    assert w[50].item() == pytest.approx(0.55)
    assert olw1(s, invert=True).tolist() == pytest.approx((1.1 - w).tolist())
    assert olw1(torch.ones(4)).tolist() == [1.0] * 4


def test_weights_and_controls_keep_what_they_promise() -> None:
    draws = torch.Generator().manual_seed(0)
    states = [torch.randn(n, 2, 8, generator=draws) for n in (30, 20, 10)]
    made = {
        rule: weights(rule, *states, seed=1) for rule in ("olw1", "olw0", "none", "uniform", "shuffled", "inverted")
    }
    for rule in ("olw1", "shuffled", "inverted", "none"):
        assert sum(made[rule]) / 30 == pytest.approx(1.0)
    assert sorted(made["shuffled"]) == sorted(made["olw1"])
    assert made["shuffled"] != made["olw1"]
    assert len(set(made["uniform"])) == 1
    assert 0.1 < made["uniform"][0] < 1
    order = sorted(range(30), key=lambda i: made["olw1"][i])
    assert [made["inverted"][i] for i in order] == sorted(made["inverted"], reverse=True)


def test_texts_are_sorted_by_use_and_harmful_answers_are_never_made() -> None:
    own = [
        *rows(),
        example("own", "harmful", "compliance", "it complied"),
        example("bare", "harmful", "refusal", "no"),
        example("begun", "harmful", "refusal", "no", meta={"prefill": "Sure,"}, rejected="x"),
        example("wrapped", "harmful", "compliance", "got through", category="attack-role_play"),
        example("answered", "borderline", "compliance", "so it is"),
    ]
    found = Texts.of(FitData(examples=tuple(own)))
    assert [t.answer for t in found.harmful] == [
        "nonsense words 0",
        "nonsense words 1",
        "nonsense words 2",
        "it complied",
    ]
    assert [t.other for t in found.refusals] == ["nonsense words 0", "nonsense words 1", "nonsense words 2", ""]
    assert {t.answer for t in found.safe} == {"plain 0", "plain 1", "plain 2", "so it is"}
    assert {(t.answer, t.other) for t in found.refused} == {("no, sorry", "so")}
    assert len(Texts.of(FitData(examples=tuple(own)), attacked=True).harmful) == 5
    assert len(Texts.of(FitData(examples=tuple(own)), benign="plain").safe) == 3
    none = [e for e in rows() if e.prompt.kind != "harmful"]
    with pytest.raises(DataError, match="none of 0 harmful prompts"):
        Texts.of(FitData(examples=tuple(none)))


def spans(method: Mosr, n: int = 60) -> list[tuple[Passage, str, str]]:
    model, texts = lm("llama"), Texts.of(DATA)
    draw = method.refusing(model, texts)
    drawn = [draw(i, random.Random(i)) for i in range(n)]
    said = [model.tokenizer.decode(p.ids[p.first :]) for p in drawn]
    return list(zip(drawn, said, [model.tokenizer.decode(p.ids[p.answer : p.first]) for p in drawn], strict=True))


def test_a_retained_refusal_is_read_without_its_prefix() -> None:
    made = spans(Mosr(prefix_tokens=5))
    assert all(said == "no, never<|end|>" for _, said, _ in made)
    lengths = [p.first - p.answer for p, _, _ in made]
    assert 15 <= sum(n > 0 for n in lengths) <= 45
    assert {n for n in lengths if n} == {1, 2, 3, 4, 5}
    assert all("nonsense words".startswith(before) for _, _, before in made)
    assert all("ask h" in lm("llama").tokenizer.decode(p.ids[: p.answer]) for p, _, _ in made)


def test_controls_of_the_prefix() -> None:
    assert all(p.first == p.answer for p, _, _ in spans(Mosr(prefix="none")))
    benign, harmful = spans(Mosr(prefix="benign", prefix_tokens=5)), spans(Mosr(prefix_tokens=5))
    assert [p.first - p.answer for p, _, _ in benign] == [p.first - p.answer for p, _, _ in harmful]
    assert all("plain ".startswith(before) for _, _, before in benign)
    dropped = spans(Mosr(prefix="none", refusals_keep_prompt=False, dropped=1.0))
    assert not any("ask" in lm("llama").tokenizer.decode(p.ids) for p, _, _ in dropped)


def test_mean_units_is_the_mean_unit_state_over_the_text() -> None:
    from demur.residuals import capture

    model = lm("llama")
    one, two = Passage(ids=(5, 6, 7), answer=1), Passage(ids=(8, 9), answer=1)
    found = mean_units(model, [one, two], (0, 1))
    wanted = torch.nn.functional.normalize(capture(model, [two.ids], positions="all"), dim=-1).mean(0)
    torch.testing.assert_close(found[:, 1], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "method",
    [
        CircuitBreakers(**SHORT, erase=2, retain=2, dropped=0.5, erased="answer"),
        Mosr(**SHORT, erase=2, retain=2, say=0.5),
        XBoundary(**SHORT, erase=3, retain=3, boundary=1),
        Repbend(**SHORT, each=2, distance="squared"),
    ],
    ids=lambda m: type(m).__name__,
)
def test_each_method_trains_and_says_what_it_lowered(method: Any, tmp_path: Path) -> None:
    given = method.fit(lm("llama"), FitData(examples=DATA.examples, out=tmp_path))
    record = json.loads((tmp_path / "training" / "training.json").read_text())
    assert len(record["losses"]) == 4
    assert all(len(values) == 4 for values in record["parts"].values())
    assert {"p_refuse plain", "p_refuse borderline", "p_refuse harmful", "step"} == set(record["curve"][0])
    assert "the floor at half its margin" in given.note
    moved = max(float(t.abs().max()) for name, t in given.lora.tensors.items() if "lora_B" in name)
    assert moved > 0


def test_without_weights_and_prefix_mosr_is_circuit_breakers(tmp_path: Path) -> None:
    def losses(method: Any, name: str) -> list[float]:
        method.fit(lm("llama"), FitData(examples=DATA.examples, out=tmp_path / name))
        return json.loads((tmp_path / name / "training" / "training.json").read_text())["losses"]

    for more in ({}, {"distance": "squared", "erased": "answer"}):
        short = {**SHORT, "steps": 2, "erase": 2, "retain": 2, "dropout": 0.0, **more}
        one = losses(Mosr(**short, weights="none", prefix="none"), f"mosr{len(more)}")
        # the same but for the tokens of the prompt before a retained refusal, which count nothing at the first update
        assert one[0] == pytest.approx(losses(CircuitBreakers(**short), f"cb{len(more)}")[0], rel=1e-5)


def test_what_cannot_be_done_is_said() -> None:
    none = FitData(examples=tuple(e for e in DATA.examples if e.prompt.kind != "borderline"))
    with pytest.raises(DataError, match="set pseudo=borderline"):
        Mosr(**SHORT).fit(lm("llama"), none)
    with pytest.raises(DataError, match="x_boundary: none of 0 benign prompts"):
        XBoundary(**SHORT).fit(lm("llama"), none)
    with pytest.raises(ConfigError, match="weights='all' is not understood; allowed: olw1"):
        Mosr(weights="all").fit(lm("llama"), DATA)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="distance='l1' is not understood; allowed: norm, relative, squared"):
        CircuitBreakers(distance="l1").fit(lm("llama"), DATA)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="erased='prompt' is not understood; allowed: text, answer"):
        XBoundary(erased="prompt").fit(lm("llama"), DATA)  # type: ignore[arg-type]


def test_the_answer_alone_is_erased_where_that_is_set() -> None:
    from demur.methods._passages import without_prompt

    model, texts = lm("llama"), Texts.of(DATA)
    for share in (0.0, 0.5):
        every, own = (without_prompt(model, texts.harmful, share, seed=0, whole=w) for w in (True, False))
        for i in range(6):
            one, two = every(i, random.Random(i)), own(i, random.Random(i))
            assert (one.ids, one.first) == (two.ids, 0)
            assert model.tokenizer.decode(two.ids[two.first :]).startswith("nonsense words")


def test_the_longest_trained_above_the_floor_is_kept(tmp_path: Path) -> None:
    from demur.checkpoints import Checkpoint
    from demur.lora import Lora

    Lora(rank=1, alpha=1, targets=("x",), tensors={}).write(tmp_path)

    def pick(*floors: bool) -> str:
        held = [0.9, 0.8, 0.7]
        made = [
            Checkpoint(step=i, folder=tmp_path, score={"floor": f, "held": held[i], "answered": 0.5})
            for i, f in enumerate(floors)
        ]
        return HeldOut(before=(), judge=None, max_new_tokens=1).longest_trained(made)[0].note  # type: ignore[arg-type]

    assert pick(True, True, False).startswith("checkpoint 1: trained longest of those that keep")
    assert pick(False, False, False).startswith("checkpoint 0: NO checkpoint keeps")


def test_the_most_resistant_answers_nearly_as_much_and_may_break_what_it_held(tmp_path: Path) -> None:
    from demur.checkpoints import Checkpoint
    from demur.lora import Lora

    Lora(rank=1, alpha=1, targets=("x",), tensors={}).write(tmp_path)

    def pick(*rates: tuple[float, float]) -> str:
        made = [
            Checkpoint(
                step=i,
                folder=tmp_path,
                score={"answered_before": 0.9, "answered": a, "attack_success_before": 0.5, "attack_success": s},
            )
            for i, (a, s) in enumerate(rates)
        ]
        return HeldOut(before=(), judge=None, max_new_tokens=1).most_resistant(made)[0].note  # type: ignore[arg-type]

    assert pick((0.9, 0.4), (0.86, 0.2), (0.3, 0.0)).startswith("checkpoint 1: resists most")
    assert "attack success 0.500 -> 0.200, answered 0.900 -> 0.860" in pick((0.86, 0.2))
    assert pick((0.2, 0.1), (0.4, 0.2)).startswith("checkpoint 1: NO checkpoint resists")


def test_what_is_measured_on_dev_tells_refused_from_broken() -> None:
    from demur.judges.keyword import Keyword
    from demur.types import Response

    said = {
        "p": "and and",
        "b": "I cannot help with that.",
        "q": "Yes, here it is.",
        "h": "Sure: so.",
        "a": "and and",
        "a2": "Sure: so.",
    }
    kinds = {"p": "plain", "b": "borderline", "q": "plain", "h": "harmful", "a": "harmful", "a2": "harmful"}
    made = [
        example(name, kind, "compliance", "x", split="dev", category="attack-role_play" if name.startswith("a") else "")
        for name, kind in kinds.items()
    ]
    held_out = HeldOut.of(FitData(examples=tuple(made)), Keyword(), 8)
    endless = {name: "length" if text == "and and" else "stop" for name, text in said.items()}
    found = held_out.rates([Response(prompt_id=n, text=text, finish=endless[n]) for n, text in said.items()])
    third = pytest.approx(1 / 3)
    assert (found["answered"], found["over_refusal"], found["broken"]) == (third, third, third)
    assert (found["harmful_compliance"], found["attack_success_before"], found["attack_success"]) == (1.0, 1.0, 0.5)
