"""Work over an engine gives the rows of this process, byte for byte; the logic around Ray, without Ray."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from demur import engines, registry, settings
from demur.agreement import judge_labelled
from demur.assemble import measurement
from demur.engines import Ray, Spread
from demur.errors import ConfigError, DataError, ModelError, NotFound, Unavailable
from demur.files import write_rows
from demur.judges import apply
from demur.labelled import read_labelled
from demur.measure import measure
from demur.mining.rows import Score
from demur.mining.sources import Rows
from demur.mining.stages import Mining, mine
from demur.ray_map import RayMap, Worker
from demur.types import Item, Prompt, Response, Sampling
from tests.unit.command_line import demur
from tests.unit.scripted_model import Scripted, item, says

GUARD = Path(__file__).parent.parent / "parts" / "word_guard.py"
PROMPTS = [
    Prompt(id=f"e/{n}", text=f"How do I open box {n}?", expected="comply", kind="borderline", source="e")
    for n in range(30)
]


class Stand(RayMap):
    """The engine with its processes left out: blocks are done here, by Ray's own worker class, and shuffled after."""

    def __init__(self, how: Ray | None = None, spoil: Callable[[list[Any]], Iterable[Any]] = reversed) -> None:
        super().__init__(how or Ray(block=7))
        self.spoil, self.blocks = spoil, 0

    def _start(self) -> None:
        pass

    def _results(self, packed: bytes, rows: list[dict[str, Any]]) -> Iterator[tuple[int, Any]]:
        worker = Worker(packed)
        self.blocks += len(rows)
        done = [worker({"place": [row["place"]], "block": [row["block"]]}) for row in rows]
        yield from self.spoil([(batch["place"][0], pickle.loads(batch["result"][0])) for batch in done])


def run(folder: Path, over: Any = None, judge: str = "keyword", generator: str = "fake:refuse_borderline=0.5") -> Path:
    what = measurement(
        benchmarks=["world:limit=24"], judges=[judge, "oracle"], generator=generator, sampling=Sampling(samples=2)
    )
    measure(what, folder, over=over)
    return folder


def rows_of(folder: Path) -> list[bytes]:
    return [(folder / f"{name}.jsonl").read_bytes() for name in ("prompts", "responses", "verdicts")]


def test_a_run_over_an_engine_holds_the_same_bytes(tmp_path: Path) -> None:
    over = Stand()
    alone = rows_of(run(tmp_path / "here"))
    assert rows_of(run(tmp_path / "there", over)) == alone
    assert over.blocks == 4 + 2  # 24 prompts in blocks of 7, 48 answers in one block for each of two judges
    record = [json.loads((tmp_path / name / "run.json").read_text())["spec"] for name in ("here", "there")]
    assert all(record[0][key] == record[1][key] for key in ("generator", "judges", "sampling", "model"))


def test_a_run_begun_here_goes_on_over_an_engine(tmp_path: Path) -> None:
    folder = run(tmp_path / "run")
    whole = rows_of(folder)
    for name, kept in (("responses", 17), ("verdicts", 12)):
        path = folder / f"{name}.jsonl"
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:kept]))
    run(folder, over := Stand())
    assert rows_of(folder) == whole
    assert over.blocks < 6
    run(folder, again := Stand())
    assert again.blocks == 0  # nothing left: Ray would not even start


def test_rows_come_back_in_order_and_once() -> None:
    blocks = [[n, n + 1] for n in range(9)]
    doubled = Stand(spoil=lambda done: [*reversed(done), *done[:3]])
    assert list(doubled(sum, blocks)) == [sum(block) for block in blocks]
    assert list(Stand()(sum, [])) == []
    with pytest.raises(DataError, match="block 4 of 9 did not come back"):
        list(Stand(spoil=lambda done: [row for row in done if row[0] != 4])(sum, blocks))


def refuse(block: list[int]) -> int:
    raise {0: NotFound("judge", "key", ["keyword"]), 1: Unavailable("no server"), 2: KeyError("x")}[block[0]]


@pytest.mark.parametrize(
    ("block", "kind", "text"),
    [(0, ConfigError, "did you mean 'keyword'"), (1, Unavailable, "no server"), (2, ModelError, "KeyError: 'x'")],
)
def test_what_a_worker_meets_is_told_here(block: int, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        list(Stand()(refuse, [[block]]))


def test_parts_travel_as_their_settings() -> None:
    for text in ("http:model=m,attempts=2", f"guarded:generator.name=http,generator.model=m,guard={GUARD}"):
        part: Any = settings.build("generators", settings.parse_part(text))
        there = pickle.loads(pickle.dumps(part))
        assert there == part
        assert there.usage() == part.usage()
    assert (str(GUARD), GUARD) in registry.outside()


def test_what_judging_models_cost_is_counted_across_processes() -> None:
    model = Scripted(reply=Reply())
    judge: Any = settings.build("judges", settings.PartSpec("llm", {"generator": model, "price_out": 1e6}))
    items = [item(name=f"p/{n}", ask=f"How {n}?") for n in range(20)]
    over = Stand(Ray(block=5))
    here = list(apply(judge, "llm", items))
    there = list(apply(judge, "llm", items, batch=5, over=over))
    assert there == here
    assert over.spent.requests == judge.spent.requests == 20
    assert over.spent.cost == judge.spent.cost == 200


class Reply:
    """A reply that can be pickled."""

    def __call__(self, prompt: Prompt, sample: int) -> str:
        return says("full_compliance")(prompt, sample)


def test_labelled_answers_are_judged_alike(tmp_path: Path) -> None:
    rows = [{"prompt": p.text, "response": "I cannot help with that.", "label": "refusal"} for p in PROMPTS]
    write_rows(tmp_path / "labels.jsonl", rows)
    labelled = read_labelled(tmp_path / "labels.jsonl")
    judge: Any = settings.build("judges", settings.parse_part("keyword"))
    assert list(judge_labelled(judge, "keyword", labelled.rows, Stand())) == list(
        judge_labelled(judge, "keyword", labelled.rows)
    )


class Drawn:
    """Distances from the id's length, by a scorer that can be pickled."""

    record = {"scorer": "drawn"}  # noqa: RUF012

    def __call__(self, prompts: Sequence[Prompt]) -> list[Score]:
        return [Score(prompt_id=p.id, d=len(p.id) - 4.5, t=0.0, r=0.0, refused=len(p.id) > 4) for p in prompts]


def test_mining_over_an_engine_leaves_the_same_files(tmp_path: Path) -> None:
    words = [
        "abacus",
        "bellow",
        "cradle",
        "dazzle",
        "embers",
        "fathom",
        "gravel",
        "hollow",
        "insect",
        "jacket",
        "kettle",
        "ladder",
    ]
    texts = [f"How do I {a} the {b} with a {c}?" for a, b, c in zip(words, words[3:], words[5:], strict=False)]
    write_rows(
        tmp_path / "candidates.jsonl",
        [{"id": f"m/{n * 7}", "text": t, "expected": "comply", "source": "m"} for n, t in enumerate(texts)],
    )
    judge: Any = settings.build("judges", settings.parse_part("declared"))
    what: dict[str, Any] = {
        "sources": (Rows(path=tmp_path / "candidates.jsonl"),),
        "judges": ((settings.part_of("judges", judge), judge),),
        "scorer": Drawn(),
    }
    over = Stand()
    mine(Mining(**what), tmp_path / "here")
    mine(Mining(**what, over=over), tmp_path / "there")
    assert over.blocks == 2  # one to moderate, one to score
    for name in ("moderated", "scored", "selected"):
        assert (tmp_path / "here" / f"{name}.jsonl").read_bytes() == (tmp_path / "there" / f"{name}.jsonl").read_bytes()


def test_a_spread_generator_answers_every_prompt() -> None:
    fake: Any = settings.build("generators", settings.parse_part("fake"))
    spread = list(Spread(fake, Stand())(PROMPTS, Sampling(samples=2)))
    assert spread == list(fake(PROMPTS, Sampling(samples=2)))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dask", "no engine named 'dask'"),
        ("ray:worker=2", "did you mean 'workers'"),
        ("ray:workers=0", "workers is 0; it must be at least 1"),
    ],
)
def test_an_engine_that_is_none_is_refused(text: str, said: str, tmp_path: Path) -> None:
    done = demur("measure", "--generator", "fake", "--engine", text, "--out", str(tmp_path / "run"))
    assert done.returncode == 2
    assert said in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_missing_extra_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.EXTRAS, "ray", ("no_such_module",))
    with pytest.raises(Unavailable, match=r"pip install 'demur\[ray\]'"), engines.opened("ray"):
        pass
    with engines.opened("") as over:
        assert over is None


def test_items_of_one_prompt_stay_together() -> None:
    class Together:
        questions = ("refusal",)
        together = True

        def __call__(self, items: Sequence[Item]) -> Iterator[Any]:
            raise AssertionError

    seen: list[list[str]] = []

    class Looking:
        block, spent = 3, None

        def __call__(self, work: Any, blocks: Iterable[list[Item]]) -> Iterator[Any]:
            for block in blocks:
                seen.append([i.prompt.id for i in block])
                yield []

    items = [Item(p, Response(prompt_id=p.id, sample=s, text="x", finish="stop")) for p in PROMPTS[:4] for s in (0, 1)]
    assert list(apply(Together(), "t", items, batch=1, over=Looking())) == []
    assert [len(set(block)) for block in seen] == [2, 2]
