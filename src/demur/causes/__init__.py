"""Why benign requests are refused: evidence, classes, remedies; and the spans that set refusals off.

Over-refusal has several causes, and the cause decides which remedy works. Each benign refusal of a run is put into
one class: hesitant, misjudged, triggered, policy, filtered or unexplained. Nothing here needs the model's weights.
"""

from __future__ import annotations

from demur.causes.evidence import CAUSES, REMEDIES, Evidence, Sorted, SpanEffect, Thresholds, sort
from demur.causes.gather import Cutting, Elsewhere, span_effects
from demur.causes.record import record
from demur.causes.spans import Looks, Span, Swaps, spans, without
from demur.causes.triggers import Trigger, brief, triggers

__all__ = [
    "CAUSES",
    "REMEDIES",
    "Cutting",
    "Elsewhere",
    "Evidence",
    "Looks",
    "Sorted",
    "Span",
    "SpanEffect",
    "Swaps",
    "Thresholds",
    "Trigger",
    "brief",
    "record",
    "sort",
    "span_effects",
    "spans",
    "triggers",
    "without",
]
