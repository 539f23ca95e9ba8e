"""Every code block of the documentation that can run here does, in the order of its page."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests import docs_blocks
from tests.chat_server import ChatServer, serving

pytestmark = pytest.mark.torch

PAGES = [page for page in docs_blocks.pages() if any(block.runs for block in docs_blocks.blocks(page))]
SLOW = [page for page in PAGES if any(block.runs and block.slow for block in docs_blocks.blocks(page))]
Follow = Callable[..., Path]


def answered(body: dict[str, Any]) -> dict[str, Any]:
    """A model behind OpenAI's protocol, which answers all but what frightens."""
    asked = body["messages"][-1]["content"]
    said = "I'm sorry, but I can't help with that." if "frighten" in asked else "Here is how: one step at a time."
    choice = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
    return {"id": "1", "object": "chat.completion", "created": 0, "model": "tiny", "choices": [choice]}


@pytest.fixture(scope="module")
def follow(tmp_path_factory: pytest.TempPathFactory) -> Follow:
    """Give a function that follows a page once, after the page that it goes on from, and returns its folder."""
    done: dict[tuple[str, bool], Path] = {}

    def through(page: str, *, slow: bool = False) -> Path:
        if (page, slow) not in done:
            before = docs_blocks.goes_on(page)
            folder = through(before) if before else tmp_path_factory.mktemp("reader")
            _follow(page, folder, slow=slow)
            done[page, slow] = folder
        return done[page, slow]

    return through


def _follow(page: str, folder: Path, *, slow: bool) -> None:
    names: dict[str, Any] = {"__name__": "reader"}
    with ExitStack() as stack:
        wanted = [b for b in docs_blocks.blocks(page) if b.runs and (slow or not b.slow)]
        address = docs_blocks.ADDRESS
        if any("server" in block.notes for block in wanted):
            server = stack.enter_context(serving(ChatServer(reply=answered)))
            address = server.url.removeprefix("http://").removesuffix("/v1")
        for block in wanted:
            if "serves" in block.notes:
                address = stack.enter_context(_served(block, folder))
            else:
                docs_blocks.run(block, folder, names, address)


@contextmanager
def _served(block: docs_blocks.Block, folder: Path) -> Iterator[str]:
    """Run the server of a block in a process of its own; give its host and port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [*block.commands()[0][1:], "--port", str(port)]
    process = subprocess.Popen([sys.executable, "-m", "demur.cli", *words], cwd=folder, stdout=subprocess.DEVNULL)
    try:
        _wait(f"http://127.0.0.1:{port}/v1/models", process)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until a server answers."""
    until = time.monotonic() + 300
    while time.monotonic() < until and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise AssertionError(f"{url} does not answer; the server's status is {process.poll()}")


@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_the_page_runs(page: str, follow: Follow) -> None:
    follow(page)


@pytest.mark.slow
@pytest.mark.parametrize("page", SLOW)
def test_every_block_of_the_page_runs_the_slow_ones_too(page: str, follow: Follow) -> None:
    follow(page, slow=True)
