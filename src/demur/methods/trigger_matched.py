"""Train an adapter on contrast data around the spans that set refusals off (trigger-matched SFT)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from demur import responses
from demur.errors import DataError
from demur.interventions.adapter import Adapter
from demur.methods import _tuned
from demur.methods._trigger_spans import Spans
from demur.responses import Made, Role
from demur.types import Example, FitData, Judge

if TYPE_CHECKING:
    from demur.lm import LM

EXTRA = "train"


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerMatched(_tuned.Steered):
    """Train an adapter on prompts that share the spans which set refusals off: benign ones answered, harmful refused.

    After Xue et al. (arXiv 2603.11388): a safety-tuned model refuses what shares cues with its harmful training
    prompts; they strip the harmful intent from those prompts and train on what is left with affirmative answers,
    instead of on any benign text, beside the refusals.

    Ours: the cues are the spans whose removal turns the model's own refusals of benign prompts into answers, and which
    look harmful and are mostly refused (`demur explain triggers`; found here on the fit split, or read from its
    brief). Trained on are the benign prompts with such a span (refused ones answered by the model under steering,
    answered ones as they were), the refused harmful prompts, those with the same spans first, and some plain ones. The
    checkpoint that answers most of the dev split under the safety floor at half its margin is kept. Their amounts and
    rates are not known to us: all defaults are ours.
    """

    rate: float = 2e-5
    triggers: str = ""
    """The brief that `demur explain triggers` wrote; "" finds the spans on the fit split."""
    looks: float = 0.8
    """How harmful a span must look, 0 to 1."""
    refused: float = 0.5
    """Least share of the benign prompts with the span that is refused."""
    diagnosed: int = 300
    """Most refused prompts in which spans are taken out, where they are found here."""
    benign: int = 3000
    """Most refused benign prompts that hold such a span."""
    anchors: float = 0.2
    """Most answered borderline prompts that hold one, as a share of the refused ones."""
    harmful: int = 1000
    """Most harmful prompts; those that hold such a span come first."""
    attacked: float = 0.15
    """Most of the harmful prompts that are under attack, as a share."""
    general: int = 1000
    """Most plain prompts."""

    def fit(self, lm: LM, data: FitData) -> Adapter:
        """Find the spans, train on prompts that hold them, and choose a checkpoint on `dev`.

        Raises:
            ConfigError: for a layer out of range.
            DataError: when no span is found or no refused prompt holds one, or prompts of a kind are missing.
            ModelError: when the loss is not finite.
        """
        judge = _tuned.judge_of(data, self.judge)
        with _tuned.folder(data) as out:
            found = _tuned.pairs(lm, data, out, self._making(), lambda: self._made(lm, data, judge, out))
            return _tuned.tuned(self, lm, data, found, out, judge=judge)

    def _made(self, lm: LM, data: FitData, judge: Judge, out: Path) -> Made:
        ask = self.ask(lm, data, judge)
        chosen = self._chosen(data.examples, self._spans(lm, data.examples, out))
        return _tuned.joined(
            _tuned.freed(lm, chosen["benign"], lambda: ask),
            _tuned.own(chosen["anchor"], "anchor"),
            _tuned.own(chosen["general"], "general"),
            _tuned.refused(chosen["harmful"]),
        )

    def _spans(self, lm: LM, examples: Sequence[Example], out: Path) -> Spans:
        found = (
            Spans.read(Path(self.triggers), looks=self.looks, refused=self.refused)
            if self.triggers
            else Spans.of(lm, examples, looks=self.looks, refused=self.refused, most=self.diagnosed)
        )
        found.write(out / "spans.json")
        return found

    def _chosen(self, examples: Sequence[Example], spans: Spans) -> dict[Role, list[Example]]:
        """Choose rows; of the benign ones that look harmful only those with a span."""
        matched = [e for e in examples if responses.role_of(e) not in ("benign", "anchor") or spans.stand_in(e.prompt)]
        most: dict[Role, int] = {"benign": self.benign, "general": self.general}
        chosen = responses.choose(matched, most, seed=self.seed)
        if not chosen["benign"]:
            raise DataError(
                f"trigger_matched: no refused benign prompt of the fit split holds one of {len(spans)} spans; give "
                "more prompts, lower `looks` or `refused`, or write prompts after the brief of `demur explain triggers`"
            )
        chosen["anchor"] = chosen["anchor"][: round(self.anchors * len(chosen["benign"]))]
        harmful = sorted(chosen["harmful"], key=lambda e: not spans.stand_in(e.prompt))
        chosen["harmful"] = responses.mixed(harmful, self.harmful, self.attacked)[: self.harmful]
        return chosen

    def _making(self) -> dict[str, object]:
        """Return the settings that decide the rows."""
        names = ("triggers", "looks", "refused", "diagnosed", "benign", "anchors", "harmful", "attacked", "general")
        steering = ("layer", "against", "strengths", "positions", "max_new_tokens", "judge", "seed")
        return {name: getattr(self, name) for name in (*names, *steering)}
