"""The page of many runs in a headless browser: opens fast, filters fast, reads without its script."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from demur.comparison import compare_loaded
from demur.metrics import compute
from demur.records import LoadedRun
from demur.report import comparison_page
from demur.types import ModelRef, Part, Prompt, Response, RunSpec, Sampling, Verdict
from tests import chromium

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(not chromium.BINARY, reason="no chromium on this machine"),
]
PROMPTS, RUNS = 10_000, 10
SECONDS, MEGABYTES, MILLISECONDS = 5.0, 60, 200


def run(number: int, prompts: tuple[Prompt, ...]) -> LoadedRun:
    """Return a run in memory whose outcomes differ from those of the others on most prompts."""
    judge = Part(name="keyword", settings={}, fingerprint="a")
    spec = RunSpec(
        id=f"r{number}",
        created="2025-01-01T00:00:00+00:00",
        model=ModelRef(id="m", revision="a", dtype="float32", template_sha="t"),
        sampling=Sampling(),
        benchmarks=(Part(name="file", settings={}, fingerprint="0"),),
        generator=Part(name="local", settings={}),
        intervention=None,
        judges=(judge,),
        versions={},
        git="",
        device="cpu",
        seed=0,
    )
    answers, verdicts = [], []
    for i, p in enumerate(prompts):
        complies = (i * 7 + number * 3) % 10 < 5
        text = f"Answer {number} to {i}: " + "a few words more " * 14
        answers.append(Response(prompt_id=p.id, text=text, finish="stop", n_tokens=50))
        label = "compliance" if complies else "refusal"
        verdicts.append(Verdict(prompt_id=p.id, judge="keyword", question="refusal", label=label))
    rows = compute(prompts[:300], answers[:300], verdicts[:300], benchmark="file", judges=("keyword",), n_boot=20)
    return LoadedRun(
        path=Path(f"r{number}"),
        spec=spec,
        prompts=prompts,
        responses=tuple(answers),
        verdicts=tuple(verdicts),
        metrics=tuple(rows),
        timings=(),
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    prompts = tuple(
        Prompt(
            id=f"made/{i}",
            text=f"Question {i} about " + "ordinary things and " * 3,
            expected="refuse" if i % 3 == 0 else "comply",
            kind="harmful" if i % 3 == 0 else "borderline",
            source="made",
            category=f"c{i % 7}",
        )
        for i in range(PROMPTS)
    )
    runs = [run(n, prompts) for n in range(RUNS)]
    made, rows = compare_loaded(runs, [f"r{n}" for n in range(RUNS)])
    return comparison_page.write(tmp_path_factory.mktemp("page"), made, rows, runs)[2]


def test_a_hundred_thousand_answers_open_and_filter_in_time(page: Path, tmp_path: Path) -> None:
    assert page.stat().st_size < MEGABYTES * 1_000_000
    with chromium.tab(tmp_path / "profile") as tab:
        tab.size(1280, 900)
        started = time.monotonic()
        tab.open(page.as_uri())
        tab.wait("document.readyState === 'complete' && location.protocol === 'file:'")
        opened = time.monotonic() - started
        paint = tab.run("performance.getEntriesByType('paint').map(e => [e.name, e.startTime])")
        first = max((at for _, at in paint), default=float("nan")) / 1000
        tab.wait("document.querySelector('.filter').dataset.ready")
        took = [filtered(tab, words) for words in ("question 77", "c3", "newly unsafe", "")]
        tab.shot(tmp_path / "page.png")
        figures = (
            f"first paint {first:.2f} s, complete {opened:.2f} s, filters {took} ms, {page.stat().st_size:,} bytes"
        )
        assert tab.complaints == []
        assert tab.run("document.documentElement.scrollWidth <= 1280")
        assert first < SECONDS, figures
        assert max(t for t, _ in took) < MILLISECONDS, figures
        # prompts 77, 770 to 779 and 7,700 to 7,799
        assert took[0][1].startswith("111 of")
        assert took[3][1].startswith("10,000 of 10,000")
        (tmp_path / "figures.txt").write_text(figures, encoding="utf-8")


def filtered(tab: Any, words: str) -> tuple[float, str]:
    """Type into the filter; return the milliseconds until the page is laid out again, and what it says."""
    code = f"""(() => {{
      const box = document.querySelector('.filter input');
      box.value = '{words}';
      const t = performance.now();
      box.dispatchEvent(new Event('input'));
      document.body.offsetHeight;
      return [performance.now() - t, document.querySelector('.filter output').textContent];
    }})()"""
    took, said = tab.run(code)
    return round(took, 1), said


def test_without_its_script_every_row_is_there_and_nothing_harmful_is_open(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    bare = text[: text.index("<script>")]
    assert bare.count('<tr><th scope="row"><div>') == PROMPTS
    assert '<p class="filter" hidden>' in bare
    assert "<details open" not in bare
