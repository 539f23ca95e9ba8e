"""What a user names is what works and what is recorded: the model, the intervention, the guard."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from demur.assemble import measurement
from demur.cache import Cache
from demur.errors import ConfigError
from demur.measure import Measurement
from demur.sides import Side
from demur.types import Sampling
from tests.chat_server import MODEL, ChatServer, completion, serving
from tests.unit.command_line import demur

STEERED = '''
"""A generator that takes an intervention."""
from dataclasses import dataclass
from typing import ClassVar
from demur.types import ModelRef, Response

@dataclass(frozen=True, slots=True, kw_only=True)
class Steered:
    """Says yes."""
    intervention: str = ""
    """A folder."""

    def ref(self):
        return ModelRef(id="steered", revision="sha256:1", dtype="float32")

    def __call__(self, prompts, sampling):
        for prompt in prompts:
            yield Response(prompt_id=prompt.id, text="Yes.", finish="stop")
'''


@pytest.fixture(autouse=True)
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a generator, two prompts and an intervention."""
    monkeypatch.chdir(tmp_path)
    Path("steered.py").write_text(STEERED)
    rows = [{"id": e, "text": f"question to {e}", "expected": e, "kind": "plain"} for e in ("comply", "refuse")]
    Path("p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    intervention("abc")
    return tmp_path


def intervention(content: str, folder: str = "iv") -> Path:
    Path(folder).mkdir(exist_ok=True)
    (Path(folder) / "intervention.json").write_text(json.dumps({"kind": "steer", "fingerprint": content}))
    return Path(folder)


def of(generator: str, *, folder: Path | None = None, guard: str = "") -> Measurement:
    return measurement(
        benchmarks=["file:path=p.jsonl"],
        judges=["keyword"],
        generator=generator,
        sampling=Sampling(),
        intervention=folder,
        guard=guard,
    )


@pytest.mark.parametrize("part", ["fake", "http:base_url=http://127.0.0.1:9/v1,model=m"])
def test_an_intervention_that_cannot_be_attached_is_refused(part: str) -> None:
    with pytest.raises(ConfigError, match=rf"generator {part.partition(':')[0]} cannot attach the intervention iv"):
        of(part, folder=Path("iv"))
    done = demur("measure", "--generator", part, "--benchmark", "file:path=p.jsonl", "--with", "iv", "--out", "r")
    assert (done.returncode, "cannot attach" in done.stderr, Path("r").exists()) == (2, True, False)


@pytest.mark.parametrize("guard", ["", "tests/parts/word_guard.py"])
def test_an_intervention_that_the_generator_names_is_recorded_and_cached_by_content(guard: str, shop: Path) -> None:
    guard = guard and str(Path(__file__).parent.parent / "parts" / "word_guard.py")

    def shelf(what: Measurement) -> Path:
        found = Cache(folder=shop / "kept").answers(
            model=what.model, generator=what.generator, sampling=what.sampling, intervention=what.intervention
        )
        assert found is not None
        return found.shelf.path

    named, beside = of("./steered.py:intervention=iv", guard=guard), of("./steered.py", folder=Path("iv"), guard=guard)
    assert named == beside
    assert named.intervention is not None
    assert (named.intervention.name, named.intervention.settings["fingerprint"]) == ("steer", "abc")
    assert shelf(named) != shelf(of("./steered.py", guard=guard))
    before = shelf(named)
    intervention("def")
    assert shelf(of("./steered.py:intervention=iv", guard=guard)) != before


def test_two_interventions_are_one_too_many() -> None:
    with pytest.raises(ConfigError, match="names the intervention other, beside iv; name one"):
        of("./steered.py:intervention=other", folder=Path("iv"))
    assert of("./steered.py:intervention=./iv", folder=Path("iv")).intervention is not None


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with serving(ChatServer(reply=lambda body: completion("Yes."))) as running:
        yield running


def test_a_server_is_asked_for_its_own_model_where_none_is_named(server: ChatServer) -> None:
    part = f"http:base_url={server.url},attempts=1"
    words = ("measure", "--generator", part, "--benchmark", "file:path=p.jsonl", "--judge", "keyword", "--no-cache")
    done = demur(*words, "--json")
    assert done.returncode == 0, done.stderr
    assert {body["model"] for body in server.bodies} == {MODEL}
    (folder,) = Path("runs").iterdir()
    assert folder.name.startswith(f"{MODEL}-")
    assert json.loads((folder / "run.json").read_text())["spec"]["model"]["id"] == MODEL
    done = demur(*words, "--sampling", "model")
    assert (done.returncode, "--sampling model: generator http names no model" in done.stderr) == (2, True)


def test_the_models_own_sampling_is_that_of_the_generators_model() -> None:
    Path("own").mkdir()
    Path("own/generation_config.json").write_text(json.dumps({"do_sample": True, "temperature": 0.6}))
    part = "http:base_url=http://127.0.0.1:9/v1,model=./own,attempts=1,timeout=1"
    done = demur(
        "measure", "--generator", part, "--benchmark", "file:path=p.jsonl", "--sampling", "model", "--out", "r"
    )
    assert "sampling as ./own says: temperature 0.6" in done.stderr


def test_a_side_is_a_model_or_a_part() -> None:
    assert Side(what="organism").generator().settings == {"model": "organism"}
    assert Side(what="http:base_url=http://127.0.0.1:9/v1").generator().name == "http"


def test_the_verb_measure_can_be_called_however_it_was_come_by(tmp_path):
    import demur
    import demur.measure as module

    what = measurement(benchmarks=["world:limit=6"], judges=["keyword"], generator="fake", sampling=Sampling())
    for verb in (demur.measure, module, module.measure):
        assert verb(what, tmp_path / "run").metrics
