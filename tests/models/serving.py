"""A server on a free port of this machine, in a thread, ended by the test."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx
import torch

from demur.directions import Direction
from demur.interventions.ablate import Ablate
from demur.interventions.contrastive import Contrastive
from demur.interventions.gated import Gated
from demur.interventions.instruct import Instruct
from demur.interventions.steer import Steer
from demur.lm import LM
from demur.plan import Gate, Intervention, Probe
from demur.serving.app import Service
from demur.serving.limits import Limits
from demur.serving.loading import menu_of
from demur.serving.start import Server, listening, server_of, service_of


@dataclass
class Running:
    """A server and where it is."""

    url: str
    server: Server
    service: Service
    thread: threading.Thread

    def post(self, body: Any, path: str = "/v1/chat/completions", **more: Any) -> httpx.Response:
        """Send one request."""
        return httpx.post(self.url + path, json=body, timeout=60, **more)

    def get(self, path: str) -> httpx.Response:
        """Read one path."""
        return httpx.get(self.url + path, timeout=60)

    def say(self, text: str, **more: Any) -> str:
        """Return the answer to one prompt, greedy by default."""
        reply = self.post(chat(text, **more))
        assert reply.status_code == 200, reply.text
        return str(reply.json()["choices"][0]["message"]["content"])

    def stop(self) -> None:
        """Have it end as a signal would."""
        self.server.should_exit = True


def chat(text: str, **more: Any) -> dict[str, Any]:
    """The body of a request, greedy and short unless it says otherwise."""
    made = {"model": "tiny", "messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 12}
    return made | more


def events(reply: httpx.Response) -> list[Any]:
    """The events of a stream that has been read."""
    lines = [line.removeprefix("data: ") for line in reply.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def interventions(lm: LM) -> dict[str, Intervention]:
    """One of each kind that treats rows, prompts and weights differently."""
    draw = torch.Generator().manual_seed(3)
    vector = torch.randn(1, lm.d_model, generator=draw)
    direction = Direction(vectors=vector, layers=(0,), model=lm.ref, estimator="random")
    push = Steer(direction=direction, layer=1, strength=4.0)
    weight = torch.randn(lm.d_model, generator=draw)
    return {
        "push": push,
        "cut": Ablate(direction=direction, by="weights"),
        "sometimes": Gated(inner=push, gate=Gate(probe=Probe(layers=(0,)), weight=weight)),
        "polite": Instruct(text="Be kind."),
        "mixed": Contrastive(text="Be brief.", mix=(1.6, -0.6), horizon=6),
    }


@contextmanager
def served(
    lm: LM,
    folder: Path,
    *,
    limits: Limits | None = None,
    placed: Any = None,
    named: Mapping[str, Intervention] | None = None,
    **how: Any,
) -> Iterator[Running]:
    """Serve a model with the interventions named, else with `interventions`, and end it."""
    named = interventions(lm) if named is None else named
    for name, intervention in named.items():
        if not (folder / name).exists():
            intervention.save(folder / name)
    menu = menu_of(lm, [str(folder / name) for name in named], "tiny")
    service = service_of(lm, menu, limits or Limits(), placed)
    server = server_of(service, **how)
    ready = threading.Event()
    server.started_hook = ready.set  # type: ignore[method-assign]
    with listening("127.0.0.1", 0) as found:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [found]})
        thread.start()
        try:
            assert ready.wait(30)
            yield Running(f"http://127.0.0.1:{found.getsockname()[1]}", server, service, thread)
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()
