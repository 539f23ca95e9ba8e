"""A vLLM engine that is given tokens and gives tokens: prompts are rendered, and answers read, by demur."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import transformers

from demur.chats import Chats, Encoded, ends, joined
from demur.errors import ConfigError, DemurError, ModelError, Unavailable, one_line
from demur.generators._chat import seed_of
from demur.interventions import load as load_intervention
from demur.loading import describe, load, origin
from demur.opening import mixed
from demur.types import Finish, ModelRef, Prompt, Response, Sampling
from demur.vllm_plans import Held, adapter_folder, held, largest_rank, merge

HOTTEST = 2.0
"""Highest temperature that vLLM takes."""
SILENT = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_CONFIGURE_LOGGING": "1"}
"""Nothing is sent to vLLM's makers."""


@dataclass(eq=False, slots=True)
class _Job:
    """One answer in the making."""

    prompt: Prompt
    sample: int
    base: Encoded
    told: Encoded | None
    """What the other side of contrastive decoding is told."""
    tokens: list[int] = field(default_factory=list)
    finish: Finish | None = None
    error: str = ""
    logprob: float | None = None


def ref_of(model: str, revision: str, dtype: str) -> ModelRef:
    """Return which weights a model has, by `loading.origin`; `dtype` as the engine is told."""
    source, commit, weights = origin(model, revision)
    return ModelRef(id=model, revision=weights, dtype=dtype, template_sha=_chats(source, commit).sha)


class Engine:
    """One `vllm.LLM`, with the intervention it was started for."""

    def __init__(
        self, model: str, revision: str, dtype: str, *, intervention: str, top: int, more: Mapping[str, Any]
    ) -> None:
        """Start the engine.

        Args:
            model: as in `demur.load`.
            revision: branch, tag or commit on the hub.
            dtype: `auto`, or a dtype by name.
            intervention: folder of a saved intervention, or "".
            top: likeliest tokens that contrastive decoding looks at; -1 for all.
            more: further arguments of `vllm.LLM`.

        Raises:
            ConfigError: for an intervention that vLLM cannot hold.
            ModelError: where the engine does not start.
        """
        self.held = held(load_intervention(intervention)) if intervention else Held()
        if self.held.logits is not None and not self.held.logits.plausible and top != -1:
            raise ConfigError(
                f"generator vllm: {intervention} lets every token be drawn (plausible 0), but only the top={top} "
                "likeliest are looked at; set top=-1"
            )
        self.top = top
        self._files = Path(tempfile.mkdtemp(prefix="demur-vllm-"))
        weakref.finalize(self, shutil.rmtree, self._files, ignore_errors=True)
        source, commit, _ = origin(model, revision)
        self.chats = _chats(source, commit)
        self.stops = ends(_generation(source, commit), self.chats.tokenizer, _config(source, commit))
        own: dict[str, Any] = {"model": source, "tokenizer": source, "dtype": dtype}
        own |= {"revision": commit, "tokenizer_revision": commit} if commit else {}
        if self.held.weights is not None:
            own |= self._merged(model, revision, dtype, intervention)
        if self.held.logits is not None:
            own["max_logprobs"] = top
        request = self._lora(Path(intervention), own) if self.held.adapter is not None else None
        os.environ.update({name: os.environ.get(name, value) for name, value in SILENT.items()})
        import vllm

        self.parameters, self.adapter = vllm.SamplingParams, request
        try:
            self.llm: Any = vllm.LLM(**{**own, **more})
        except (ValueError, RuntimeError, TypeError, OSError) as error:
            raise ModelError(f"vLLM does not start on {model}: {one_line(error, 400)}") from None

    def _merged(self, model: str, revision: str, dtype: str, named: str) -> dict[str, Any]:
        """Write the weights with the intervention in them; return where the engine finds them, and their dtype."""
        out = self._files / "merged"
        out.mkdir()
        lm = load(model, revision=revision, device="cpu")
        if self.held.weights is not None:
            merge(lm, self.held.weights, out, named)
        own = str(getattr(describe(model, revision=revision)[0], "dtype", None) or "auto").removeprefix("torch.")
        place = {"model": str(out), "tokenizer": str(out), "revision": None, "tokenizer_revision": None}
        return {**place, "dtype": own if dtype == "auto" else dtype}

    def _lora(self, saved: Path, own: dict[str, Any]) -> Any:
        """Return the request for the adapter, and have the engine take one of its rank."""
        from vllm.lora.request import LoRARequest

        if self.held.adapter is None:
            return None
        own |= {"enable_lora": True, "max_lora_rank": largest_rank(self.held.adapter.lora)}
        folder = adapter_folder(self.held.adapter, saved, self._files / "adapter")
        return LoRARequest(lora_name="demur", lora_int_id=1, lora_path=str(folder.resolve()))

    def answers(self, prompts: Sequence[Prompt], how: Sampling, batch: int) -> Iterator[Response]:
        """Answer prompts, `batch` rows at a time; a request that fails is a row.

        Raises:
            ConfigError: for a temperature that vLLM or contrastive decoding does not take.
            Unavailable: where the engine has died.
        """
        if how.temperature > HOTTEST or (how.temperature and self.held.logits is not None):
            most = "0 under contrastive decoding" if self.held.logits is not None else f"{HOTTEST:g} at most"
            raise ConfigError(f"generator vllm: temperature is {how.temperature}; it must be {most}")
        waiting = ((prompt, sample) for prompt in prompts for sample in range(how.samples))
        while rows := list(islice(waiting, batch)):
            jobs = self._jobs(rows, how)
            if self.held.logits is not None:
                self._open(jobs, how)
            self._write([job for job in jobs if job.finish is None], how)
            yield from map(self._response, jobs)

    def _jobs(self, rows: Sequence[tuple[Prompt, int]], how: Sampling) -> list[_Job]:
        asked = [prompt for prompt, _ in rows]
        words: dict[str, Any] = {"prefill": how.prefill, "thinking": how.thinking}
        base = self.chats.encode(asked, system=self.held.system, **words)
        told: Sequence[Encoded | None] = [None] * len(rows)
        if self.held.logits is not None:
            told = self.chats.encode(asked, system=joined(self.held.system, self.held.told), **words)
        return [_Job(*row, *sides) for row, sides in zip(rows, zip(base, told, strict=True), strict=True)]

    def _open(self, jobs: Sequence[_Job], how: Sampling) -> None:
        """Choose first tokens from what both sides find likeliest, two requests a token."""
        logits = self.held.logits
        if logits is None:
            return
        one = self.parameters(max_tokens=1, temperature=0.0, logprobs=self.top, detokenize=False)
        horizon = how.max_new_tokens if logits.horizon is None else min(logits.horizon, how.max_new_tokens)
        live = list(jobs)
        for _ in range(horizon):
            sides = [side for job in live for side in (job.base, job.told or job.base)]
            given = [job for job in live for _ in range(2)]
            asked = [([*side.ids, *job.tokens], one) for side, job in zip(sides, given, strict=True)]
            found = self._complete(asked) if asked else []
            for job, plain, told in zip(live, found[::2], found[1::2], strict=True):
                failed = next((side for side in (plain, told) if isinstance(side, str)), "")
                if failed:
                    job.finish, job.error = "error", failed
                    continue
                token = mixed(
                    _likeliest(plain), _likeliest(told), mix=logits.mix, agreed=logits.agreed,
                    agreement=logits.agreement, plausible=logits.plausible,
                )  # fmt: skip
                self._take(job, [token], how)
            live = [job for job in live if job.finish is None]

    def _take(self, job: _Job, tokens: Sequence[int], how: Sampling) -> None:
        """Add tokens to an answer, and note whether it ends with them."""
        job.tokens += tokens
        if job.tokens and job.tokens[-1] in self.stops:
            job.finish = "stop"
        elif len(job.tokens) >= how.max_new_tokens:
            job.finish = "length"

    def _write(self, jobs: Sequence[_Job], how: Sampling) -> None:
        """Have the engine write the rest of the answers."""
        asked = [([*job.base.ids, *job.tokens], self._parameters(job, how)) for job in jobs]
        for job, found in zip(jobs, self._complete(asked) if asked else [], strict=True):
            if isinstance(found, str) or found.finish_reason not in ("stop", "length"):
                why = found if isinstance(found, str) else f"vLLM broke off (finish_reason {found.finish_reason})"
                job.finish, job.error = "error", why
                continue
            if not job.tokens and found.cumulative_logprob is not None and found.token_ids:
                job.logprob = round(found.cumulative_logprob / len(found.token_ids), 3)
            self._take(job, list(found.token_ids), how)
            job.finish = job.finish or found.finish_reason

    def _parameters(self, job: _Job, how: Sampling) -> Any:
        drawn: dict[str, Any] = {"temperature": how.temperature}
        if how.temperature:
            drawn |= {"top_p": how.top_p, "seed": seed_of(how, job.prompt, job.sample)}
        most = how.max_new_tokens - len(job.tokens)
        stops = sorted(self.stops)
        return self.parameters(max_tokens=most, stop_token_ids=stops, logprobs=0, detokenize=False, **drawn)

    def _complete(self, asked: Sequence[tuple[list[int], Any]]) -> list[Any]:
        """Return the engine's output for each (tokens, parameters), or why there is none.

        Where a call fails its requests are sent one by one.

        Raises:
            Unavailable: where the engine has died.
        """
        prompts = [{"prompt_token_ids": ids} for ids, _ in asked]
        try:
            rows = self.llm.generate(prompts, [p for _, p in asked], use_tqdm=False, lora_request=self.adapter)
            return [row.outputs[0] for row in rows]
        except Exception as error:  # whatever befalls one request is a row
            if isinstance(error, DemurError) or "EngineDead" in type(error).__name__:
                raise Unavailable(f"the vLLM engine has died ({one_line(error)}); run again to go on") from None
            if len(asked) == 1:
                return [one_line(error)]
        return [self._complete([one])[0] for one in asked]

    def _response(self, job: _Job) -> Response:
        prompt, sample = job.prompt.id, job.sample
        if job.finish == "error":
            return Response(prompt_id=prompt, sample=sample, text="", finish="error", error=job.error)
        ended = bool(job.tokens) and job.finish == "stop" and job.tokens[-1] in self.stops
        reasoning, answer = self.chats.read(job.base, job.tokens[:-1] if ended else job.tokens)
        silent = bool(reasoning) and not answer  # it ends inside its thinking
        return Response(
            prompt_id=prompt,
            sample=sample,
            text=answer,
            reasoning=reasoning,
            finish="length" if silent else job.finish or "length",
            n_tokens=len(job.tokens),
            logprob=job.logprob,
        )


def _likeliest(found: Any) -> dict[int, float]:
    """Return the log-probabilities that an output of one token lists."""
    return {int(token): float(one.logprob) for token, one in found.logprobs[0].items()}


def _chats(source: str, commit: str) -> Chats:
    return Chats(transformers.AutoTokenizer.from_pretrained(source, revision=commit or None))


def _config(source: str, commit: str) -> Any:
    return transformers.AutoConfig.from_pretrained(source, revision=commit or None)


def _generation(source: str, commit: str) -> Any:
    """Return the model's generation configuration, None where it has none."""
    with contextlib.suppress(OSError):
        return transformers.GenerationConfig.from_pretrained(source, revision=commit or "main")
    return None
