"""The documentation site: it builds without a warning, from the program's own facts, and fetches nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from demur import registry
from demur.cli import VERBS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("material", reason="needs the extra `docs`")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=_offline())
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def _offline() -> dict[str, str]:
    """An environment in which whatever asks the network fails."""
    nowhere = {f"{name}_proxy": "http://127.0.0.1:9" for name in ("http", "https", "HTTP", "HTTPS")}
    return {**os.environ, **nowhere, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT / "src")}


def test_every_verb_with_all_its_options_has_a_page(site: Path) -> None:
    for verb in VERBS:
        page = (site / "verbs" / f"{verb}.html").read_text("utf-8")
        assert f"Options of <code>demur {verb}" in page
    assert "--max-new-tokens" in (site / "verbs" / "measure.html").read_text("utf-8")


@pytest.mark.parametrize("kind", registry.KINDS)
def test_every_part_is_there_with_its_settings(site: Path, kind: str) -> None:
    page = (site / "parts" / f"{kind}.html").read_text("utf-8")
    for name in registry.names(kind):
        assert f'id="{name}"' in page
        for setting in registry.fields(kind, name):
            assert f"<code>{setting.name}</code>" in page


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    """Links may lead away; what a page loads by itself may not."""
    loads = r"<(?:script|img|iframe|source)[^>]*?\bsrc=\"([^\"]+)\"|<link(?![^>]*canonical)[^>]*?\bhref=\"([^\"]+)\""
    for page in site.rglob("*.html"):
        found = ["".join(pair) for pair in re.findall(loads, page.read_text("utf-8"))]
        assert found
        assert [one for one in found if urlsplit(one).netloc] == [], page.name
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(?:https?:)?//", sheet.read_text("utf-8")), sheet.name


def test_no_source_of_the_builder_is_published(site: Path) -> None:
    assert list(site.rglob("*.py")) == []
