"""The command line: quick help without torch, exit codes, one clear line for every kind of bad input."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from demur import cli
from demur.cli import VERBS
from demur.errors import ConfigError
from tests.unit.command_line import demur

FAKE = ("measure", "--generator", "fake")


def rows(path: Path, *lines: dict) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def prompts(tmp_path):
    made = [
        {"id": f"mine/{i}", "prompt": f"question {i}", "label": "harmful" if i % 3 == 0 else "benign"}
        for i in range(30)
    ]
    return rows(tmp_path / "prompts.jsonl", *made)


def test_help_of_every_verb_imports_no_torch():
    wanted = [(), *((verb,) for verb in VERBS), ("explain", "boundary"), ("organism", "train")]
    code = (
        "import sys\n"
        "from demur.cli import main\n"
        f"for words in {wanted!r}:\n"
        "    sys.argv = ['demur', *words, '--help']\n"
        "    try: main()\n"
        "    except SystemExit as ended: assert not ended.code, words\n"
        "    heavy = [m for m in ('torch', 'transformers', 'sklearn', 'matplotlib', 'openai') if m in sys.modules]\n"
        "    print('HEAVY', words, heavy, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.count("Usage") == len(wanted)
    assert done.stderr.splitlines() == [f"HEAVY {words!r} []" for words in wanted]


@pytest.mark.parametrize("words", [(), ("measure",)])
def test_help_takes_less_than_half_a_second(words):
    assert min(_seconds(*words, "--help") for _ in range(3)) < 0.5


def _seconds(*words: str) -> float:
    """Return the processor time of a command: what it takes on an idle machine, also on a busy one."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "demur.cli", *words], capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_import_demur_imports_no_torch():
    code = "import sys, demur; print([m for m in ('torch', 'numpy', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("measure", "--benchmark", "xtest"), "did you mean 'xstest'"),
        (("measure", "--benchmark", "world:splt=test"), "did you mean 'split'"),
        (("measure", "--judge", "keywrd"), "did you mean 'keyword'"),
        (("measure", "--generator", "loca"), "did you mean 'local'"),
        (("measure", "--generator", "fake", "--benchmark", "file:path=nowhere.jsonl"), "nowhere.jsonl"),
        (("run", "nowhere.toml"), "nowhere.toml"),
        (("report", "nowhere"), "nowhere"),
        (("compare", "a"), "two run folders"),
        (("show", "xtest"), "did you mean 'xstest'"),
        (("list", "judgs"), "did you mean 'judges'"),
        (("fit", "steerng"), "did you mean 'steering'"),
        pytest.param(("measure", "--model", "no/such-folder/here"), "no/such-folder/here", marks=pytest.mark.torch),
        pytest.param(("fit", "steering:layer=9", "--out", "f"), "layers 0 to 3", marks=pytest.mark.torch),
        pytest.param(("explain", "boundary", "--layer", "9", "--out", "e"), "layers 0 to 3", marks=pytest.mark.torch),
        (("organism", "check", "--split", "tset"), "did you mean 'test'"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_2(words, says, tmp_path):
    done = demur(*words, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ")


def test_malformed_row_names_file_and_line(tmp_path):
    bad = rows(tmp_path / "bad.jsonl", {"id": "a", "prompt": "x", "label": "benign"}, {"id": "b", "label": "benign"})
    done = demur("measure", "--generator", "fake", "--benchmark", f"file:path={bad}", cwd=tmp_path)
    assert done.returncode == 2
    assert "bad.jsonl:2" in done.stderr


def test_empty_benchmark_is_refused(tmp_path):
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    done = demur("measure", "--generator", "fake", "--benchmark", f"file:path={empty}", cwd=tmp_path)
    assert done.returncode == 2
    assert "empty.jsonl" in done.stderr


def test_folder_with_another_run_is_refused_by_the_differing_field(tmp_path, prompts):
    words = (
        "measure",
        "--generator",
        "fake",
        "--benchmark",
        f"file:path={prompts}",
        "--judge",
        "keyword",
        "--out",
        "r",
    )
    assert demur(*words, cwd=tmp_path).returncode == 0
    again = demur(*words, "--max-new-tokens", "7", cwd=tmp_path)
    assert again.returncode == 2
    assert "max_new_tokens" in again.stderr
    assert demur(*words, "--max-new-tokens", "7", "--overwrite", cwd=tmp_path).returncode == 0


@pytest.mark.drawn
def test_measure_leaves_a_run_and_json(tmp_path, prompts):
    words = (
        "measure",
        "--generator",
        "fake",
        "--benchmark",
        f"file:path={prompts}",
        "--judge",
        "keyword",
        "--out",
        "r",
    )
    done = demur(*words, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    names = {m["name"] for m in json.loads(done.stdout)}
    assert {"answered_rate", "held_rate", "over_refusal_rate", "harmful_compliance_rate", "broken_rate"} <= names
    files = {p.name for p in (tmp_path / "r").iterdir()}
    assert {"run.json", "prompts.jsonl", "responses.jsonl", "verdicts.jsonl", "metrics.json", "report.html"} <= files


def test_a_judge_that_fails_on_every_row_gives_no_rate_and_exit_1(tmp_path, prompts):
    judge = tmp_path / "broken.py"
    judge.write_text(
        '"""A judge that always fails."""\n'
        "from dataclasses import dataclass\n"
        "from typing import ClassVar\n"
        "@dataclass(frozen=True, slots=True, kw_only=True)\n"
        "class Broken:\n"
        '    """Always fails."""\n'
        '    questions: ClassVar = ("refusal",)\n'
        "    def __call__(self, items):\n"
        '        raise RuntimeError("no server")\n'
    )
    words = ("measure", "--generator", "fake", "--benchmark", f"file:path={prompts}", "--judge", "./broken.py")
    done = demur(*words, "--out", "r", "--json", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    rates = {m["name"]: m["value"] for m in json.loads(done.stdout) if m["slice"] == "all"}
    assert rates["answered_rate"] is None
    assert rates["held_rate"] is None
    assert demur(*words, "--judge", "keyword", "--out", "two", cwd=tmp_path).returncode == 1, "the headline decides"


ANSWERS = '''"""A judging model that fails on some requests."""
import re
from dataclasses import dataclass
from demur.types import Response
@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """Says that every answer complies, but on requests with a failing number."""
    fails: tuple[int, ...] = ()
    def __call__(self, prompts, sampling):
        for prompt in prompts:
            code = re.search(r"\\[([0-9a-f]{8}) request", prompt.text)[1]
            bad = int(re.search(r"question (\\d+)", prompt.text)[1]) in self.fails
            text = "Who knows?" if bad else f"VERDICT {code}: full_compliance"
            yield Response(prompt_id=prompt.id, text=text, finish="stop", n_tokens=1000)
'''


def judged_by_a_model(tmp_path, prompts, fails):
    (tmp_path / "answers.py").write_text(ANSWERS)
    part = f"llm:generator.name=./answers.py,generator.fails={list(fails)},price_out=5.0"
    words = ("measure", "--generator", "fake", "--benchmark", f"file:path={prompts}", "--judge", part)
    done = demur(*words, "--out", "r", "--json", cwd=tmp_path)
    return done, {m["name"]: m for m in json.loads(done.stdout) if m["slice"] == "all"}


def test_a_judge_that_reads_no_reply_gives_no_rate_and_exit_1(tmp_path, prompts):
    done, metrics = judged_by_a_model(tmp_path, prompts, range(30))
    assert done.returncode == 1, done.stderr
    assert {metrics[name]["value"] for name in ("answered_rate", "held_rate", "over_refusal_rate")} == {None}
    assert metrics["unscored_rate"]["value"] == 1
    assert metrics["answered_rate"]["n"] == 0
    assert metrics["answered_rate"]["n_unscored"] == 20


def test_a_judge_that_fails_on_a_tenth_shows_n_and_the_unscored_share(tmp_path, prompts):
    done, metrics = judged_by_a_model(tmp_path, prompts, (1, 2, 4))
    assert done.returncode == 0, done.stderr
    answered = metrics["answered_rate"]
    assert (answered["value"], answered["n"], answered["n_unscored"]) == (1.0, 17, 3)
    assert metrics["unscored_rate"]["value"] == pytest.approx(0.1)
    verdicts = [json.loads(line) for line in (tmp_path / "r" / "verdicts.jsonl").read_text().splitlines()]
    failed = [v for v in verdicts if not v.get("label")]
    assert {(v["raw"], v["unscored"]) for v in failed} == {("Who knows?", "judge: no verdict line in the reply")}
    stage = json.loads((tmp_path / "r" / "timings.jsonl").read_text().splitlines()[-1])
    assert (stage["stage"], stage["tokens"], stage["cost"]) == ("verdicts", 30_000, 0.15)


def test_every_verb_has_a_file_of_its_name():
    folder = Path(cli.__file__).parent
    assert {p.stem for p in folder.glob("*.py") if not p.stem.startswith("_")} == set(VERBS)


def test_answers_that_were_cut_off_are_counted_below_the_table(tmp_path, prompts):
    words = (*FAKE[:2], "fake:truncate_rate=1", "--benchmark", f"file:path={prompts}", "--judge", "keyword")
    done = demur(*words, "--max-new-tokens", "24", "--out", "cut", cwd=tmp_path)
    said = " ".join(done.stdout.split())
    assert "30 of 30 answers were cut off at 24 tokens and count against both rates: --max-new-tokens" in said


def test_the_synthetic_world_by_default_is_said_to_be_no_set_for_other_models(tmp_path, prompts, monkeypatch):
    def stop(*_args, **_kwargs):
        raise ConfigError("stopped here")

    monkeypatch.setattr("demur.measure.measure", stop)
    away = "http:base_url=http://127.0.0.1:9/v1,model=m"
    done = demur("measure", "--generator", away, cwd=tmp_path)
    assert done.stderr.startswith("warning: no --benchmark named, so the prompts are of the synthetic world")
    assert "error: stopped here" in done.stderr
    for quiet in (("--generator", away, "--benchmark", f"file:path={prompts}"), ("--generator", "fake")):
        assert demur("measure", *quiet, cwd=tmp_path).stderr == "error: stopped here\n"
