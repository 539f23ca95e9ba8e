"""A stand-in for vLLM with the signatures of version 0.33.0, over a tiny model in transformers.

It refuses what the real one does not know: another argument, a parameter without its field. `SIGNATURES` is what was
read from the source of the real one; `differences` compares with the source of an installed one, without importing it.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import importlib.machinery
import sys
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
import transformers

LLM_ARGUMENTS = (
    "model", "runner", "convert", "tokenizer", "tokenizer_mode", "skip_tokenizer_init", "trust_remote_code",
    "allowed_local_media_path", "allowed_media_domains", "tensor_parallel_size", "dtype", "quantization", "revision",
    "tokenizer_revision", "chat_template", "seed", "gpu_memory_utilization", "enforce_eager",
)  # fmt: skip
ENGINE_ARGUMENTS = ("max_model_len", "max_logprobs", "logprobs_mode", "enable_lora", "max_loras", "max_lora_rank")
GENERATE = (
    "prompts", "sampling_params", "use_tqdm", "lora_request", "priority", "tokenization_kwargs", "mm_processor_kwargs",
)  # fmt: skip
OUTPUT = ("index", "text", "token_ids", "cumulative_logprob", "logprobs", "finish_reason", "stop_reason")
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


@dataclass(kw_only=True)
class SamplingParams:
    """The fields that demur sets, with the real defaults; `n` must stay 1."""

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stop_token_ids: list[int] | None = None
    max_tokens: int | None = 16
    logprobs: int | None = None
    detokenize: bool = True


class LoRARequest:
    def __init__(self, lora_name: str, lora_int_id: int, lora_path: str = "") -> None:
        if lora_int_id < 1:
            raise ValueError(f"id must be > 0, got {lora_int_id}")
        assert lora_path, "lora_path cannot be empty"
        self.lora_name, self.lora_int_id, self.lora_path = lora_name, lora_int_id, lora_path


@dataclass
class Logprob:
    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass
class CompletionOutput:
    index: int
    text: str
    token_ids: Sequence[int]
    cumulative_logprob: float | None
    logprobs: list[dict[int, Logprob]] | None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass
class RequestOutput:
    request_id: str
    outputs: list[CompletionOutput]


class EngineDeadError(Exception):
    """As `vllm.v1.engine.exceptions` names it."""


class LLM:
    made: list[LLM] = []  # noqa: RUF012

    def __init__(self, model: str, **arguments: Any) -> None:
        unknown = {*arguments} - {*LLM_ARGUMENTS, *ENGINE_ARGUMENTS}
        if unknown:
            raise TypeError(f"EngineArgs.__init__() got an unexpected keyword argument {min(unknown)!r}")
        if arguments.get("max_lora_rank", 16) not in RANKS:
            raise ValueError(f"max_lora_rank {arguments['max_lora_rank']}")
        self.arguments = {"model": model, **arguments}
        self.module: Any = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        self.adapters: dict[int, Any] = {}
        self.calls: list[tuple[int, list[SamplingParams]]] = []
        self.dead = False
        LLM.made.append(self)

    def generate(
        self,
        prompts: Sequence[dict[str, list[int]]],
        sampling_params: Sequence[SamplingParams],
        *,
        use_tqdm: bool = True,
        lora_request: LoRARequest | None = None,
    ) -> list[RequestOutput]:
        assert len(prompts) == len(sampling_params)
        self.calls.append((len(prompts), list(sampling_params)))
        if self.dead:
            raise EngineDeadError("EngineCore encountered an issue")
        longest = self.arguments.get("max_model_len") or 512
        for prompt in prompts:
            if len(prompt["prompt_token_ids"]) > longest:
                raise ValueError(f"The decoder prompt is longer than the maximum model length of {longest}")
        module = self._module(lora_request)
        rows = zip(prompts, sampling_params, strict=True)
        return [
            RequestOutput(str(n), [self._one(module, p["prompt_token_ids"], how)]) for n, (p, how) in enumerate(rows)
        ]

    def _module(self, request: LoRARequest | None) -> Any:
        if request is None:
            return self.module
        assert self.arguments.get("enable_lora"), "enable_lora is off"
        if request.lora_int_id not in self.adapters:
            adapter = peft.PeftModel.from_pretrained(copy.deepcopy(self.module), request.lora_path)
            rank = adapter.peft_config["default"].r
            assert rank <= self.arguments["max_lora_rank"], "LoRA rank is greater than max_lora_rank"
            self.adapters[request.lora_int_id] = adapter.eval()
        return self.adapters[request.lora_int_id]

    def _one(self, module: Any, prompt: list[int], how: SamplingParams) -> CompletionOutput:
        assert how.n == 1
        assert how.logprobs is None or how.logprobs <= self.arguments.get("max_logprobs", 20) or how.logprobs == -1
        dice = torch.Generator().manual_seed(how.seed or 0)
        stops = {257, *(how.stop_token_ids or ())}  # the tokenizer's own end as well
        tokens: list[int] = []
        listed: list[dict[int, Logprob]] = []
        total, reason = 0.0, "length"
        while len(tokens) < (how.max_tokens or 16):
            with torch.no_grad():
                raw = module(input_ids=torch.tensor([[*prompt, *tokens]])).logits[0, -1].float().log_softmax(-1)
            token = int(raw.argmax())
            if how.temperature > 0:
                token = int(torch.multinomial((raw / how.temperature).softmax(-1), 1, generator=dice))
            count = len(raw) if how.logprobs == -1 else how.logprobs or 0
            best = raw.topk(count)
            listed.append({t: Logprob(v) for t, v in zip(best.indices.tolist(), best.values.tolist(), strict=True)})
            listed[-1].setdefault(token, Logprob(float(raw[token])))
            tokens.append(token)
            total += float(raw[token])
            if token in stops:
                reason = "stop"
                break
        known = how.logprobs is not None
        return CompletionOutput(0, "", tokens, total if known else None, listed if known else None, reason)


@contextlib.contextmanager
def installed() -> Iterator[type[LLM]]:
    """Put the stand-in where `import vllm` finds it."""
    names = {"vllm": {"LLM": LLM, "SamplingParams": SamplingParams}, "vllm.lora": {}}
    names["vllm.lora.request"] = {"LoRARequest": LoRARequest}
    before = {name: sys.modules.get(name) for name in names}
    for name, held in names.items():
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        vars(module).update(held)
        sys.modules[name] = module
    LLM.made.clear()
    try:
        yield LLM
    finally:
        for name, module_before in before.items():
            sys.modules.pop(name)
            if module_before is not None:
                sys.modules[name] = module_before


def differences(root: Path) -> list[str]:
    """Say what an installed vLLM does not have of all that the stand-in has, by its source."""
    wanted: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
        ("entrypoints/llm.py", "LLM", "__init__", LLM_ARGUMENTS),
        ("entrypoints/llm.py", "LLM", "generate", GENERATE),
        ("engine/arg_utils.py", "EngineArgs", "", ENGINE_ARGUMENTS),
        ("sampling_params.py", "SamplingParams", "", tuple(SamplingParams.__dataclass_fields__)),
        ("lora/request.py", "LoRARequest", "", ("lora_name", "lora_int_id", "lora_path")),
        ("outputs.py", "CompletionOutput", "", OUTPUT),
        ("logprobs.py", "Logprob", "", ("logprob", "rank", "decoded_token")),
    )
    found = []
    for path, cls, method, names in wanted:
        body = next(n for n in ast.parse((root / path).read_text("utf-8")).body if getattr(n, "name", "") == cls)
        assert isinstance(body, ast.ClassDef)
        has = {n.target.id for n in body.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)}
        if method:
            call = next(n for n in body.body if isinstance(n, ast.FunctionDef) and n.name == method)
            has = {a.arg for a in (*call.args.args, *call.args.kwonlyargs)}
        found += [f"{cls}{'.' if method else ''}{method} has no {name}" for name in names if name not in has]
    return found
