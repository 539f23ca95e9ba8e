"""How numbers and verdicts are worded: one place, so that both writers say the same."""

from __future__ import annotations

from demur.report.data import FloorView, Rate, Row, Stratum, Unit

NOT_MEASURED = "not measured"
NO_DATA = "no data"
NBSP = "\u00a0"
MINUS = "\u2212"


def number(rate: Rate | None, unit: Unit = "rate") -> str:
    """Return `71.2 %`, or `0.031 nats`; "not measured" for no rate, "no data" for an empty one."""
    if rate is None:
        return NOT_MEASURED
    if rate.value is None:
        return NO_DATA
    return f"{_percent(rate.value)}{NBSP}%" if unit == "rate" else f"{rate.value:.3g}{NBSP}{unit}"


def interval(rate: Rate | None, unit: Unit = "rate") -> str:
    """Return `[68.0, 74.1]`, "" where there is no interval."""
    if rate is None or rate.low is None or rate.high is None:
        return ""
    if unit == "rate":
        return f"[{_percent(rate.low)},{NBSP}{_percent(rate.high)}]"
    return f"[{rate.low:.3g},{NBSP}{rate.high:.3g}]"


def full(rate: Rate | None, unit: Unit = "rate") -> str:
    """Return `71.2 % [68.0, 74.1]`."""
    return " ".join(part for part in (number(rate, unit), interval(rate, unit)) if part)


def points(rate: Rate | None) -> str:
    """Return a difference of rates as `+12.8 points [10.2, 15.3]`, "" for none."""
    if rate is None or rate.value is None:
        return ""
    bounds = "" if rate.low is None or rate.high is None else f" [{_signed(rate.low)},{NBSP}{_signed(rate.high)}]"
    return f"{_signed(rate.value)}{NBSP}points{bounds}"


def change(row: Row) -> str:
    """Return the paired change of a row, or its plain difference without an interval."""
    if row.unit != "rate":
        return ""
    if row.change is not None:
        return points(row.change)
    if row.before is None or row.after is None or row.before.value is None or row.after.value is None:
        return ""
    return points(Rate(value=row.after.value - row.before.value))


def share(value: float | None) -> str:
    """Return `71 %`, a dash for None."""
    return "–" if value is None else f"{100 * value:.0f}{NBSP}%"


def signed(difference: float) -> str:
    """Return a difference of shares in whole points: `+13`, `−2`, `0`."""
    whole = round(100 * difference)
    return f"{whole:+d}".replace("-", MINUS) if whole else "0"


def short(name: str) -> str:
    """Return a name that fits beside an axis."""
    return name if len(name) <= 24 else name[:23] + "…"


def count(value: int | None) -> str:
    """Return `1,204`, "" for None."""
    return "" if value is None else f"{value:,}"


def basis(rate: Rate | None) -> str:
    """Return what a rate rests on: `n 1,204 · 240 groups · 3 unscored`."""
    if rate is None:
        return ""
    parts = []
    if rate.n is not None:
        parts.append(f"n{NBSP}{rate.n:,}")
    if rate.groups is not None:
        parts.append(f"{rate.groups:,}{NBSP}group{'' if rate.groups == 1 else 's'}")
    if rate.n_unscored:
        parts.append(f"{rate.n_unscored:,}{NBSP}unscored")
    return " · ".join(parts)


def floor_verdict(floor: FloorView | None) -> str:
    """Return the verdict on the safety floor in the only three wordings there are."""
    if floor is None:
        return NOT_MEASURED
    if not floor.passed:
        return "loss not excluded"
    return f"no loss of more than {margin(floor.margin)} shown"


def margin(value: float) -> str:
    """Return `2 points`."""
    shown = f"{value * 100:.4g}"
    return f"{shown} point" if shown == "1" else f"{shown} points"


def floor_basis(floor: FloorView | None) -> str:
    """Return what the verdict rests on: the strata that pass with n and groups, or those that miss, and why."""
    if floor is None or not floor.strata:
        return ""
    if not floor.passed:
        missed = [f"{s.name}: {s.status} ({_size(s)})" for s in floor.strata if not s.passed]
        if floor.severe:
            missed.append(f"{plural(len(floor.severe), 'newly unsafe prompt')} of a severe category")
        return "; ".join(missed)
    shown = [f"{s.name} ({_size(s)})" for s in floor.strata if s.required and s.passed]
    more = sum(s.passed and s.status == "shown" and not s.required for s in floor.strata)
    return "on " + ", ".join(shown) + (f", and in {plural(more, 'language')}" if more else "")


def _size(stratum: Stratum) -> str:
    return f"n{NBSP}{stratum.n:,}, {stratum.groups:,}{NBSP}groups"


def plural(n: int, one: str, many: str = "") -> str:
    """Return `1 row` or `1,204 rows`."""
    return f"{n:,}{NBSP}{one if n == 1 else many or one + 's'}"


def _percent(value: float) -> str:
    shown = f"{value * 100:.1f}"
    return "0.0" if shown == "-0.0" else shown.replace("-", MINUS)


def _signed(value: float) -> str:
    shown = f"{value * 100:+.1f}"
    return "0.0" if shown in ("+0.0", "-0.0") else shown.replace("-", MINUS)
