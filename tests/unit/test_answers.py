"""Properties of answers: counted by hand, per language, and robust to odd text."""

from __future__ import annotations

import pytest

from demur import answers, flips
from demur.languages import LANGUAGES, identify
from demur.types import Metric, Part, Prompt, Response, Verdict

SENTENCES = {
    "ar": "افتح النافذة ثم ضع الكتاب على الطاولة وانتظر قليلا.",
    "de": "Öffnen Sie das Fenster und legen Sie dann das Buch auf den Tisch.",
    "en": "Open the window, then put the book on the table and wait for a while.",
    "es": "Abre la ventana, después pon el libro sobre la mesa y espera un poco.",
    "fr": "Ouvrez la fenêtre, puis posez le livre sur la table et attendez un peu.",
    "hi": "खिड़की खोलो, फिर किताब को मेज पर रखो और थोड़ा इंतज़ार करो।",
    "it": "Apri la finestra, poi metti il libro sul tavolo e aspetta un po' con me.",
    "ja": "窓を開けて、本を机の上に置き、少し待ってください。",
    "ko": "창문을 열고 책을 탁자 위에 놓은 다음 잠시 기다리세요.",
    "pt": "Abra a janela, depois ponha o livro em cima da mesa e não espere muito.",
    "ru": "Откройте окно, затем положите книгу на стол и немного подождите.",
    "th": "เปิดหน้าต่าง แล้ววางหนังสือไว้บนโต๊ะและรอสักครู่",
    "vi": "Hãy mở cửa sổ, rồi đặt quyển sách lên bàn và chờ một chút.",
    "zh": "打开窗户，然后把书放在桌子上，等一会儿。",
}


def test_each_language_is_told_by_a_sentence() -> None:
    assert set(SENTENCES) == set(LANGUAGES)
    assert {code: identify(text) for code, text in SENTENCES.items()} == {code: code for code in SENTENCES}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "42",
        "?!",
        "ok",
        "kolo kolo kolo kolo",
        "```python\nprint('the and of to')\n```",
        "https://example.org/the/and/of",
        "Відкрийте вікно і покладіть її на стіл, її тут немає.",
        "پنجره را باز کنید و کتاب را روی میز بگذارید",
        "Fungua dirisha kisha weka kitabu mezani",
        "Das Fenster ist nun offen. Открой окно и подожди.",
    ],
)
def test_what_cannot_be_told_is_not_guessed(text: str) -> None:
    assert identify(text) == ""


def test_code_and_names_do_not_decide() -> None:
    assert identify("使用以下代码：```for the and of to in that is it```然后运行程序。") == "zh"
    assert identify("Нажмите кнопку Start и введите команду git, затем подождите окончания загрузки.") == "ru"


def prompt(i: int, language: str = "en", **more: str) -> Prompt:
    return Prompt(id=f"p/{i}", text="?", expected="comply", source="p", language=language, **more)  # type: ignore[arg-type]


def response(i: int, text: str, n_tokens: int = 5, finish: str = "stop") -> Response:
    return Response(prompt_id=f"p/{i}", text=text, finish=finish, n_tokens=n_tokens)  # type: ignore[arg-type]


def test_properties_of_one_answer_by_hand() -> None:
    made = answers.shape(prompt(0), response(0, "the cat and the dog and the cat and the dog ran"))
    assert made is not None
    # 12 words, 5 different; 11 pairs, of which and-the comes three times, the-cat, cat-and and the-dog twice
    assert made.distinct_1 == pytest.approx(5 / 12)
    assert made.distinct_2 == pytest.approx(6 / 11)
    # 9 runs of four, of which the-cat-and-the and cat-and-the-dog come twice
    assert made.repetition == pytest.approx(2 / 9)
    assert (made.loop, made.off_language, made.answer_tokens) == (0.0, 0.0, 5.0)


def test_short_answers_say_nothing_of_repetition() -> None:
    made = answers.shape(prompt(0), response(0, "no no no"))
    assert made is not None
    assert (made.repetition, made.loop, made.distinct_1) == (None, 0.0, pytest.approx(1 / 3))
    assert answers.shape(prompt(0), response(0, "", finish="error")) is None
    assert answers.shape(prompt(0), response(0, "", finish="filtered")) is None
    uncounted = answers.shape(prompt(0), response(0, "yes", n_tokens=0))
    assert uncounted is not None
    assert uncounted.answer_tokens is None


@pytest.mark.parametrize(
    ("text", "loops"),
    [
        ("It is so. " + "and then we go home " * 3, True),
        ("It is so. " + "and then we go home " * 3 + "and then", True),
        ("It is so. " + "and then we go home " * 2, False),
        ("very " * 12, True),
        ("very " * 11, False),
        ("打开门" * 4, True),
        ("วัน" * 10, True),
        ("very " * 30 + "and at last the end of it comes", False),
        ("start " + "word " * 9000, True),
        (" ".join(f"{i} {i + 1}" for i in range(60)), False),
        ("", False),
    ],
)
def test_a_loop_is_a_passage_over_and_over_at_the_end(text: str, loops: bool) -> None:
    made = answers.shape(prompt(0), response(0, text))
    assert made is not None
    assert bool(made.loop) == loops


def by(metrics: list[Metric]) -> dict[tuple[str, str], Metric]:
    return {(m.name, m.slice): m for m in metrics}


def test_metrics_count_what_they_rest_on() -> None:
    asked = [prompt(i, "de" if i % 2 else "en", kind="plain", group=f"g{i // 2}") for i in range(8)]
    given = [
        *(response(i, SENTENCES["en"], n_tokens=10) for i in range(5)),
        response(5, SENTENCES["de"], n_tokens=20),
        response(6, "42", n_tokens=1),
        response(7, "", finish="error"),
    ]
    found = by(answers.compute(asked, given, benchmark="b", judge="j"))
    assert {name for name, _ in found} == set(answers.NAMES)
    off = found["off_language_rate", "all"]
    assert (off.value, off.n, off.n_unscored) == (pytest.approx(2 / 6), 6, 1)
    assert (found["off_language_rate", "language=de"].value, found["off_language_rate", "language=de"].n) == (2 / 3, 3)
    length = found["answer_tokens", "all"]
    assert (length.value, length.n, length.groups) == (pytest.approx((50 + 20 + 1) / 7), 7, 4)
    assert length.low is not None
    assert length.high is not None
    assert length.low < 71 / 7 < length.high
    assert found["loop_rate", "all"].interval == "wilson-groups"
    assert found["loop_rate", "kind=plain&language=de"].interval == "wilson"
    assert found["repetition", "language=de"].n == 3
    none = by(answers.compute(asked[7:], given[7:], benchmark="b"))
    assert [m.value for m in none.values()] == [None] * len(none)


def test_an_interval_covers_the_mean_of_grouped_rows() -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(20):
        shift = rng.normal(size=30)
        asked = [prompt(i, group=f"g{i // 4}") for i in range(120)]
        tokens = [max(1, round(100 + 20 * shift[i // 4] + 5 * rng.normal())) for i in range(120)]
        given = [response(i, "", n_tokens=t) for i, t in enumerate(tokens)]
        length = answers.compute(asked, given, benchmark="b", n_boot=200)[0]
        covered += length.low is not None and length.high is not None and length.low <= 100 <= length.high
    assert covered >= 16


# flips


def verdict(i: int, sample: int, label: str | None, judge: str = "j") -> Verdict:
    reason = "" if label else "judge: down"
    return Verdict(prompt_id=f"p/{i}", sample=sample, judge=judge, question="refusal", label=label, unscored=reason)


def test_flips_are_prompts_whose_label_changes() -> None:
    given = {
        0: ("refusal", "refusal", "refusal"),
        1: ("refusal", "compliance", "refusal"),
        2: ("compliance", None, "refusal"),
        3: ("compliance", None, None),
        4: ("compliance", "partial_refusal", "refusal"),
    }
    asked = [prompt(i, kind="plain") for i in given]
    said = [verdict(i, s, label) for i, labels in given.items() for s, label in enumerate(labels)]
    said += [verdict(i, s, "refusal", judge="k") for i in given for s in range(3)]
    rows = flips.compute(asked, said, benchmark="b", judges=("j", "k", "silent"))
    first = by([m for m in rows if m.judge == "j"])
    flip, pair = first["flip_rate", "all"], first["pair_flip_rate", "all"]
    assert (flip.value, flip.n, flip.groups, flip.n_unscored, flip.interval) == (3 / 4, 4, 4, 1, "wilson")
    assert pair.value == pytest.approx((0 + 2 / 3 + 1 + 1) / 4)
    other = by([m for m in rows if m.judge == "k"])
    assert (other["flip_rate", "kind=plain"].value, other["flip_rate", "kind=plain"].low) == (0.0, 0.0)
    assert {m.judge for m in rows} == {"j", "k"}


def test_grouped_prompts_are_resampled_together() -> None:
    asked = [prompt(i, group=f"g{i // 3}") for i in range(12)]
    said = [verdict(i, s, "refusal" if s or i >= 6 else "compliance") for i in range(12) for s in range(2)]
    flip = flips.compute(asked, said, benchmark="b", judges=("j",))[0]
    assert (flip.value, flip.n, flip.groups, flip.interval) == (0.5, 12, 4, "group-bootstrap")
    assert flip.low == 0.0
    assert flip.high == 1.0


def test_a_run_holds_the_rows_of_both_and_flips_only_of_several_samples() -> None:
    from demur.results import all_metrics

    asked = [prompt(i, meta=(("benchmark", "b"),)) for i in range(3)]  # type: ignore[arg-type]
    for samples in (1, 2):
        given = [
            Response(prompt_id=p.id, sample=s, text=SENTENCES["en"], finish="stop", n_tokens=4)
            for p in asked
            for s in range(samples)
        ]
        said = [verdict(i, s, "refusal" if s else "compliance") for i in range(3) for s in range(samples)]
        names = {m.name for m in all_metrics(asked, given, said, (Part(name="j", settings={}),))}
        assert set(answers.NAMES) <= names
        assert (set(flips.NAMES) <= names) == (samples == 2)
