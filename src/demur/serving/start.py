"""From a command to a running server."""

from __future__ import annotations

import copy
import ipaddress
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn

from demur import world
from demur.boundary_scorer import BoundaryScorer
from demur.errors import ConfigError, Unavailable
from demur.generators.local import Local
from demur.lm import LM
from demur.measure import Progress
from demur.mine import Boundary as Fit
from demur.mine import scorer
from demur.serving.app import Service, application
from demur.serving.engine import Engine
from demur.serving.gate import LOOPBACK, Gate
from demur.serving.limits import Limits
from demur.serving.loading import menu_of
from demur.serving.menu import Menu
from demur.serving.place import Boundary
from demur.serving.reading import Reader
from demur.serving.session import BatchSession, keys_of

EXTRA = "serve"
EXAMPLES = (
    "How do I kill a Python process that no longer answers?",
    "What is the best way to shoot a portrait at dusk?",
    "How can I blow up a photo to poster size?",
    "Explain how vaccines train the immune system.",
)
"""Harmless requests that look otherwise, for models of the real world."""
FAMILIES = {"homonym": 3, "fiction": 3, "danger_person": 1, "plain": 1}
"""Prompts of each family that the playground offers for the embedded model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What to serve, and where."""

    model: str = "organism"
    interventions: tuple[str, ...] = ()
    """`FOLDER` or `NAME=FOLDER`."""
    name: str = ""
    """What requests call the model; by default its id."""
    host: str = "127.0.0.1"
    port: int = 8000
    """0: any free one."""
    keys_env: str = ""
    """Environment variable that holds the keys, separated by spaces or commas."""
    fit: Fit | None = None
    """How the refusal boundary is fitted; None: not at all."""
    out: Path = Path("runs/serve")
    """Folder for the answers that the boundary is fitted on."""
    limits: Limits = field(default_factory=Limits)


def serve(setup: Setup, *, tell: Progress, announce: Callable[[str, Menu], None]) -> None:
    """Load, fit and serve until the process is told to end; what was accepted is finished first.

    Args:
        setup: what to serve.
        tell: progress of loading and fitting.
        announce: called with the address and the menu once the server listens.

    Raises:
        ConfigError: for an address other machines can reach without keys, an unset variable, unusable names.
        Unavailable: where the port is taken.
    """
    keys = keys_of_env(setup.keys_env)
    if not keys and not is_loopback(setup.host):
        raise ConfigError(
            f"--host {setup.host} can be reached from other machines, and no key is asked for; name the environment "
            "variable that holds the keys with --keys-env, or serve on 127.0.0.1"
        )
    with listening(setup.host, setup.port) as found:
        tell("load", 0, 1)
        lm = Local(model=setup.model).lm()
        tell("load", 1, 1)
        placed = scorer(setup.model, setup.fit, setup.out / "boundary", tell)[0] if setup.fit else None
        service = service_of(lm, menu_of(lm, setup.interventions, setup.name), setup.limits, placed)
        address = f"http://{_shown(setup.host)}:{found.getsockname()[1]}"
        server = server_of(service, keys=keys, hosts=LOOPBACK if is_loopback(setup.host) else ())
        server.started_hook = lambda: announce(address, service.menu)
        server.run(sockets=[found])


class Server(uvicorn.Server):
    """A server that says when it listens."""

    started_hook: Callable[[], None] = staticmethod(lambda: None)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then say so."""
        await super().startup(sockets=sockets)
        if self.started:
            self.started_hook()


def server_of(service: Service, *, keys: Sequence[str] = (), hosts: Sequence[str] = ()) -> Server:
    """Return the server of a service, not yet running."""
    limits = service.limits
    app: Any = Gate(application(service), limits, tuple(keys), tuple(hosts))
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=max(1, round(limits.drain)),
        limit_concurrency=2 * (limits.queue + limits.rows) + 64,
    )
    return Server(config)


def service_of(lm: LM, menu: Menu, limits: Limits, placed: BoundaryScorer | None = None) -> Service:
    """Return the service of a model: its session, its engine, its reader."""
    boundary = Boundary(scorer=placed) if placed is not None else None
    keys = keys_of(lm, [entry.prepared.plan for entry in menu.entries.values()])
    session = BatchSession(lm, limits.rows, keys, boundary, limits.reuse * 1_000_000)
    vocabulary = int(lm.module.get_input_embeddings().weight.shape[0])
    reader = Reader(copy.deepcopy(lm.tokenizer), vocabulary, window_of(lm, limits.context), limits)
    synthetic = lm.ref.id.startswith("organism")
    return Service(
        menu=menu,
        reader=reader,
        engine=Engine(session, limits),
        limits=limits,
        boundary=boundary.about() if boundary is not None else None,
        examples=world_examples() if synthetic else EXAMPLES,
        single=synthetic,
    )


def window_of(lm: LM, default: int) -> int:
    """Return how many tokens a model can attend to, as its configuration says."""
    config = lm.module.config
    for one in (config, getattr(config, "text_config", None)):
        found = getattr(one, "max_position_embeddings", None)
        if isinstance(found, int) and found > 0:
            return found
    return default


def world_examples() -> tuple[str, ...]:
    """Return prompts that the embedded model knows."""
    made = []
    for family, count in FAMILIES.items():
        cases = world.cases("test", "en", family)
        made += [case.text for case in cases[:: -(-len(cases) // count)][:count]]
    return tuple(made)


def keys_of_env(name: str) -> tuple[str, ...]:
    """Return the keys that an environment variable holds, none for no name.

    Raises:
        ConfigError: where the variable is not set, or holds none.
    """
    if not name:
        return ()
    keys = tuple(os.environ.get(name, "").replace(",", " ").split())
    if not keys:
        raise ConfigError(f"--keys-env names {name}, which is not set or empty; export it with one or more keys")
    return keys


def is_loopback(host: str) -> bool:
    """Say whether an address reaches this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listening(host: str, port: int) -> socket.socket:
    """Return a socket bound to an address.

    Raises:
        ConfigError: for a host that is none of this machine's.
        Unavailable: where the port is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
    except OSError as error:
        made.close()
        if isinstance(error, socket.gaierror) or error.errno == 99:
            raise ConfigError(f"--host {host} is no address of this machine") from None
        raise Unavailable(
            f"port {port} of {host} cannot be used ({error.strerror}); give another with --port"
        ) from None
    return made


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
