"""What servers call the end of an answer, as the `finish` of a response."""

from __future__ import annotations

from collections.abc import Mapping

from demur.types import Finish

FINISHES: Mapping[str, Finish] = {
    **dict.fromkeys(("stop", "eos", "end_turn", "stop_sequence"), "stop"),
    **dict.fromkeys(("length", "max_tokens", "model_length"), "length"),
    **dict.fromkeys(
        ("content_filter", "filtered", "refusal", "safety", "sensitive", "prohibited_content"), "filtered"
    ),
    **dict.fromkeys(("error", "abort", "aborted", "cancelled"), "error"),
}  # fmt: skip
"""`filtered`: the server says that it, and not the model, ended the answer; `error`: that it broke off."""


def finish_of(reason: object) -> Finish:
    """Return what a server's reason to stop means, in whatever case it is written; one that is not known is `stop`."""
    return FINISHES.get(str(reason).lower(), "stop")
