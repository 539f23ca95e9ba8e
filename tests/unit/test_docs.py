"""The documentation: every code block is understood, every command and part exists, every link leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from demur import registry
from demur.cli import VERBS
from tests import docs_blocks
from tests.docs_blocks import ROOT, Block

BLOCKS = docs_blocks.all_blocks()
CODE = [block for block in BLOCKS if block.language in docs_blocks.CODE]


def test_every_block_says_its_language() -> None:
    known = (*docs_blocks.CODE, "text")
    assert [b.where for b in BLOCKS if b.language not in known] == []


@pytest.mark.parametrize("page", sorted({block.page for block in CODE}))
def test_every_block_is_understood(page: str) -> None:
    for block in docs_blocks.blocks(page):
        docs_blocks.understand(block)


def test_what_is_not_run_says_why_and_is_the_smaller_part() -> None:
    left = [block for block in CODE if not block.runs]
    assert [b.where for b in left if len(b.notes["not run"].split()) < 3] == []
    assert len(left) < len(CODE) / 2


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("demur measure --benchmrk world", "no such option"),
        ("demur measure --benchmark xtest", "did you mean 'xstest'"),
        ("demur measure --benchmark world:splt=test", "did you mean 'split'"),
        ("demur fit gated_steering:layr=2", "did you mean 'layer'"),
        ("demur measure --judge llm:generator.name=htp", "did you mean 'http'"),
        ("demur explain boundry", "no command demur explain boundry"),
        ("demur measure --samples many", "--samples"),
        ("make dmo", "no target"),
        ("python training/none.py", "no file"),
    ],
)
def test_a_wrong_command_is_told(command: str, says: str) -> None:
    with pytest.raises(ValueError, match=re.compile(re.escape(says), re.IGNORECASE)):
        docs_blocks.understand(Block("page.md", 1, "sh", command))


@pytest.mark.parametrize("method", registry.names("methods"))
def test_a_method_says_what_is_its_papers_and_what_is_ours(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs")
    from build_parts import LINE_BY_LINE

    if where := LINE_BY_LINE.get(method):
        assert "ours" in docs_blocks.pages()[f"docs/{where}.md"]
    else:
        assert re.search(r"\b[Oo]urs\b", registry.documentation("methods", method))


def test_every_verb_and_open_folder_has_a_page() -> None:
    assert [v for v in VERBS if not (ROOT / "docs" / "verbs" / f"{v}.md").is_file()] == []
    assert [k for k in registry.KINDS if not (ROOT / "docs" / "parts" / f"{k}.md").is_file()] == []


def anchors(path: Path) -> set[str]:
    """Return the anchors of a page's headings, as forges make them."""
    heads = re.findall(r"^#+ (.*)$", path.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_every_link_of_the_first_pages_leads_somewhere(page: str) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", docs_blocks.pages()[page])
    for target in (link for link in links if "://" not in link):
        name, _, anchor = target.partition("#")
        assert (ROOT / name).exists(), target
        assert not anchor or anchor in anchors(ROOT / name), target


def test_every_file_named_in_the_documentation_exists() -> None:
    named = r"`((?:docs|recipes|training|perf|examples|tests)/[\w./-]+\.(?:md|py|toml|json|sh))`"
    for page, text in docs_blocks.pages().items():
        for path in re.findall(named, text):
            assert (ROOT / path).is_file(), f"{page}: {path}"
