"""Plans as data: saving, joining, fingerprints, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from demur.errors import ConfigError, DataError
from demur.plan import Gate, Plan, Probe, Site, WeightEdit, at_layer, check_positions, merge, unit
from demur.rows import bind

pytestmark = pytest.mark.torch


def site(**kwargs: Any) -> Site:
    settings = {"op": "add", "layers": (1,), "point": "resid_post", "vector": "v", "strength": 0.5}
    return Site(**{**settings, **kwargs})


def plan(**kwargs: Any) -> Plan:
    settings: dict[str, Any] = {
        "sites": (site(gate=0), site(op="ablate", layers=(0, 1), positions="generated[:4]")),
        "gates": (Gate(probe=Probe(layers=(0,)), weight=torch.arange(4.0), bias=0.5, rule="below", threshold=2.0),),
        "system": "Be kind.",
        "weights": (WeightEdit(part="mlp", layers=(0,), vector="r", strength=0.3),),
        "tensors": {"v": torch.ones(4), "r": torch.tensor([[1.0, 0, 0, 0], [0, 2.0, 0, 0]])},
    }
    return Plan(**{**settings, **kwargs})


def test_a_saved_plan_comes_back_equal(tmp_path: Path) -> None:
    plan().save(tmp_path / "plan")
    again = Plan.load(tmp_path / "plan")
    assert again.fingerprint == plan().fingerprint
    assert again.describe() == plan().describe()
    assert again.sites == plan().sites
    assert torch.equal(again.gates[0].weight, torch.arange(4.0))


def test_a_missing_plan_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"plan\.json"):
        Plan.load(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"sites": (site(strength=0.6),)},
        {"system": None},
        {"gates": (Gate(probe=Probe(layers=(0,)), weight=torch.ones(4)),)},
        {"tensors": {"v": torch.ones(4), "r": torch.ones(2, 4)}},
    ],
)
def test_any_change_changes_the_fingerprint(change: dict[str, Any]) -> None:
    assert plan(**change).fingerprint != plan().fingerprint


def test_a_plan_describes_itself() -> None:
    assert plan().describe().splitlines() == [
        "system text: 'Be kind.'",
        "add 0.5 x v at resid_post of layer 1, all tokens, where gate 0 is open",
        "ablate 0.5 x v at resid_post of layers 0 to 1, generated[:4] tokens",
        "gate 0 is open where the probe of resid_post[0] at last_prompt is below 2",
        "project 0.3 x r out of the weights of mlp of layer 0",
    ]
    assert Plan().describe() == "nothing"


def test_joined_plans_keep_their_tensors_and_gates_apart() -> None:
    other = plan(tensors={"v": torch.zeros(4), "r": torch.zeros(4)}, system="Be brief.")
    joined = merge([plan(), other, Plan()])
    assert [s.gate for s in joined.sites] == [0, None, 1, None]
    assert [float(joined.tensors[s.vector].sum()) for s in joined.sites] == [4, 4, 0, 0]
    assert joined.system == "Be kind.\n\nBe brief."
    assert merge([]).describe() == "nothing"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sites": (site(vector="w"),)}, "tensor 'w' is named by an edit"),
        ({"sites": (site(gate=3),)}, "names gate 3, but there are 1"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(**change)
    with pytest.raises(ConfigError, match="positions 'later' are not understood; allowed: all, prompt"):
        site(positions="later")
    with pytest.raises(ConfigError, match="point 'middle' is not understood; allowed: resid_pre"):
        site(point="middle")
    with pytest.raises(ConfigError, match="rule 'near'"):
        Gate(probe=Probe(layers=(0,)), weight=torch.ones(4), rule="near")  # type: ignore[arg-type]


def test_positions_are_read_strictly() -> None:
    assert check_positions("generated[:12]") == 12
    assert check_positions("last_prompt") is None
    for name in ("generated[:-1]", "generated[2:]", "generated[:k]", ""):
        with pytest.raises(ConfigError):
            check_positions(name)


def test_vectors_are_taken_by_layer_and_normalised() -> None:
    assert at_layer(torch.ones(4), 3).tolist() == [1, 1, 1, 1]
    assert at_layer(torch.eye(4), 3).tolist() == [0, 0, 0, 1]
    assert unit(torch.tensor([3.0, 4.0])).tolist() == pytest.approx([0.6, 0.8])
    assert unit(torch.zeros(2)).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("op", "strength", "expected"),
    [
        ("add", -0.5, [1 - 1.5, 2 - 2.0]),
        ("ablate", 1.0, [1 - 2.2 * 0.6, 2 - 2.2 * 0.8]),
        ("ablate", 0.5, [1 - 1.1 * 0.6, 2 - 1.1 * 0.8]),
        ("set", 2.0, [1 - 2.2 * 0.6 + 6, 2 - 2.2 * 0.8 + 8]),
    ],
)
def test_edits_follow_their_formulas(op: str, strength: float, expected: list[float]) -> None:
    """h = (1, 2), v = (3, 4): u = (0.6, 0.8), <h, u> = 2.2."""
    from demur.chats import Encoded
    from demur.rows import Rows

    place = site(op=op, strength=strength, layers=(0,))
    one = plan(sites=(place,), gates=(), weights=(), tensors={"v": torch.tensor([3.0, 4])})
    bound = bind(one, 1, 2, torch.device("cpu"))
    rows = Rows.of([Encoded((1, 2), 2, 1)], [bound], torch.device("cpu"))
    h = torch.tensor([[[1.0, 2.0], [1.0, 2.0]]])
    edited = rows.edits(2)[0, "resid_post"](h)
    assert edited[0, 1].tolist() == pytest.approx(expected, abs=1e-6)
    assert h.tolist() == [[[1.0, 2.0], [1.0, 2.0]]]
