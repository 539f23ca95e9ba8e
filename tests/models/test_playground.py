"""The playground in a headless browser: two sides, the slider, the keyboard, a clean console."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from demur.boundary import Axis, Calibration
from demur.boundary_scorer import BoundaryScorer
from demur.lm import LM
from demur.readout import Openers
from tests.chromium import BINARY, Tab, tab
from tests.models.families import build, tokenizer
from tests.models.families import lm as shared
from tests.models.serving import Running, chat, served

pytestmark = [
    pytest.mark.torch,
    pytest.mark.browser,
    pytest.mark.skipif(not BINARY, reason="no chromium on this machine"),
]


@dataclass
class Page:
    """A page, its server, and what it says of both sides."""

    at: Running
    tab: Tab

    def answers(self) -> list[str]:
        """What both sides say last, once neither writes."""
        self.tab.wait("sides.length === 2 && sides.every(side => !side.run && side.turns.length > 1)")
        return list(self.tab.run("sides.map(side => side.turns.at(-1).content)"))

    def shown(self, selector: str) -> list[Any]:
        """The text of an element on each side."""
        return list(self.tab.run(f"sides.map(side => side.root.querySelector('{selector}').textContent)"))


def scorer(lm: LM) -> BoundaryScorer:
    """A boundary along any axis: what is looked at is the page."""
    axis = Axis(mu_minus=torch.zeros(lm.d_model, dtype=torch.float64), v=torch.ones(lm.d_model, dtype=torch.float64))
    fit = Calibration(w=2.0, t_star=0.1, tau=float(np.log(9) / 2), auroc=0.9, n=100)
    return BoundaryScorer(lm=lm, layer=1, axes={"": (axis, fit)}, openers=Openers(ids=(1, 2, 3), agreement=1.0, n=10))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    folder = tmp_path_factory.mktemp("playground")
    lm = LM(build("llama"), tokenizer(), shared("llama").ref)
    with served(lm, folder, placed=scorer(lm)) as at, tab(folder / "profile") as one:
        yield Page(at, one)


@pytest.fixture
def page(site: Page) -> Page:
    """The page, opened anew."""
    site.tab.open("about:blank")
    site.tab.complaints.clear()
    site.tab.size(1280, 900)
    site.tab.open(site.at.url + "/")
    site.tab.wait("sides.length === 2")
    return site


def test_both_sides_answer_as_the_interface_does(page: Page) -> None:
    assert page.tab.run("document.activeElement.id") == "text"
    page.tab.type("hello")
    page.tab.press("Enter")
    said = page.answers()
    for side, name in zip(said, ("tiny", "tiny+push"), strict=True):
        reply = page.at.post(chat("hello", model=name, max_tokens=256, seed=0, boundary=True)).json()
        assert side == reply["choices"][0]["message"]["content"]
        place = reply["demur"]["boundary"]
        index = said.index(side)
        assert page.shown(".percent")[index] == f"{100 * place['p_refuse']:.1f} %"
        assert f"d {place['d']:.1f}" in page.shown(".told")[index]
    assert said[0] != said[1]
    assert page.shown(".floor") == ["no intervention acts", "safety floor not measured"]
    assert not page.tab.complaints


def test_the_slider_changes_the_answer_from_the_keyboard(page: Page) -> None:
    page.tab.type("hello")
    page.tab.press("Enter")
    first = page.answers()
    page.tab.run("sides[1].slider.focus()")
    page.tab.press("Home")  # strength 0: the plain model
    page.tab.wait("sides[1].slider.value === '0'")
    second = page.answers()
    assert second == [first[0], first[0]]
    assert page.shown(".floor")[1] == "no intervention acts"
    page.tab.press("ArrowRight")
    page.tab.press("ArrowRight")
    page.tab.wait("sides[1].slider.value === '0.2'")
    assert page.shown(".floor")[1] == "safety floor not measured"
    page.answers()
    assert page.tab.run("sides[0].slider.disabled") is True
    assert not page.tab.complaints


def test_every_control_is_reached_and_named(page: Page) -> None:
    unnamed = """[...document.querySelectorAll('input, select, textarea, button, [tabindex], [role=img], [role=log]')]
      .filter(e => e.offsetParent && !(e.labels?.length || e.getAttribute('aria-label') || e.textContent.trim()))
      .map(e => e.outerHTML)"""
    assert page.tab.run(unnamed) == []
    reached = set()
    for _ in range(30):
        page.tab.press("Tab")
        reached.add(page.tab.run("document.activeElement.id || document.activeElement.className"))
    assert {"which", "slider", "talk", "temperature", "clear", "send", "text"} <= reached
    ids = page.tab.run("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_fits_the_window_and_can_be_read(page: Page, width: int, dark: bool) -> None:
    page.tab.size(width, 900, dark=dark)
    page.tab.type("hello <b>there</b>")
    page.tab.press("Enter")
    page.answers()
    assert page.tab.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert page.tab.run("document.querySelectorAll('.turn b').length") == 0
    assert page.tab.run(CONTRAST) >= 4.5
    assert not page.tab.complaints


def test_a_key_is_asked_for_and_errors_are_shown(tmp_path: Path) -> None:
    lm = LM(build("llama"), tokenizer(), shared("llama").ref)
    with served(lm, tmp_path, keys=("sesame",)) as at, tab(tmp_path / "profile") as one:
        one.open(at.url + "/")
        one.wait("!document.querySelector('#unlock').hidden")
        one.run("document.querySelector('#key').focus()")
        one.type("sesame")
        one.press("Enter")
        one.wait("sides.length === 2")
        one.run("document.querySelector('#text').value = 'hello '.repeat(600); send()")
        one.wait("document.querySelectorAll('.turn.failed').length === 2")
        assert "512 together" in one.run("document.querySelector('.turn.failed').textContent")


CONTRAST = """(() => {
  const light = (c) => {
    const linear = (v) => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
    const [r, g, b] = c.match(/[\\d.]+/g).map((v) => linear(v / 255));
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const c = getComputedStyle(e).backgroundColor;
      if (!c.startsWith('rgba(0, 0, 0, 0')) return c;
    }
    return 'rgb(255, 255, 255)';
  };
  const found = [...document.querySelectorAll('body *')]
    .filter(e => e.offsetParent && !e.disabled && [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()))
    .map(e => [light(getComputedStyle(e).color), light(behind(e))].sort((a, b) => b - a))
    .map(([a, b]) => (a + .05) / (b + .05));
  return Math.min(...found);
})()"""
"""The least contrast of any text with what is behind it (WCAG 2)."""
