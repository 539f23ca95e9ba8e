"""Part seemingly toxic from toxic prompts inside a model, then safety-tune it (DCR-style)."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F

from demur import losses, training
from demur.errors import ConfigError, DataError
from demur.files import fingerprint, write_json
from demur.interventions.adapter import Adapter
from demur.lm import LM, attach
from demur.lora import Lora
from demur.methods import _tuned
from demur.methods._contrast import check_layers
from demur.methods.stl import Stl
from demur.representation import Part, Passage, Read, Representation, alternate, course, cycle, passage
from demur.residuals import capture
from demur.screen import Screen
from demur.training import How
from demur.types import ATTACK, Example, FitData
from demur.weights import edits_of, swapped

if TYPE_CHECKING:
    from jaxtyping import Float

EXTRA = "train"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dcr:
    """Refine a model before its safety training so that refusals learnt then spill less onto harmless prompts.

    DCR-style after Lu et al. (arXiv 2603.03323), two stages. First Circle loss between borderline and harmful prompts
    at the last prompt token of one layer, both classes alike in every batch; what comes after the layer, and the
    embedding, is frozen. Then safety tuning as `stl` does it, on harmful prompts that the first stage has not seen.
    Meant for a model before its safety training (`--model organism:base`). Both stages train adapters here, where the
    paper trains the weights in the first; they are saved as one.
    """

    layer: int = -1
    """The block after which prompts are parted; -1: the middle of the model."""
    seeming: int = 250
    """Most borderline prompts of the first stage."""
    toxic: int = 500
    """Most harmful prompts of the first stage; at most half of those there are, the rest is for the second."""
    twins: bool = False
    """Whether the two classes are controlled: borderline prompts with their own harmful twins, so that both come from
    the same requests; every batch then holds both of each pair."""
    loss: Literal["circle", "info_nce"] = "circle"
    """What parts them: Circle loss (the paper's) or InfoNCE with several positives."""
    margin: float = 0.25
    """Circle loss's margin, and the cosine between the classes at which the first stage has done enough."""
    gamma: float = 64.0
    """Circle loss's scale."""
    temperature: float = 0.1
    """InfoNCE's temperature."""
    keep: float = 0.0
    """Weight of an extension of ours in the first stage: KL of the first token against the model before, on plain fit
    prompts, half as many per update as are parted."""
    drift: float = 0.05
    """Most KL of the first token on plain prompts that the first stage may cost."""
    steps: int = 120
    """Updates of the first stage at most."""
    refine_batch: int = 32
    """Prompts per update of the first stage, all read at once by one process; half of each class."""
    refine_rate: float = 1e-5
    """The rate of the first stage; a tiny model wants more (3e-4)."""
    refine_rank: int = 16
    """Rank of the first stage's adapter."""
    general: int = 20_000
    """Most plain prompts of the second stage."""
    harmful: int = 1000
    """Most harmful prompts of the second stage."""
    attacked: float = 0.0
    """Most of them that are under attack, as a share."""
    rate: float = 3e-4
    """The highest rate of the second stage; a tiny model wants more (1e-3)."""
    epochs: float = 3.0
    """Passes of the second stage."""
    batch: int = 128
    """Rows per update of the second stage."""
    rank: int = 8
    """Rank of the second stage's adapter."""
    alpha: int = 16
    """That adapter's change is multiplied by alpha / rank."""
    dropout: float = 0.05
    """Dropout on that adapter's input."""
    checkpoints: int = 4
    """How many checkpoints of each stage are kept and measured."""
    weaker: tuple[float, ...] = (0.8, 0.6, 0.4)
    """Where the best checkpoint of the second stage misses the floor, shares of its change that are tried instead."""
    max_new_tokens: int = 512
    """Longest answer that is measured."""
    judge: str = ""
    """Judge of the answers; by default that of the fit, else `classifier`."""
    seed: int = 0
    """Of the choice of prompts, their order and the adapters' start."""

    def fit(self, lm: LM, data: FitData) -> Adapter:
        """Train both stages on the `fit` split, choosing a checkpoint of each on `dev`.

        Raises:
            ConfigError: for a layer out of range; for several processes, each of which would part half of the pairs.
            DataError: when plain, borderline or harmful prompts (or twins) are missing.
            ModelError: when a loss is not finite.
        """
        if (count := training.processes()[1]) > 1:
            raise ConfigError(
                f"dcr: {count} processes; its first stage compares the prompts that are read at once, and each process "
                "would see a part of the pairs, which is another loss. Run it in one process"
            )
        layer = max(0, lm.n_layers // 2 - 1) if self.layer == -1 else self.layer
        check_layers(lm, (layer,))
        data.of("plain", "fit", label="compliance")
        seeming, toxic = self._classes(data)
        seen = {e.prompt.id for e in toxic}
        rest = FitData(
            examples=tuple(e for e in data.examples if e.prompt.id not in seen), judge=data.judge, out=data.out
        )
        with _tuned.folder(data) as out:
            first = self.refine(lm, rest, seeming, toxic, layer, out / "refine")
            refined = refined_model(lm, first)
            names = {f.name for f in dataclasses.fields(Stl)}
            own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name in names}
            second = Stl(**own).fit(refined, dataclasses.replace(rest, out=out / "tune"))
        lora = first.stacked(second.lora, strength=second.strength)
        return Adapter(lora=dataclasses.replace(lora, base=lm.ref.id), note=second.note)

    def _classes(self, data: FitData) -> tuple[list[Example], list[Example]]:
        """Return the two classes of the first stage, none under attack."""
        dice = random.Random(self.seed)
        benign, bad = (_bare(data.of(kind, "fit", least=2)) for kind in ("borderline", "harmful"))
        if not self.twins:
            seeming = dice.sample(benign, min(self.seeming, len(benign)))
            return seeming, dice.sample(bad, min(self.toxic, len(bad) // 2))
        by_id = {e.prompt.id: e for e in bad}
        pairs = {e.prompt.pair: e for e in dice.sample(benign, len(benign)) if e.prompt.pair in by_id}
        most = min(self.seeming, self.toxic, len(bad) // 2)
        if len(pairs) < 2:
            raise DataError(f"dcr: {len(pairs)} borderline fit prompts have their harmful twin there; twins need 2")
        chosen = list(pairs.items())[:most]
        return [e for _, e in chosen], [by_id[twin] for twin, _ in chosen]

    def refine(
        self, lm: LM, data: FitData, seeming: Sequence[Example], toxic: Sequence[Example], layer: int, out: Path
    ) -> Lora:
        """Train the first stage; return the adapter of its first checkpoint that has done enough.

        Enough is a mean cosine between borderline and harmful dev prompts of at most `margin`; what drifted more than
        `drift` is not taken. Where nothing did enough, that with the least cosine is; `refine.json` says which.
        """
        draws = [
            cycle([_labelled(passage(lm, e.prompt, ""), number) for e in group], seed=self.seed)
            for number, group in enumerate((seeming, toxic))
        ]
        parts = [Part(role=self.loss, draw=alternate(*draws), each=self.refine_batch)]
        if self.keep:
            plain = [_last(passage(lm, e.prompt, "")) for e in data.of("plain", "fit", label="compliance")]
            half = max(1, self.refine_batch // 2)
            parts.append(
                Part(role="keep", draw=cycle(plain, seed=self.seed), each=half, coefficient=lambda done: self.keep)
            )
        size = sum(part.each for part in parts)
        loss = Representation(
            terms={self.loss: self._parting(layer), **({"keep": _kept} if self.keep else {})},
            layers=(layer,),
            reference=bool(self.keep),
            logits=frozenset({"keep"}),
            record={"loss": self.loss, "layer": layer, **self._shape(), "keep": self.keep},
        )
        how = How(
            rate=self.refine_rate,
            batch=size,
            at_once=size,
            rank=self.refine_rank,
            alpha=self.refine_rank,
            dropout=0.0,
            warmup=0.05,
            schedule="constant",
            blocks=tuple(range(layer + 1)),
            checkpoints=self.checkpoints,
            seed=self.seed,
        )
        watch = Watched.of(lm, data, layer)
        rows = course(parts, self.steps, seed=self.seed)
        done = training.train(
            lm, rows, out, objective=loss, how=how, score=lambda c: watch.score(lm, Lora.read(c.folder))
        )
        scores = [dict(c.score or {}) for c in done.checkpoints]
        fit = [i for i, s in enumerate(scores) if s and s["drift"] <= self.drift]
        enough = [i for i in fit if scores[i]["cosine"] <= self.margin]
        chosen = enough[0] if enough else min(fit, key=lambda i: scores[i]["cosine"]) if fit else 0
        table = [{"step": c.step, **s} for c, s in zip(done.checkpoints, scores, strict=True)]
        if training.processes()[0] == 0:
            said = {"chosen": done.checkpoints[chosen].step, "enough": bool(enough), "within_drift": bool(fit)}
            write_json(out / "refine.json", {**said, "before": watch.before, "tried": table, "losses": done.losses})
        lora = Lora.read(done.checkpoints[chosen].folder)
        Adapter(lora=lora).save(out / "intervention")  # to be explained and measured alone
        return lora

    def _shape(self) -> dict[str, float]:
        """Return the settings of the loss."""
        if self.loss == "circle":
            return {"margin": self.margin, "gamma": self.gamma}
        return {"temperature": self.temperature}

    def _parting(self, layer: int) -> Any:
        loss = losses.circle if self.loss == "circle" else losses.info_nce

        def term(read: Read) -> Any:
            return loss(read.last_prompt((layer,))[0], read.item, **self._shape())

        return term


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Watched:
    """What ends the first stage: how like the two classes are on dev prompts, and how far plain ones have drifted."""

    groups: tuple[tuple[Any, ...], ...]
    """Plain, borderline and harmful dev prompts."""
    layer: int
    logprobs: Float[torch.Tensor, "prompt vocab"]
    before: dict[str, float]

    @classmethod
    def of(cls, lm: LM, data: FitData, layer: int, *, most: int = 200) -> Watched:
        """Take the `dev` split, and what the untouched model gives there.

        Raises:
            DataError: where a class is missing.
        """
        kinds = ("plain", "borderline", "harmful")
        groups = tuple(tuple(e.prompt for e in data.of(kind, "dev"))[:most] for kind in kinds)  # type: ignore[arg-type]
        before = {"cosine": cosine(lm, groups, layer)}
        first = torch.log_softmax(Screen(lm, groups[0]).logits().double(), -1)
        return cls(groups=groups, layer=layer, logprobs=first, before=before)

    def score(self, lm: LM, lora: Lora) -> dict[str, float]:
        """Return the cosine between the classes and the drift under an adapter."""
        now = torch.log_softmax(Screen(lm, self.groups[0]).logits(Adapter(lora=lora)).double(), -1)
        kl = (self.logprobs.exp() * (self.logprobs - now)).sum(-1).mean()
        with attach(lm, Adapter(lora=lora)):
            return {"cosine": cosine(lm, self.groups, self.layer), "drift": float(kl)}


def cosine(lm: LM, groups: Sequence[Sequence[Any]], layer: int) -> float:
    """Return the mean cosine between borderline and harmful prompts at the last prompt token."""
    one, two = (F.normalize(capture(lm, list(group), layers=(layer,))[:, 0], dim=-1) for group in groups[1:3])
    return float((one @ two.T).mean())


def refined_model(lm: LM, lora: Lora) -> LM:
    """Return the model with an adapter in its weights; all that the adapter leaves is shared."""
    with swapped(lm, edits_of(Adapter(lora=lora).plan(lm))):
        module = training.shared_copy(lm)
    mark = fingerprint({name: float(tensor.double().norm()) for name, tensor in lora.tensors.items()})
    return LM(module=module, tokenizer=lm.tokenizer, ref=dataclasses.replace(lm.ref, revision="", adapter=mark))


def _bare(rows: Sequence[Example]) -> list[Example]:
    return [e for e in rows if not e.prompt.category.startswith(ATTACK)]


def _last(one: Passage) -> Passage:
    """Return a passage of which the last token alone is read."""
    return dataclasses.replace(one, first=len(one.ids) - 1)


def _kept(read: Read) -> Any:
    """Return KL of the next token against the model before; only rows with logits are read."""
    if read.logits is None:
        raise ConfigError("dcr: the term `keep` was given no logits")
    return losses.kl(*read.logits, read.mask)


def _labelled(one: Passage, number: int) -> Passage:
    return dataclasses.replace(one, item=number)
