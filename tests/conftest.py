"""Every test starts from the same environment: no settings of the user, no hub, fixed seeds, no screen."""

from __future__ import annotations

import collections
import os
import random
from pathlib import Path

import numpy as np
import pytest

_MIRROR = os.environ.get("DEMUR_DATA") or os.environ.get("TESTS_MIRROR", "")
os.environ["TESTS_MIRROR"] = _MIRROR  # for the processes that share the tests: what follows hides DEMUR_DATA from them
_SCRUBBED = ("DEMUR_", "HF_", "HUGGING", "TRANSFORMERS_", "OPENAI_", "ANTHROPIC_", "AZURE_", "XDG_")
_FIXED = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "MPLBACKEND": "Agg",
    "NO_COLOR": "1",
    "TERM": "dumb",
    "COLUMNS": "120",
    "PYTHONHASHSEED": "0",
    "OMP_NUM_THREADS": "1",
}

for _name in [name for name in os.environ if name.startswith(_SCRUBBED) or name in ("FORCE_COLOR", "CLICOLOR_FORCE")]:
    del os.environ[_name]
os.environ.update(_FIXED)


@pytest.fixture(autouse=True)
def _same_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test its own cache folder and the same random numbers."""
    monkeypatch.setenv("DEMUR_CACHE", str(tmp_path / "cache"))
    os.environ.pop("DEMUR_NO_CACHE", None)  # `--no-cache` in an earlier test
    random.seed(0)
    np.random.seed(0)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the pictures out of reports, for tests of what else is in them: drawing takes most of their time."""
    from demur.report import html

    monkeypatch.setattr(html, "_pictures", lambda data: collections.defaultdict(tuple))


@pytest.fixture(autouse=True)
def _drawn_where_looked_at(request: pytest.FixtureRequest) -> None:
    """Draw pictures only in the tests of the report, and in one run from the command line."""
    if not request.node.path.stem.startswith("test_report") and "drawn" not in request.keywords:
        request.getfixturevalue("undrawn")


@pytest.fixture
def mirror() -> Path:
    """The folder with local copies of public prompt sets; a test that needs it is skipped without."""
    if not _MIRROR or not Path(_MIRROR).is_dir():
        pytest.skip("DEMUR_DATA names no folder with local copies of prompt sets")
    return Path(_MIRROR)
