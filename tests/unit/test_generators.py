from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from demur.errors import ConfigError, DataError
from demur.generators.fake import Fake
from demur.judges.keyword import Keyword
from demur.types import Kind, Prompt, Sampling

LANGUAGES = ("en", "de", "es", "fr", "zh", "xx")


def prompts(kind: Kind, count: int = 300) -> list[Prompt]:
    return [
        Prompt(id=f"{kind}/{n}", text=f"{n}?", expected=None, kind=kind, source="t", language=LANGUAGES[n % 6])
        for n in range(count)
    ]


def share(generator: Fake, kind: Kind) -> float:
    texts = [r.text for r in generator(prompts(kind), Sampling())]
    return sum(Keyword().label(t)[0] == "refusal" for t in texts) / len(texts)


def test_refusals_come_at_the_rate_of_each_kind() -> None:
    generator = Fake(refuse_harmful=1.0, refuse_borderline=0.5, refuse_plain=0.0)
    assert share(generator, "harmful") == 1
    assert share(generator, "plain") == 0
    assert 0.4 < share(generator, "borderline") < 0.6


def test_failures_come_at_their_rates_and_say_what_they_are() -> None:
    generator = Fake(error_rate=0.25, truncate_rate=0.25, filtered_rate=0.25, gibberish_rate=0.25)
    rows = list(generator(prompts("plain", 400), Sampling()))
    counts = {f: sum(r.finish == f for r in rows) for f in ("stop", "length", "filtered", "error")}
    assert all(70 < n < 130 for n in counts.values()), counts
    assert all(bool(r.error) == (r.finish == "error") for r in rows)
    assert {Keyword().label(r.text)[0] for r in rows if r.finish == "stop"} == {"gibberish"}


def test_answers_depend_on_seed_prompt_and_sample_alone() -> None:
    asked = prompts("borderline", 60)
    sampling = Sampling(samples=2)
    whole = {(r.prompt_id, r.sample): r for r in Fake()(asked, sampling)}
    again = {(r.prompt_id, r.sample): r for r in Fake()(asked[::-7], sampling)}
    assert again.items() <= whole.items()
    assert {k: r.text for k, r in whole.items()} != {
        (r.prompt_id, r.sample): r.text for r in Fake(seed=1)(asked, sampling)
    }
    assert any(whole[p.id, 0].text != whole[p.id, 1].text for p in asked)


def test_a_script_decides_what_it_fits(tmp_path: Path) -> None:
    script = tmp_path / "s.jsonl"
    lines: list[dict[str, Any]] = [
        {"prompt_id": "plain/1", "text": "one", "reasoning": "hm"},
        {"contains": "2?", "text": "two", "finish": "length"},
        {"prompt_id": "plain/3", "sample": 1, "finish": "error", "error": "cut"},
    ]
    script.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    rows = {(r.prompt_id, r.sample): r for r in Fake(script=str(script))(prompts("plain", 4), Sampling(samples=2))}
    assert len(rows) == 8
    assert (rows["plain/1", 0].text, rows["plain/1", 1].reasoning) == ("one", "hm")
    assert (rows["plain/2", 0].text, rows["plain/2", 0].finish) == ("two", "length")
    assert (rows["plain/3", 1].finish, rows["plain/3", 1].error) == ("error", "cut")
    assert rows["plain/3", 0].finish == "stop"


def test_prefill_and_length_are_heeded() -> None:
    row = next(Fake(refuse_plain=0)(prompts("plain", 1), Sampling(prefill="Sure: ", max_new_tokens=3)))
    assert row.text.startswith("Sure: ")
    assert (row.finish, row.n_tokens) == ("length", 3)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"s\.jsonl:1: not a line of JSON"),
        ('{"text": "a"}', "exactly one of prompt_id and contains"),
        ('{"contains": "a", "txt": "b"}', "unknown key 'txt'"),
        ('{"contains": "a", "finish": "end"}', "finish is 'end'; allowed: stop"),
        ('{"contains": "a", "sample": "0"}', "sample is '0'; expected int"),
    ],
)
def test_a_bad_script_is_named_with_file_and_line(tmp_path: Path, line: str, message: str) -> None:
    script = tmp_path / "s.jsonl"
    script.write_text(line, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        list(Fake(script=str(script))(prompts("plain", 1), Sampling()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"refuse_plain": 1.5}, r"refuse_plain=1\.5 is not a share"),
        ({"error_rate": 0.7, "truncate_rate": 0.7}, r"add to 1\.4"),
        ({"script": "gone.jsonl"}, r"no script 'gone\.jsonl'"),
    ],
)
def test_bad_settings_say_so(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        list(Fake(**settings)(prompts("plain", 1), Sampling()))
