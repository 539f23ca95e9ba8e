"""What methods trained, behind the server: as an adapter beside others, and merged into the model."""

from __future__ import annotations

from pathlib import Path

import pytest

from demur.decoding import decode
from demur.export.merged import Merged
from demur.lm import LM
from demur.lm import load as load_lm
from demur.settings import PartSpec, build
from demur.types import Prompt, Sampling
from tests.models.families import build as build_model
from tests.models.families import lm as shared
from tests.models.families import tokenizer
from tests.models.serving import served
from tests.models.test_methods import data, settings

pytestmark = pytest.mark.torch
TEXTS = ("hello", "what is a lock", "a longer question about nothing in particular")


def test_adapters_and_merged_weights_are_served_as_the_decode_loop_answers(tmp_path: Path) -> None:
    lm = shared("llama")
    named = {
        name.replace("_", "-"): build("methods", PartSpec(name, settings(name))).fit(lm, data())
        for name in ("sft", "circuit_breakers")
    }
    prompts = [Prompt(id=str(i), text=text, expected=None, source="test") for i, text in enumerate(TEXTS)]
    wanted = {}
    for name, what in {"": None, **named}.items():
        found = {r.prompt_id: r.text for r in decode(lm, prompts, Sampling(max_new_tokens=12), what)}
        wanted[name] = [found[p.id] for p in prompts]
    assert len({tuple(texts) for texts in wanted.values()}) == 3
    with served(LM(build_model("llama"), tokenizer(), lm.ref), tmp_path, named=named) as at:
        for name, texts in wanted.items():
            model = f"tiny+{name}" if name else "tiny"
            assert [at.say(text, model=model).strip() for text in TEXTS] == texts
    Merged()(lm, named["sft"].plan(lm), tmp_path / "merged", {})
    with served(load_lm(str(tmp_path / "merged"), device="cpu", dtype="float32"), tmp_path, named={}) as at:
        assert [at.say(text).strip() for text in TEXTS] == wanted["sft"]
