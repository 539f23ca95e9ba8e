"""Triage: logs of many shapes, redaction, groups, the review queue and its estimate, and the command on known truth."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import random
import socket
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from demur import world
from demur.errors import ConfigError, DataError
from demur.triage import groups, queue, read_logs, redactor, remote, works_at
from demur.triage.estimate import Stratum, over_refusals
from demur.triage.redact import HIDDEN, Redactor
from demur.types import DEFAULT_JUDGE, Part
from tests.unit.command_line import demur

CHAT = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "How?"}]
REPLY = {"choices": [{"message": {"role": "assistant", "content": "So."}, "finish_reason": "stop"}]}


@pytest.fixture(autouse=True)
def _quick_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write files without waiting for the disk."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def jsonl(path: Path, *lines: object) -> Path:
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ({"prompt": "How?", "response": "So."}, ("How?", "So.", "stop")),
        ({"question": "How?", "answer": "So."}, ("How?", "So.", "stop")),
        ({"prompt": "How?", "response": "<think>May I?</think>\nSo."}, ("How?", "So.", "stop")),
        ({"messages": CHAT, **REPLY}, ("How?", "So.", "stop")),
        ({"request": {"messages": CHAT}, "response": REPLY}, ("How?", "So.", "stop")),
        ({"body": {"messages": CHAT}, "response": {"status_code": 200, "body": REPLY}}, ("How?", "So.", "stop")),
        ({"messages": [*CHAT, {"role": "assistant", "content": "So."}]}, ("How?", "So.", "stop")),
        ({"messages": [{"role": "user", "content": [{"text": "How?"}]}], **REPLY}, ("How?", "So.", "stop")),
        ({"prompt": "How?", "choices": [{"text": "So.", "finish_reason": "length"}]}, ("How?", "So.", "length")),
        (
            {"messages": CHAT, "choices": [{"message": {"content": None, "refusal": "No."}, "finish_reason": "stop"}]},
            ("How?", "No.", "filtered"),
        ),
        (
            {"messages": CHAT, "choices": [{"message": {"content": ""}, "finish_reason": "content_filter"}]},
            ("How?", "", "filtered"),
        ),
        (
            {"messages": CHAT, "response": {"content": [{"type": "text", "text": ""}], "stop_reason": "refusal"}},
            ("How?", "", "filtered"),
        ),
        ({"prompt": "How?", "response": "<thought>May I?</thought>So."}, ("How?", "So.", "stop")),
        ({"prompt": "How?", "response": "<think>May I?"}, ("How?", "", "length")),
        ({"prompt": "How?", "choices": [{"text": "", "finish_reason": "SAFETY"}]}, ("How?", "", "filtered")),
        ({"prompt": "How?", "choices": [{"text": "", "finish_reason": "sensitive"}]}, ("How?", "", "filtered")),
        ({"prompt": "How?", "choices": [{"text": "So", "finish_reason": "model_length"}]}, ("How?", "So", "length")),
        ({"messages": CHAT, "error": "timeout"}, ("How?", "", "error")),
    ],
)  # fmt: skip
def test_common_shapes_are_read(tmp_path: Path, line: object, expected: tuple[str, str, str]) -> None:
    read = read_logs([jsonl(tmp_path / "log.jsonl", line)])
    prompt, response = read.rows[0]
    assert (prompt.text, response.text, response.finish) == expected
    assert prompt.id == response.prompt_id == "log:1"
    assert prompt.expected is None


def test_a_chat_keeps_its_system_prompt_and_earlier_turns(tmp_path: Path) -> None:
    turns = [*CHAT, {"role": "assistant", "content": "So."}, {"role": "user", "content": "And then?"}]
    prompt = read_logs([jsonl(tmp_path / "a.jsonl", {"messages": turns, **REPLY})]).rows[0].prompt
    assert (prompt.system, prompt.history, prompt.text) == (
        "Be kind.",
        (("user", "How?"), ("assistant", "So.")),
        "And then?",
    )


def test_columns_of_ones_own_are_mapped_also_in_csv(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"in": {"turns": ["How?"]}, "out": "So.", "end": "length"})
    item = read_logs([path], {"prompt": "in.turns.0", "response": "out", "finish": "end"}).rows[0]
    assert (item.prompt.text, item.response.text, item.response.finish) == ("How?", "So.", "length")
    (tmp_path / "b.csv").write_text('asked,said\n"How,\nthen?",So.\n')
    item = read_logs([tmp_path / "b.csv"], {"prompt": "asked", "response": "said"}).rows[0]
    assert (item.prompt.text, item.response.text) == ("How,\nthen?", "So.")


def test_rows_that_cannot_be_read_are_skipped_with_their_place_and_reason(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "a.jsonl", {"prompt": "How?", "response": "So."}, {"prompt": "How?"}, 7, {"response": "So."}
    )
    path.write_text(path.read_text() + "{torn\n")
    read = read_logs([path])
    assert len(read.rows) == 1
    assert [(s.where.rsplit(":", 1)[1], s.reason.split(" under")[0][:22]) for s in read.skipped] == [
        ("2", "no answer"),
        ("3", "not a JSON object"),
        ("4", "no prompt"),
        ("5", "not a JSON object: Exp"),
    ]


def test_a_log_without_a_readable_row_names_the_columns_it_has(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"frage": "Wie?", "antwort": "So."})
    with pytest.raises(DataError, match=r"Columns: frage, antwort\. Name them: --map"):
        read_logs([path])
    with pytest.raises(ConfigError, match="no key 'promt'"):
        read_logs([path], {"promt": "frage"})
    with pytest.raises(ConfigError, match=r"ends in none of \.jsonl"):
        read_logs([jsonl(tmp_path / "a.txt", {})])


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("write to Ann.Lee+x@mail.example.org now", "write to [email] now"),
        ("call +49 (0)30 1234567 or 030-123 4567", "call [phone] or [phone]"),
        ("account 4000123 and 12", "account [phone] and 12"),
        ("order 84213", "order [number]"),
        ("see https://example.org/a?key=1 there", "see [link] there"),
        ("from 192.168.17.4", "from [address]"),
        ("key sk-proj-a1b2c3d4e5f6g7h8i9j0", "key [secret]"),
        ("IBAN DE89 3704 0044 0532 0130 00", "IBAN [number]"),
        ("kill 2 processes in 2024", "kill 2 processes in 2024"),
    ],
)
def test_addresses_and_numbers_are_taken_out(text: str, shown: str) -> None:
    assert redactor()(text) == shown
    assert redactor("none")(text) == text


def test_a_hook_runs_first_and_hides_what_it_fails_on(tmp_path: Path) -> None:
    hook = tmp_path / "hook.py"
    hook.write_text(
        "def redact(text):\n"
        '    if "bad" in text:\n'
        "        raise ValueError(text)\n"
        '    return text.replace("Ann", "[name]")\n'
    )
    redact = redactor(str(hook))
    assert redact("Ann, 12345") == "[name], [number]"
    assert redact("Ann is bad") == HIDDEN
    assert Redactor(hook=lambda text: None)("Ann") == HIDDEN
    hook.write_text("x = 1\n")
    for wanted, says in ((str(hook), "no function redact"), ("nowhere.py", "no Python file")):
        with pytest.raises(ConfigError, match=says):
            redactor(wanted)


def stratum(size: int, labelled: int, hits: int, unsure: int = 0) -> Stratum:
    return Stratum(name=f"s{size}", size=size, drawn=labelled, labelled=labelled, hits=hits, unsure=unsure)


def test_the_estimate_weighs_each_stratum_by_its_size() -> None:
    """(40 · 5/10 + 160 · 1/20) / 200 = 28/200 = 140 per 1,000; a stratum labelled whole has no error."""
    assert over_refusals([stratum(40, 10, 5), stratum(160, 20, 1)]).value == pytest.approx(140)
    whole = over_refusals([stratum(40, 40, 30), stratum(10, 10, 0)])
    assert (whole.value, whole.low, whole.high) == pytest.approx((600, 600, 600))


def test_no_label_in_a_stratum_is_no_estimate_and_unsure_widens_it() -> None:
    bare = over_refusals([stratum(40, 10, 5), stratum(160, 0, 0)])
    assert (bare.value, bare.low, bare.high, bare.reason) == (None, None, None, "no label yet in: s160")
    assert over_refusals([stratum(40, 3, 0, unsure=3)]).value is None
    sure, unsure = over_refusals([stratum(400, 48, 24)]), over_refusals([stratum(400, 50, 24, unsure=2)])
    assert unsure.value == sure.value
    assert (unsure.low or 0) < (sure.low or 0) < (sure.high or 0) < (unsure.high or 0)


@pytest.mark.parametrize(("size", "drawn", "hits"), [(50, 12, 0), (50, 12, 12), (90, 20, 7), (200, 60, 1)])
def test_one_stratum_inverts_the_mid_p_hypergeometric_test(size: int, drawn: int, hits: int) -> None:
    """The same interval by trying every number of hits in the log, with exact binomials."""

    def tail(of: int, x: int) -> float:
        weight = [math.comb(of, k) * math.comb(size - of, drawn - k) for k in range(drawn + 1)]
        return (sum(weight[x + 1 :]) + weight[x] / 2) / math.comb(size, drawn)

    kept = [of for of in range(hits, size - drawn + hits + 1) if 0.025 < tail(of, hits) < 0.975]
    found = over_refusals([stratum(size, drawn, hits)])
    low, high = (hits if hits == 0 else min(kept)), (size if hits == drawn else max(kept))
    assert found.low == pytest.approx(1000 * low / size)
    assert found.high == pytest.approx(1000 * high / size)


def test_a_word_of_refused_prompts_alone_is_a_trigger_with_monroes_score() -> None:
    """A word counts once per prompt: of 300 words in refused prompts 80 are "kill", of 1,010 in answered ones 10."""
    refused = ["kill kill sheets"] * 80 + ["light the stove"] * 20 + ["paint the fence"] * 20 + ["big dog"] * 10
    answered = ["kill lamps"] * 10 + ["paint the fence"] * 330
    found = {t.word: t for t in groups.triggers(refused, answered)}
    assert next(iter(found)) == "sheets"
    assert {"the", "paint", "fence"}.isdisjoint(found)
    kill = found["kill"]
    assert (kill.refused, kill.answered, kill.rows) == (80, 10, ())
    assert found["sheets"].rows == tuple(range(80))
    prior = 500 * 90 / (300 + 1010)
    odds = [math.log((y + prior) / (n + 500 - y - prior)) for y, n in ((80, 300), (10, 1010))]
    assert kill.z == pytest.approx((odds[0] - odds[1]) / math.sqrt(1 / (80 + prior) + 1 / (10 + prior)))
    assert groups.triggers(refused, []) == ()


def test_topics_gather_prompts_that_share_rare_words() -> None:
    rng = random.Random(0)
    themes = {"python": "python process memory", "garden": "garden roses weeds", "chess": "chess openings rook"}
    texts = [
        f"how do i {w} in {' '.join(rng.sample(t.split(), 2))}" for t in themes.values() for w in "abcd" for _ in "xy"
    ]
    found = groups.topics(texts, ["how do i cook in pans"] * 200)
    assert sorted(t.rows for t in found) == [tuple(range(8 * k, 8 * k + 8)) for k in range(3)]
    assert all("how" not in t.words for t in found)
    assert groups.words("[email] 不能 Kill-9") == frozenset({"不能", "kill"})


def test_the_queue_is_shared_out_by_size_and_spread_and_drawn_reproducibly() -> None:
    shares = queue.allocate({"refused": 400, "answered": 1600, "other": 5}, 200)
    assert sum(shares.values()) == 200
    assert shares["other"] == 5
    assert shares["refused"] / shares["answered"] == pytest.approx(400 * 0.5 / (1600 * 0.12), rel=0.05)
    assert queue.allocate({"refused": 7, "answered": 9}, 200) == {"refused": 7, "answered": 9}
    strata = {f"log:{i}": "refused" if i % 5 == 0 else "answered" for i in range(500)}
    key = queue.draw(strata, 60, log="x")
    assert key == queue.draw(strata, 60, log="x") != queue.draw(strata, 60, log="x", seed=1)
    assert all(strata[i] == name for i, name in key.drawn.items())
    assert key.inclusion["refused"] == list(key.drawn.values()).count("refused") / 100


def test_labels_are_read_checked_and_never_overwritten(tmp_path: Path) -> None:
    key = queue.Key(log="x", sizes={"answered": 9}, drawn={"a": "answered", "b": "answered"})
    texts = {"a": ("=SUM(A1)", "+1 said"), "b": ("How?", "So.")}
    path = queue.write_queue(tmp_path, key, texts)
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    assert (rows[0]["prompt"], rows[0]["answer"]) == ("'=SUM(A1)", "'+1 said")
    assert set(rows[0]) == {"id", "prompt", "answer", "label", "note"}
    path.write_text(path.read_text().replace("How?,So.,", "How?,So.,Over-refusal"))
    assert queue.read_labels(path) == {"a": "", "b": "over_refusal"}
    queue.write_queue(tmp_path, key, texts)
    assert queue.read_labels(path)["b"] == "over_refusal"
    other = queue.Key(log="y", sizes=key.sizes, drawn=key.drawn)
    with pytest.raises(ConfigError, match="holds 1 labels of another draw"):
        queue.write_queue(tmp_path, other, texts)
    queue.write_queue(tmp_path, other, texts, overwrite=True)
    path.write_text("id;label\na;o\nb;maybe\n")
    with pytest.raises(DataError, match=r":3: label 'maybe' is none of over_refusal"):
        queue.read_labels(path)
    with pytest.raises(DataError, match="not drawn"):
        queue.strata_of(key, {"c": "answered"})


def cover(seeds: int, rows: int = 2000) -> tuple[float, float]:
    """Share of simulated logs whose truth lies in the interval, and the mean width per 1,000.

    Judges err: refusals are found with sensitivity .93 and specificity .995, harm with .85 and .9.
    """
    inside, widths = 0, []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        harmful = rng.random(rows) < 0.1
        refused = rng.random(rows) < np.where(harmful, 0.95, rng.choice([0.01, 0.08, 0.2]))
        truth = refused & ~harmful
        found = rng.random(rows) < np.where(refused, 0.93, 0.005)
        called = np.where(rng.random(rows) < np.where(harmful, 0.85, 0.1), "harmful", "benign")
        strata = {str(i): f"refused, judged {called[i]}" if found[i] else "answered" for i in range(rows)}
        key = queue.draw(strata, 200, log="sim", seed=seed)
        labels = {i: "over_refusal" if truth[int(i)] else "answered" for i in key.drawn}
        estimate = over_refusals(queue.strata_of(key, labels))
        assert estimate.low is not None
        assert estimate.high is not None
        inside += estimate.low <= 1000 * truth.mean() <= estimate.high
        widths.append(estimate.high - estimate.low)
    return inside / seeds, float(np.mean(widths))


def test_the_interval_covers_the_truth_of_simulated_logs() -> None:
    assert cover(20)[0] >= 0.85


@pytest.mark.slow
def test_the_interval_covers_the_truth_in_95_of_100_logs() -> None:
    coverage, width = cover(1000)
    assert 0.935 <= coverage <= 0.99, (coverage, width)


HARM = '''
"""Harm by the world's own tables."""
from dataclasses import dataclass
from typing import ClassVar
from demur import world
from demur.types import Verdict

KINDS = {p.text: p.kind for p in world.prompts("test")}

@dataclass(frozen=True, slots=True, kw_only=True)
class Harm:
    """Knows which prompts of the world are harmful."""
    questions: ClassVar = ("prompt_harm",)

    def __call__(self, items):
        for prompt, _ in items:
            label = "harmful" if KINDS[prompt.text] == "harmful" else "benign"
            yield Verdict(prompt_id=prompt.id, judge="harm", question="prompt_harm", label=label)
'''


def traffic(folder: Path, rows: int) -> dict[str, str]:
    """Write simulated logs of the world; return what a person would say of each row."""
    rng = random.Random(0)
    pool = {k: [p for p in world.prompts("test") if p.kind == k] for k in ("plain", "borderline", "harmful")}
    lines, truth = [], {}
    for i in range(1, rows + 1):
        kind = rng.choices(tuple(pool), (0.7, 0.2, 0.1))[0]
        prompt = rng.choice(pool[kind])
        refused = rng.random() < {"plain": 0.02, "borderline": 0.4, "harmful": 0.95}[kind]
        answer = rng.choice(world.refusals(prompt.language)) if refused else f"{i} steps to the left, then wait."
        lines.append({"prompt": prompt.text, "response": answer})
        truth[f"log:{i}"] = "answered" if not refused else "right_refusal" if kind == "harmful" else "over_refusal"
    jsonl(folder / "log.jsonl", *lines)
    (folder / "harm.py").write_text(HARM)
    return truth


def label(path: Path, truth: dict[str, str]) -> None:
    """Write the truth into a queue, as a person would."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows({**r, "label": truth[r["id"]]} for r in rows)


@pytest.mark.parametrize("rows", [300, pytest.param(2000, marks=pytest.mark.slow)])
def test_logs_of_known_truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """No socket is opened, no prompt is printed; unlabelled is a miss, labelled covers the truth."""
    monkeypatch.chdir(tmp_path)
    truth = traffic(tmp_path, rows)
    opened: list[object] = []
    monkeypatch.setattr(socket, "socket", lambda *a, **k: opened.append(a) or pytest.fail("a socket was opened"))
    words = ("triage", "log.jsonl", "--harm", "./harm.py", "--out", "t")
    code, text, errors = demur(*words, "--max-over-refusals", "500")
    assert code == 100, errors
    assert "over-refusals not measured" in text
    asked = [json.loads(line)["prompt"] for line in Path("log.jsonl").read_text().splitlines()[:200]]
    assert not any(prompt in text for prompt in asked)
    share = 1000 * list(truth.values()).count("over_refusal") / len(truth)
    label(tmp_path / "t" / "queue.csv", truth)
    code, text, _ = demur(*words, "--json", "--max-over-refusals", "200")
    found = json.loads(text)
    assert code == 0
    assert found["estimate"]["low"] <= share <= found["estimate"]["high"]
    assert found["verdict"].startswith("over-refusals shown")
    assert found["likely_over_refusals"] == list(truth.values()).count("over_refusal")
    assert not opened
    page = (tmp_path / "t" / "triage.html").read_text()
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")


def test_verdicts_are_kept_and_no_harm_judge_means_no_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    truth = traffic(tmp_path, 60)
    found = json.loads(demur("triage", "log.jsonl", "--judge", "keyword", "--json", "--out", "t")[1])
    assert found["likely_over_refusals"] is None
    assert found["estimate"]["value"] is None
    assert found["judges"] == [["keyword", "this machine"]]
    kept = (tmp_path / "t" / "judged.jsonl").read_text()
    with mock.patch("demur.judges.keyword.Keyword.label", side_effect=AssertionError):
        assert json.loads(demur("triage", "log.jsonl", "--judge", "keyword", "--json", "--out", "t")[1]) == found
    assert (tmp_path / "t" / "judged.jsonl").read_text() == kept
    label(tmp_path / "t" / "queue.csv", truth)
    code, text, _ = demur("triage", "log.jsonl", "--judge", "keyword", "--out", "t", "--max-over-refusals", "10")
    exact = 1000 * list(truth.values()).count("over_refusal") / 60
    assert code == 100
    assert f"over-refusals shown: {exact:.1f}, between {exact:.1f} and {exact:.1f}" in text
    code, _, errors = demur("triage", "log.jsonl", "--harm", "keyword", "--out", "u")
    assert (code, "answers refusal, not prompt_harm" in errors) == (2, True)


@pytest.mark.parametrize(
    ("settings", "places"),
    [
        ({}, ()),
        ({"generator": {"name": "local", "model": "m"}}, ()),
        ({"generator": {"name": "http", "base_url": "http://127.0.0.1:8000/v1"}}, ()),
        ({"generator": {"name": "http", "base_url": "http://localhost:8000/v1"}}, ()),
        ({"generator": {"name": "http", "base_url": "https://api.example.org/v1"}}, ("api.example.org",)),
        ({"generator": {"name": "http", "base_url": "http://10.0.0.5/v1"}}, ("10.0.0.5",)),
        ({"generator": {"name": "http"}}, ("its server's default address",)),
        (
            {"members": [{"name": "llm", "generator": {"name": "http", "base_url": "x.example.org"}}]},
            ("x.example.org",),
        ),
    ],
)
def test_a_judge_elsewhere_is_known_by_its_addresses(settings: dict[str, object], places: tuple[str, ...]) -> None:
    assert remote(Part(name="llm", settings=settings)) == places


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_file_of_ones_own_inside_a_judge_may_send_what_it_likes(depth: int) -> None:
    part: dict[str, object] = {"name": "./gen.py"}
    for name, setting in (("llm", "generator"), ("panel", "members"))[:depth]:
        part = {"name": name, setting: [part] if setting == "members" else part}
    made = Part(name=str(part.pop("name")), settings=part)
    assert works_at(made) == "a file of your own: what it sends is up to it"
    assert works_at(Part(name="llm", settings={"generator": {"name": "local"}})) == "this machine"


def test_every_verb_takes_the_default_judge() -> None:
    for words in (("triage",), ("judges", "check")):
        text = demur(*words, "--help")[1]
        assert f"[default: {DEFAULT_JUDGE}]" in " ".join(text.replace("│", " ").split()), text


def test_a_judge_elsewhere_is_named_before_and_gets_redacted_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    jsonl(tmp_path / "log.jsonl", {"prompt": "Ask ann@mail.example.org", "response": "So, 123456."})
    (tmp_path / "far.py").write_text(
        "from dataclasses import dataclass\nfrom pathlib import Path\n"
        "from typing import ClassVar\nfrom demur.types import Verdict\n"
        "@dataclass(frozen=True, slots=True, kw_only=True)\n"
        "class Far:\n"
        '    questions: ClassVar = ("refusal",)\n'
        '    base_url: str = "https://judge.example.org"\n'
        "    def __call__(self, items):\n"
        "        for prompt, response in items:\n"
        '            Path("sent.txt").write_text(prompt.text + response.text)\n'
        '            yield Verdict(prompt_id=prompt.id, judge="far", question="refusal", label="compliance")\n'
    )
    errors = demur("triage", "log.jsonl", "--judge", "./far.py", "--out", "t")[2]
    assert errors.startswith("judge ./far.py works at judge.example.org: it is sent redacted texts")
    assert (tmp_path / "sent.txt").read_text() == "Ask [email]So, [number]."


def test_the_example_hook_redacts_beside_the_built_in_patterns() -> None:
    hook = Path(__file__).parents[2] / "examples" / "triage" / "hook.py"
    assert redactor(str(hook))("Dr Lopez, C-1234, 555123456") == "[name], [customer], [phone]"


DEAD = '''"""A judge that is never there."""
from dataclasses import dataclass
from typing import ClassVar
@dataclass(frozen=True, slots=True, kw_only=True)
class Dead:
    """Never there."""
    questions: ClassVar = ("QUESTION",)
    def __call__(self, items):
        raise RuntimeError("no server")
'''


@pytest.mark.parametrize(("option", "question"), [("--judge", "refusal"), ("--harm", "prompt_harm")])
def test_a_dead_judge_gives_no_count_and_exit_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, question: str
) -> None:
    monkeypatch.chdir(tmp_path)
    traffic(tmp_path, 60)
    (tmp_path / "dead.py").write_text(DEAD.replace("QUESTION", question))
    done = demur("triage", "log.jsonl", option, "./dead.py", "--out", "t")
    assert done.returncode == 1
    assert "no data" in done.stdout
    found = json.loads(demur("triage", "log.jsonl", option, "./dead.py", "--out", "t", "--json").stdout)
    assert found["refused" if option == "--judge" else "likely_over_refusals"] is None
