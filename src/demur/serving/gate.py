"""What every request passes first: its host, its key, its size and the time it takes to arrive. Plain ASGI."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from demur.serving.faults import Fault
from demur.serving.limits import Limits

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

LOOPBACK = ("localhost", "127.0.0.1", "[::1]", "::1")
"""Names by which a browser on this machine reaches it."""
OPEN = ("/", "/health", "/openapi.json")
"""Paths that need no key."""


@dataclass(frozen=True, slots=True)
class Gate:
    """Passes a request on with its whole body read, or answers it with the fault."""

    app: App
    limits: Limits
    keys: Sequence[str] = ()
    """Any of these opens; none: no key is needed."""
    hosts: Sequence[str] = ()
    """Names that a Host header may hold, so that no page of another name can reach a server that asks for no key;
    none: all."""

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one connection's request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            headers = {name.lower(): value for name, value in scope["headers"]}
            self._check_host(headers.get(b"host", b""))
            if scope["path"] not in OPEN:
                self._check_key(headers.get(b"authorization", b""))
            body = await self._body(headers.get(b"content-length", b""), receive)
        except Fault as fault:
            await refuse(send, fault)
            return
        if body is not None:
            await self.app(scope, _replay(body, receive), send)

    def _check_host(self, host: bytes) -> None:
        name = host.decode("latin-1").lower()
        bare = name if name.endswith("]") or (name.count(":") > 1 and "]" not in name) else name.rsplit(":", 1)[0]
        if self.hosts and bare not in self.hosts:
            raise Fault(421, f"this server does not answer to {bare[:100]!r}", "wrong_host")

    def _check_key(self, header: bytes) -> None:
        if not self.keys:
            return
        kind, _, given = header.partition(b" ")
        offered = hashlib.sha256(given.strip()).digest()
        known = [hmac.compare_digest(offered, hashlib.sha256(key.encode()).digest()) for key in self.keys]
        if kind.lower() != b"bearer" or not any(known):
            what = "the key is not known here" if given else "a key is needed: Authorization: Bearer KEY"
            raise Fault(401, what, "invalid_api_key", headers={"WWW-Authenticate": "Bearer"})

    async def _body(self, length: bytes, receive: Receive) -> bytes | None:
        """Return the body, None where the client went away."""
        if length.isdigit() and int(length) > self.limits.body:
            raise self._too_large()
        parts, size = [], 0
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    part = message.get("body", b"")
                    size += len(part)
                    if size > self.limits.body:
                        raise self._too_large()
                    parts.append(part)
                    if not message.get("more_body"):
                        return b"".join(parts)
        except TimeoutError:
            what = f"the request did not arrive within {self.limits.body_seconds:g} s"
            raise Fault(408, what, "timeout", headers={"Connection": "close"}) from None

    def _too_large(self) -> Fault:
        what = f"the request is larger than {self.limits.body} bytes"
        return Fault(413, what, "request_too_large", headers={"Connection": "close"})


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives the body once, and then what comes after it."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def refuse(send: Send, fault: Fault) -> None:
    """Answer with a fault."""
    body = json.dumps(fault.body(), ensure_ascii=True).encode()
    named = {"content-type": "application/json", "content-length": str(len(body)), **fault.headers}
    headers = [(name.lower().encode(), value.encode()) for name, value in named.items()]
    await send({"type": "http.response.start", "status": fault.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
