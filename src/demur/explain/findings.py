"""From numbers to words: what each experiment claims, what was found, and whether that supports the claim.

A claim is supported or contradicted only where an interval says so; anything else is "not shown".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SUPPORTS, CONTRADICTS, NOT_SHOWN = "supports", "contradicts", "not shown"
SMALL_B = 0.693
"""A weight of harm beside t that is called small: odds less than doubled."""

Record = Mapping[str, Any]


def findings(record: Record, line: Record) -> list[dict[str, str]]:
    """Judge the experiments of one model.

    Args:
        record: with `e1` to `e4` and `calibration`.
        line: t*, tau and why they are unusable, if they are.

    Returns:
        per experiment: `id`, `claim`, `found`, `verdict` (supports, contradicts, not shown) and `why`.
    """
    made = [_line(record["calibration"], line), _map(record["e1"], line), _order(record["e2"]), _causal(record["e2"])]
    return [*made, _mediated(record["e3"]), _words(record["e3"]), *_languages(record["e4"])]


def _finding(name: str, claim: str, found: str, verdict: str, why: str) -> dict[str, str]:
    return {"id": name, "claim": claim, "found": found, "verdict": verdict, "why": why}


def _line(calibration: Record, line: Record) -> dict[str, str]:
    claim = "Refusal rises along the axis and benign refusals are told from benign answers by it."
    if line["t_star"] is None or calibration["auroc"] is None:
        return _finding("line", claim, "No line could be fitted.", NOT_SHOWN, line["unusable"] or "too few prompts")
    low, high = calibration["auroc"]
    found = (
        f"t* {line['t_star']:.2f} {_span(calibration['t_star'])}, tau {line['tau']:.2f} {_span(calibration['tau'])}, "
        f"AUROC on benign prompts {_span((low, high))}."
    )
    if line["unusable"]:
        return _finding("line", claim, found, CONTRADICTS, line["unusable"])
    if low > 0.6:
        return _finding("line", claim, found, SUPPORTS, "the AUROC is above .6 with its interval")
    return _finding("line", claim, found, NOT_SHOWN, "the interval of the AUROC reaches below .6")


def _map(e1: Record, line: Record) -> dict[str, str]:
    claim = "Refused benign prompts lie between the harmless and the harmful mean, around t*."
    own, answered = e1["groups"]["benign_refused"], e1["groups"]["benign_answered"]
    if not own["n"] or line["t_star"] is None:
        return _finding("E1", claim, "No refused benign prompts, or no t*.", NOT_SHOWN, "nothing to place")
    if line["unusable"]:
        return _finding("E1", claim, "There is no line to lie around.", NOT_SHOWN, line["unusable"])
    found = f"Refused benign prompts: mean t {own['t']:.2f} {_span(own)} (n {own['n']}, {own['groups']} groups)"
    if answered["n"]:
        found += f"; answered benign ones {answered['t']:.2f} (n {answered['n']})"
    if own["random"]:
        found += f"; along {len(own['random'])} random directions {min(own['random']):.2f} to {max(own['random']):.2f}"
    found += f". t* is {line['t_star']:.2f}, its 10-90 % zone ± {line['tau']:.2f}."
    zone = (line["t_star"] - line["tau"], line["t_star"] + line["tau"])
    between, near = _inside(own, 0.0, 1.0), _inside(own, *zone)
    if between > 0 and near > 0:
        return _finding("E1", claim, found, SUPPORTS, "their mean lies between the two means and inside the zone")
    if between < 0 or near < 0:
        side = "above" if own["t"] > line["t_star"] else "below"
        where = "beyond the two means" if between < 0 else f"{side} the zone around t*"
        return _finding("E1", claim, found, CONTRADICTS, f"their mean lies {where}")
    return _finding("E1", claim, found, NOT_SHOWN, "the interval of the mean crosses an edge")


def _order(e2: Record) -> dict[str, str]:
    claim = "Refused benign prompts flip at smaller strengths than refused harmful ones."
    order = e2["order"]
    if order is None or order["value"] is None:
        return _finding("E2", claim, "Nothing was compared.", NOT_SHOWN, e2["unmeasured"] or "a group is empty")
    groups = e2["groups"]
    found = (
        f"Median alpha* {_middle(groups['benign_refused'])} against {_middle(groups['harmful_refused'])}; a harmful "
        f"prompt takes more than a benign one with chance {order['value']:.2f} {_span(order)} (n {order['n']})."
    )
    verdict, why = _above(order, 0.5, "the chance", ".5")
    return _finding("E2", claim, found, verdict, why)


def _causal(e2: Record) -> dict[str, str]:
    claim = "The direction flips refused benign prompts, and random directions of equal norm do not."
    own = e2["groups"].get("benign_refused")
    random = [r["benign_refused"][-1] for r in e2["random"] if r["benign_refused"]]
    if not own or not own["n"] or not random:
        return _finding("E2 control", claim, "Nothing was compared.", NOT_SHOWN, e2["unmeasured"] or "a group is empty")
    end = own["curve"][-1]
    found = (
        f"Flipped by strength {end['alpha']:g}: {_percent(end['value'])} {_span(end, percent=True)} (n {own['n']}); by "
        f"{len(random)} random directions {_percent(min(random))} to {_percent(max(random))} "
        f"(n {e2['random_n']['benign_refused']})."
    )
    if end["low"] is not None and end["low"] > max(random):
        return _finding("E2 control", claim, found, SUPPORTS, "more than by every random direction")
    if end["high"] is not None and end["high"] < sorted(random)[len(random) // 2]:
        return _finding("E2 control", claim, found, CONTRADICTS, "less than by half of the random directions")
    return _finding("E2 control", claim, found, NOT_SHOWN, "a random direction does as much")


def _mediated(e3: Record) -> dict[str, str]:
    claim = "t carries the decision: given t, harm itself adds little."
    b = e3["b"]
    if b is None or b.get("low") is None:
        return _finding("E3 mediation", claim, "No fit.", NOT_SHOWN, "all prompts were treated alike")
    found = f"Weight of harm beside t: b = {b['value']:.2f} {_span(b)} logits (n {e3['n']})"
    if e3["b_random"]:
        found += (
            f"; beside {len(e3['b_random'])} random coordinates {min(e3['b_random']):.2f} to {max(e3['b_random']):.2f}"
        )
    if b["low"] > 0 or b["high"] < 0:
        way = "more" if b["value"] > 0 else "less"
        why = f"harm acts beside t: at equal t harmful prompts are refused {way} often"
        return _finding("E3 mediation", claim, found + ".", CONTRADICTS, why)
    if max(-b["low"], b["high"]) < SMALL_B:
        return _finding(
            "E3 mediation", claim, found + ".", SUPPORTS, "the interval holds 0 and no doubling of the odds"
        )
    return _finding("E3 mediation", claim, found + ".", NOT_SHOWN, "the interval holds 0, and large effects too")


def _words(e3: Record) -> dict[str, str]:
    claim = "t tells benign refusals from benign answers better than the words of the prompt do."
    words = e3["words"]
    if words["difference"] is None:
        return _finding("E3 words", claim, "Nothing was compared.", NOT_SHOWN, "too few benign refusals or groups")
    random = [a for a in e3["random_auroc"] if a is not None]
    found = (
        f"AUROC of t {words['t']:.3f}, of the words {words['words']:.3f}, difference {words['difference']:.3f} "
        f"{_span(words, 3)} (n {words['n']}, {words['groups']} groups)"
    )
    if random:
        found += f"; {len(random)} random directions {min(random):.2f} to {max(random):.2f}, the better way round"
    verdict, why = _above(words, 0.0, "the difference", "0")
    if verdict == SUPPORTS and random and words["t_interval"][0] is not None and words["t_interval"][0] <= max(random):
        return _finding(
            "E3 words", claim, found + ".", NOT_SHOWN, "better than the words, but so is a random direction"
        )
    return _finding("E3 words", claim, found + ".", verdict, why)


def _languages(rows: Sequence[Record]) -> list[dict[str, str]]:
    claim = "The direction of {} aligns with the home language's, while t* or the spread differ."
    made = []
    for row in rows:
        shift, cosine = row["shift"], row["cosine"]
        if row["told"] is None or shift is None or not row["shift_random"]:
            continue  # the home language itself, or no home language
        name, title = f"E4 {row['language']}", claim.format(row["language"])
        if cosine is None or shift["t_star"]["value"] is None:
            none = "it refuses too little" if not row["refused"]["benign"] else "too few prompts"
            made.append(_finding(name, title, f"No own direction or line (n {row['n']}).", NOT_SHOWN, none))
            continue
        random = max(abs(c) for c in row["cosine_random"])
        many, shifts = len(row["cosine_random"]), [_signed(shift[part]) for part in ("t_star", "tau")]
        found = (
            f"Cosine {cosine['value']:.2f} {_span(cosine)}, of {many} random directions at most {random:.2f}; on the "
            f"home axis t* shifts by {shifts[0]} and tau by {shifts[1]} (n {row['n']}, {row['groups']} groups)."
        )
        aligned = cosine["low"] is not None and cosine["low"] > random
        by_chance = max((abs(x) for x in row["shift_random"] if x is not None), default=0.0)
        found += f" Along random directions t* shifts by up to {by_chance:.2f}."
        moved = _away(shift["t_star"]) and abs(shift["t_star"]["value"]) > by_chance
        if aligned and (moved or _away(shift["tau"])):
            made.append(_finding(name, title, found, SUPPORTS, "aligned beyond random, and the line differs"))
        elif not aligned and cosine["high"] is not None and cosine["high"] <= random:
            made.append(_finding(name, title, found, CONTRADICTS, "no more aligned than a random direction"))
        else:
            why = (
                "no shift beyond its interval and beyond chance" if aligned else "alignment beyond random is not shown"
            )
            made.append(_finding(name, title, found, NOT_SHOWN, why))
    return made


def _above(point: Record, zero: float, what: str, bound: str) -> tuple[str, str]:
    if point["low"] is not None and point["low"] > zero:
        return SUPPORTS, f"{what} is above {bound} with its interval"
    if point["high"] is not None and point["high"] < zero:
        return CONTRADICTS, f"{what} is below {bound} with its interval"
    return NOT_SHOWN, f"the interval of {what} holds {bound}"


def _inside(point: Record, low: float, high: float) -> int:
    """1: the interval lies inside; -1: wholly outside; 0: it crosses an edge."""
    if point["low"] >= low and point["high"] <= high:
        return 1
    return -1 if point["high"] < low or point["low"] > high else 0


def _away(point: Record) -> bool:
    return point["low"] is not None and (point["low"] > 0 or point["high"] < 0)


def _span(point: Any, digits: int = 2, *, percent: bool = False) -> str:
    ends = (point["low"], point["high"]) if isinstance(point, Mapping) else point
    if ends is None or ends[0] is None:
        return "[no interval]"
    return "[" + ", ".join(_percent(x) if percent else f"{x:.{digits}f}" for x in ends) + "]"


def _signed(point: Record) -> str:
    return "(no value)" if point["value"] is None else f"{point['value']:+.2f} {_span(point)}"


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def _middle(group: Record) -> str:
    if group["median"] is None:
        return "above the grid" if group["n"] else "no data"
    ends = ["above" if group[end] is None else f"{group[end]:g}" for end in ("low", "high")]
    return f"{group['median']:g} [{', '.join(ends)}]"
