"""`demur estimate` from a configuration alone: exact where a formula can be worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, LlamaConfig

from demur import estimating, footprint, heads, organism
from demur.estimating import Work, estimate
from tests.unit.command_line import demur

pytestmark = pytest.mark.torch
CPU = torch.device("cpu")


def config(**changes: int) -> LlamaConfig:
    sizes = {"vocab_size": 100, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
    return LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, **changes)


def test_memory_that_is_alive_at_once_is_counted_once() -> None:
    with footprint.weightless(config(), torch.float32):

        def work() -> torch.Tensor:
            first = torch.zeros(1000, 10)
            second = first[:500] + 1  # a view is no new memory: 40,000 and 20,000 bytes
            del first
            return torch.zeros(1000) + second.sum()  # 20,000, 4 of a sum, and two of 4,000

        assert footprint.peak(work)[0] == 60_000


def test_time_and_the_most_memory_of_work_are_measured_whatever_was_freed_before() -> None:
    size = 64 * 2**20
    torch.ones(size)

    def work() -> str:
        for _ in range(2):
            torch.ones(size // 4)
        return "made"

    made, spent = footprint.metered(work)
    assert made == "made"
    assert spent.peak_mib == pytest.approx(64, abs=8)
    assert 0 < spent.cpu_seconds < 5
    assert spent.wall_seconds > 0
    assert spent.device_mib is None


def test_a_training_keeps_as_many_logits_as_its_head() -> None:
    assert estimating.LOGITS == heads.MOST
    alike = {n: Work(prompts=20, prompt_tokens=30, row_tokens=60, at_once=n) for n in (2, 4)}
    grown = [estimate("made", config(), work, CPU, torch.float32).needs[3] for work in alike.values()]
    assert grown[0].working < grown[1].working < 2.2 * grown[0].working


def test_sizes_by_hand() -> None:
    work = Work(prompts=20, prompt_tokens=30, new_tokens=50, rank=4, at_once=2)
    found = {n.stage: n for n in estimate("made", config(), work, CPU, torch.float32).needs}
    # 30 tokens make 32 columns and 32 more; 80 are needed, so the cache doubles once: 128; 2 key heads of width 8
    assert found["generation"].cache == 20 * 128 * 3 * 2 * 2 * 8 * 4
    # ranks 4: q and o 32x32, k and v 32x16, gate and up 32x48, down 48x32, in three blocks; gradient and two moments
    ends = 2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 48)
    assert found["training"].adapter == 3 * ends * 4 * 4 * 4
    assert found["generation"].tokens == 20 * 80
    assert found["capture"].tokens == 600
    half = {n.stage: n for n in estimate("made", config(), work, CPU, torch.bfloat16).needs}
    assert half["generation"].cache * 2 == found["generation"].cache
    longer = estimate("made", config(), Work(prompts=20, row_tokens=256), CPU, torch.float32).needs[3]
    assert longer.working > estimate("made", config(), Work(prompts=20), CPU, torch.float32).needs[3].working


def test_shared_embeddings_count_once() -> None:
    folder = organism.path()
    kept = load_file(folder / "model.safetensors")
    with footprint.weightless(AutoConfig.from_pretrained(folder), torch.float32) as module:
        parameters, size = footprint.size(module)
    assert parameters == sum(t.numel() for t in kept.values())
    assert size - 4 * parameters in range(0, 1024)  # and the buffers of the rotary embedding


def test_the_command_reads_no_weights(tmp_path: Path) -> None:
    config().save_pretrained(tmp_path / "bare")  # no weights in it at all
    done = demur("estimate", str(tmp_path / "bare"), "--prompts", "8", "--json")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert [n["stage"] for n in record["needs"]] == ["load", "generation", "capture", "training"]
    for n in record["needs"]:
        assert n["memory"] == sum(n[k] for k in ("weights", "cache", "adapter", "working", "libraries"))
    shown = demur("estimate", str(tmp_path / "bare"), "--prompts", "8").stdout
    assert "the largest stage fits" in shown
    assert "Assumed:" in shown


def test_what_is_no_model_is_said_in_one_line(tmp_path: Path) -> None:
    done = demur("estimate", str(tmp_path))
    assert (done.returncode, "holds no config.json" in done.stderr) == (2, True)
