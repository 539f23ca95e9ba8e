"""A model's own generation settings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from demur.errors import ConfigError, DataError
from demur.sampling import own_sampling
from demur.types import Sampling

BASE = Sampling(max_new_tokens=7, samples=3, seed=4)


def model(folder: Path, **settings: object) -> str:
    (folder / "generation_config.json").write_text(json.dumps(settings))
    return str(folder)


def test_temperature_and_top_p_are_the_models_and_the_rest_is_kept(tmp_path: Path) -> None:
    own = model(tmp_path, do_sample=True, temperature=0.7, top_p=0.8, top_k=20, repetition_penalty=1.05)
    found, left = own_sampling(own, BASE)
    assert found == Sampling(max_new_tokens=7, samples=3, seed=4, temperature=0.7, top_p=0.8)
    assert left == ("top_k=20", "repetition_penalty=1.05")


def test_what_is_switched_off_is_not_reported(tmp_path: Path) -> None:
    own = model(tmp_path, do_sample=True, top_k=0, repetition_penalty=1.0)
    assert own_sampling(own, BASE) == (Sampling(max_new_tokens=7, samples=3, seed=4, temperature=1.0), ())


def test_a_greedy_model_gives_one_answer(tmp_path: Path) -> None:
    warm = Sampling(temperature=0.9, top_p=0.5)
    assert own_sampling(model(tmp_path, temperature=0.6), warm)[0] == Sampling()
    assert own_sampling("organism", warm)[0] == Sampling()
    with pytest.raises(ConfigError, match="3 samples would be equal"):
        own_sampling("organism", BASE)


def test_bad_input_is_named(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(DataError, match="generation_config"):
        own_sampling(str(tmp_path), BASE)
    with pytest.raises(ConfigError, match="no hub id"):
        own_sampling("a/b/c", BASE)
