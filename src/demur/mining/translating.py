"""Candidates translated by a model, and translated back to see what was lost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from demur.dedup import folded
from demur.errors import ConfigError
from demur.languages import LANGUAGES, identify
from demur.mining.chrf import chrf
from demur.mining.replies import ask, missing, refuses, told
from demur.mining.rows import Dropped
from demur.mining.sources import Source, is_twin
from demur.types import Generator, Part, Prompt, Response, Sampling, to_json

NAMES = dict(
    zip(
        LANGUAGES,
        ("Arabic", "German", "English", "Spanish", "French", "Hindi", "Italian", "Japanese", "Korean", "Portuguese",
         "Russian", "Thai", "Vietnamese", "Chinese"),
        strict=True,
    )
)  # fmt: skip
REQUEST = """\
Translate the text between the marks from {source} into {target}, as a native speaker would write it. It is material \
for a test: do not answer it and do not comment on it. Write the translation and nothing else.

<<<
{text}
>>>"""
LONGEST = 6
"""A translation may be so many times as long, or as short, as the text, in characters of UTF-8."""
_MARKS = "<>\"“”„«»「」'"


class _Job(NamedTuple):
    prompt: Prompt
    language: str
    name: str
    """Id of the translation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Translating:
    """Gives the candidates of a source, and each of them in other languages.

    Every text is translated, and the translation is translated back without sight of the text. Where chrF of that
    against the text is below `least`, too much was lost. Harmful twins are translated with their rewrites, so that the
    pairs hold in each language; a translation whose twin was lost stands without one. Translated candidates carry no
    label: the judges read them anew in their own language. What gives no translation is dropped with the reason.
    """

    source: Source
    to: tuple[str, ...]
    """Languages, as in `de`."""
    generator: Generator
    part: Part
    """The generator as it is recorded."""
    least: float = 40.0
    """Least chrF (0 to 100) of the back-translation. A choice of ours: no threshold is agreed upon, and it depends on
    the language and on the length of the texts."""
    sampling: Sampling = field(default_factory=lambda: Sampling(max_new_tokens=1024))

    def __post_init__(self) -> None:
        strange = [language for language in self.to if language not in NAMES]
        if strange or not self.to:
            raise ConfigError(f"no language to translate to named {', '.join(strange) or '…'}; there are {_names()}")
        if not 0 <= self.least <= 100:
            raise ConfigError(f"the least chrF of a back-translation is {self.least}; it must be from 0 to 100")

    @property
    def record(self) -> Mapping[str, Any]:
        """The source, the languages, the generator and the check."""
        made = {"kind": "translating", "source": dict(self.source.record), "to": list(self.to), "least": self.least}
        return {**made, "generator": to_json(self.part), "sampling": to_json(self.sampling), "request": REQUEST}

    def __call__(self, work: Path) -> Iterator[Prompt | Dropped]:
        """Yield what the source gives, then the translations, in its order."""
        originals: list[Prompt] = []
        for row in self.source(work):
            if isinstance(row, Prompt):
                originals.append(row)
            yield row
        jobs = [_Job(p, to, f"{p.id}@{to}") for to in self.to for p in originals if p.language != to]
        forth = self._ask([self._request(j.name, j.prompt.text, j.prompt.language, j.language) for j in jobs],
                          work / "generate.translations.jsonl")  # fmt: skip
        read = {j.name: _read(forth.get(j.name), j.prompt.text, j.language) for j in jobs}
        good = [j for j in jobs if not read[j.name][1]]
        back = self._ask([self._request(j.name, read[j.name][0], j.language, j.prompt.language) for j in good],
                         work / "generate.back.jsonl")  # fmt: skip
        faults = {j.name: read[j.name][1] or self._lost(j, back.get(j.name)) for j in jobs}
        for job in jobs:
            if faults[job.name]:
                reason, _, detail = faults[job.name].partition("|")
                detail = detail or told(forth.get(job.name))
                yield Dropped(id=job.name, stage="generate", reason=reason, detail=detail, text=read[job.name][0])
            else:
                yield _translated(job, read[job.name][0], faults)

    def _ask(self, requests: Sequence[Prompt], path: Path) -> dict[str, Response]:
        return ask(self.generator, requests, self.sampling, path)

    def _request(self, name: str, text: str, source: str, target: str) -> Prompt:
        asked = REQUEST.format(source=NAMES.get(source, source), target=NAMES.get(target, target), text=text)
        return Prompt(id=name, text=asked, expected=None, source="mining")

    def _lost(self, job: _Job, reply: Response | None) -> str:
        """Say what is wrong with a back-translation, or ""."""
        text, why = _read(reply, "", job.prompt.language)
        if why:
            return f"no back-translation: {why}|{told(reply)}"
        score = chrf(text, job.prompt.text)
        return (
            "" if score >= self.least else f"lost in translation|chrF {score:.0f} of the back-translation: {text[:200]}"
        )


def _read(reply: Response | None, text: str, language: str) -> tuple[str, str]:
    """Return (the translation in a reply, why it is none or "")."""
    why = missing(reply)
    if why or reply is None:
        return "", why
    made = reply.text.strip().strip(_MARKS).strip()
    if reply.finish == "length":
        return made, "cut off"
    if not made:
        return "", "empty reply"
    if refuses(made) and not refuses(text):
        return made, "the generator refused"
    if folded(made) == folded(text):
        return made, "left untranslated"
    sizes = len(made.encode()), len(text.encode())
    if text and (sizes[0] > LONGEST * sizes[1] or sizes[1] > LONGEST * sizes[0]):
        return made, "too long or too short for a translation"
    found = identify(made)
    return made, f"not in {NAMES.get(language, language)}|reads as {found}" if found not in ("", language) else ""


def _translated(job: _Job, text: str, faults: Mapping[str, str]) -> Prompt:
    """Return a translation as a candidate, or as a harmful twin, in the group of its original."""
    row = job.prompt
    pair = f"{row.pair}@{job.language}" if row.pair else ""
    made = replace(
        row, id=job.name, text=text, language=job.language, source="mining", group=row.cluster,
        pair=pair if faults.get(pair) == "" else "", meta=(*row.meta, ("translated_from", row.id)),
    )  # fmt: skip
    return made if is_twin(row) else replace(made, expected=None, kind="")


def _names() -> str:
    return ", ".join(f"{code} ({name})" for code, name in NAMES.items())
