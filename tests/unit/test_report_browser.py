"""The report in a headless browser: desktop, phone and print. No console error, no overflow, legible figures."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from demur import report
from tests.unit import synthetic_recipe as fake

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)

pytestmark = [pytest.mark.browser, pytest.mark.skipif(not CHROMIUM, reason="no chromium on this machine")]

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr")

PROBE = """
<!doctype html><title>probe</title><body style="margin:0">
<iframe src="report.html" style="width:WIDTHpx;height:2000px;border:0"></iframe>
<script>
const frame = document.querySelector('iframe');
frame.onload = () => {
  const d = frame.contentDocument, root = d.documentElement, found = {};
  if (OPEN) d.querySelectorAll('details').forEach(e => { e.open = true; });
  d.querySelectorAll('.block').forEach(e => { e.style.contentVisibility = 'visible'; });
  found.width = root.clientWidth;
  found.scroll = root.scrollWidth;
  found.outside = [...d.querySelectorAll('body *')].filter(e => {
    if (e.closest('.scroll, pre, svg, .skip, thead')) return false;
    const box = e.getBoundingClientRect();
    return box.width > 0 && (box.right > root.clientWidth + 1 || box.left < -1);
  }).map(e => e.tagName + '.' + e.className + ':' + e.textContent.slice(0, 40));
  found.clipped = [];
  found.smallest = 1e9;
  found.overlaps = [];
  d.querySelectorAll('svg').forEach(svg => {
    const frame = svg.getBoundingClientRect();
    const labels = [...svg.querySelectorAll('text')];
    const boxes = labels.map(t => t.getBoundingClientRect());
    labels.forEach((t, i) => {
      const box = boxes[i];
      const across = box.left >= frame.left - 2 && box.right <= frame.right + 2;
      const down = box.top >= frame.top - 2 && box.bottom <= frame.bottom + 2;
      if (!across || !down) found.clipped.push(svg.closest('figure').id + ': ' + t.textContent);
      found.smallest = Math.min(found.smallest, box.height);
      for (let j = 0; j < i; j++) {
        const b = boxes[j];
        const across = Math.min(box.right, b.right) - Math.max(box.left, b.left);
        const down = Math.min(box.bottom, b.bottom) - Math.max(box.top, b.top);
        const pair = [svg.closest('figure').id, t.textContent, labels[j].textContent];
        if (across > 3 && down > 5) found.overlaps.push(pair.join(' / '));
      }
    });
  });
  found.figures = d.querySelectorAll('figure svg').length;
  found.open = [...d.querySelectorAll('details.harmful')].filter(e => e.open).length;
  const out = document.createElement('pre');
  out.id = 'found';
  out.textContent = JSON.stringify(found);
  document.body.append(out);
};
</script>
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = fake.write_recipe(tmp_path_factory.mktemp("recipe"), items=150)
    report.write(made)
    return made


def chromium(*arguments: str, url: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([CHROMIUM, *FLAGS, *arguments, url], capture_output=True, text=True, timeout=120, check=True)


def console(log: str) -> list[str]:
    """Return what the page wrote to the console."""
    return [line for line in log.splitlines() if "CONSOLE" in line]


def probe(folder: Path, width: int, *, opened: bool = False) -> dict[str, Any]:
    page = folder / f"probe-{width}-{opened}.html"
    page.write_text(PROBE.replace("WIDTH", str(width)).replace("OPEN", "true" if opened else "false"), encoding="utf-8")
    flags = ("--allow-file-access-from-files", "--virtual-time-budget=8000", f"--window-size={max(width, 600)},2000")
    done = chromium(*flags, "--dump-dom", url=page.as_uri())
    assert not console(done.stderr)
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, flags=re.DOTALL)
    assert found, "the page did not load"
    return json.loads(found.group(1).replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))  # type: ignore[no-any-return]


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("opened", [False, True])
def test_nothing_overflows_and_every_figure_is_legible(folder: Path, width: int, opened: bool) -> None:
    found = probe(folder, width, opened=opened)
    assert found["width"] == width
    assert found["scroll"] <= width
    assert found["outside"] == []
    assert found["figures"] == 11
    assert found["clipped"] == []
    assert found["overlaps"] == []
    assert found["smallest"] >= 9, "text in a figure is lower than 9 pixels"
    assert opened or found["open"] == 0


def test_the_page_alone_writes_nothing_to_the_console(folder: Path) -> None:
    done = chromium("--dump-dom", url=(folder / "report.html").as_uri())
    assert not console(done.stderr)


@pytest.mark.skipif(not shutil.which("pdftotext"), reason="no pdftotext on this machine")
def test_print_opens_tables_and_leaves_harmful_answers_out(folder: Path, tmp_path: Path) -> None:
    page, pdf = folder / "report.html", tmp_path / "report.pdf"
    chromium("--no-pdf-header-footer", f"--print-to-pdf={pdf}", url=page.as_uri())
    text = subprocess.run(["pdftotext", "-layout", str(pdf), "-"], capture_output=True, text=True, check=True).stdout
    assert "By category" in text
    assert "The first 20 are printed" in text
    assert "[model]" in text, "the recipe is folded on screen and open in print"
    shown = [line for line in text.splitlines() if "world/harmful" in line]
    assert not [line for line in shown if "take tool" in line]
    fixed = text[text.index("Fixed") : text.index("Newly broken")]
    assert fixed.count("world/") == 20
