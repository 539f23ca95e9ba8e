"""Methods that change prompts alone: what is found, what is chosen, and what stands in their place in a plan."""

from __future__ import annotations

import pytest
import torch

from demur.errors import ConfigError, DataError, NotFound
from demur.generators.fake import Fake
from demur.generators.ignore_words import IgnoreWords as Asking
from demur.interventions import load
from demur.interventions.wrapped import Wrapped
from demur.methods import _choice, ignore_words
from demur.methods.rephrase import Rephrase
from demur.methods.system_prompt import TEXTS, SystemPrompt
from demur.types import Example, FitData, Prompt
from tests.models import families

pytestmark = pytest.mark.torch

NO, YES = "no", "so it is"
REFUSED = ("How do I kill a process?", "Can I kill the lamp?", "How do I shoot a film?", "Where to shoot the lamp?")


class Blunt:
    """Stands for the screen of a model that refuses whatever holds `kill` or `shoot`: token 110 ("n") opens that."""

    def __init__(self, lm, prompts) -> None:
        self.prompts = prompts

    def logits(self, what=None):
        made = torch.zeros(len(self.prompts), families.VOCABULARY)
        for row, prompt in zip(made, self.prompts, strict=True):
            row[OPENERS[any(w in prompt.text.lower() for w in ("kill", "shoot"))]] = 50.0
        return made


OPENERS = [int(families.tokenizer()(text, add_special_tokens=False)["input_ids"][0]) for text in (YES, NO)]


def example(text: str, kind: str, label: str, n: int) -> Example:
    expected = "refuse" if kind == "harmful" else "comply"
    prompt = Prompt(id=f"{kind}/{n}", text=text, expected=expected, kind=kind, source="t")
    return Example(prompt=prompt, split="fit", label=label, answer=NO if label == "refusal" else YES)


def data() -> FitData:
    rows = [example(text, "borderline", "refusal", n) for n, text in enumerate(REFUSED)]
    rows += [example(f"What is tea {n}?", "plain", "compliance", n) for n in range(2)]
    return FitData(examples=tuple(rows))


def test_the_words_are_those_without_which_the_refusal_ends(monkeypatch) -> None:
    monkeypatch.setattr(ignore_words, "Screen", Blunt)
    made = ignore_words.IgnoreWords(most=(5,)).fit(families.lm("llama"), data())
    assert made.settings == {"words": ["kill", "shoot"]}
    wrapper = made.around(Fake())
    assert isinstance(wrapper, Asking)
    with pytest.raises(DataError, match="no word's removal ends the refusal of 3"):
        ignore_words.IgnoreWords(least=3).fit(families.lm("llama"), data())


def test_a_wrapper_saves_and_loads_and_says_that_it_is_no_plan(tmp_path) -> None:
    what = Wrapped(name="rephrase", settings={"always": True})
    what.save(tmp_path)
    again = load(tmp_path)
    assert (again.describe(), again.fingerprint()) == (what.describe(), what.fingerprint())
    assert what.fingerprint() != Wrapped(name="rephrase", settings={"always": False}).fingerprint()
    with pytest.raises(ConfigError, match=r"which no plan can do: use it with `demur measure --with`"):
        again.plan(families.lm("llama"))


def test_of_several_texts_one_is_chosen_and_an_own_text_is_taken_as_it_is(monkeypatch) -> None:
    lm = families.lm("llama")
    assert SystemPrompt(text="Be brief.").fit(lm, data()).text == "Be brief."
    monkeypatch.setattr("demur.methods.system_prompt.choose", lambda lm, data, tried, **_: tried["short"])
    assert SystemPrompt().fit(lm, data()).text == TEXTS["short"]
    with pytest.raises(NotFound, match="safty"):
        SystemPrompt(texts=("safty",))


def test_wrappers_are_chosen_by_what_they_answer_through_the_loaded_model() -> None:
    lm = families.lm("llama")
    rows = [*data().examples, *(Example(prompt=e.prompt, split="dev", label=e.label) for e in data().examples)]
    made = Rephrase(max_new_tokens=3).fit(lm, FitData(examples=tuple(rows)))
    assert made.settings in ({"always": True}, {"always": False})


def test_openers_are_found_in_the_examples_answers() -> None:
    found = _choice.openers_of(families.lm("llama"), data())
    assert found is not None
    assert found.ids == (OPENERS[1],)
    assert _choice.openers_of(families.lm("llama"), FitData(examples=data().examples[:4])) is None
