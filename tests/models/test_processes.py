"""What leaves a process, and which GPU a process takes."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file

from demur.boundary_scorer import BoundaryScorer
from demur.engines import beside
from demur.errors import ConfigError
from demur.generators.local import Local
from demur.interventions.instruct import Instruct
from demur.lm import attach
from demur.loading import _device
from demur.types import Prompt
from tests.models.test_mining import scorer as scorer
from tests.unit.test_engines import Stand

pytestmark = pytest.mark.torch

CONFIGURATIONS = Path(__file__).parents[2] / "recipes" / "accelerate"
PROMPTS = [
    Prompt(id=f"q/{n}", text=f"How do I mend pump {n}?", expected="comply", source="q", language="en")
    for n in range(20)
]


def test_a_scorer_travels_without_its_model(scorer: BoundaryScorer) -> None:
    sent = pickle.dumps(scorer)
    assert len(sent) < sum(p.numel() for p in scorer.lm.module.parameters())
    there: BoundaryScorer = pickle.loads(sent)
    assert there.lm is not scorer.lm
    assert there.record == scorer.record
    blocks = [PROMPTS[:7], PROMPTS[7:]]
    sent_out, stayed = (list(beside(scorer, blocks, over)) for over in (Stand(), None))
    assert [prompts for prompts, _ in sent_out] == [prompts for prompts, _ in stayed] == blocks
    assert [scores for _, scores in sent_out] == [scores for _, scores in stayed]
    with attach(scorer.lm, Instruct(text="Be brief.")), pytest.raises(ConfigError, match="an intervention is attached"):
        pickle.dumps(scorer)
    assert Local(model="organism") == pickle.loads(pickle.dumps(Local(model="organism")))


def test_each_process_of_a_training_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert _device("auto") == torch.device("cuda", 1)
    monkeypatch.delenv("LOCAL_RANK")
    assert _device("auto") == torch.device("cuda")


@pytest.mark.parametrize("name", [path.name for path in sorted(CONFIGURATIONS.glob("*.yaml"))])
def test_accelerate_reads_the_configurations(name: str) -> None:
    read = load_config_from_file(str(CONFIGURATIONS / name))
    assert read.num_processes == 2
    assert read.mixed_precision == "no"
