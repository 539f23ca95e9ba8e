"""Requests made from the server's own schema, right ones and wrong ones: none may make it fail."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from demur.lm import LM
from tests.models.families import build, tokenizer
from tests.models.families import lm as shared
from tests.models.serving import Running, served

FUZZER = os.environ.get("SCHEMATHESIS") or shutil.which("schemathesis")
SECONDS = 90
"""Of requests of each mode."""
LONGEST = {"maxLength": 40, "maxItems": 4}

pytestmark = [
    pytest.mark.torch,
    pytest.mark.slow,
    pytest.mark.skipif(not FUZZER, reason="no `schemathesis` on the path (pipx install schemathesis, or SCHEMATHESIS)"),
]


def schema(at: Running) -> dict[str, Any]:
    """The server's schema, narrowed to names it knows and to little text: else few requests are made or answered."""
    found: dict[str, Any] = at.get("/openapi.json").json()
    ids = [entry["id"] for entry in at.get("/v1/models").json()["data"]]
    for name in ("ChatRequest", "CompletionRequest"):
        fields = found["components"]["schemas"][name]["properties"]
        fields["model"] = {"enum": ids}
        fields["intervention"] = {"enum": [None, "", "push", "mixed"]}
        fields["max_tokens"] = {"type": "integer", "minimum": 1, "maximum": 8}
    shorten(found)
    return found


def shorten(part: Any) -> None:
    """Let no text or list of a schema be long."""
    if isinstance(part, dict):
        part |= {name: min(part[name], most) for name, most in LONGEST.items() if isinstance(part.get(name), int)}
    for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        shorten(inner)


# the fuzzer's own systematic cases are right requests alone: making wrong ones so may fail within the fuzzer
@pytest.mark.parametrize(("mode", "phases"), [("positive", "coverage,fuzzing"), ("negative", "fuzzing")])
def test_no_request_makes_the_server_fail(tmp_path: Path, mode: str, phases: str) -> None:
    with served(LM(build("llama"), tokenizer(), shared("llama").ref), tmp_path / "served") as at:
        before = at.say("hello")
        (tmp_path / "openapi.json").write_text(json.dumps(schema(at)), encoding="utf-8")
        command = [
            str(FUZZER), "run", str(tmp_path / "openapi.json"), "--url", at.url, "--checks", "not_a_server_error",
            "--mode", mode, "--max-time", str(SECONDS), "--seed", "1", "--workers", "4", "--warnings", "off",
            "--phases", phases, "--suppress-health-check", "all", "--request-timeout", "60",
            "--no-color",
        ]  # fmt: skip
        run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=900, check=False)
        answered, health = at.service.engine.finished, at.get("/health").json()
        after = at.say("hello")
    (tmp_path / "log").write_text(f"{answered} answered\n{run.stdout}", encoding="utf-8")
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    assert (health, after) == ({"status": "ok", "running": 0, "waiting": 0}, before)
    assert answered > 1 or mode == "negative"  # else no request has reached the model
