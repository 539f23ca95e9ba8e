"""The decode loop as a session: rows of any plan join and leave; see `engine.Session`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from demur.binding import Bound
from demur.chats import Encoded
from demur.decoding import READING, _by_width, _Loop, sample
from demur.lm import LM
from demur.mixing import likeliest
from demur.plan import Plan
from demur.residuals import tapped
from demur.rows import Action, Key, Rows
from demur.serving.engine import Answer
from demur.serving.place import Boundary
from demur.serving.prefixes import Prefixes
from demur.serving.writing import Drawn
from demur.slots import Slots, rounded
from demur.tasks import Task
from demur.types import Prompt, Response, Sampling
from demur.weights import edits_of, swapped

if TYPE_CHECKING:
    from jaxtyping import Float

EXTRA = "local"
COLUMNS = 256
"""Tokens per row that the cache has room for while little is asked."""
_SERVED = Prompt(id="served", text="", expected=None, source="serve")


@dataclass(eq=False)
class _Seat(Task):
    """A row of the loop, and the answer that it writes."""

    answer: Answer = field(kw_only=True)
    resumes: bool = field(default=False, kw_only=True)
    """Whether its prompt is read from where its known beginning ends."""


class BatchSession(_Loop):
    """The one decode loop, each row with its own sampling; rows whose plans change weights run in groups.

    On the CPU in float32 a row's numbers do not depend on the rows beside it (see `demur.decoding`), nor, but for
    their last bits, on which beginnings of prompts were read before (see `prefixes`).
    """

    def __init__(
        self, lm: LM, rows: int, keys: Iterable[Key], boundary: Boundary | None = None, reuse: int = 0
    ) -> None:
        """Take a model.

        Args:
            lm: the model; nothing else may use it while the session lasts.
            rows: rows at once.
            keys: every place that any plan to come may edit.
            boundary: what tells where a prompt stands.
            reuse: bytes for beginnings of prompts that later ones share.
        """
        super().__init__(lm, (), Sampling(), 0)
        self.capacity = max(self.least, rows, 2)  # an answer may take two
        self.boundary = boundary
        self.prefixes = Prefixes(reuse)
        self.group = ""
        self.seats: dict[Answer, _Seat] = {}
        self._drawn: list[tuple[Answer, Drawn]] = []
        self._tops: list[tuple[tuple[int, float], ...]] = []
        self._weights = ExitStack()
        self._hooks = ExitStack()
        self._seen: Tensor | None = None
        self._base: Tensor | None = None
        self._logits = torch.empty(0)
        places = {key: lm.port(*key) for key in sorted(keys)}
        self.taps: dict[Key, Action] = self._hooks.enter_context(tapped(places))
        if boundary is not None:
            own = self._hooks.enter_context(tapped({boundary.key: lm.port(*boundary.key)}))
            own[boundary.key] = self._keep
        self.clear()

    def _keep(self, h: Tensor) -> Tensor:
        self._seen = h
        return h

    # engine.Session

    def join(self, answers: Sequence[Answer]) -> list[tuple[Answer, Drawn]]:
        """Read prompts, those of like length together, and return the first token of each."""
        if not self.live:
            self._weigh(answers[0])
        seats: list[_Seat] = []
        for answer in answers:
            bound = self.lm.bound(answer.plan)
            seats.append(_Seat(_SERVED, 0, answer.encoded, bound, [], told=answer.told, answer=answer))
        self.seats |= {seat.answer: seat for seat in seats}
        for width, jobs in self._parts(seats):
            for _ in self._read(jobs, width, self.taps):
                pass
        return self._taken()

    def _parts(self, seats: list[_Seat]) -> list[tuple[int, list[Task]]]:
        """Split prompts into those read together: by length, or by what is left where the beginning is known."""
        known = [self.prefixes.length(seat.encoded, seat.bound, 0) for seat in seats]
        for seat, count in zip(seats, known, strict=True):
            seat.resumes = count > 0 and not seat.answer.place  # where a prompt stands is seen while it is read
        left = {id(seat): len(seat.encoded.ids) - count for seat, count in zip(seats, known, strict=True)}
        seats.sort(key=lambda seat: -len(seat.encoded.ids))
        parts = _by_width([s for s in seats if not s.resumes], READING.get(self.lm.device.type, READING["cuda"]))
        rest: list[Task] = sorted((s for s in seats if s.resumes), key=lambda s: left[id(s)])
        return parts + [(0, list(jobs)) for _, jobs in groupby(rest, lambda s: rounded(left[id(s)]).bit_length())]

    def step(self) -> list[tuple[Answer, Drawn]]:
        """Return one more token of every row."""
        for _ in self._step(self.taps):
            pass
        return self._taken()

    def drop(self, answers: Collection[Answer]) -> None:
        """Free the rows of answers; those that hold none are passed over."""
        gone = {id(seat) for answer in answers if (seat := self.seats.pop(answer, None)) is not None}
        if not gone:
            return
        if len(gone) == len(self.live):
            self.clear()
            return
        self._drop([index for index, job in enumerate(self.live) if id(job) in gone])
        if self.rows is not None:
            self.rows = pruned(self.rows)

    def clear(self) -> None:
        """Free every row and the room that long ones took."""
        self.live, self.shadows, self.pairs = [], [], []
        self.rows, self.seats, self._drawn = None, {}, []
        self._seen = self._base = None
        self.taps.clear()
        self.last = self.leads = torch.zeros(0, dtype=torch.long, device=self.lm.device)
        if getattr(self.slots, "columns", 0) != COLUMNS or self.slots.rows != self.capacity:
            self.slots = Slots(self.lm.n_layers, self.capacity, columns=COLUMNS)

    def close(self) -> None:
        """Take the hooks off, and put the weights back."""
        self.clear()
        self._hooks.close()
        self._weights.close()

    # the loop's own steps, each row for itself

    def _weigh(self, answer: Answer) -> None:
        """Have the weights that an answer's plan asks for."""
        if answer.group != self.group:
            self._weights.close()
            self._weights = ExitStack()
            self.group = ""
            self._weights.enter_context(swapped(self.lm, edits_of(answer.plan)))
            self.group = answer.group

    def _draw(self, logits: Float[Tensor, "row vocab"], jobs: Sequence[Task]) -> tuple[Tensor, list[float]]:
        answers = [_answer(job) for job in jobs]
        self._logits = logits
        tokens = likeliest(logits)
        warm = [i for i, answer in enumerate(answers) if answer.temperature > 0]
        if warm:
            own = [answers[i] for i in warm]
            columns = [[a.draws.random(), a.temperature, a.top_p] for a in own]
            uniform, temperature, top_p = torch.tensor(columns, dtype=torch.float64, device=logits.device).unbind(1)
            per_row: Any = (temperature[:, None], top_p[:, None])
            tokens = tokens.clone()
            tokens[warm] = sample(logits[warm], uniform, *per_row)
        total = logits.logsumexp(-1)
        self._tops = _likeliest_of(logits, total, [answer.top for answer in answers])
        return tokens, (logits.gather(-1, tokens[:, None])[:, 0] - total).tolist()

    def _settle(self, first: int, tokens: list[int], logprobs: list[float]) -> None:
        for index, (token, logprob, top) in enumerate(zip(tokens, logprobs, self._tops, strict=True), first):
            job = self.live[index]
            job.tokens.append(token)
            self._drawn.append((_answer(job), Drawn(token, logprob, top, token in self.lm.stops)))

    def _prompts(
        self, told: Sequence[Encoded], jobs: Sequence[Task], first: int, width: int, taps: dict[Key, Action] | None
    ) -> tuple[Rows, Float[Tensor, "row vocab"]]:
        branches = [0 if one is job.encoded else job.bound.mixes for one, job in zip(told, jobs, strict=True)]
        whose = list(zip(told, (job.bound for job in jobs), branches, strict=True))
        if all(isinstance(job, _Seat) and job.resumes for job in jobs):
            found = self._resumed(whose, first, taps)
        else:
            found = super()._prompts(told, jobs, first, width, taps)
        for slot, (one, bound, branch) in enumerate(whose, first):
            self.prefixes.keep(self.slots, slot, one, bound, branch)
        if told[0] is jobs[0].encoded:  # the base, branches behind it
            self._base = self._seen
        return found

    def _resumed(
        self, whose: Sequence[tuple[Encoded, Bound, int]], first: int, taps: dict[Key, Action] | None
    ) -> tuple[Rows, Float[Tensor, "row vocab"]]:
        """Read prompts from where their known beginnings end, as `_prompts` does whole ones."""
        told, plans, branches = zip(*whose, strict=True)
        known = [self.prefixes.length(*one) for one in whose]
        ids, rows, lengths = self.lm.batch(told, [bound.plan for bound in plans], branches=branches)
        rows.start = torch.tensor(known, device=ids.device)
        rows.longest, left = max(known), lengths - rows.start
        tokens = rounded(int(left.max()))
        columns = rows.positions(tokens).clamp(max=ids.shape[1] - 1)
        self.slots.aim(first, rows.start, tokens, longest=rows.longest)
        for slot, (one, count) in enumerate(zip(whose, known, strict=True), first):
            if count:
                self.prefixes.fill(self.slots, slot, *one, count)
        hidden = self.lm.forward(ids.gather(1, columns), rows, cache=self.slots, taps=taps)
        pick = torch.arange(max(len(told), self.least), device=ids.device) % len(told)
        logits = self.lm.head(hidden[pick, left[pick] - 1])[: len(told)]
        rows.start, rows.longest, rows.decoding = lengths, int(lengths.max()), True
        return rows, logits

    def _read(self, fresh: list[Task], width: int, taps: dict[Key, Action] | None) -> Iterator[Response]:
        yield from super()._read(fresh, width, taps)
        seen, self._seen, self._base = self._base, None, None
        asked = [i for i, job in enumerate(fresh) if _answer(job).place]
        if self.boundary is None or seen is None or not asked:
            return
        rows = torch.tensor(asked, device=seen.device)
        last = torch.tensor([fresh[i].encoded.prompt - 1 for i in asked], device=seen.device)
        answers = [_answer(fresh[i]) for i in asked]
        bare = [fresh[i].encoded.prompt == len(fresh[i].encoded.ids) for i in asked]
        languages = [answer.language for answer in answers]
        made = self.boundary.places(seen[rows, last].float().cpu(), self._logits[rows].cpu(), languages, bare)
        places = dict(zip(answers, made, strict=True))
        self._drawn = [(a, d._replace(place=places[a]) if a in places else d) for a, d in self._drawn]

    def _taken(self) -> list[tuple[Answer, Drawn]]:
        taken, self._drawn = self._drawn, []
        return taken


def pruned(rows: Rows) -> Rows:
    """Return rows without the plans that none of them has."""
    used = sorted(set(rows.which.tolist()))
    if len(used) == len(rows.plans):
        return rows
    place = {old: new for new, old in enumerate(used)}
    which = torch.tensor([place[old] for old in rows.which.tolist()], device=rows.which.device)
    plans = tuple(rows.plans[i] for i in used)
    kept = {key: states for key, states in rows.kept.items() if key[0] in plans}
    return replace(rows, plans=plans, which=which, kept=kept, seen={}, _steady=None)


def keys_of(lm: LM, plans: Iterable[Plan]) -> set[Key]:
    """Return every place where plans read or edit."""
    return {key for plan in plans for key in lm.bound(plan).places}


def _answer(job: Task) -> Answer:
    if not isinstance(job, _Seat):  # cannot happen: `join` makes every row
        raise TypeError("a row without an answer")
    return job.answer


def _likeliest_of(logits: Tensor, total: Tensor, wanted: Sequence[int]) -> list[tuple[tuple[int, float], ...]]:
    """Return for each row as many of its likeliest tokens as are wanted, with their log-probabilities."""
    most = min(max(wanted, default=0), logits.shape[-1])
    if not most:
        return [()] * len(wanted)
    values, ids = logits.topk(most, dim=-1)
    pairs = zip(ids.tolist(), (values - total[:, None]).tolist(), wanted, strict=True)
    return [tuple(zip(row[:k], chances[:k], strict=True)) for row, chances, k in pairs]
