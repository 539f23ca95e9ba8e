"""Capability: lm-eval tasks that the test writes, on a small model, before and after an intervention."""

from __future__ import annotations

import importlib.util
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from demur.capability import Tasks, by_item, capability, compare
from demur.errors import DataError, Unavailable
from demur.interventions.ablate import Ablate
from demur.interventions.steer import Steer
from demur.lm import LM, attach
from demur.types import Prompt
from tests.models.families import lm
from tests.models.test_decoding import direction

pytestmark = pytest.mark.torch
HAS_EXTRA = importlib.util.find_spec("lm_eval") is not None
needs_extra = pytest.mark.skipif(not HAS_EXTRA, reason="lm-eval is not installed (extra `eval`)")

CHOICE = """
task: demur_choice
dataset_path: json
dataset_kwargs: {data_files: {test: %s}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
target_delimiter: ""
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""
WRITE = """
task: demur_write
dataset_path: json
dataset_kwargs: {data_files: {test: %s}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{gold}}"
generation_kwargs: {until: ["."], max_gen_toks: 6, do_sample: false}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""
LETTERS = "abcdefgh"


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("tasks")
    draw = np.random.default_rng(0)
    rows = []
    for i in range(24):
        words = ["".join(draw.choice(list(LETTERS), 3)) for _ in range(4)]
        rows.append({"question": f"{words[0]} {words[1]} ", "choices": words[2:], "answer": i % 2, "gold": words[3]})
    data = folder / "rows.json"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, text in (("choice", CHOICE), ("write", WRITE)):
        (folder / f"demur_{name}.yaml").write_text(text % json.dumps(str(data)))
    return folder, rows


def expected(model: LM, rows: list[dict[str, Any]]) -> dict[str, float]:
    """Score each item with the model's own forward pass, one choice at a time."""
    found = {}
    for i, row in enumerate(rows):
        scores = []
        for choice in row["choices"]:
            head = model.tokenizer(row["question"])["input_ids"]
            whole = model.tokenizer(row["question"] + choice)["input_ids"]
            ids, states, _ = model.batch(model.encode_all([whole]))
            states.prompt[:] = len(head)
            logits = model.head(model.forward(ids, states))[0].double().log_softmax(-1)
            scores.append(sum(float(logits[at - 1, whole[at]]) for at in range(len(head), len(whole))))
        found[str(i)] = float(int(np.argmax(scores)) == row["answer"])
    return found


@needs_extra
@pytest.mark.filterwarnings("ignore")
def test_a_task_is_scored_through_demurs_forward_pass(tasks: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, rows = tasks
    model, before = lm("llama"), {k: v.clone() for k, v in lm("llama").module.state_dict().items()}
    steer = Steer(direction=direction(), strength=6.0)
    wanted = Tasks(names=("demur_choice", "demur_write"), folder=folder)
    choice, write = capability(model, wanted, steer)
    assert (choice.task, choice.metric, choice.n) == ("demur_choice", "acc", 24)
    plain = expected(model, rows)
    with attach(model, steer):
        moved = expected(model, rows)
    assert plain != moved, "the intervention must matter here"
    assert choice == compare("demur_choice", "acc", plain, moved)
    assert (write.task, write.metric, write.n) == ("demur_write", "exact_match", 24)
    alone = capability(model, wanted)
    assert [c.delta for c in alone] == [None, None]
    assert alone[0].before == choice.before
    weights = capability(model, Tasks(names=("demur_choice",), folder=folder), Ablate(direction=direction()))
    assert weights[0].delta is not None
    assert all(torch.equal(v, before[k]) for k, v in model.module.state_dict().items())


@needs_extra
@pytest.mark.filterwarnings("ignore")
def test_texts_are_written_and_cut_as_the_task_says(tasks: tuple[Path, list[dict[str, Any]]]) -> None:
    from types import SimpleNamespace

    from demur.harness import Harness

    model = lm("llama")
    seen = Harness(model)
    asked = [SimpleNamespace(args=(row["question"], {"until": ["a"], "max_gen_toks": 5})) for row in tasks[1][:4]]
    answers = seen.generate_until(asked)
    for row, answer in zip(tasks[1], answers, strict=False):
        ids = torch.tensor([model.tokenizer(row["question"])["input_ids"]])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            whole = model.module.generate(ids, max_new_tokens=5, do_sample=False, pad_token_id=0)[0, ids.shape[1] :]
        assert answer == model.tokenizer.decode(whole, skip_special_tokens=True).strip().split("a")[0]
    text = SimpleNamespace(args=("abc def",))
    ids = model.tokenizer("abc def")["input_ids"]
    total = seen._loglikelihood_tokens([(None, [seen.prefix_token_id], ids)])[0][0]
    assert seen.loglikelihood_rolling([text]) == [pytest.approx(total)]
    turns = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "abc"}]
    asked_of = Prompt(id="", text="abc", expected=None, source="", system="be brief")
    assert seen.apply_chat_template(turns) == model.chats.render(asked_of)
    assert seen.apply_chat_template([*turns, {"role": "assistant", "content": "So"}]).endswith("So")


def test_changes_are_paired_by_item() -> None:
    before = {str(i): float(i < 60) for i in range(100)}
    after = {str(i): float(10 <= i < 64) for i in range(100)}
    change = compare("t", "acc", before, after)
    assert change.before.value == pytest.approx(0.6)
    assert change.delta is not None
    assert change.delta.value == pytest.approx(-0.06)
    assert (change.n, change.changed) == (100, 14)
    assert change.delta.low < -0.06 < change.delta.high
    unpaired = change.before.high - change.before.low
    assert change.delta.high - change.delta.low < unpaired
    same = compare("t", "acc", before, before).delta
    assert same is not None
    assert (same.value, same.low < 0 < same.high) == (0.0, True)
    with pytest.raises(DataError, match="not the same items"):
        compare("t", "acc", before, {"0": 1.0})


def test_the_interval_of_a_change_covers_the_truth() -> None:
    draw, covered = np.random.default_rng(0), 0
    for _ in range(100):
        old = draw.random(150) < 0.6
        new = np.where(draw.random(150) < 0.1, ~old, old)  # 10 % flip: 60 % -> .6 * .9 + .4 * .1 = 58 %
        sides = [{str(i): float(v) for i, v in enumerate(side)} for side in (old, new)]
        delta = compare("t", "acc", *sides).delta
        covered += delta is not None and delta.low <= -0.02 <= delta.high
    assert covered >= 89


def test_scores_are_read_by_item_and_filter() -> None:
    rows = [
        {"doc_id": 0, "filter": "none", "metrics": ["acc", "ppl"], "acc": True, "ppl": (1.0, 2)},
        {"doc_id": 0, "filter": "strict", "metrics": ["acc"], "acc": 0.5},
    ]
    assert by_item({"t": rows}) == {("t", "acc"): {"0": 1.0}, ("t", "acc (strict)"): {"0": 0.5}}


def test_without_the_extra_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None)
    with pytest.raises(Unavailable, match=r"pip install 'demur\[eval\]'"):
        capability(lm("llama"), Tasks(names=("arc_easy",)))
