"""From the words a user wrote to the instances that `measure` works with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from demur import registry
from demur.errors import ConfigError
from demur.files import fingerprint, read_json
from demur.measure import Measurement
from demur.modifiers import benchmark_part, build_benchmark
from demur.settings import PartSpec, Problems, build, parse_part, part_of
from demur.types import Benchmark, Generator, Judge, ModelRef, Part, Sampling


def spec(text: str | PartSpec) -> PartSpec:
    """Return a part's specification, parsed where it is still text."""
    return parse_part(text) if isinstance(text, str) else text


def build_benchmarks(specs: Sequence[str | PartSpec]) -> tuple[tuple[Part, Benchmark], ...]:
    """Build the named benchmarks, modifiers (`limit`, `language`, `category`, `attack`) among their settings.

    Raises:
        ConfigError: for all that is wrong with any of them, together.
    """
    made, problems = [], Problems()
    for text in specs:
        with problems.gather():
            made.append(build_benchmark(spec(text)))
    problems.check()
    return tuple((benchmark_part(b), b) for b in made)


def build_judges(
    specs: Sequence[str | PartSpec], chosen: Sequence[tuple[Part, Benchmark]]
) -> tuple[tuple[Part, Judge], ...]:
    """Build the named judges; without names, the default judges of the benchmarks' cards."""
    names = list(specs) or list(dict.fromkeys(b.card.judge for _, b in chosen))
    made = [cast(Judge, build("judges", spec(s))) for s in names]
    return tuple((part_of("judges", j), j) for j in made)


def measurement(
    *,
    model: str = "",
    benchmarks: Sequence[str | PartSpec],
    judges: Sequence[str | PartSpec] = (),
    generator: str | PartSpec = "local",
    sampling: Sampling,
    intervention: Path | None = None,
    guard: str | PartSpec = "",
) -> Measurement:
    """Build a whole measurement from what the user wrote.

    Args:
        model: given to the generator where it has a setting `model` that the user left alone; empty: what the
            generator takes by itself (`local` the organism, `http` the only model that is served).
        benchmarks: parts, as text or parsed.
        judges: parts; none means the benchmarks' own default judges.
        generator: a part.
        sampling: how answers are drawn.
        intervention: the folder of a saved intervention, attached to the generator.
        guard: a judge of `prompt_harm` that decides before the generator; empty: none.

    Raises:
        ConfigError: for unknown names or settings, or an intervention on a generator that takes none (but for those
            that change prompts alone, which go around any generator); Unavailable when an extra is missing.
    """
    chosen = build_benchmarks(benchmarks)
    judged = build_judges(judges, chosen)
    part, made, attached = answering(model=model, generator=generator, intervention=intervention, guard=guard)
    ref = getattr(made, "ref", None)
    return Measurement(
        model=ref() if ref else ModelRef(id=spec(generator).name),
        benchmarks=chosen,
        judges=judged,
        generator=(part, made),
        sampling=sampling,
        intervention=attached,
    )


def answering(
    *,
    model: str = "",
    generator: str | PartSpec = "local",
    intervention: Path | None = None,
    guard: str | PartSpec = "",
) -> tuple[Part, Generator, Part | None]:
    """Build what answers prompts: a generator's record and instance, and the record of the intervention that acts.

    Arguments and errors as for `measurement`.
    """
    around = None if intervention is None else wrapper(intervention, spec(generator))
    wanted = generator_part(generator, model=model, intervention=None if around else intervention)
    made = cast(Generator, build("generators", wanted))
    if around:
        made = cast(Generator, build("generators", PartSpec(around.name, {**around.settings, "generator": made})))
    if guard:
        front = {"generator": made, "guard": build("judges", spec(guard))}
        made = cast(Generator, build("generators", PartSpec("guarded", front)))
    attached = saved_intervention(intervention) if around and intervention else _attached(made)
    return part_of("generators", made), made, attached


def wrapper(intervention: Path, generator: PartSpec) -> PartSpec | None:
    """Return the generator that a saved intervention puts around another, None where it is to be attached to a model.

    One of kind `wrapped` acts on the conversation alone and always is such a wrapper; a system text (`instruct`) is one
    for a generator that attaches nothing, as for a served model.
    """
    record = read_json(intervention / "intervention.json") if (intervention / "intervention.json").is_file() else {}
    if record.get("kind") == "wrapped":
        return PartSpec(str(record["name"]), dict(record.get("settings", {})))
    attaches = "intervention" in {f.name for f in registry.fields("generators", generator.name)}
    if record.get("kind") == "instruct" and not attaches:
        return PartSpec("told", {"text": str(record["text"])})
    return None


def generator_part(generator: str | PartSpec, *, model: str = "", intervention: str | Path | None = None) -> PartSpec:
    """Return a generator's part with the model and the intervention that were named beside it.

    Raises:
        NotFound: for a part with an unknown name.
        ConfigError: for an intervention on a generator that takes none, or that names another one itself.
    """
    wanted = spec(generator)
    known = {f.name for f in registry.fields("generators", wanted.name)}
    settings: dict[str, Any] = dict(wanted.settings)
    if model and "model" in known:
        settings.setdefault("model", model)
    if intervention is not None:
        if "intervention" not in known:
            raise ConfigError(
                f"generator {wanted.name} cannot attach the intervention {intervention}; local models can"
            )
        own = settings.get("intervention") or str(intervention)
        if Path(str(own)).resolve() != Path(intervention).resolve():
            raise ConfigError(f"generator {wanted.name} names the intervention {own}, beside {intervention}; name one")
        settings["intervention"] = str(intervention)
    return PartSpec(wanted.name, settings)


def _attached(generator: object) -> Part | None:
    """Return the intervention that acts on a generator, or on the one behind its guard."""
    if folder := getattr(generator, "intervention", ""):
        return saved_intervention(Path(folder))
    inner = getattr(generator, "generator", None)
    return None if inner is None else _attached(inner)


def saved_intervention(folder: Path) -> Part:
    """Return the record of an intervention saved in `folder`, named by its kind, with its content's hash."""
    described = read_json(folder / "intervention.json")
    return Part(name=str(described.get("kind", folder.name)), settings=described, fingerprint=fingerprint(described))
