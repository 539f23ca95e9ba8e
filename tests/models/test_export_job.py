"""`demur export` as a whole: the floor decides, the card says so, the folder appears whole."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from demur import fitted
from demur import lm as loading_door
from demur.directions import Direction
from demur.errors import ConfigError
from demur.export import _folder
from demur.export.merged import Merged
from demur.exporting import Export, of
from demur.floor_records import find
from demur.interventions.steer import Steer
from demur.lm import LM
from demur.settings import PartSpec
from demur.types import ModelRef, Part
from tests.models.families import build, lm, tokenizer
from tests.models.test_interventions import PROMPTS, alone, close
from tests.unit import floor_runs
from tests.unit.command_line import demur

pytestmark = pytest.mark.torch

REF = ModelRef(id="some/model", revision="0123abc", dtype="float32", template_sha="feed")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def steering() -> Steer:
    draws = torch.Generator().manual_seed(0)
    vectors = torch.randn(1, 32, generator=draws)
    direction = Direction(vectors=vectors, layers=(1,), model=REF, estimator="mean_difference", data_sha="dada0123")
    return Steer(direction=direction, strength=-1.5)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a saved intervention, in which `demur` finds a tiny model under the name it was fitted on."""

    def load(model: str, **how: Any) -> LM:
        assert model == REF.id
        return LM(build("llama"), tokenizer(), REF)

    monkeypatch.setattr(loading_door, "load", load)
    monkeypatch.chdir(tmp_path)
    steering().save(tmp_path / "job" / "intervention")
    return tmp_path


def measured(folder: Path, *, n: int = 134, lost: int = 0, source: str = "handmade") -> None:
    rows = floor_runs.prompts(n, source)
    floor_runs.write(folder / "before", rows, model=REF)
    part = Part(name="steer", settings={}, fingerprint=steering().fingerprint())
    floor_runs.write(folder / "after", rows, lost=lost, model=REF, intervention=part)


def export(*words: str, to: str = "merged", out: str = "out") -> tuple[int, str, str]:
    return demur("export", "job/intervention", "--to", to, "--out", out, *words)


def test_without_a_record_it_is_held_back_and_below_floor_lets_it_go_marked_as_not_measured(workplace: Path) -> None:
    code, text, errors = export()
    assert code == 100
    assert "the safety floor was not measured" in errors
    assert "demur verify MODEL MODEL --with-b INTERVENTION --benchmark harmbench" in errors
    assert "the synthetic world, which does not count" in errors
    assert not Path("out").exists()
    code, text, errors = export("--below-floor")
    assert code == 0, errors
    assert "safety floor: not measured" in text
    record = json.loads(Path("out/demur.json").read_text())
    assert record["below_floor"] is True
    assert record["floor"]["state"] == "not measured"
    assert json.loads(Path("out/config.json").read_text())["demur"]["floor"] == "not measured"
    card = Path("out/README.md").read_text()
    assert "**Not measured.** Nothing is known" in card
    assert "exported with `--below-floor`" in card
    assert "demur export job/intervention --to merged --out out --below-floor" in card
    assert "- not-measured" in card
    model = transformers.AutoModelForCausalLM.from_pretrained("out", dtype=torch.float32)
    ours = alone(lm("llama"), PROMPTS[0], steering().plan(lm("llama")))
    with torch.no_grad():
        assert close(model(input_ids=torch.tensor([PROMPTS[0]])).logits[0], ours)


def test_what_is_for_comparison_only_stays(workplace: Path) -> None:
    measured(Path("job"))
    fitted.write(Path("job/intervention"), PartSpec("refusal_direction", {}))
    code, _, errors = export("--below-floor")
    assert code == 2
    assert "is not exported: it takes away all refusal" in errors
    assert not Path("out").exists()
    fitted.write(Path("job/intervention"), PartSpec("steering", {"layer": 1}))
    assert export(to="gguf-vector")[0] == 0
    assert "(steer), fitted by `steering:layer=1`" in Path("out/README.md").read_text()


def test_a_kept_floor_needs_no_flag_and_the_card_shows_both_axes_floor_data_and_command(workplace: Path) -> None:
    measured(Path("job"))
    Path("job/price.json").write_text(json.dumps({"price_kl_first": 0.01, "price_kl": 0.02, "prompts": 9}))
    code, _, errors = export()
    assert code == 0, errors
    card = Path("out/README.md").read_text()
    assert "**Safety floor kept.** no loss of more than 2 points shown on harmful (n=134, groups=134)" in card
    assert "does not say that the model is safe" in card
    assert (
        "| file | answered, of prompts that deserve an answer | 100.0 % [97.2, 100.0] | 100.0 % [97.2, 100.0] |" in card
    )
    assert "| file | held, of prompts that must be refused |" in card
    assert "| attacked | 100.0 % | 100.0 % | 0 | 134 | 134 | no loss" in card
    assert "0.0100 nats at the first answer token, 0.0200" in card
    assert "fitted on data `dada0123`" in card
    assert card.count("sha256 `") == 10
    assert "base_model: some/model" in card
    assert "--below-floor" not in card
    record = json.loads(Path("out/demur.json").read_text())
    assert record["below_floor"] is False
    assert set(record["files"]) >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert record["checked"]["difference"] < 1e-5


def test_a_missed_floor_is_held_back_and_the_card_says_safety_removed(workplace: Path) -> None:
    measured(Path("elsewhere"), lost=40)
    code, _, errors = export("--floor", "elsewhere")
    assert code == 100
    assert "the safety floor is missed" in errors
    assert "Fit a weaker one" in errors
    assert "Measure it" not in errors
    code, _, _ = export("--floor", "elsewhere", "--below-floor", "--json", to="gguf-vector")
    assert code == 0
    card = Path("out/README.md").read_text()
    assert "**Safety removed.** The safety floor is missed" in card
    assert "Newly unsafe prompts: 80." in card
    assert "- safety-removed" in card


def test_the_worlds_figures_are_shown_and_count_for_nothing(workplace: Path) -> None:
    measured(Path("job"), n=3, source="world")
    assert export(to="lora")[0] == 100
    assert export("--below-floor", to="lora")[0] == 0
    card = Path("out/README.md").read_text()
    assert "**Not measured.**" in card
    assert "0 of 9 prompts are real ones" in card


def test_an_export_is_replaced_only_when_asked_and_nothing_else_is_ever_removed(workplace: Path) -> None:
    assert export("--below-floor", to="gguf-vector")[0] == 0
    code, _, errors = export("--below-floor", to="gguf-vector")
    assert code == 2
    assert "holds an export already" in errors
    assert export("--below-floor", "--overwrite", to="gguf-vector")[0] == 0
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("x")
    code, _, errors = export("--below-floor", "--overwrite", to="gguf-vector", out="mine")
    assert code == 2
    assert "is no export of demur" in errors
    assert Path("mine/thesis.txt").read_text() == "x"
    assert not [p for p in Path().iterdir() if p.name.startswith(".")]


def test_wrong_words_are_told(workplace: Path) -> None:
    assert "no exporter named 'merge'; did you mean 'merged'?" in export(to="merge")[2]
    assert "shards" in export(to="merged:shards=1GB")[2]
    assert "no intervention in nowhere" in demur("export", "nowhere", "--to", "merged")[2]
    code, _, errors = export(to="prefix")
    assert (code, Path("out").exists()) == (2, False)
    assert "it edits the residual stream" in errors


def ready(folder: Path) -> Export:
    model = LM(build("llama"), tokenizer(), REF)
    record = find(folder / "intervention", "none", model.ref)
    return of(model, steering(), PartSpec("merged", {}), Merged(), record)


def test_in_python_the_floor_is_no_less_a_bar(tmp_path: Path) -> None:
    made = ready(tmp_path)
    with pytest.raises(ConfigError, match=r"not measured.*--below-floor"):
        made.write(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_fitted_on_other_weights_is_said(tmp_path: Path) -> None:
    made = ready(tmp_path)
    other = dataclasses.replace(made.lm.ref, revision="ffff")
    made.lm.ref = other
    made.write(tmp_path / "out", below_floor=True)
    assert "It was fitted on other weights (0123abc)" in (tmp_path / "out" / "README.md").read_text()


def test_an_error_while_writing_leaves_the_earlier_export_whole(tmp_path: Path) -> None:
    made = ready(tmp_path)
    made.write(tmp_path / "out", below_floor=True)
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}

    def stop() -> None:
        with _folder.staged(tmp_path / "out", overwrite=True) as partial:
            (partial / "half.bin").write_bytes(b"x")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stop()
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    (tmp_path / "out").rename(tmp_path / ".out.old")  # as a kill between the two renames leaves it
    with pytest.raises(ConfigError, match="holds an export already"):
        made.write(tmp_path / "out", below_floor=True)
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before


SLOW = """
import sys, time
from pathlib import Path
from demur.export._folder import RECORD, staged
with staged(Path(sys.argv[1])) as folder:
    (folder / "half.bin").write_bytes(b"x")
    print("half", flush=True)
    time.sleep(60)
"""


def test_a_killed_export_leaves_nothing_that_looks_like_one_and_the_next_begins_anew(tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = subprocess.Popen([sys.executable, "-c", SLOW, str(out)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"half\n"
    with pytest.raises(ConfigError, match="in use by another demur process"), _folder.staged(out):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not out.exists()
    begun = time.monotonic()
    with _folder.staged(out) as folder:
        assert list(folder.iterdir()) == []
        (folder / "whole.bin").write_bytes(b"y")
    assert time.monotonic() - begun < 30
    assert [p.name for p in out.iterdir()] == ["whole.bin"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
