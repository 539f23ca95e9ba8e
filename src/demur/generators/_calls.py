"""The requests of one run: attempts and pauses, when there is no use going on, and what was counted."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import random
import threading
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from demur.addresses import is_loopback
from demur.background import drain
from demur.engines import settings_of
from demur.errors import ConfigError, Unavailable
from demur.generators._chat import MalformedReplyError, Reading, line, read, usage_of
from demur.generators._failures import Failure, by_status, failure, wait
from demur.types import Prompt, Response

if TYPE_CHECKING:
    import openai

_TRIES = 3
"""Attempts to reach a server that has never answered."""
_CONNECT = 10.0
"""Seconds in which a connection must be made."""


class Settings(Protocol):
    """What a run of requests needs to know."""

    @property
    def base_url(self) -> str:
        """Address of the API."""
        ...

    @property
    def concurrency(self) -> int:
        """Requests in flight at once."""
        ...

    @property
    def attempts(self) -> int:
        """How often a request is sent at most."""
        ...

    @property
    def timeout(self) -> float:
        """Seconds that one attempt may take."""
        ...

    @property
    def backoff(self) -> float:
        """Ceiling of the first pause, in seconds."""
        ...

    @property
    def longest_wait(self) -> float:
        """Highest ceiling of a pause, in seconds."""
        ...

    def count(self, **more: int) -> None:
        """Add to the totals."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a generator has sent and received so far."""

    requests: int = 0
    """Attempts, those that failed included."""
    retries: int = 0
    """Attempts after the first of a row."""
    prompt_tokens: int = 0
    """As the server counts them."""
    completion_tokens: int = 0
    """As the server counts them, thinking included."""


class Counted:
    """Totals beside the settings of a frozen part."""

    __slots__ = ("_lock", "_totals")

    _lock: threading.Lock
    _totals: Usage

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as the settings: another process counts for itself."""
        return settings_of(self)

    def start_count(self) -> None:
        """Begin at zero."""
        object.__setattr__(self, "_lock", threading.Lock())
        object.__setattr__(self, "_totals", Usage())

    def count(self, **more: int) -> None:
        """Add to the totals; threads may call it at the same time."""
        with self._lock:
            now = {name: getattr(self._totals, name) + value for name, value in more.items()}
            object.__setattr__(self, "_totals", dataclasses.replace(self._totals, **now))

    def usage(self) -> Usage:
        """Return the requests sent and the tokens counted so far, by all calls of this generator."""
        return self._totals


class Calls:
    """The requests of one run through one client; `key` never shows in a message."""

    def __init__(self, settings: Settings, client: openai.AsyncOpenAI, key: str) -> None:
        self.settings, self.key = settings, key
        self.create: Any = client.chat.completions.with_raw_response.create
        """The client's own call, looked up here: the first look imports for half a second."""
        self.heard = False
        """Whether the server has answered anything at all."""
        self.served = False
        """Whether it has answered with success."""
        self.gone = 0
        """Rows in a row that found no server."""
        self.refused = 0
        """Rows that were refused (403, 404) before any success."""

    async def answer(self, body: Mapping[str, Any], prompt: Prompt, sample: int, how: Reading) -> Response:
        """Return the row of one (prompt, sample), asking again where that may help.

        Raises:
            ConfigError: for a refused key or an unknown model.
            Unavailable: for a server that cannot be reached or has stopped answering, and for a spent account.
        """
        draw = random.Random(f"{prompt.id}/{sample}")
        last, attempt = Failure(kind="row", text=""), 0
        while attempt < self.settings.attempts:
            attempt += 1
            found = await self._attempt(body, prompt, sample, how, attempt)
            if isinstance(found, Response):
                self.gone = 0
                return found
            last = found
            await self._check(found, attempt, body["model"])
            if found.kind not in ("again", "unreachable"):
                break
            if found.after > self.settings.longest_wait:
                last = dataclasses.replace(found, text=f"asked to wait {found.after:g} s; {found.text}")
                break
            if attempt < self.settings.attempts:
                await self._pause(attempt, found.after, draw)
        return Response(
            prompt_id=prompt.id,
            sample=sample,
            text="",
            finish="filtered" if last.kind == "filtered" else "error",
            error=line(last.text) + (f" ({attempt} attempts)" if attempt > 1 else ""),
        )

    async def _pause(self, attempt: int, after: float, draw: random.Random) -> None:
        how = self.settings
        await asyncio.sleep(wait(attempt, backoff=how.backoff, longest=how.longest_wait, after=after, draw=draw))

    async def _attempt(
        self, body: Mapping[str, Any], prompt: Prompt, sample: int, how: Reading, attempt: int
    ) -> Response | Failure:
        """Send the request once."""
        self.settings.count(requests=1, retries=int(attempt > 1))
        rest = {name: value for name, value in body.items() if name not in ("model", "messages")}
        try:
            async with asyncio.timeout(self.settings.timeout):
                raw = await self.create(model=body["model"], messages=body["messages"], extra_body=rest)
            self.heard = True
            reply = json.loads(raw.http_response.content)
            if isinstance(reply, Mapping) and reply.get("error"):
                return by_status(_code(reply["error"]), reply, {}, key=self.key)
            response = read(reply, prompt, sample, how)
            self.served = True
            prompted, completed = usage_of(reply)
            self.settings.count(prompt_tokens=prompted, completion_tokens=completed)
        except Exception as error:  # whatever befalls one request is a row
            found = failure(error, timeout=self.settings.timeout, key=self.key)
            self.heard = self.heard or isinstance(error, MalformedReplyError) or found.text.startswith("HTTP ")
            return found
        return response

    async def _check(self, found: Failure, attempt: int, model: str) -> None:
        """End the run where no other request would fare better."""
        url = self.settings.base_url
        if found.kind == "unreachable":
            if not self.heard and attempt >= min(_TRIES, self.settings.attempts):
                raise Unavailable(f"no server answers at {url} ({found.text}); start it, or set base_url")
            self.gone += attempt == self.settings.attempts
            if self.gone >= self._most():
                raise Unavailable(f"the server at {url} has stopped answering ({found.text}); run again to go on")
        if found.kind == "unavailable":
            raise Unavailable(f"{url} serves this account no longer: {found.text}; run again to go on")
        if found.kind == "config":
            raise ConfigError(self._refused(found))
        if found.kind == "refused" and not self.served:
            self.refused += 1
            if "HTTP 404" in found.text:
                await asyncio.to_thread(self._check_model, found, model)
            if self.refused >= self._most():
                raise ConfigError(self._refused(found))

    def _most(self) -> int:
        """Return after how many failures of one kind, and nothing else, a run is over."""
        return max(8, self.settings.concurrency)

    def _refused(self, found: Failure) -> str:
        """Return the line for a key that is refused."""
        url = self.settings.base_url
        return f"generator http: {url} refused the key ({found.text}); api_key_env names the variable that holds it"

    def _check_model(self, found: Failure, model: str) -> None:
        """Raise ConfigError where the server does not have the model, or the address is that of no API."""
        url = self.settings.base_url
        try:
            offered = served_models(url, self.key, self.settings.timeout)
        except (ConfigError, Unavailable):
            advice = "the address usually ends in /v1"
            raise ConfigError(f"generator http: no OpenAI-compatible API at {url} ({found.text}); {advice}") from None
        if model not in offered:
            named = ", ".join(offered[:10])
            raise ConfigError(f"generator http: {url} has no such model ({found.text}); model=… may be {named}")


def client_of(base_url: str, key: str) -> openai.AsyncOpenAI:
    """Return a client that leaves retries and the time for a reply to its caller.

    Where the address is plain http it neither loads certificates, which takes longer than many a request, nor
    follows redirects. Where it is this machine's own, no proxy of the environment stands between.
    """
    import openai

    plain, limit = base_url.startswith("http://"), openai.Timeout(None, connect=_CONNECT)
    how: dict[str, Any] = {"verify": False, "follow_redirects": False} if plain else {}
    if is_loopback(base_url):
        how["trust_env"] = False
    made = openai.DefaultAsyncHttpxClient(**how, timeout=limit) if how else None
    return openai.AsyncOpenAI(base_url=base_url, api_key=key or "none", max_retries=0, timeout=limit, http_client=made)


def served_models(base_url: str, key: str, timeout: float) -> list[str]:
    """Ask a server for the names of its models.

    Args:
        base_url: address of the API.
        key: the key, or "".
        timeout: seconds to wait at most.

    Raises:
        ConfigError: where there is an answer, but no list of models.
        Unavailable: where nothing answers.
    """
    import openai

    longest = min(timeout, 20)

    async def ask() -> AsyncGenerator[list[str], None]:
        async with asyncio.timeout(longest), client_of(base_url, key) as client:
            found = [str(model.id) async for model in client.models.list()]
        yield found

    try:
        return next(drain(ask))
    except TimeoutError:
        raise Unavailable(f"{base_url} does not answer within {longest:g} s; start it, or set base_url") from None
    except openai.APIConnectionError as error:
        cause = line(error.__cause__ or error, key)
        raise Unavailable(f"no server answers at {base_url} ({cause}); start it, or set base_url") from None
    except (openai.OpenAIError, AttributeError, TypeError, ValueError) as error:
        raise ConfigError(f"{base_url} does not list its models ({line(error, key)}); set model=…") from None


def _code(error: Any) -> int:
    """Return the status in an error object that came with HTTP 200; 500 where it has none."""
    code = error.get("code") if isinstance(error, Mapping) else None
    return code if isinstance(code, int) and code >= 400 else 500
