"""The kernel against exact autograd and by hand; overlap, boundary measurements and curves on planted cases."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from demur import training
from demur.errors import ConfigError, DataError
from demur.explain import classes, kernels
from demur.explain.along import along
from demur.lm import LM
from demur.readout import Openers
from demur.training import How
from demur.types import Prompt
from tests.models.families import lm

pytestmark = pytest.mark.torch
TEXTS = ("how do I stop it", "how do I slay a weed", "name a hill", "where is it", "slay a boss")
PROMPTS = [Prompt(id=str(i), text=text, expected=None, source="t") for i, text in enumerate(TEXTS)]
NAMES = ["general", "seeming", "general", "general", "toxic"]


@pytest.fixture(scope="module")
def exact() -> LM:
    """A model of its own in float64."""
    made = copy.deepcopy(lm("llama"))
    made.module.double()
    return made


def weights_of(model: LM) -> list[torch.Tensor]:
    return [w.detach().clone() for w in model.module.parameters()]


@pytest.mark.parametrize("last", [0, 1])
def test_differences_are_within_two_per_cent_of_autograd(exact: LM, last: int) -> None:
    before, needed = weights_of(exact), [w.requires_grad for w in exact.module.parameters()]
    ways = {
        way: kernels.kernel(exact, PROMPTS, kernels.Settings(tokens=3, last=last, way=way))
        for way in ("exact", "differences")
    }
    assert [w.requires_grad for w in exact.module.parameters()] == needed
    assert all(torch.equal(a, b) for a, b in zip(before, exact.module.parameters(), strict=True))
    torch.testing.assert_close(ways["differences"].values, ways["exact"].values, rtol=0.02, atol=0)
    assert ways["differences"].forward == 1 + 2 * ways["differences"].backward == 31
    torch.testing.assert_close(ways["exact"].values.diagonal(), torch.ones(5).double())


def test_the_exact_block_is_that_of_the_whole_jacobian(exact: LM) -> None:
    found = kernels.kernel(exact, PROMPTS[:2], kernels.Settings(tokens=2, last=0, way="exact")).values
    weights = dict(exact.module.named_parameters())

    def logits(own: dict[str, torch.Tensor], prompt: Prompt) -> torch.Tensor:
        ids = torch.tensor([exact.encode(prompt).ids])
        return torch.func.functional_call(exact.module, own, (), {"input_ids": ids}).logits[0, -1]

    rows = []
    for prompt in PROMPTS[:2]:
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            own = torch.func.jacrev(lambda w, p=prompt: logits(w, p))(weights)
        matrix = torch.cat([j.flatten(1) for j in own.values()], 1)
        rows.append(matrix[logits(weights, prompt).topk(2).indices])
    wanted = torch.linalg.norm(rows[0] @ rows[1].T) / torch.linalg.norm(rows[0] @ rows[0].T)
    assert float(found[0, 1]) == pytest.approx(float(wanted), rel=1e-5)


def test_one_step_moves_another_prompt_as_the_kernel_says(exact: LM) -> None:
    """z(x') after a step of size e along grad z_j(x) moves by e K(x', x)."""
    settings = kernels.Settings(tokens=1, last=0, way="exact")
    ratio = float(kernels.kernel(exact, PROMPTS[:2], settings).values[1, 0])
    encoded = exact.encode_all(PROMPTS[:2])
    tops = kernels._logits(exact, encoded).argmax(-1)
    steps = []
    for on in (0, 1):
        moved = copy.deepcopy(exact)
        with kernels._trained(moved, 0) as weights:
            (gradient,) = kernels._gradients(moved, encoded[on], tops[on : on + 1], weights)
            with torch.no_grad():
                for w, g in zip(weights, gradient, strict=True):
                    w += 1e-4 * g
        steps.append(float((kernels._logits(moved, encoded) - kernels._logits(exact, encoded))[1, tops[1]]))
    assert abs(steps[0] / steps[1]) == pytest.approx(ratio, rel=0.05)


def test_means_of_classes_leave_a_prompt_with_itself_out() -> None:
    values = torch.tensor([[1.0, 0.2, 0.4], [0.6, 1.0, 0.0], [0.8, 0.1, 1.0]])
    found = kernels.Kernel(values=values, way="exact", weights=1, backward=1, forward=1, seconds=0.0)
    rows = {(r["of"], r["on"]): r for r in kernels.between(found, PROMPTS[:3], ["a", "a", "b"])}
    assert rows["a", "a"]["value"] == pytest.approx(0.4)
    assert rows["a", "b"]["value"] == pytest.approx(0.2)
    assert rows["b", "a"]["value"] == pytest.approx(0.45)
    assert (rows["b", "b"]["value"], rows["b", "b"]["n"]) == (None, 0)


def test_half_precision_and_odd_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="eps above 0"):
        kernels.Settings(eps=0)
    half = copy.deepcopy(lm("llama"))
    half.module.half()
    with pytest.raises(ConfigError, match="dtype float32"):
        kernels.kernel(half, PROMPTS)


def test_cosines_by_hand() -> None:
    states = torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]], [[0.0, 1.0]]])
    rows = {(r["a"], r["b"]): r for r in classes.cosines(states, ["x", "x", "y"])}
    assert (rows["x", "x"]["raw"], rows["x", "y"]["raw"], rows["y", "y"]["raw"]) == (1.0, 0.0, None)
    assert rows["x", "y"]["centred"] == pytest.approx(-1.0)


def test_a_planted_class_half_way_is_found_half_way() -> None:
    draws = np.random.default_rng(0)

    def cloud(at: float, count: int = 60) -> torch.Tensor:
        noise = draws.normal(size=(count, 2, 8))
        noise[:, 1, 0] += at
        noise[:, 0] = 1.0  # a layer at which nothing differs
        return torch.tensor(noise, dtype=torch.float32)

    seen = {"toxic": cloud(8), "half": cloud(4, 200), "general": cloud(0)}
    rows = {r["group"]: r for r in classes.positions(cloud(0), cloud(8), seen)}
    assert {r["layer"] for r in rows.values()} == {1}
    assert (rows["toxic"]["called_harmful"], rows["general"]["called_harmful"]) == (1.0, 0.0)
    assert rows["half"]["t"] == pytest.approx(0.5, abs=0.05)
    assert rows["half"]["margin"] == pytest.approx(0.0, abs=0.1)
    assert 0.3 < rows["half"]["called_harmful"] < 0.7


def test_the_last_layers_lens_is_the_models_own_first_token() -> None:
    model = lm("llama")
    openers = {"refuse": Openers(ids=(3, 9), agreement=1, n=1), "answer": Openers(ids=(5,), agreement=1, n=1)}
    rows = [r for r in classes.lens(model, PROMPTS, NAMES, openers) if r["layer"] == model.n_layers - 1]
    p = torch.softmax(kernels._logits(model, model.encode_all(PROMPTS)), -1)
    toxic = next(r for r in rows if r["group"] == "toxic")
    assert toxic["refuse"] == pytest.approx(float(p[4, [3, 9]].sum()), rel=1e-4)
    assert toxic["answer"] == pytest.approx(float(p[4, 5]), rel=1e-4)


def test_refusals_are_read_along_a_training(tmp_path: Path) -> None:
    model = lm("llama")
    rows = [training.completion(p, "no") for p in PROMPTS]
    how = How(rate=0.05, epochs=8, batch=5, rank=2, alpha=8, dropout=0.0, checkpoints=2)
    training.train(model, rows, tmp_path / "training", objective="sft", how=how)
    said = model.tokenizer("no", add_special_tokens=False)["input_ids"][0]
    found = along(model, tmp_path, PROMPTS, NAMES, Openers(ids=(said,), agreement=1, n=1))
    curve = [r["value"] for r in found if r["class"] == "general"]
    assert [r["step"] for r in found if r["class"] == "toxic"] == [0, 4, 8]
    assert curve == sorted(curve)
    assert curve[-1] > curve[0] + 0.2
    with pytest.raises(DataError, match="no whole checkpoint"):
        along(model, tmp_path / "none", PROMPTS, NAMES, Openers(ids=(1,), agreement=1, n=1))
