"""A mined set as data to train on: groups on one side each, and the rows beside what was mined."""

from __future__ import annotations

import pytest

from demur.files import read_rows
from demur.mine import beside
from demur.mining.splits import components, sides
from demur.mining.stages import mine
from demur.types import Example, Prompt
from tests.unit.test_mining import line, rows, what


def prompt(name: str, text: str = "", **more: str) -> Prompt:
    return Prompt(id=name, text=text or f"text of {name}", source="t", **{"expected": "comply", **more})  # type: ignore[arg-type]


def test_rows_belong_together_by_pair_group_and_text():
    made = [
        prompt("a", pair="h"), prompt("b"), prompt("h", expected="refuse"), prompt("c", group="h"),
        prompt("d", text="Text of B!"), prompt("e", group="g"), prompt("f", group="g", pair="a"),
    ]  # fmt: skip
    assert components(made) == [0, 1, 0, 0, 1, 0, 0]


def test_what_was_calibrated_on_is_held_out_unless_it_belongs_to_what_was_mined():
    selected = [prompt("a", pair="h"), prompt("h")]
    others = [
        Example(prompt=prompt("x"), split="dev", label="refusal"),
        Example(prompt=prompt("y", pair="h"), split="dev", label="refusal"),
        Example(prompt=prompt("z", group="x"), split="fit", label="compliance"),
        Example(prompt=prompt("w"), split="fit", label="compliance"),
        Example(prompt=prompt("v", text="text of A"), split="fit", label="compliance"),
    ]
    assert sides(selected, others, dev=0.5, seed=0) == (["fit", "fit"], ["dev", None, None, "fit", None])


def test_without_such_rows_a_share_of_all_groups_is_held_out():
    selected = [prompt(f"s{n}", group=f"g{n // 4}") for n in range(2000)]
    others = [Example(prompt=prompt(f"o{n}", group=f"g{n}"), split="fit", label="compliance") for n in range(1000)]
    own, kept = sides(selected, others, dev=0.2, seed=3)
    assert sum(side == "dev" for side in own) / 2000 == pytest.approx(0.2, abs=0.04)
    assert [own[n] for n in range(0, 2000, 4)] == kept[:500]
    assert set(kept[500:]) == {"fit", "dev"}
    assert sides(selected, others, dev=0.0, seed=3)[0] == ["fit"] * 2000


def test_harmful_prompts_that_were_answered_are_not_beside():
    told = [("harmful", "refuse", "refusal"), ("harmful", "refuse", "compliance"), ("plain", "comply", "compliance"),
            ("plain", "comply", "refusal"), ("borderline", "comply", "refusal"), ("plain", "comply", None)]  # fmt: skip
    made = [
        Example(prompt=prompt(f"{split}{n}", kind=kind, expected=wanted), split=split, label=label)
        for split in ("fit", "dev")
        for n, (kind, wanted, label) in enumerate(told)
    ]
    assert [e.prompt.id for e in beside(made)] == ["fit0", "fit2", "dev0", "dev2", "dev3", "dev4"]
    assert [e.prompt.id for e in beside(made, export_answered=True) if e.prompt.id.endswith("1")] == ["dev1"]


def test_a_mined_set_holds_what_it_takes_to_train_on_it(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"".join(map(line, rows())))
    others = [
        Example(prompt=prompt(f"p{n}", kind="plain"), split=split, answer="so", label="compliance")
        for n in range(4)
        for split in ("fit", "dev")[n % 2 : n % 2 + 1]
    ]
    card = mine(what(path, beside=tuple(others)), tmp_path / "out")
    made = read_rows(tmp_path / "out" / "selected.jsonl", Example)
    assert card["selection"]["beside"] == {"plain/dev": 2, "plain/fit": 2}
    assert [e.answer for e in made if e.prompt.get("stratum") == "beside"] == ["so"] * 4
    groups = {s: {k for e in made if e.split == s for k in (e.prompt.cluster, e.prompt.id)} for s in ("fit", "dev")}
    assert not groups["fit"] & groups["dev"]
