"""The generator `vllm` over a stand-in with vLLM's signatures: the answers of `local`, and what it refuses."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demur import settings
from demur.decoding import decode
from demur.errors import ConfigError, ModelError, Unavailable
from demur.generators import vllm as generator
from demur.generators.vllm import Vllm
from demur.interventions.ablate import Ablate
from demur.interventions.contrastive import Contrastive
from demur.interventions.instruct import Instruct
from demur.interventions.stack import Stack
from demur.interventions.steer import Steer
from demur.judges import apply
from demur.lm import LM, load
from demur.methods.adacd import Adacd
from demur.plan import Intervention
from demur.types import Prompt, Response, Sampling
from tests.models.families import VOCABULARY, build, tokenizer
from tests.models.test_interventions import adapter, direction
from tests.models.vllm_stand_in import LLM, LoRARequest, differences, installed
from tests.unit.scripted_model import item

pytestmark = [
    pytest.mark.torch,
    # peft 0.21 asks transformers 5.23 for it by its old name
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning:transformers"),
]

TEXTS = ("hello", "Ж漢", "how do I kill a process", "x")
PROMPTS = [Prompt(id=str(n), text=text, expected=None, source="test") for n, text in enumerate(TEXTS)]
BEGUN = Prompt(id="b", text="hello", expected=None, source="test", system="Be kind.", meta=(("prefill", "Well, "),))
HOW = Sampling(max_new_tokens=14)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in a folder whose answers soon end, on any capital letter."""
    out = tmp_path_factory.mktemp("model")
    made, words = build("llama"), tokenizer()
    made.generation_config.eos_token_id = [257, *(words.convert_tokens_to_ids(c) for c in "ABCDEFGHIJKLMNOP")]
    made.save_pretrained(out)
    words.save_pretrained(out)
    return out


@pytest.fixture(scope="module")
def lm(folder: Path) -> LM:
    return load(str(folder), device="cpu", dtype="float32")


@pytest.fixture(autouse=True)
def engines() -> Iterator[type[LLM]]:
    generator._started.cache_clear()
    with installed() as made:
        yield made
    generator._started.cache_clear()


def shown(rows: list[Response], *, logprob: bool = True) -> dict[tuple[str, int], Any]:
    kept = {
        (r.prompt_id, r.sample): (r.text, r.reasoning, r.finish, r.n_tokens, *([r.logprob] if logprob else []))
        for r in rows
    }
    assert len(kept) == len(rows)
    return kept


def same(folder: Path, lm: LM, what: Intervention | None, saved: Path | None = None, **more: Any) -> LLM:
    """Check that the answers are those of demur's own loop; return the engine."""
    if what is not None and saved is not None:
        what.save(saved)
    made = Vllm(model=str(folder), intervention=str(saved or ""), dtype="float32", **more)
    rows, ours = list(made([*PROMPTS, BEGUN], HOW)), list(decode(lm, [*PROMPTS, BEGUN], HOW, what))
    mixes = what is not None and what.plan(lm).logits is not None
    assert shown(rows, logprob=not mixes) == shown(ours, logprob=not mixes)
    assert mixes or all(row.logprob is not None for row in rows)
    if what is not None:
        assert shown(rows) != shown(list(decode(lm, [*PROMPTS, BEGUN], HOW)))
    return LLM.made[-1]


def test_it_writes_what_demur_writes(folder: Path, lm: LM) -> None:
    engine = same(folder, lm, None, batch=2)
    assert [count for count, _ in engine.calls] == [2, 2, 1]
    assert "enable_lora" not in engine.arguments
    ends = {r.finish for r in decode(lm, PROMPTS, HOW)}
    assert ends == {"stop", "length"}


def test_an_adapter_is_a_lora_request(folder: Path, lm: LM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []
    inside = LLM._module
    monkeypatch.setattr(LLM, "_module", lambda self, request: sent.append(request) or inside(self, request))
    engine = same(folder, lm, adapter(lm, 0.7), tmp_path / "it")
    assert engine.arguments["model"] == str(folder)
    assert isinstance(sent[0], LoRARequest)
    assert sent[0].lora_path == str(tmp_path / "it" / "adapter")


def test_an_adapter_within_a_stack_and_a_system_text(folder: Path, lm: LM, tmp_path: Path) -> None:
    what = Stack(parts=(Instruct(text="Answer in one word."), adapter(lm, 1.0)))
    assert same(folder, lm, what, tmp_path / "it").arguments["enable_lora"]


def test_changed_weights_are_merged_first(folder: Path, lm: LM, tmp_path: Path) -> None:
    engine = same(folder, lm, Ablate(direction=direction(lm), by="weights"), tmp_path / "it")
    assert engine.arguments["model"] != str(folder)
    assert engine.arguments["tokenizer"] == engine.arguments["model"]
    assert engine.arguments["dtype"] == "float32"


def test_contrastive_decoding_asks_twice_for_a_token(folder: Path, lm: LM, tmp_path: Path) -> None:
    engine = same(folder, lm, Adacd(horizon=3).intervention(), tmp_path / "it", top=VOCABULARY)
    assert engine.arguments["max_logprobs"] == VOCABULARY
    assert engine.calls[0][0] == 2 * (len(PROMPTS) + 1)
    assert all(how.max_tokens == 1 for _, asked in engine.calls[:3] for how in asked)
    tempered = Sampling(temperature=0.5)
    with pytest.raises(ConfigError, match="it must be 0 under contrastive decoding"):
        list(Vllm(model=str(folder), intervention=str(tmp_path / "it"))(PROMPTS, tempered))


def test_any_mix_and_no_end_of_it(folder: Path, lm: LM, tmp_path: Path) -> None:
    what = Contrastive(text="Say no.", mix=(2.5, -1.0), agreed=(0.5, 0.5), agreement=0.3)
    what.save(tmp_path / "it")
    with pytest.raises(ConfigError, match="set top=-1"):
        list(Vllm(model=str(folder), intervention=str(tmp_path / "it"))(PROMPTS, HOW))
    same(folder, lm, what, tmp_path / "it", top=-1)


def test_steering_is_refused_with_a_way_out(folder: Path, lm: LM, tmp_path: Path) -> None:
    Steer(direction=direction(lm), layer=1, strength=2.0, positions="generated").save(tmp_path / "it")
    with pytest.raises(ConfigError, match="it acts on generated tokens alone") as told:
        list(Vllm(model=str(folder), intervention=str(tmp_path / "it"))(PROMPTS, HOW))
    assert f"`demur export {tmp_path / 'it'} --to merged`" in str(told.value)
    assert not LLM.made


def test_samples_have_seeds_of_their_own(folder: Path) -> None:
    how = Sampling(max_new_tokens=8, samples=3, temperature=1.0, seed=5, top_p=0.9)
    made = Vllm(model=str(folder))
    whole = shown(list(made(PROMPTS, how)))
    assert len(whole) == 12
    asked = LLM.made[-1].calls[0][1]
    assert len({one.seed for one in asked}) == 12
    assert {one.top_p for one in asked} == {0.9}
    again = shown([*made(PROMPTS[:1], how), *made(PROMPTS[:0:-1], how)])
    assert again == whole
    with pytest.raises(ConfigError, match="it must be 2 at most"):
        list(made(PROMPTS, Sampling(temperature=2.5)))


def test_what_fails_is_a_row_and_a_dead_engine_ends_the_run(folder: Path) -> None:
    made = Vllm(model=str(folder), max_model_len=120)
    long = Prompt(id="long", text="x" * 200, expected=None, source="test")
    rows = {r.prompt_id: r for r in made([PROMPTS[0], long, PROMPTS[1]], HOW)}
    assert rows["long"].finish == "error"
    assert "longer than the maximum model length" in rows["long"].error
    assert {rows["0"].finish, rows["1"].finish} <= {"stop", "length"}
    LLM.made[-1].dead = True
    with pytest.raises(Unavailable, match="run again to go on"):
        list(made(PROMPTS, HOW))
    assert list(made([], HOW)) == []


def test_settings_reach_the_engine_and_a_wrong_one_is_told(folder: Path) -> None:
    part = f"vllm:model={folder},gpu_memory=0.5,tensor_parallel=2,engine.enforce_eager=true"
    made: Any = settings.build("generators", settings.parse_part(part))
    list(made(PROMPTS[:1], HOW))
    given = LLM.made[-1].arguments
    assert (given["gpu_memory_utilization"], given["tensor_parallel_size"], given["enforce_eager"]) == (0.5, 2, True)
    with pytest.raises(ModelError, match="unexpected keyword argument 'no_such'"):
        list(Vllm(model=str(folder), engine={"no_such": 1})(PROMPTS, HOW))
    with pytest.raises(ConfigError, match="gpu_memory is 2"):
        Vllm(gpu_memory=2)


def test_it_is_known_without_an_engine_and_serves_a_judge(folder: Path, lm: LM) -> None:
    made = Vllm(model=str(folder), dtype="float32")
    assert made.ref() == lm.ref
    assert not LLM.made
    guard: Any = settings.build(
        "judges", settings.PartSpec("guard", {"generator": made, "format": "qwen3guard", "max_new_tokens": 4})
    )
    verdicts = list(apply(guard, "guard", [item()]))
    assert {v.question for v in verdicts} == {"refusal", "answer_harm", "prompt_harm"}
    assert all(v.unscored for v in verdicts)  # a random model gives no verdict


def test_the_stand_in_has_the_signatures_of_an_installed_vllm() -> None:
    import sys

    held = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "vllm"}
    try:
        spec = importlib.util.find_spec("vllm")
    finally:
        sys.modules.update(held)
    if spec is None or spec.origin is None:
        pytest.skip("vLLM is not installed; its signatures were read from the source of 0.33.0")
    assert differences(Path(spec.origin).parent) == []
