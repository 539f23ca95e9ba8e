"""Verify on the embedded model: a system prompt that restricts is told from one that does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from demur.interventions.instruct import Instruct
from demur.sides import BENCHMARKS, Plan, Side, both
from demur.verify import Limits, Verification, verify
from demur.world import allowed_places, system_prompts, system_restrict

pytestmark = pytest.mark.torch

HELPFUL, BRIEF = system_prompts("neutral", "en")[:2]
RESTRICT = system_restrict("en", allowed_places("en")[0])


def against(out: Path, text: str, *benchmarks: str, a: str = "organism") -> Verification:
    """Hold a system prompt against the helpful one, or against a run of it."""
    side = Side(what=a, system=HELPFUL if a == "organism" else None)
    plan = Plan(a=side, b=Side(what="organism", system=text), benchmarks=benchmarks, sampling={"max_new_tokens": 48})
    runs = both(plan, out)
    return verify(runs.before, runs.after, Limits())


def test_a_restriction_makes_the_model_over_refuse_and_a_neutral_prompt_does_not(tmp_path: Path) -> None:
    part = "world:languages=en,limit=48"
    found = against(tmp_path / "r", RESTRICT, part)
    rise = found.checks[1]
    assert "a rise of more than 2 points shown" in rise.verdict
    assert rise.value is not None
    assert rise.value > 30
    assert len(found.newly_refused) >= 10
    neutral = against(tmp_path / "n", BRIEF, a=str(tmp_path / "r" / "before"))
    assert "over-refusal: a rise" not in neutral.checks[1].verdict or "not excluded" in neutral.checks[1].verdict
    assert neutral.checks[1].value is not None
    assert neutral.checks[1].value <= 5


@pytest.mark.slow
def test_on_all_strata_the_neutral_prompt_passes_and_the_restriction_does_not(tmp_path: Path) -> None:
    assert not against(tmp_path / "r", RESTRICT, *BENCHMARKS).passed
    found = against(tmp_path / "n", BRIEF, a=str(tmp_path / "r" / "before"))
    assert found.passed, [c.verdict for c in found.checks]


def test_the_price_is_that_of_bs_intervention_and_missing_where_more_differs(tmp_path: Path) -> None:
    """A text that stands before every prompt moves the predictions; an empty one costs nothing."""
    for name, text in (("moved", HELPFUL), ("still", "")):
        Instruct(text=text).save(tmp_path / name)
    a = Side(what="organism")

    def price(folder: str, system: str | None = None) -> float | None:
        b = Side(what="organism", intervention=tmp_path / folder, system=system)
        few = {"max_new_tokens": 32}
        plan = Plan(a=a, b=b, benchmarks=("world:languages=en,limit=12",), sampling=few)
        return both(plan, tmp_path / f"{folder}-{system}", priced=True).price

    moved = price("moved")
    assert moved is not None
    assert moved > 1e-4
    assert price("still") == 0
    assert price("moved", system=BRIEF) is None
