from __future__ import annotations

import functools
import json
import random
from pathlib import Path

import numpy as np
import pytest

from demur.dedup import THRESHOLD, distinct, duplicates, folded, overlap
from demur.embeddings import Shingles, embedder
from demur.errors import ConfigError
from demur.types import Prompt


def prompts(*texts: str, name: str = "p") -> list[Prompt]:
    return [Prompt(id=f"{name}/{i}", text=text, expected=None, source=name) for i, text in enumerate(texts)]


@functools.cache
def grams(text: str, n: int = 4) -> set[str]:
    framed = f" {text} "
    return {framed[i : i + n] for i in range(len(framed) - n + 1)}


def jaccard(one: str, two: str) -> float:
    left, right = grams(one), grams(two)
    return len(left & right) / len(left | right)


WORDS = [f"{a}{b}{c}" for a in ("mo", "ka", "ti", "sel") for b in ("ra", "nu", "pi") for c in ("l", "ndo", "ska")]


def edited(draw: random.Random, text: str) -> str:
    words = text.split()
    for _ in range(draw.randint(1, 3)):
        words[draw.randrange(len(words))] = draw.choice(WORDS)
    return " ".join(words)


def test_folding_leaves_letters_and_digits() -> None:
    assert folded("  How DO I…  “kill”\na Python-process?! ") == "how do i kill a python process"
    assert folded("Don’t") == folded("don't") == "dont"
    assert folded("ＡＢＣ１２") == "abc12"
    assert folded("caf\u0065\u0301") == folded("CAFÉ")
    assert folded("a\u200bb") == "ab"
    assert folded("हिन्दी?") == "हिन्दी"
    assert folded(" ?! ") == "?!"


def test_what_two_sets_share_by_hand() -> None:
    a = prompts("How do I stop a test?", "Name three rivers of the north.", "What is a lake?", name="a")
    b = prompts(
        "HOW DO I STOP A TEST", "Name three rivers of the north please", "Sing.", "How do I stop a test", name="b"
    )
    got = overlap(a, b, names=("A", "B"))
    assert (got.size_a, got.size_b, got.exact_a, got.exact_b, got.near_a, got.near_b) == (3, 4, 1, 2, 1, 1)
    assert [(m.a, m.b, m.exact) for m in got.matches] == [
        ("a/0", "b/0", True),
        ("a/0", "b/3", True),
        ("a/1", "b/1", False),
    ]
    near = jaccard("name three rivers of the north", "name three rivers of the north please")
    assert got.matches[2].similarity == pytest.approx(near, abs=1e-4)
    assert (got.share_a, got.share_b) == (2 / 3, 3 / 4)
    turned = overlap(b, a)
    assert (turned.exact_a, turned.exact_b, turned.near_a, turned.near_b) == (2, 1, 1, 1)


def test_near_pairs_are_those_of_brute_force() -> None:
    draw = random.Random(5)
    left = [" ".join(draw.choices(WORDS, k=draw.randint(4, 14))) for _ in range(90)]
    right = [edited(draw, text) for text in left] + [" ".join(draw.choices(WORDS, k=9)) for _ in range(20)]
    got = overlap(prompts(*left, name="a"), prompts(*right, name="b"))
    best_a = {i: max(jaccard(one, two) for two in right) for i, one in enumerate(left)}
    best_b = {i: max(jaccard(one, two) for one in left) for i, two in enumerate(right)}
    assert got.exact_a + got.near_a == sum(s >= THRESHOLD for s in best_a.values())
    assert got.exact_b + got.near_b == sum(s >= THRESHOLD for s in best_b.values())
    assert 30 < got.near_a < 90
    for match in got.matches:
        i, j = int(match.a[2:]), int(match.b[2:])
        assert match.similarity == pytest.approx(jaccard(left[i], right[j]), abs=1e-4)
        assert match.similarity == pytest.approx(max(best_a[i], 0), abs=1e-4) or match.similarity == pytest.approx(
            best_b[j], abs=1e-4
        )


@pytest.mark.slow
def test_hardly_a_near_pair_is_missed() -> None:
    draw = random.Random(11)
    left = [" ".join(draw.choices(WORDS, k=draw.randint(6, 20))) for _ in range(1000)]
    right = [edited(draw, text) for text in left]
    true = [i for i, (one, two) in enumerate(zip(left, right, strict=True)) if jaccard(one, two) >= THRESHOLD]
    found = {m.a for m in overlap(prompts(*left, name="a"), prompts(*right, name="b")).matches}
    assert len(true) > 250
    assert sum(f"a/{i}" not in found for i in true) <= 0.001 * len(true)


@pytest.mark.parametrize("bar", [0.5, 0.9, 1.0])
def test_the_threshold_is_heeded(bar: float) -> None:
    one, two = "the small boat left the harbour at noon", "the small boat left the harbour at six"
    got = overlap(prompts(one), prompts(two), threshold=bar)
    assert got.near_a == (jaccard(one, two) >= bar)


def test_scripts_without_spaces_are_compared_by_shorter_pieces() -> None:
    near = overlap(prompts("如何在厨房里做一个蛋糕？"), prompts("如何在厨房里做一个大蛋糕？"))
    far = overlap(prompts("如何在厨房里做一个蛋糕？"), prompts("怎样才能学好一门外语？"))
    assert (near.near_a, far.near_a) == (1, 0)
    thai = overlap(prompts("วิธีทำขนมเค้กในครัวของเรา"), prompts("วิธีทำขนมเค้กในครัวของเราเอง"))
    assert thai.near_a == 1


def test_odd_texts_are_survived() -> None:
    odd = prompts("", "?", "a", "é", "\ud800", "x" * 20_000, " \n", "好")
    got = overlap(odd, odd)
    assert got.exact_a == got.exact_b == len(odd)
    assert overlap([], odd).exact_b == 0
    assert overlap(odd, []).share_b == 0.0
    with pytest.raises(ConfigError, match=r"threshold 1\.5"):
        overlap(odd, odd, threshold=1.5)


def test_duplicates_within_a_set_lead_to_an_earlier_row_that_is_kept() -> None:
    rows = prompts(
        "the small boat left the harbour at noon",
        "What is a lake?",
        "The small boat left the harbour at noon!",
        "the small boat left the harbour at six",
        "what is a lake",
    )
    assert [(m.a, m.b, m.exact) for m in duplicates(rows, threshold=0.6)] == [
        ("p/2", "p/0", True),
        ("p/3", "p/0", False),
        ("p/4", "p/1", True),
    ]
    assert [p.id for p in distinct(rows, threshold=0.6)] == ["p/0", "p/1"]


def test_no_two_kept_rows_match_and_every_other_row_matches_a_kept_one() -> None:
    draw = random.Random(2)
    texts = [" ".join(draw.choices(WORDS, k=10)) for _ in range(15)]
    for _ in range(60):
        texts.append(edited(draw, draw.choice(texts)))
    rows = prompts(*texts)
    kept = distinct(rows)
    assert 15 <= len(kept) < len(rows)
    ids = {p.id for p in kept}
    for i, one in enumerate(rows):
        likes = [two.id for two in rows[:i] if jaccard(one.text, two.text) >= THRESHOLD and two.id in ids]
        assert (one.id in ids) == (not likes)


def test_an_embedder_takes_the_place_of_shingles() -> None:
    a = prompts("how do i bake a cake in the kitchen", "what is a lake", name="a")
    b = prompts("in the kitchen how do i bake a cake", "sing to me", name="b")
    got = overlap(a, b, embedder=Shingles(), threshold=0.7)
    assert (got.near_a, got.measure, got.matches[0].a, got.matches[0].b) == (1, "shingles", "a/0", "b/0")


def test_hashed_vectors_have_length_one_and_follow_wording() -> None:
    texts = ["how do i bake a cake", "how do i bake a big cake", "which rivers flow north", "", "怎样做蛋糕"]
    vectors = Shingles()(texts)
    assert vectors.shape == (5, 1024)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    likeness = vectors @ vectors.T
    assert likeness[0, 1] > 0.7
    assert abs(likeness[0, 2]) < 0.2
    np.testing.assert_array_equal(embedder()(texts), vectors)
    with pytest.raises(ConfigError, match="dimension is 1"):
        Shingles(dimension=1)


def test_a_set_overlaps_itself_in_the_mirror(mirror: Path) -> None:
    lines = (mirror / "xstest_v2.jsonl").read_text("utf-8").splitlines()
    rows = prompts(*(json.loads(line)["prompt"] for line in lines))
    got = overlap(rows, rows)
    assert (got.exact_a, got.exact_b) == (450, 450)
