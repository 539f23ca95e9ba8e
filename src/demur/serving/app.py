"""The routes: OpenAI's endpoints, `/health`, and the playground."""

from __future__ import annotations

import asyncio
import hashlib
import random
import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from demur.serving import page
from demur.serving.engine import Answer, Engine, Event
from demur.serving.faults import Fault
from demur.serving.limits import Limits
from demur.serving.menu import Entry, Menu
from demur.serving.reading import SHORT, USUAL, Reader
from demur.serving.replies import DONE, Choice, Form, event, usage_of
from demur.serving.spelling import Spelling
from demur.serving.wire import ChatRequest, CompletionRequest, explain
from demur.serving.writing import Writer

EXTRA = "serve"


@dataclass(eq=False, kw_only=True)
class Service:
    """What the routes need."""

    menu: Menu
    reader: Reader
    engine: Engine
    limits: Limits
    boundary: Mapping[str, Any] | None = None
    """What is known of the refusal boundary; None where it was not fitted."""
    examples: Sequence[str] = ()
    """Prompts that the playground offers."""
    single: bool = False
    """Whether the model knows single turns only."""
    created: int = field(default_factory=lambda: int(time.time()))
    threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "demur-reader"))

    def __post_init__(self) -> None:
        self.spelling = Spelling(self.reader.tokenizer)

    async def answer(self, asked: ChatRequest | CompletionRequest, request: Request) -> Response:
        """Answer one request, as a stream or whole.

        Raises:
            Fault: for whatever keeps it from being answered.
        """
        entry = self.menu.find(asked.model, asked.intervention)
        job = await self._job(asked, entry)
        self.engine.submit(job.answers)
        headers = dict(job.headers)
        if asked.stream:
            headers |= {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
            stream = _stream(self.engine, job, usage=bool(asked.stream_options and asked.stream_options.include_usage))
            return StreamingResponse(stream, media_type="text/event-stream", headers=headers)
        reply = await _whole(self.engine, job, request)
        return Response(status_code=499) if reply is None else JSONResponse(reply, headers=headers)

    async def _job(self, asked: ChatRequest | CompletionRequest, entry: Entry) -> Job:
        chat = isinstance(asked, ChatRequest)
        prepared = self.menu.prepare(entry, asked.strength)
        if asked.boundary and self.boundary is None:
            raise Fault(400, "no boundary was fitted; start the server with --fit and --dev", None, "boundary")
        loop = asyncio.get_running_loop()
        rows = await loop.run_in_executor(self.threads, self._read, asked, entry, prepared.plan)
        count = len(rows) * (asked.n or 1)
        if count > self.limits.choices:
            raise Fault(400, f"{count} answers are asked for, at most {self.limits.choices} may be", None, "n")
        language = self.reader.language(asked) if asked.boundary else ""
        most = self.reader.length(rows, asked.most, USUAL if chat else SHORT)
        seed = secrets.randbits(63) if asked.seed is None else asked.seed
        floor = entry.floor_at(asked.strength)
        events: asyncio.Queue[Event] = asyncio.Queue()
        deadline = self.engine.clock() + self.limits.seconds
        answers = []
        for index in range(count):
            told = rows[index // (asked.n or 1)]
            row = told[0]
            given = tuple(asked.answer_token_ids or ()) if isinstance(asked, ChatRequest) else ()
            before = row.ids[row.prompt : len(row.ids) - len(given)] if chat else row.ids
            answers.append(
                Answer(
                    encoded=row,
                    told={branch: other for branch, other in told.items() if branch},
                    plan=prepared.plan,
                    group=prepared.group,
                    rows=prepared.rows,
                    temperature=1.0 if asked.temperature is None else asked.temperature,
                    top_p=1.0 if asked.top_p is None else asked.top_p,
                    top=asked.top,
                    place=asked.boundary,
                    language=language,
                    draws=random.Random(f"{seed} {index}"),
                    writer=Writer(self.reader.tokenizer, most, asked.stops, before, given),
                    deadline=deadline,
                    index=index,
                    events=events,
                )
            )
        form = Form(
            id=("chatcmpl-" if chat else "cmpl-") + secrets.token_hex(12),
            created=int(time.time()),
            model=self.menu.id_of(entry),
            fingerprint=self._fingerprint(entry, asked.strength),
            chat=chat,
            logprobs=bool(asked.logprobs) if chat else asked.logprobs is not None,
            token_ids=asked.return_token_ids,
            spelling=self.spelling,
            demur={"intervention": entry.name or None, "strength": asked.strength, "floor": floor.state},
        )
        headers = {"X-Demur-Intervention": entry.name or "none", "X-Demur-Floor": floor.state}
        return Job(answers, form, events, headers)

    def _read(self, asked: ChatRequest | CompletionRequest, entry: Entry, plan: Any) -> list[dict[int, Any]]:
        if isinstance(asked, ChatRequest):
            return self.reader.chat(asked, plan)
        if entry.tells and asked.strength != 0:
            what = f"{entry.name} changes what a conversation is told, which a plain completion has no place for"
            raise Fault(400, f"{what}; use /v1/chat/completions", None, "model")
        return self.reader.texts(asked)

    def _fingerprint(self, entry: Entry, strength: float) -> str:
        text = f"{self.menu.revision} {entry.fingerprint} {strength if entry.name else 1}"
        return "demur-" + hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(eq=False)
class Job:
    """One request on its way."""

    answers: list[Answer]
    form: Form
    events: asyncio.Queue[Event]
    headers: Mapping[str, str]

    @property
    def usage(self) -> dict[str, int]:
        """What was read and written so far; a prompt counts once, however many answers it gets."""
        prompts = {id(answer.encoded): len(answer.encoded.ids) for answer in self.answers}
        return usage_of(sum(prompts.values()), sum(answer.writer.count for answer in self.answers))

    async def pieces(self) -> AsyncIterator[tuple[int, Any]]:
        """Give the pieces of all answers as they come, until each has ended.

        Raises:
            Fault: what befell one of them.
        """
        left = len(self.answers)
        while left:
            index, what = await self.events.get()
            if isinstance(what, Fault):
                raise what
            yield index, what
            left -= bool(what.finish)


async def _whole(engine: Engine, job: Job, request: Request) -> dict[str, Any] | None:
    """Return the reply once every answer has ended; None where the client went away before."""

    async def gather() -> list[Choice]:
        choices = [Choice() for _ in job.answers]
        async for index, piece in job.pieces():
            choices[index].add(piece)
        return choices

    async def leave() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    done, gone = asyncio.create_task(gather()), asyncio.create_task(leave())
    try:
        await asyncio.wait((done, gone), return_when=asyncio.FIRST_COMPLETED)
        if not done.done():
            return None
        return job.form.whole(done.result(), job.usage, job.answers[0].encoded.ids)
    finally:
        engine.cancel(job.answers)
        for task in (done, gone):
            task.cancel()
            with suppress(asyncio.CancelledError, Fault):
                await task


async def _stream(engine: Engine, job: Job, *, usage: bool) -> AsyncIterator[str]:
    """Give the events of a stream; a fault in its midst is its last."""
    choices = [Choice() for _ in job.answers]
    try:
        async for index, piece in job.pieces():
            if not choices[index].pieces:
                yield job.form.opening(index, job.answers[index].encoded.ids)
            yield job.form.part(index, piece, choices[index])
            choices[index].add(piece)
        if usage:
            yield job.form.usage(job.usage)
        yield DONE
    except Fault as fault:
        yield event(fault.body())
        yield DONE
    finally:
        engine.cancel(job.answers)


def application(service: Service) -> FastAPI:
    """Return the application; it starts the engine with the event loop and ends it after the last request."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.engine.start()
        yield
        await service.engine.close(service.limits.drain)
        service.threads.shutdown(wait=False)

    app = FastAPI(title="demur serve", lifespan=lifespan, docs_url=None, redoc_url=None, redirect_slashes=False)
    _faults(app)
    _openai(app, service)
    _own(app, service)
    return app


def _faults(app: FastAPI) -> None:
    """Have every error told in OpenAI's form."""

    def told(fault: Fault) -> JSONResponse:
        return JSONResponse(fault.body(), fault.status, dict(fault.headers))

    @app.exception_handler(Fault)
    async def fault(_: Request, error: Fault) -> JSONResponse:
        return told(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        message, param = explain(list(error.errors()))
        return told(Fault(400, message, None, param))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        known = {404: f"no such path: {request.url.path[:200]}", 405: f"{request.method} is not for this path"}
        return told(
            Fault(error.status_code, known.get(error.status_code, str(error.detail)), headers=error.headers or {})
        )

    @app.exception_handler(Exception)
    async def other(_: Request, error: Exception) -> JSONResponse:
        return told(Fault(500, "the server failed; its log says how", "internal_error"))


_ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"description": text}
    for code, text in {
        400: "The request is not valid.",
        401: "A key is needed.",
        404: "Unknown model or intervention.",
        408: "The request did not arrive in time.",
        413: "The request is too large.",
        422: "Not used; see 400.",
        429: "The queue is full; Retry-After says when to come again.",
        503: "The server is ending, or out of memory.",
        504: "The answer was not finished in time.",
    }.items()
}


def _openai(app: FastAPI, service: Service) -> None:
    """Add the endpoints that OpenAI's clients know."""

    @app.post("/v1/chat/completions", responses=_ERRORS, response_model=None)
    async def chat(asked: ChatRequest, request: Request) -> Response:
        """Answer a conversation."""
        return await service.answer(asked, request)

    @app.post("/v1/completions", responses=_ERRORS, response_model=None)
    async def completions(asked: CompletionRequest, request: Request) -> Response:
        """Continue a text."""
        return await service.answer(asked, request)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """List the model, plain and with each intervention."""
        return {"object": "list", "data": [_model(service, entry) for entry in service.menu.entries.values()]}

    @app.get("/v1/models/{name:path}", responses={404: _ERRORS[404]})
    async def model(name: str) -> dict[str, Any]:
        """Show one of them."""
        return _model(service, service.menu.find(name, None))


def _model(service: Service, entry: Entry) -> dict[str, Any]:
    name = service.menu.id_of(entry)
    about = {"kind": entry.kind, "does": entry.lines, "adjustable": bool(entry.name) and not entry.fixed}
    floor = {"state": entry.floor.state, "verdict": entry.floor.verdict}
    demur = {"intervention": entry.name or None, **about, "floor": floor}
    return {"id": name, "object": "model", "created": service.created, "owned_by": "demur", "demur": demur}


def _own(app: FastAPI, service: Service) -> None:
    """Add what is demur's own: health, and the playground."""
    text, policy = page.whole(), page.policy()

    @app.get("/health")
    async def health() -> JSONResponse:
        """Say whether the server answers, and how much it has to do."""
        engine = service.engine
        state = {
            "status": "ok" if engine.alive else "ending",
            "running": len(engine.live),
            "waiting": len(engine.waiting),
        }
        return JSONResponse(state, 200 if engine.alive else 503)

    @app.get("/v1/demur")
    async def about() -> dict[str, Any]:
        """Return what the playground shows."""
        return {
            "models": [_model(service, entry) for entry in service.menu.entries.values()],
            "boundary": service.boundary,
            "examples": list(service.examples),
            "single": service.single,
            "longest": min(service.limits.answer, service.reader.context),
        }

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def playground() -> HTMLResponse:
        return HTMLResponse(text, headers={"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer"})
