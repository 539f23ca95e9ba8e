"""A chat server on this machine that behaves, or misbehaves, as the prompt's first word says."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

MODEL = "tiny"
REFUSALS = ("filter400", "filter", "refusal", "stop_refusal")
"""First words of prompts that meet the four forms of refusal by the system."""


@dataclass
class ChatServer:
    """What the server has seen, and how it answers.

    A prompt's first word is `behaviour` or `behaviour*n`: the first n attempts at it misbehave, without n all do.
    """

    delay: float = 0.0
    """Seconds before each reply."""
    reply: Callable[[dict[str, Any]], Any] | None = None
    """Makes the whole reply from the request's body; it goes before behaviours."""
    status: int = 200
    """Status of every reply."""
    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    times: dict[str, list[float]] = field(default_factory=dict)
    """When each prompt was asked, in seconds of the loop's clock."""
    seen: Counter[str] = field(default_factory=Counter)
    open: int = 0
    most: int = 0
    """Most requests at once."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode("latin-1").split("\r\n")
                headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines if line)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                self.open += 1
                self.most = max(self.most, self.open)
                try:
                    raw = await self.handle(first.split(" ")[1], headers, body)
                finally:
                    self.open -= 1
                if raw is None:
                    break
                writer.write(raw)
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass  # the client or the test has gone
        finally:
            writer.close()

    async def handle(self, path: str, headers: dict[str, str], raw: bytes) -> bytes | None:
        """Return the bytes of one reply, None to cut the connection."""
        if path.endswith("/models"):
            return http(200, {"object": "list", "data": [{"id": MODEL, "object": "model"}]})
        body = json.loads(raw)
        self.bodies.append(body)
        self.headers.append(headers)
        if self.delay:
            await asyncio.sleep(self.delay)
        if body["model"] != MODEL:
            return http(404, {"error": {"message": f"The model {body['model']} does not exist", "code": 404}})
        if self.reply is not None:
            return http(self.status, self.reply(body))
        text = next((m["content"] for m in reversed(body["messages"]) if m["role"] == "user"), "")
        self.times.setdefault(text, []).append(asyncio.get_running_loop().time())
        self.seen[text] += 1
        word, _, times = (text.split() or [""])[0].partition("*")
        if times and self.seen[text] > int(times):
            word = ""
        return await misbehave(word, text)


async def misbehave(word: str, text: str) -> bytes | None:
    """Return what a behaviour answers; an unknown word is answered well."""
    if word == "slow":
        await asyncio.sleep(0.05)
    if word == "hang":
        await asyncio.sleep(60)
    if word == "cut":
        return None
    if word == "torn":
        return http(200, completion(text)).replace(b"Content-Length: ", b"Content-Length: 9")
    if word == "429":
        return http(429, {"error": {"message": "slow down"}}, "Retry-After: 0.1")
    if word == "late":
        return http(429, {"error": {"message": "much too fast"}}, "Retry-After: 3600")
    if word in ("500", "503", "400", "401", "403"):
        return http(int(word), {"error": {"message": f"status {word}"}})
    if word == "malformed":
        return http(200, b'{"choices": [{"message": {"content": "half')
    if word in ("empty", "null"):
        return http(200, completion("half an ans", finish_reason=None) if word == "null" else {"choices": []})
    if word == "filter400":
        return http(400, {"error": {"message": "filtered", "code": "content_filter"}})
    if word == "filter":
        return http(200, completion("", finish_reason="content_filter"))
    if word == "refusal":
        return http(200, completion(None, refusal="This is not served."))
    if word == "stop_refusal":
        return http(200, completion("", finish_reason="stop", stop_reason="refusal"))
    return http(200, completion(f"answer to {text}"))


def completion(
    content: Any, *, finish_reason: str | None = "stop", stop_reason: str | None = None, **message: Any
) -> dict[str, Any]:
    """Return the body of a reply; `message` holds more fields of its message."""
    said = {"role": "assistant", "content": content, **message}
    choice = {"index": 0, "message": said, "finish_reason": finish_reason, "stop_reason": stop_reason}
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    return {"id": "c", "object": "chat.completion", "model": MODEL, "choices": [choice], "usage": usage}


def http(status: int, body: Any, *more: str) -> bytes:
    """Return the bytes of a reply."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} X", "Content-Type: application/json", f"Content-Length: {len(raw)}", *more]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + raw


@contextmanager
def serving(server: ChatServer) -> Iterator[ChatServer]:
    """Run a server on a free port of this machine in a thread of its own."""
    started = threading.Event()
    ends: list[Callable[[], None]] = []

    async def main() -> None:
        loop, done = asyncio.get_running_loop(), asyncio.Event()
        made = await asyncio.start_server(server.serve, "127.0.0.1", 0, backlog=1024)
        server.url = f"http://127.0.0.1:{made.sockets[0].getsockname()[1]}/v1"
        ends.append(lambda: loop.call_soon_threadsafe(done.set) and None)
        started.set()
        await done.wait()
        made.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
    thread.start()
    started.wait(10)
    try:
        yield server
    finally:
        ends[0]()
        thread.join(10)


def main() -> None:
    """Serve with the delay of the first argument until standard input is closed; print the address."""
    with serving(ChatServer(delay=float(sys.argv[1]))) as server:
        sys.stdout.write(server.url + "\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
