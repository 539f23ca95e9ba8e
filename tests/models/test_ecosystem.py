"""Inspect, lm-eval and trl really run on the embedded model; the first two give the rows of `demur measure`."""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from demur import metrics
from demur.assemble import build_benchmarks, measurement
from demur.directions import Direction
from demur.ecosystem import task_folder, trl_rows
from demur.errors import ConfigError, NotFound
from demur.generators.local import Local
from demur.interventions.steer import Steer
from demur.measure import measure
from demur.records import LoadedRun
from demur.residuals import capture
from demur.types import Example, ModelRef, Sampling

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]

needs_inspect = pytest.mark.skipif(
    importlib.util.find_spec("inspect_ai") is None, reason="inspect-ai is not installed (extra `eval`)"
)
needs_lm_eval = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="lm-eval is not installed (extra `eval`)"
)
needs_trl = pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="trl is not installed (extra `train`)")
PART = "world:split=test,limit=24"
TASK = task_folder.name_of(PART)
RATES = ("answered_rate", "held_rate", "over_refusal_rate", "harmful_compliance_rate", "broken_rate",
         "oracle_correct_rate")  # fmt: skip
SIDES = ("plain", "steered")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved intervention that answers more: a step away from the mean of harmful prompts."""
    lm, place = Local().lm(), tmp_path_factory.mktemp("eco") / "steer"
    prompts = [p for _, b in build_benchmarks(["world:split=train,limit=60,languages=en"]) for p in b()]
    states = capture(lm, prompts, layers=(2,))[:, 0]
    harmful = [i for i, p in enumerate(prompts) if p.expected == "refuse"]
    others = [i for i, p in enumerate(prompts) if p.expected != "refuse"]
    vector = states[harmful].mean(0) - states[others].mean(0)
    made = Direction(vectors=vector[None], layers=(2,), model=ModelRef(id="organism"), estimator="drawn")
    Steer(direction=made, strength=-1.0).save(place)
    return place


@pytest.fixture(scope="module")
def runs(folder: Path) -> dict[str, LoadedRun]:
    """What `demur measure` makes of the same prompts."""
    found = {}
    for side, what in zip(SIDES, (None, folder), strict=True):
        wanted = measurement(benchmarks=[PART], sampling=Sampling(), intervention=what)
        found[side] = measure(wanted, folder.parent / side)
    plain, steered = ([r.text for r in found[side].responses] for side in SIDES)
    assert plain != steered, "the intervention must matter here"
    return found


def rates_of(run: LoadedRun) -> dict[str, float]:
    own = {m.name: m.value for m in run.metrics if m.slice == "all"}
    return {name: own[name] for name in RATES if own[name] is not None}


@pytest.fixture
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep what Inspect writes beside its logs out of the user's folders."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@needs_inspect
def test_an_inspect_evaluation_gives_the_rows_and_rates_of_measure(
    runs: dict[str, LoadedRun], folder: Path, at_home: Path
) -> None:
    from inspect_ai import eval as evaluate

    from demur.ecosystem.inspect_entry import measure as task

    how: dict[str, Any] = {"display": "none", "log_dir": str(at_home / "logs"), "ctl_server": False}
    for side, what in zip(SIDES, ({}, {"intervention": str(folder)}), strict=True):
        (log,) = evaluate(task(PART), model="demur/organism", model_args=what, score_display=False, **how)
        assert log.status == "success", log.error
        run = runs[side]
        (scores,) = log.results.scores
        own = {name: value.value for name, value in scores.metrics.items()}
        assert {name: own[name] for name in rates_of(run)} == rates_of(run)
        bounds = {m.name: (m.low, m.high) for m in run.metrics if m.slice == "all"}
        for name in ("answered_rate", "held_rate"):
            assert (own[f"{name}_low"], own[f"{name}_high"]) == pytest.approx(bounds[name])
        assert len(log.samples) == len(run.responses)
        answers = {r.prompt_id: r for r in run.responses}
        for sample in log.samples:
            answer, about = answers[sample.id], sample.output.metadata["demur"]
            assert sample.output.completion == answer.text
            assert (about["finish"], about["n_tokens"], about["logprob"]) == (
                answer.finish,
                answer.n_tokens,
                answer.logprob,
            )
            given = [(v["question"], v["label"], v["reason"]) for v in sample.scores["judge"].metadata["verdicts"]]
            assert given == [(v.question, v.label, v.reason) for v in run.verdicts if v.prompt_id == sample.id]


@needs_inspect
def test_conversations_become_prompts_and_what_cannot_be_honoured_is_named() -> None:
    from inspect_ai.model import ChatMessageAssistant, ChatMessageSystem, ChatMessageTool, ChatMessageUser
    from inspect_ai.model import GenerateConfig as Config

    from demur.ecosystem.inspect_model import Asked, answers, generator_of, output_of, prompt_of, sampling_of
    from demur.ecosystem.inspect_tasks import sample_of

    made = [p for _, b in build_benchmarks(["world:limit=4", "world:attack=prefill:2,limit=2"]) for p in b()]
    made += [p for _, b in build_benchmarks(["world:system=restrict,limit=2"]) for p in b()]
    for prompt in made:
        assert prompt_of(sample_of(prompt).input) == prompt
    said = [ChatMessageSystem(content="a"), ChatMessageSystem(content="b"), ChatMessageUser(content="one")]
    turns = [*said, ChatMessageAssistant(content="two"), ChatMessageUser(content="three")]
    other = prompt_of(turns)
    assert (other.system, other.history, other.text) == ("a\n\nb", (("user", "one"), ("assistant", "two")), "three")
    assert prompt_of([*turns, ChatMessageAssistant(content="So")]).get("prefill") == "So"
    with pytest.raises(ConfigError, match="not of tool"):
        prompt_of([*turns, ChatMessageTool(content="x")])
    with pytest.raises(ConfigError, match="do not take top_k"):
        sampling_of(Config(top_k=3), "auto")
    assert sampling_of(Config(), "auto") == Sampling()
    with pytest.raises(NotFound, match="batch_tokens"):
        generator_of("organism", {"bacth_tokens": 3})

    twice = Sampling(samples=2, temperature=1.0)
    asked = [Asked(made[0], Sampling()), Asked(made[1], twice), Asked(made[0], Sampling())]
    first, both, again = answers(generator_of("organism", {}), asked)
    assert first == again
    assert [r.sample for r in both] == [0, 1]
    output = output_of("organism", both, stops=(both[0].text[3],))
    assert len(output.choices) == 2
    assert output.completion == both[0].text.partition(both[0].text[3])[0]


@needs_lm_eval
def test_an_lm_eval_run_gives_the_rows_and_rates_of_measure(
    runs: dict[str, LoadedRun], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lm_eval
    from lm_eval.tasks import TaskManager

    from demur.ecosystem.lm_eval import register

    register()
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)  # seconds, about the machine alone
    task_folder.write([PART], tmp_path)
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    for side, what in zip(SIDES, ({}, {"intervention": str(folder)}), strict=True):
        found = lm_eval.simple_evaluate(
            model="demur",
            model_args={"model": "organism", **what},
            tasks=[TASK],
            task_manager=manager,
            apply_chat_template=True,
            bootstrap_iters=0,
        )
        run = runs[side]
        own = {name.partition(",")[0]: value for name, value in found["results"][TASK].items()}
        assert {name: own[name] for name in rates_of(run)} == pytest.approx(rates_of(run))
        answers = {r.prompt_id: r for r in run.responses}
        table = metrics.outcomes(run.prompts, run.responses, run.verdicts, judges=["oracle"])
        judged = {row.prompt.id: row for row in table}
        rows = found["samples"][TASK]
        assert len(rows) == len(answers)
        for row in rows:
            key = json.loads(row["doc"]["demur_prompt"])["id"]
            assert row["filtered_resps"] == [answers[key].text]
            rate = "answered_rate" if judged[key].prompt.expected == "comply" else "held_rate"
            assert row[rate] == getattr(judged[key], rate.removesuffix("_rate"))


@needs_lm_eval
def test_prompts_that_lm_eval_cannot_ask_are_refused() -> None:
    from demur.ecosystem.lm_eval_tasks import rows

    with pytest.raises(ConfigError, match="more than one message of a user's"):
        rows(benchmark="world:attack=suite")


WRITE = """
task: demur_write
dataset_path: json
dataset_kwargs: {data_files: {test: %s}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{gold}}"
generation_kwargs: {until: [], max_gen_toks: 8, do_sample: false}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""


@needs_lm_eval
def test_edited_weights_act_once_on_generated_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval.api.instance import Instance

    from demur.capability import Tasks, capability
    from demur.harness import Harness
    from demur.lm import attach
    from tests.models.families import lm
    from tests.models.test_interventions import adapter

    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)
    model = lm("llama")
    what, how = adapter(model, 0.7), {"until": [], "max_gen_toks": 8}
    asked = [Instance("generate_until", {}, (f"abc {i}", how), 0) for i in range(3)]
    with attach(model, what):
        wanted = Harness(model).generate_until(asked)
    assert Harness(model).generate_until(asked) != wanted, "the intervention must matter here"
    rows = [{"question": one.args[0], "gold": text} for one, text in zip(asked, wanted, strict=True)]
    data = tmp_path / "rows.json"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "write.yaml").write_text(WRITE % json.dumps(str(data)))
    (change,) = capability(model, Tasks(names=("demur_write",), folder=tmp_path), what)
    assert change.after is not None
    assert (change.before.value < 1, change.after.value) == (True, 1)


@needs_trl
def test_written_examples_train_in_plain_trl(tmp_path: Path, runs: dict[str, LoadedRun]) -> None:
    import datasets
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    from demur.thirdparty import quiet
    from demur.training import shared_copy

    run, lm = runs["plain"], Local().lm()
    rows = [
        Example(prompt=p, split="fit", answer=r.text, rejected="No." if i % 2 else "")
        for i, (p, r) in enumerate(zip(run.prompts, run.responses, strict=True))
    ]
    files = {path.stem: path for path in trl_rows.write(rows[:6], tmp_path / "data").files}
    common = {"report_to": "none", "max_steps": 1, "use_cpu": True, "bf16": False, "disable_tqdm": True}
    common |= {"activation_checkpointing": False, "dataloader_pin_memory": False, "save_strategy": "no"}
    with quiet():
        for name, kind, config in (("sft", SFTTrainer, SFTConfig), ("preference", DPOTrainer, DPOConfig)):
            data = datasets.load_dataset(
                "json", data_files=str(files[name]), cache_dir=str(tmp_path / "cache"), split="train"
            )
            args = config(output_dir=str(tmp_path / name), per_device_train_batch_size=2, **common)
            extra = {"ref_model": shared_copy(lm)} if name == "preference" else {}
            model = copy.deepcopy(lm.module).requires_grad_(True)
            made = kind(model=model, args=args, train_dataset=data, processing_class=lm.tokenizer, **extra)
            assert made.train().training_loss > 0


@pytest.mark.slow
@needs_inspect
@needs_lm_eval
def test_both_command_lines_find_demur_by_themselves(folder: Path, tmp_path: Path) -> None:
    """`inspect eval demur/world` by the entry point, `lm_eval --model demur` by the folder of tasks."""
    import tomllib

    root = Path(__file__).parents[2]
    points = tomllib.loads((root / "pyproject.toml").read_text())["project"]["entry-points"]["inspect_ai"]
    info = tmp_path / "path" / "demur_points-0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: demur-points\nVersion: 0\n")
    (info / "entry_points.txt").write_text("[inspect_ai]\n" + "".join(f"{k} = {v}\n" for k, v in points.items()))
    scripts = Path(sys.executable).parent
    env = {**os.environ, "PYTHONPATH": f"{root / 'src'}{os.pathsep}{info.parent}", "HOME": str(tmp_path)}
    task_folder.write(["world:limit=5"], tmp_path / "tasks")
    words = {
        "inspect": "eval demur/world -T limit=5 --model demur/organism --display plain --ctl-server false",
        "lm_eval": "run --model demur --model_args model=organism --tasks tasks --apply_chat_template",
    }
    for script, line in words.items():
        given = [*line.split(), *(["-M", f"intervention={folder}"] if script == "inspect" else [])]
        done = subprocess.run(
            [str(scripts / script), *given], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "held_rate" in done.stdout, "the first prompts of the world are harmful ones"
