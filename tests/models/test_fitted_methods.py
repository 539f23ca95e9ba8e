"""Methods that fit maps, conditions, mixes and kernels: against computations by hand and planted effects."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from demur.errors import ConfigError, DataError
from demur.interventions.ablate import Ablate
from demur.interventions.abliterate import Abliterate
from demur.interventions.steer import Steer
from demur.lm import attach
from demur.methods import abliterate, alphasteer, cast, category_directions
from demur.methods._choice import FILE, choose
from demur.methods._contrast import Contrast
from demur.plan import Plan
from demur.residuals import capture
from demur.types import FitData, Prompt
from demur.weights import project_out
from tests.models import families
from tests.models.test_interventions import alone, close, direction
from tests.models.test_methods import data

pytestmark = pytest.mark.torch


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# alphasteer


def test_the_map_of_rank_one_is_the_papers_matrix_product() -> None:
    kept, moved, r = drawn(40, 12).numpy(), drawn(30, 12, seed=1).numpy(), drawn(12, seed=2).numpy()
    share, ridge = 0.5, 10.0
    _, _, vt = np.linalg.svd(kept, full_matrices=True)
    q = vt[-6:].T
    p = q @ q.T
    x = moved @ p
    d = np.linalg.pinv(x.T @ x + ridge * p.T @ p, rcond=1e-10) @ x.T @ np.tile(r, (30, 1))
    w = alphasteer.null_space_reader(torch.tensor(kept), torch.tensor(moved), share, ridge).double().numpy()
    np.testing.assert_allclose(np.outer(w, r), p @ d, rtol=1e-5, atol=1e-7)


def test_what_lies_outside_the_null_space_is_left_alone() -> None:
    kept, moved = torch.zeros(20, 8), torch.zeros(15, 8)
    kept[:, :4] = drawn(20, 4).float()
    moved[:, :4], moved[:, 5] = drawn(15, 4, seed=1).float(), 10.0
    w = alphasteer.null_space_reader(kept, moved, 0.5, 0.1)
    assert float((kept @ w).abs().max()) < 1e-6
    torch.testing.assert_close(moved @ w, torch.ones(15), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("role", ["answer", "refuse"])
def test_alphasteer_adds_to_the_prompt_what_its_last_state_asks_for(role) -> None:
    lm = families.lm("llama")
    method = alphasteer.Alphasteer(role=role, layers=(0,), shares=(0.5,), strengths=(0.7,))
    made = method.fit(lm, data())
    assert made.strength == (-0.7 if role == "answer" else 0.7)
    prompt = Prompt(id="x", text="a question", expected=None, source="t")
    before = capture(lm, [prompt], layers=(1,), points="resid_pre", positions="prompt")[:, 0]
    with attach(lm, made):
        after = capture(lm, [prompt], layers=(1,), points="resid_pre", positions="prompt")[:, 0]
    along = before[-1] @ made.reads.vectors[0]
    expected = before + made.strength * along * made.writes.vectors[0]
    torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-4)


def test_roles_say_which_prompts_give_the_direction() -> None:
    lm = families.lm("llama")
    contrast = Contrast.of(lm, data(), layers=(1,))
    for role, against in (("answer", "borderline"), ("refuse", "harmful")):
        made = alphasteer.Alphasteer(role=role, layers=(1,), shares=(0.5,), strengths=(1.0,)).fit(lm, data())
        torch.testing.assert_close(made.writes.vectors, contrast.direction(against).vectors)


# cast


def test_the_condition_points_to_the_harmful_along_the_first_component() -> None:
    harmful, benign = drawn(30, 6), drawn(40, 6, seed=1)
    harmful[:, 2] += 8
    c = cast.condition(harmful.float(), benign.float())
    x = torch.cat([harmful, benign]) - (harmful.mean(0) + benign.mean(0)) / 2
    vectors = np.linalg.eigh((x.T @ x).numpy())[1]
    assert abs(float(c.double() @ torch.tensor(vectors[:, -1]))) == pytest.approx(1, abs=1e-6)
    assert float(c[2]) > 0.9


def test_the_best_f1_is_that_of_trying_every_threshold() -> None:
    for seed in range(5):
        inside, outside = drawn(9, seed=seed) - 0.5, drawn(14, seed=seed + 50)
        f1, threshold, rule = cast.best_f1(inside, outside)
        tried = []
        for t in torch.cat([inside, outside]).tolist():
            for fires in (lambda s, t=t: s <= t, lambda s, t=t: s > t):
                hits, false = int(fires(inside).sum()), int(fires(outside).sum())
                tried.append(2 * hits / (hits + false + len(inside)))
        fired = (
            (inside < threshold, outside < threshold) if rule == "below" else (inside > threshold, outside > threshold)
        )
        hits, false = (int(x.sum()) for x in fired)
        assert f1 == pytest.approx(2 * hits / (hits + false + len(inside)))
        assert f1 == pytest.approx(max(tried))


def test_cast_reads_the_mean_of_the_prompts_tokens_once_and_steers_there_alone() -> None:
    lm = families.lm("llama")
    method = cast.Cast(layers=(1,), condition_layers=(0,), thresholds=("quantile",), quantile=0.5, strengths=(2.0,))
    made = method.fit(lm, data())
    gate, c = made.gate, made.gate.weight
    harmful = [e for e in data().examples if e.prompt.kind == "harmful" and e.split == "dev"]
    h = cast._means(lm, harmful, (0,))[:, 0]
    target = torch.tanh((h @ c)[:, None] * c / (c @ c))
    similarity = torch.nn.functional.cosine_similarity(h, target)
    opened = similarity < gate.threshold if gate.rule == "below" else similarity > gate.threshold
    assert float(opened.float().mean()) == pytest.approx(0.5, abs=0.1)
    plan = made.plan(lm)
    for example, is_open in zip(harmful, opened.tolist(), strict=True):
        ids = lm.encode(example.prompt).ids
        tokens, rows, _ = lm.batch([lm.encode(example.prompt)], [plan])
        edited = lm.head(lm.forward(tokens, rows))[0]
        assert close(edited[: len(ids)], alone(lm, ids, Plan())) != is_open


# category_directions


def test_the_mix_is_the_whitened_regression_within_the_span_of_the_categories() -> None:
    rows = torch.zeros(3, 8, dtype=torch.float64)
    rows[0, 0], rows[1, 1], rows[2, 0], rows[2, 1] = 2.0, 3.0, 1.0, 1.0
    noise = torch.diag(torch.tensor([1.0, 2, 1, 1, 1, 1, 1, 0.5], dtype=torch.float64))
    answered = drawn(400, 8) @ noise
    refused = drawn(300, 8, seed=1) @ noise + rows[0] + rows[1]
    v, a = category_directions.mixed(rows, refused, answered, rank=4, shrinkage=0.1)
    assert a.shape == (2,)
    groups = np.concatenate([x.numpy() - x.numpy().mean(0) for x in (refused, answered)])
    s = groups.T @ groups / len(groups)
    s = 0.9 * s + 0.1 * np.trace(s) / 8 * np.eye(8)
    values, vectors = np.linalg.eigh(s)
    root, inverse = (vectors * values**0.5) @ vectors.T, (vectors * values**-0.5) @ vectors.T
    whitened = inverse @ v.numpy()
    span = inverse @ rows.numpy()[:2].T
    inside = span @ np.linalg.lstsq(span, whitened, rcond=None)[0]
    np.testing.assert_allclose(inside, whitened, atol=1e-6 * np.abs(whitened).max())
    unit = whitened / np.linalg.norm(whitened)
    gap = (refused.numpy().mean(0) - answered.numpy().mean(0)) @ inverse @ unit
    np.testing.assert_allclose(v.numpy(), gap * root @ unit, atol=1e-9)
    assert float(v[0]) > 1
    assert float(v[1]) > 1
    assert float(torch.linalg.norm(v[2:])) < 1


def test_categories_are_those_with_prompts_enough_and_an_attacked_prompt_keeps_its_own() -> None:
    refused, answered = drawn(7, 3), drawn(4, 3, seed=1)
    rows, used = category_directions.by_category(refused, answered, list("abababc"), 3)
    assert used == ["a", "b"]
    torch.testing.assert_close(rows[0], refused[[0, 2, 4]].mean(0) - answered.mean(0))
    with pytest.raises(DataError, match="no category has 9 refused prompts; there are a: 3"):
        category_directions.by_category(refused, answered, list("abababc"), 9)


def test_a_harmful_prompt_goes_towards_refusal_and_a_benign_one_away() -> None:
    lm = families.lm("llama")
    settings = {"layer": 1, "least": 2, "quantiles": (0.2,), "strengths": (1.5,)}
    made = category_directions.CategoryDirections(**settings).fit(lm, data())
    assert made.gate.rule == "sign"
    assert made.inner.strength == 1.5
    values = made.gate.values(torch.tensor([[made.gate.threshold + 1], [made.gate.threshold - 1]]) - made.gate.bias)
    assert values.flatten().tolist() == [1.0, -1.0]
    away = category_directions.CategoryDirections(**settings, towards=False).fit(lm, data())
    assert (away.gate.rule, away.inner.strength) == ("below", -1.5)


# abliterate


def test_kernel_by_hand() -> None:
    assert abliterate.kernel(5, 1.0, 0.2, 0.5, 0.5) == pytest.approx((0.2, 0.6, 1.0, 0.6, 0.2))
    assert abliterate.kernel(5, 1.5, 0.5, 1.0, 0.25) == pytest.approx((0, 0, 0, 0.5, 1.5))
    assert abliterate.kernel(1, 1.0, 0.5, 0.0, 0.6) == (1.0,)


def test_projected_and_biprojected_directions_have_nothing_of_the_harmless_mean() -> None:
    lm = families.lm("llama")
    contrast = Contrast.of(lm, data())
    mu = contrast.group("answered_plain").mean(0)
    raw = contrast.direction("harmful").vectors
    made = abliterate.Abliterate().fit(lm, data())
    for own, r, m in zip(made.direction.vectors, raw, mu, strict=True):
        torch.testing.assert_close(own, r - (r @ m) / (m @ m) * m, rtol=1e-4, atol=1e-5)
    both = abliterate.Abliterate(measured_at=0.5, projection="biprojected").fit(lm, data())
    units = torch.nn.functional.normalize(made.direction.vectors, dim=1)
    for own, m in zip(both.direction.vectors, mu, strict=True):
        middle = units.mean(0)
        torch.testing.assert_close(own, middle - (middle @ m) / (m @ m) * m, rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigError, match="biprojected measures at one layer"):
        abliterate.Abliterate(projection="biprojected")


def test_columns_keep_their_lengths_exactly_and_rows_bring_a_little_back() -> None:
    w, r = drawn(64, 256), torch.nn.functional.normalize(drawn(64, seed=1), dim=0)
    made = {n: project_out(w, r, 1.0, 0, n) for n in ("none", "column", "row")}
    left = {n: float((r @ m).norm() / (r @ w).norm()) for n, m in made.items()}
    torch.testing.assert_close(made["none"], w - torch.outer(r, r @ w))
    assert left["none"] < 1e-12
    assert left["column"] < 1e-12
    assert 0.001 < left["row"] < 0.2
    torch.testing.assert_close(made["column"].norm(dim=0), w.norm(dim=0))
    torch.testing.assert_close(made["row"].norm(dim=1), w.norm(dim=1))
    rows = torch.nn.functional.normalize(w, dim=1)
    rows = torch.nn.functional.normalize(rows - torch.outer(r, r @ rows), dim=1) * w.norm(dim=1, keepdim=True)
    torch.testing.assert_close(made["row"], rows)
    torch.testing.assert_close(project_out(w.T, r, 1.0, 1, "column"), made["column"].T.contiguous())


def test_abliteration_without_norms_is_ablation_of_the_edited_blocks() -> None:
    model = families.lm("gemma2")
    r = direction(model)
    both = Abliterate(
        direction=type(r)(vectors=r.vectors.repeat(2, 1), layers=(0, 1), model=r.model, estimator="drawn"),
        weights=(0.8, 0.8),
    )
    hooks = Ablate(direction=r, strength=0.8, embedding=False)
    expected = alone(model, (5, 6, 7, 8), hooks.plan(model))
    with attach(model, both):
        assert close(alone(model, (5, 6, 7, 8), Plan()), expected)


# the choice


def test_the_choice_is_written_with_every_rate_and_says_that_none_keeps_the_floor(tmp_path) -> None:
    lm = families.lm("llama")
    few = data(each=3)
    given = FitData(examples=few.examples, out=tmp_path)
    tried = {f"s{s}": Steer(direction=direction(lm), strength=-s) for s in (0.5, 1.0)}
    made = choose(lm, given, tried, max_new_tokens=3)
    record = json.loads((tmp_path / FILE).read_text())
    assert tried[record["chosen"]] is made
    assert set(record["tried"]) == {"s0.5", "s1.0"}
    assert "NO setting answers more and keeps the floor" in record["why"]
    with pytest.raises(DataError, match="no example of the dev split to choose on"):
        choose(lm, FitData(examples=tuple(e for e in few.examples if e.split == "fit")), tried)
