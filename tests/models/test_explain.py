"""Distances, layers, experiments, and what is read inside a model, on planted and tiny models."""

import numpy as np
import pytest
import torch

from demur import stats
from demur.boundary import Axis
from demur.causal import flips
from demur.decoding import first_token_logits
from demur.directions import Direction
from demur.distances import DISTANCES, Fitted, compare, distance
from demur.explain.boundary import explain
from demur.explain.comparison import Side, moved, side_by_side, transfer
from demur.explain.controls import random_axes
from demur.explain.experiments import Settings, e1_map, e3_sufficiency
from demur.explain.inside import OpenModel, instruction_states
from demur.explain.jobs import Asked, held_out, labels
from demur.explain.languages import Spoken, e4_languages
from demur.explain.observed import Observed
from demur.explain.prompt import explain_prompt
from demur.interventions.steer import Steer
from demur.layers import choose_layer
from demur.methods._contrast import Contrast
from demur.readout import Openers
from demur.report import boundary_page
from demur.residuals import capture
from demur.types import Example, FitData, Prompt
from tests.models import families

pytestmark = pytest.mark.torch


def cloud(n, rng, centre, d=6):
    return torch.tensor(rng.normal(0, 0.3, (n, d)) + np.r_[centre, np.zeros(d - 1)])


def planted(n=600, seed=0, harm_matters=0.0):
    """States on a line from harmless (0) to harmful (1); refusal is decided by t, and by harm where asked."""
    rng = np.random.default_rng(seed)
    fitted = Fitted(harmful=cloud(200, rng, 4.0), harmless=cloud(200, rng, 0.0))
    x = rng.uniform(0, 4, n)
    states = torch.tensor(np.c_[x, rng.normal(0, 0.3, (n, 5))])
    harm = rng.random(n) < 0.5
    p = 1 / (1 + np.exp(-(10 * (x / 4 - 0.5) + harm_matters * (harm - 0.5))))
    refused = rng.random(n) < p
    prompts = [
        Prompt(
            id=str(i),
            text=f"w{i % 7} u{i % 5}",
            expected="refuse" if h else "comply",
            kind="harmful" if h else "borderline",
            source="t",
            language="en" if i % 2 else "de",
        )
        for i, h in enumerate(harm)
    ]
    labels = ["refusal" if r else "compliance" for r in refused]
    return fitted, states, Observed(prompts=prompts, labels=labels), p, ~harm


@pytest.mark.parametrize("name", DISTANCES)
def test_every_distance_is_about_0_at_the_boundary_and_rises_with_refusal(name):
    fitted, states, seen, p, benign = planted()
    d, fit = distance(name, fitted, states, p, seen.refused, benign)
    assert fit.unusable == ""
    assert stats.spearman(d, states[:, 0].numpy()) > 0.8
    near = np.abs(states[:, 0].numpy() - 2) < 0.2
    assert abs(np.median(d[near])) < 0.35


def test_distances_are_compared_by_rank_and_what_never_flips_is_farthest():
    fitted, states, seen, p, benign = planted()
    alpha = np.abs(states[:, 0].numpy() - 2)
    alpha[alpha > 1.8] = np.inf
    rows = {row["distance"]: row for row in compare(fitted, states, p, seen.refused, benign, alpha)}
    assert set(rows) == set(DISTANCES)
    assert rows["projection"]["spearman"] > 0.9
    assert rows["readout"]["n"] == 600


def test_map_puts_the_groups_where_they_were_planted():
    fitted, states, seen, _, _ = planted()
    axis = fitted.axis
    found = e1_map(axis.coordinate(states), states, axis, seen, randoms=random_axes(axis))
    groups = found["groups"]
    assert groups["benign_answered"]["t"] < 0.4 < 0.6 < groups["benign_refused"]["t"]
    assert groups["benign_refused"]["low"] < groups["benign_refused"]["t"] < groups["benign_refused"]["high"]
    overlap = {(row["high"], row["low_group"]): row for row in found["overlap"]}
    row = overlap["benign_refused", "benign_answered"]
    assert row["auroc"]["low"] < row["auroc"]["value"] < row["auroc"]["high"]
    assert row["auroc"]["value"] > np.median(row["random"])
    assert len(row["random"]) == len(groups["benign_refused"]["random"]) == 20


def test_the_component_of_the_map_is_the_first_of_what_the_axis_leaves():
    rng = np.random.default_rng(3)
    fitted, _, seen, _, _ = planted()
    states = torch.tensor(rng.normal(0, 1, (600, 6)) * np.array([1, 5, 1, 1, 1, 1.0]))
    axis = fitted.axis
    found = e1_map(axis.coordinate(states), states, axis, seen)
    unit = (axis.v / axis.v.norm()).numpy()
    rest = states.numpy() - states.numpy().mean(0)
    rest -= np.outer(rest @ unit, unit)
    second = rest @ np.linalg.svd(rest, full_matrices=False)[2][0]
    own = seen.sorts()["benign_refused"]
    assert abs(found["groups"]["benign_refused"]["pc"]) == pytest.approx(abs(second[own].mean()), abs=1e-9)


def test_what_was_neither_refused_nor_answered_is_in_no_group():
    _, _, seen, _, _ = planted(4)
    odd = Observed(prompts=seen.prompts, labels=["refusal", None, "gibberish", "compliance"])
    assert odd.read.tolist() == [True, False, False, True]
    assert not any(own[1] or own[2] for own in odd.sorts().values())
    assert [p.id for p in odd.where(odd.read).prompts] == ["0", "3"]


def test_random_axes_have_the_norm_and_the_origin_of_the_fitted_one():
    axis = planted(50)[0].axis
    made = random_axes(axis, 30)
    for other in made:
        assert float(other.v.norm()) == pytest.approx(float(axis.v.norm()))
        torch.testing.assert_close(other.mu_minus, axis.mu_minus)
    assert len({float(other.v[0]) for other in made}) == 30


@pytest.mark.parametrize(("matters", "mediated"), [(0.0, True), (6.0, False)])
def test_sufficiency_finds_whether_harm_acts_beside_the_coordinate(matters, mediated):
    fitted, states, seen, _, _ = planted(900, harm_matters=matters)
    found = e3_sufficiency(fitted.axis.coordinate(states), seen)
    assert (found["b"]["low"] < 0 < found["b"]["high"]) == mediated
    assert found["words"]["difference"] > 0.2
    assert found["mixtures"]["all"]["t_star"] == pytest.approx(0.5, abs=0.05)


def spoken(fitted):
    return Spoken(
        fitted=fitted,
        harmful=[f"g{i}" for i in range(len(fitted.harmful))],
        harmless=[f"h{i}" for i in range(len(fitted.harmless))],
    )


def test_languages_compare_directions_and_apply_the_home_threshold():
    fitted, states, seen, _, _ = planted()
    turned = Fitted(harmful=fitted.harmful.flip(1), harmless=fitted.harmless.flip(1))
    rows = {row["language"]: row for row in e4_languages(states, seen, {"en": spoken(fitted), "de": spoken(turned)})}
    assert rows["en"]["cosine"]["value"] == pytest.approx(1)
    assert rows["de"]["cosine"]["low"] <= rows["de"]["cosine"]["value"] <= rows["de"]["cosine"]["high"]
    assert abs(rows["de"]["cosine"]["value"]) < 0.2
    assert len(rows["de"]["cosine_random"]) == len(rows["de"]["shift_random"]) == 20
    assert rows["de"]["own"]["unusable"]
    told = rows["de"]["told"]
    assert told["home_v_home_t"]["value"] > 0.8
    assert told["home_v_own_t"]["value"] > 0.8 > told["own_v_own_t"]["value"]
    assert len(told["random"]) == 20
    shift = rows["de"]["shift"]["t_star"]
    assert shift["low"] < 0 < shift["high"]


def test_a_line_that_lies_elsewhere_in_one_language_is_found():
    fitted, states, seen, _, _ = planted(1200)
    away = states.clone()
    de = np.array([p.language == "de" for p in seen.prompts])
    away[torch.tensor(de), 0] += 1.2  # a shift of .3 in units of the gap
    rows = {row["language"]: row for row in e4_languages(away, seen, {"en": spoken(fitted)})}
    shift = rows["de"]["shift"]["t_star"]
    assert shift["value"] == pytest.approx(0.3, abs=0.06)
    assert shift["low"] > 0
    assert rows["de"]["cosine"] is None
    assert rows["de"]["told"]["home_v_own_t"]["value"] > rows["de"]["told"]["home_v_home_t"]["value"] + 0.1


def test_a_moved_and_sharpened_line_is_told_from_one_that_stayed():
    fitted, states, seen, _, _ = planted(1500)
    rng = np.random.default_rng(5)
    x = states[:, 0].numpy() / 4
    refused = rng.random(len(x)) < 1 / (1 + np.exp(-30 * (x - 0.7)))
    later = Observed(prompts=seen.prompts, labels=["refusal" if r else "compliance" for r in refused])
    before = Side.of("a", 1, fitted.axis, states, seen)
    pair = moved(before, Side.of("b", 1, fitted.axis, states, later))
    everything = pair["scopes"][0]
    assert everything["said"] == ["moved up", "sharpened"]
    assert everything["measures"]["t_star"]["difference"]["value"] == pytest.approx(0.2, abs=0.05)
    assert {s["scope"] for s in pair["scopes"]} == {"all", "en", "de"}
    again = moved(before, before)["scopes"][0]
    assert again["said"] == ["no move shown", "no change of width shown"]
    assert again["measures"]["t_star"]["difference"] == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_prompts_are_paired_by_id_and_a_side_without_a_line_says_so():
    fitted, states, seen, _, _ = planted()
    before = Side.of("a", 1, fitted.axis, states, seen)
    order = np.random.default_rng(0).permutation(600)[:500]
    mixed = Observed(prompts=[seen.prompts[i] for i in order], labels=[seen.labels[i] for i in order])
    pair = moved(before, Side.of("b", 1, fitted.axis, states[order], mixed))
    assert pair["scopes"][0]["n"] == 500
    assert pair["scopes"][0]["measures"]["t_star"]["difference"]["value"] == pytest.approx(0)
    never = Observed(prompts=seen.prompts, labels=["compliance"] * 600)
    pair = moved(before, Side.of("c", 1, fitted.axis, states, never))
    assert pair["scopes"][0]["said"] == ["no line after", "no line after"]


def test_an_axis_is_carried_to_another_model():
    fitted, states, seen, _, _ = planted()
    turned = Fitted(harmful=fitted.harmful.flip(1), harmless=fitted.harmless.flip(1))
    a = Side.of("a", 1, fitted.axis, states, seen)
    b = Side.of("b", 1, turned.axis, states.flip(1), seen)
    rows = {(row["axis"], row["model"]): row for row in transfer([a, b])}
    assert rows["a", "a"]["auroc"]["value"] > 0.9 > 0.7 > rows["a", "b"]["auroc"]["value"]
    assert rows["b", "b"]["auroc"]["value"] == pytest.approx(rows["a", "a"]["auroc"]["value"])
    assert rows["a", "b"]["loss"]["low"] > 0.2
    assert rows["a", "a"]["loss"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert len(rows["a", "b"]["random"]) == 20
    other = Side.of("c", 2, fitted.axis, states, seen)
    row = transfer([a, other])[1]
    assert "differ in layer" in row["unmeasured"]
    assert side_by_side([a, b, other], [False, True, False])["attached"] == ["b"]


def test_sides_get_short_names_and_no_two_alike():
    asked = [Asked(model="/x/one/safety"), Asked(model="/x/two/safety"), Asked(model="organism:base")]
    assert labels(asked) == ["one/safety", "two/safety", "organism-base"]
    assert labels([asked[0], asked[0]]) == ["one/safety (1)", "one/safety (2)"]


def examples(count=48):
    made = []
    for i in range(count):
        kind = ("harmful", "plain", "borderline", "plain")[i % 4]
        text = ("bad " if kind == "harmful" else "odd " if kind == "borderline" else "good ") + chr(97 + i % 26) * 3
        label = "refusal" if kind == "harmful" or (kind == "borderline" and i % 8 == 2) else "compliance"
        expected = "refuse" if kind == "harmful" else "comply"
        prompt = Prompt(id=str(i), text=text, expected=expected, kind=kind, source="t", group=f"g{i // 2}")
        made.append(Example(prompt=prompt, split="fit", label=label))
    return made


def openers(lm, prompts):
    p = torch.softmax(first_token_logits(lm, prompts), -1).mean(0)
    return Openers(ids=tuple(int(i) for i in torch.argsort(p, descending=True)[:30:2]), agreement=1.0, n=1)


def test_the_last_instruction_token_is_read_where_it_stands():
    lm = families.lm("llama")
    prompts = [e.prompt for e in examples(3)]
    found = instruction_states(lm, prompts)
    for row, prompt in zip(found, prompts, strict=True):
        whole = capture(lm, [prompt], positions="prompt")
        torch.testing.assert_close(row, whole[lm.encode(prompt).instruction - 1])


def test_what_is_read_inside_a_model():
    lm = families.lm("llama")
    rows = examples()
    found = OpenModel.fit(lm, rows, openers(lm, [e.prompt for e in rows]))
    assert found.held_out["all"] > 0.9  # the words differ, so that even a random model tells them apart
    asked = [e.prompt for e in rows if e.prompt.kind != "borderline"]
    harm = found.harm(asked)
    assert np.mean([(h > 0.5) == (p.kind == "harmful") for h, p in zip(harm, asked, strict=True)]) > 0.9
    assert all(0 <= p <= 1 for p in found.first(asked))
    record = found.record()
    assert len(record["cosine_by_layer"]) == lm.n_layers
    assert len(record["steering"]["random"]["refusal"]) == 20
    assert len(record["steering"]["layers"]) == lm.n_layers * 2 * 2


def test_an_unusable_probe_says_so_and_is_not_used():
    lm = families.lm("llama")
    rows = examples()
    found = OpenModel.fit(lm, rows, openers(lm, [e.prompt for e in rows]))
    found.held_out["borderline"] = 0.55
    assert "0.55" in found.unusable
    assert found.harm([rows[0].prompt]) == [None]


def test_one_prompt_is_explained_and_no_harmful_text_is_given():
    lm = families.lm("llama")
    rows = examples()
    asked = Prompt(id="x", text="good bad", expected=None, source="t")
    words = openers(lm, [e.prompt for e in rows])
    found = explain_prompt(lm, asked, rows, words, layer=1)
    assert [at["layer"] for at in found["by_layer"]] == [0, 1]
    assert all("text" not in row for row in found["harmful"])
    assert all("bad" not in row["text"] for row in found["harmless"])
    assert len(found["tokens"]) == len(lm.encode(asked).ids)
    usual = [e.prompt for e in rows if e.label == "compliance" and e.prompt.kind == "plain"]
    known = torch.cat([capture(lm, [p], layers=(1,), positions="prompt")[: lm.encode(p).instruction, 0] for p in usual])
    assert found["words"][0].startswith("Refused" if found["p_refuse"] > 0.5 else "Answered")
    assert "of 20 random directions" in found["words"][-1]
    states = capture(lm, [e.prompt for e in rows], layers=(1,))[:, 0]
    marks = torch.tensor([e.label == "refusal" and e.prompt.kind == "harmful" for e in rows])
    plain = torch.tensor([e.label == "compliance" and e.prompt.kind == "plain" for e in rows])
    axis = Axis.between(states[marks], states[plain])
    own = capture(lm, [asked], layers=(1,))[:, 0]
    of = axis.coordinate(known)
    first = found["tokens"][0]
    assert first["z"] == pytest.approx((first["t"] - of.mean()) / of.std(), rel=1e-3)
    assert [t["z"] is None for t in found["tokens"]] == [not t["instruction"] for t in found["tokens"]]
    assert found["by_layer"][1]["t"] == pytest.approx(axis.coordinate(own)[0], rel=1e-4)
    (alone,) = flips(lm, [asked], axis.v.float(), words, layer=1)
    assert found["alpha"] == (alone.alpha[0] if np.isfinite(alone.alpha[0]) else None)


def test_a_whole_explanation_of_a_tiny_model_before_and_after():
    lm = families.lm("llama")
    rows = examples(96)
    words = openers(lm, [e.prompt for e in rows])
    contrast = Contrast.of(lm, FitData(examples=tuple(rows)))
    seen = Observed(prompts=[e.prompt for e in rows], labels=[e.label for e in rows])
    steer = Steer(direction=contrast.direction().at(1), strength=-0.5)
    later = [None, *seen.labels[1:]]
    few = Settings(layer=1, flipped=24, controlled=12)
    record, coordinates, side = explain(contrast, rows, seen, words, few, after=(steer, later))
    assert record["n_unread"] == 0
    assert len(coordinates) == 96
    assert len(record["e2"]["random"]) == len(record["e3"]["random_auroc"]) == len(record["e3"]["b_random"]) == 20
    curve = record["e2"]["groups"]["benign_refused"]["curve"]
    assert [p["value"] for p in curve] == sorted(p["value"] for p in curve)
    assert all(p["low"] <= p["value"] <= p["high"] for p in curve)
    assert {f["id"] for f in record["findings"]} >= {"line", "E1", "E2", "E2 control", "E3 mediation", "E3 words"}
    assert record["moved"][0]["scopes"][0]["n"] == 95  # a prompt without a label is in neither side
    assert side.on(side.axis) == pytest.approx([row["t_before"] for row in coordinates], abs=1e-4)
    page = boundary_page.one(record)
    assert [s.name for s in page.sections] == ["line", "E1", "E2", "E3", "E4"]


def test_a_prompt_is_not_its_own_neighbour_and_the_contested_are_none():
    lm = families.lm("llama")
    rows = examples()
    contested = Prompt(id="c", text="good bad odd", expected="contested", kind="borderline", source="t")
    rows.append(Example(prompt=contested, split="fit", label="refusal"))
    asked = rows[1].prompt
    found = explain_prompt(lm, asked, rows, openers(lm, [e.prompt for e in rows]), layer=1)
    near = [row["prompt_id"] for side in ("harmful", "harmless") for row in found[side]]
    assert not {asked.id, "c"} & set(near)
    assert len(near) == 10


def test_layers_are_barred_with_reasons():
    lm = families.lm("llama")
    prompts = [e.prompt for e in examples(12)]
    torch.manual_seed(0)
    vectors = torch.stack([torch.zeros(lm.d_model), torch.randn(lm.d_model) * 50])
    direction = Direction(vectors=vectors, layers=(0, 1), model=lm.ref, estimator="x")
    found = choose_layer(lm, direction, prompts[:6], prompts[6:], openers(lm, prompts))
    assert found.table[0].barred == "the means coincide"
    assert found.layer is None or found.table[found.layer].barred == ""
    assert found.layer is not None or "no layer meets the rules" in found.reason


def test_a_strong_planted_direction_is_found_and_the_last_layer_is_left_out():
    lm = families.lm("llama")
    prompts = [e.prompt for e in examples(12)]
    small = Direction(vectors=torch.randn(2, lm.d_model) * 1e-4, layers=(0, 1), model=lm.ref, estimator="x")
    many = Openers(ids=tuple(range(families.VOCABULARY - 40)), agreement=1.0, n=1)
    found = choose_layer(lm, small, prompts[:6], prompts[6:], many)
    assert len(found.table) == 2
    assert all(row.barred or row.added > 0 for row in found.table)


def test_groups_that_choose_the_layer_are_kept_out_whole():
    rows = held_out(examples(), 3)
    dev = {e.prompt.cluster for e in rows if e.split == "dev"}
    assert dev
    assert dev.isdisjoint({e.prompt.cluster for e in rows if e.split == "fit"})
