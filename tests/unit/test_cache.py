"""The cache: what was answered or judged once is not asked again, and nothing that differs is taken for the same."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from demur import cache as caching
from demur.cache import Cache, Shelf
from demur.errors import ConfigError, DataError
from demur.measure import Measurement, measure
from demur.records import RunFolder
from demur.settings import part_of
from demur.types import Card, Item, Metric, ModelRef, Part, Prompt, Question, Response, Sampling, Verdict
from tests.unit.test_cli import demur

REF = ModelRef(id="./tiny", revision="sha256:00", dtype="float32", template_sha="t")
PROMPTS = tuple(
    Prompt(id=f"p/{i}", text=f"question {i}", expected="comply", kind="plain", source="p") for i in range(6)
)
ERROR = PROMPTS[5].text
METRIC = Metric(
    name="m", value=None, low=None, high=None, n=0, groups=0, n_unscored=0, judge="j", benchmark="given", interval=""
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """A benchmark of the prompts it is given."""

    prompts: tuple[Prompt, ...] = PROMPTS
    card: ClassVar[Card] = Card(title="given", home="demur")

    def __call__(self) -> tuple[Prompt, ...]:
        return self.prompts


class Counting:
    """A generator that counts what it is asked; the last prompt always fails."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Response]:
        for prompt in prompts:
            self.asked.append(prompt.id)
            for sample in range(sampling.samples):
                key = {"prompt_id": prompt.id, "sample": sample}
                if prompt.text == ERROR:
                    yield Response(**key, text="", finish="error", error="down")
                else:
                    yield Response(**key, text=f"answer to {prompt.text}", finish="stop", n_tokens=4, logprob=-0.125)


class Judging:
    """A judge that counts; it cannot score the first item."""

    questions: ClassVar[tuple[Question, ...]] = ("refusal", "answer_harm")

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, items: Sequence[Item]) -> Iterator[Verdict]:
        for prompt, response in items:
            self.asked.append(prompt.id)
            key = {"prompt_id": prompt.id, "sample": response.sample, "judge": "j"}
            if prompt.text == PROMPTS[0].text:
                yield Verdict(**key, question="refusal", unscored="judge: timeout")
            else:
                yield Verdict(**key, question="refusal", label="compliance", score=0.25, reason="r")
            yield Verdict(**key, question="answer_harm", label="harmless")


class Bench:
    """Runs measurements that share one cache and tells what each of them asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.runs = folder, 0
        self.cache = Cache(folder=folder / "kept")
        self.base: dict[str, Any] = {
            "model": REF,
            "benchmarks": ((Part(name="given", settings={}), Given()),),
            "sampling": Sampling(),
            "intervention": None,
        }

    def run(
        self, *, judge: Part | None = None, generator: Any = None, cached: bool = True, **changed: Any
    ) -> tuple[list[str], list[str], Path]:
        """Measure into a new folder; return the ids asked of the generator and of the judge, and the folder."""
        self.runs += 1
        made, judging = generator or Counting(), Judging()
        what = Measurement(
            generator=(Part(name="counting", settings={"model": "./tiny"}), made),
            judges=((judge or Part(name="j", settings={}, fingerprint="1"), judging),),
            **{**self.base, **changed},
        )
        out = self.folder / f"run{self.runs}"
        assert measure(what, out, cache=self.cache if cached else None) == RunFolder.load(out)
        return list(getattr(made, "asked", [])), judging.asked, out


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr("demur.measure.git_revision", lambda: "")
    monkeypatch.setattr("demur.measure.versions", lambda: iter(()))
    monkeypatch.setattr("demur.results.all_metrics", lambda *_, **__: [METRIC])
    monkeypatch.setattr("os.fsync", lambda _: None)
    return Bench(tmp_path)


IDS = [p.id for p in PROMPTS]
SCORED = IDS[1:5]


def test_a_second_run_asks_only_for_what_failed_and_holds_the_same_rows(bench: Bench) -> None:
    first, judged, cold = bench.run()
    assert (first, judged) == (IDS, IDS[:5])
    again, judged_again, warm = bench.run()
    assert again == IDS[5:], "an answer that ended in an error is asked for again"
    assert judged_again == IDS[:1], "a verdict that failed is asked for again"
    for name in ("responses", "verdicts", "prompts"):
        assert (warm / f"{name}.jsonl").read_bytes() == (cold / f"{name}.jsonl").read_bytes()


def test_without_a_cache_nothing_is_kept_or_found(bench: Bench) -> None:
    bench.run(cached=False)
    assert not bench.cache.files()
    assert bench.run()[0] == IDS
    assert bench.run(cached=False)[0] == IDS


def test_another_judge_generates_nothing(bench: Bench) -> None:
    bench.run()
    for judge in (Part(name="other", settings={}, fingerprint="1"), Part(name="j", settings={"k": 1}, fingerprint="2")):
        asked, judged, _ = bench.run(judge=judge)
        assert (asked, judged) == (IDS[5:], IDS[:5])


class Known:
    """Which prompts' answers a cache knows, without a run around it."""

    def __init__(self, folder: Path) -> None:
        self.cache = Cache(folder=folder)

    def of(self, *, prompts: Sequence[Prompt] = PROMPTS, fill: bool = False, **changed: Any) -> list[tuple[str, int]]:
        generator = (Part(name="counting", settings={"model": "./tiny"}), Counting())
        upstream: dict[str, Any] = {"model": REF, "generator": generator, "sampling": Sampling(), **changed}
        kept = self.cache.answers(**upstream)
        assert kept is not None
        found = [(r.prompt_id, r.sample) for r in kept.known(prompts)]
        if fill:
            for response in Counting()(prompts, upstream["sampling"]):
                kept.keep(response)
        return found


ALL = [(p.id, 0) for p in PROMPTS[:5]]


def swapped(**changes: Any) -> list[Prompt]:
    return [dataclasses.replace(p, **changes) for p in PROMPTS]


@pytest.fixture
def known(tmp_path: Path) -> Known:
    made = Known(tmp_path)
    made.of(fill=True)
    return made


@pytest.mark.parametrize(
    "changed",
    [
        {"model": dataclasses.replace(REF, revision="sha256:01")},
        {"model": dataclasses.replace(REF, template_sha="u")},
        {"model": dataclasses.replace(REF, dtype="bfloat16")},
        {"model": dataclasses.replace(REF, adapter="lora")},
        {"generator": (Part(name="counting", settings={"model": "./tiny", "base": "http"}), Counting())},
        {"sampling": Sampling(max_new_tokens=9)},
        {"sampling": Sampling(temperature=1.0)},
        {"sampling": Sampling(prefill="Sure")},
        {"sampling": Sampling(thinking="on")},
        {"intervention": Part(name="steer", settings={"strength": 1}, fingerprint="a")},
        {"prompts": swapped(text="another")},
        {"prompts": swapped(system="be brief")},
        {"prompts": swapped(history=(("user", "hi"), ("assistant", "yes?")))},
        {"prompts": swapped(meta=(("prefill", "Sure"),))},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_whatever_decides_an_answer_is_part_of_its_key(known: Known, changed: dict[str, Any]) -> None:
    assert known.of(**changed, fill=True) == []
    assert known.of(**changed)[:5] == ALL
    assert known.of() == ALL


@pytest.mark.parametrize(
    "changed",
    [
        {"model": dataclasses.replace(REF, id="/elsewhere/tiny")},
        {"generator": (Part(name="counting", settings={"model": "/elsewhere/tiny", "device": "auto"}), Counting())},
        {"prompts": swapped(category="other", language="de", kind="borderline")},
        {"prompts": swapped(meta=(("benchmark", "given:limit=6"),))},
    ],
    ids=["path", "setting", "labels", "benchmark"],
)
def test_what_does_not_reach_the_model_is_no_part_of_an_answers_key(known: Known, changed: dict[str, Any]) -> None:
    assert known.of(**changed) == ALL


def served(model: str = "some-model", url: str = "http://a", revision: str = "r1") -> dict[str, Any]:
    settings = {"model": model, "base_url": url, "revision": revision}
    part = Part(name="http", settings=settings)
    return {"model": ModelRef(id=model, revision=revision), "generator": (part, Counting())}


def test_a_server_is_told_by_its_name_its_address_and_what_its_user_calls_the_weights(known: Known) -> None:
    known.of(**served(), fill=True)
    assert known.of(**served()) == ALL
    for other in ({"url": "http://b"}, {"model": "other"}, {"revision": "r2"}):
        assert known.of(**served(**other)) == []


def test_nothing_is_kept_of_weights_that_are_not_known(tmp_path: Path) -> None:
    """A server may hold other weights tomorrow under the same name and address."""
    from demur.generators.guarded import Guarded
    from demur.generators.http import Http
    from demur.judges.llm import Llm
    from tests.parts.word_guard import WordGuard

    kept = Cache(folder=tmp_path)
    for revision in ("", "2025-01-01"):
        server = Http(model="m", revision=revision)
        assert server.ref() == ModelRef(id="m", revision=revision)
        judge, guarded = Llm(generator=server), Guarded(generator=server, guard=WordGuard())
        for generator in (server, guarded):
            made = (part_of("generators", generator), generator)
            found = kept.answers(model=generator.ref(), generator=made, sampling=Sampling())
            assert (found is not None) == bool(revision)
        assert (kept.verdicts(part_of("judges", judge), judge) is not None) == bool(revision)
    outer = Guarded(generator=Http(model="m", revision="1"), guard=WordGuard())
    object.__setattr__(outer, "guard", Llm(generator=Http(model="g")))
    made = (part_of("generators", outer), outer)
    assert kept.answers(model=outer.ref(), generator=made, sampling=Sampling()) is None, "the guard may change too"


def test_interventions_are_told_by_content(known: Known) -> None:
    one = Part(name="steer", settings={"fingerprint": "abc"}, fingerprint="1")
    known.of(intervention=one, fill=True)
    assert known.of(intervention=dataclasses.replace(one, fingerprint="2")) == ALL
    assert known.of(intervention=Part(name="steer", settings={"fingerprint": "abd"}, fingerprint="1")) == []


def test_drawn_answers_belong_to_their_prompt_id_and_sample(known: Known) -> None:
    renamed = [dataclasses.replace(p, id=f"q{p.id}") for p in PROMPTS]
    assert known.of(prompts=renamed) == [(f"q{name}", sample) for name, sample in ALL], "greedy: the id has no say"
    drawn = Sampling(temperature=1.0, samples=2)
    known.of(prompts=renamed, sampling=drawn, fill=True)
    assert known.of(sampling=drawn, fill=True) == []
    both = [(p.id, sample) for p in PROMPTS[:5] for sample in (0, 1)]
    assert known.of(sampling=dataclasses.replace(drawn, samples=3)) == both
    assert known.of(sampling=Sampling(temperature=1.0)) == ALL
    assert known.of(sampling=dataclasses.replace(drawn, seed=1)) == []


def test_code_versions_are_part_of_the_keys(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.run()
    monkeypatch.setattr(caching, "VERDICTS", 99)
    monkeypatch.setattr(Counting, "version", 2, raising=False)
    assert bench.run()[:2] == (IDS, IDS[:5])
    monkeypatch.setattr(caching, "RESPONSES", 99)
    monkeypatch.setattr(Judging, "version", 2, raising=False)
    assert bench.run()[:2] == (IDS, IDS[:5])


def test_a_judge_of_the_package_is_known_by_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from demur.judges.keyword import Keyword

    kept = Cache(folder=tmp_path)

    def path(judge: Keyword) -> Path:
        found = kept.verdicts(part_of("judges", judge), judge)
        assert found is not None
        return found.shelf.path

    before = path(Keyword())
    assert path(Keyword()) == before
    assert path(Keyword(window=200)) != before
    monkeypatch.setattr(caching, "file_sha256", lambda file: "changed")
    caching._source.cache_clear()
    try:
        assert path(Keyword()) != before
    finally:
        caching._source.cache_clear()


def test_a_judge_of_judges_is_known_by_the_source_of_its_members(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from demur.judges.keyword import Keyword
    from demur.judges.oracle import Oracle
    from demur.judges.panel import Panel

    judge, kept, changed = Panel(members=(Keyword(), Oracle())), Cache(folder=tmp_path), ""
    real = caching._source.__wrapped__
    monkeypatch.setattr(caching, "_source", lambda file: changed if file.stem == "keyword" and changed else real(file))

    def path() -> Path:
        found = kept.verdicts(part_of("judges", judge), judge)
        assert found is not None
        return found.shelf.path

    before = path()
    assert path() == before
    changed = "other phrases"
    assert path() != before


def test_only_new_prompts_are_asked_for(bench: Bench) -> None:
    some = ((Part(name="given", settings={}), Given(prompts=PROMPTS[1:3])),)
    bench.run(benchmarks=some)
    asked, judged, _ = bench.run()
    assert asked == ["p/0", "p/3", "p/4", "p/5"]
    assert judged == ["p/0", "p/3", "p/4"]


def test_a_generator_or_judge_may_stay_out(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Counting, "cacheable", False, raising=False)
    monkeypatch.setattr(Judging, "cacheable", False, raising=False)
    for _ in range(2):
        assert bench.run()[:2] == (IDS, IDS[:5])
    assert not bench.cache.files()


# the file


def key(i: int) -> str:
    return f"{i:032x}"


def test_a_torn_line_loses_its_own_row_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    Shelf(path).put(key(1), {"text": "a"})
    with path.open("ab") as file:
        file.write(b'\n{"key":"' + key(2).encode() + b'","row":{"te')
    other = Shelf(path)
    other.put(key(3), {"text": "é\ud83d\n"})
    found = Shelf(path).take(map(key, range(5)))
    assert found == {key(1): {"text": "a"}, key(3): {"text": "é\ud83d\n"}}
    other.put(key(2), {"text": "b"})
    assert Shelf(path).take([key(2)]) == {key(2): {"text": "b"}}


@pytest.mark.parametrize("junk", [b"\x00\xff" * 40, b"[]", b'{"key":"' + key(1).encode() + b'"}', b"null"])
def test_junk_in_the_file_is_as_if_it_were_not_there(tmp_path: Path, junk: bytes) -> None:
    path = tmp_path / "s.jsonl"
    path.write_bytes(junk + b"\n")
    Shelf(path).put(key(1), 1)
    assert Shelf(path).take([key(1), key(2)]) == {key(1): 1}


def test_two_processes_write_one_file(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from demur.cache import Shelf\n"
        "s = Shelf(Path(sys.argv[1]))\n"
        "for i in range(int(sys.argv[2]), 400, 2): s.put(f'{i:032x}', 'x' * (i * 37 % 5000))\n"
    )
    path = tmp_path / "s.jsonl"
    both = [subprocess.Popen([sys.executable, "-c", code, str(path), str(first)]) for first in (0, 1)]
    assert [process.wait(timeout=30) for process in both] == [0, 0]
    assert Shelf(path).take(map(key, range(400))) == {key(i): "x" * (i * 37 % 5000) for i in range(400)}


def test_a_full_disk_is_an_error_that_loses_nothing_else(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    real, written = os.write, []

    def full(file: int, data: bytes) -> int:
        if str(bench.cache.folder) in str(Path(f"/proc/self/fd/{file}").readlink()):
            written.append(data)
            if len(written) == 3:
                return real(file, data[:10])
            if len(written) > 3:
                raise OSError(errno.ENOSPC, "no space")
        return real(file, data)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(DataError, match=r"disk full while writing the cache .*--no-cache"):
        bench.run()
    monkeypatch.setattr(os, "write", real)
    kept = (bench.folder / "run1" / "responses.jsonl").read_text().splitlines()
    assert len(kept) == 3, "the run folder holds every answer that was given"
    assert bench.run()[0] == IDS[2:], "the two rows that were kept are found"


def test_a_cache_that_cannot_be_written_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="DEMUR_CACHE"):
        Shelf(tmp_path / "file" / "responses" / "s.jsonl").put(key(1), 1)


def test_clearing_removes_kept_rows_alone(bench: Bench) -> None:
    bench.run()
    other = bench.cache.folder / "xstest.csv"
    other.write_text("a download")
    size = bench.cache.size()
    assert size > 1000
    assert bench.cache.clear() == size
    assert bench.cache.size() == 0
    assert other.is_file()
    assert bench.run()[0] == IDS


def test_the_switch_and_the_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DEMUR_CACHE", str(tmp_path / "here"))
    found = caching.opened()
    assert found is not None
    assert found.folder == tmp_path / "here"
    monkeypatch.setenv("DEMUR_NO_CACHE", "1")
    assert caching.opened() is None


def test_the_command_line_shows_clears_and_switches_off() -> None:
    found = caching.opened()
    assert found is not None
    assert demur("measure", "--benchmark", "nothing").returncode == 2
    assert caching.opened() is not None
    assert demur("measure", "--benchmark", "nothing", "--no-cache").returncode == 2
    assert caching.opened() is None
    Shelf(found.folder / "responses" / "s.jsonl").put(key(1), 1)
    shown = json.loads(demur("doctor", "--json").stdout)
    assert any(str(found.folder) in row["found"] and "clear-cache" in row["do"] for row in shown)
    demur("doctor", "--clear-cache")
    assert found.size() == 0
