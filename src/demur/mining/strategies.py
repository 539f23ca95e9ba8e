"""The rewriting strategies: how a model is asked to turn a harmful seed into harmless requests that resemble it.

Each language has a TOML file of templates in `strategies/`; a user may name a file of one's own with the same keys.
"""

from __future__ import annotations

import functools
import hashlib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from demur.errors import ConfigError, NotFound

FOLDER = Path(__file__).parent / "strategies"
STRATEGIES = ("homonym", "figurative", "fiction", "definition", "safety", "public_facts", "professional", "nonsense")
"""The ways to rewrite a seed."""
OPERATORS = ("mutate", "recombine")
"""The ways to vary prompts that were found before."""
_FRAME = ("task", "rules", "examples")


@dataclass(frozen=True, slots=True, kw_only=True)
class Templates:
    """The texts of one language."""

    language: str
    task: str
    """With `{strategy}`, `{seed}`, `{k}`, `{examples}`, `{rules}`."""
    rules: str
    examples: str
    """Heads the list of examples, where there are some."""
    strategies: Mapping[str, str]
    operators: Mapping[str, str]
    sha: str

    def ask(self, strategy: str, seeds: Sequence[str], k: int, examples: Sequence[str] = ()) -> str:
        """Return the request for `k` rewrites of a seed, or for variants of one or two parents.

        Args:
            strategy: one of `STRATEGIES` or `OPERATORS`.
            seeds: the seed, or the parents.
            k: rewrites wanted.
            examples: prompts that were found near the boundary before.
        """
        shown = ""
        if examples:
            shown = "\n".join([self.examples, *(f"- {text}" for text in examples)])
        texts = {"seed": seeds[0], "parent": seeds[0], "other": seeds[-1], "k": str(k), "examples": shown}
        if strategy in OPERATORS:
            return _fill(self.operators[strategy], {**texts, "rules": _fill(self.rules, texts)})
        texts["strategy"] = self.strategies[strategy]
        return _fill(self.task, {**texts, "rules": _fill(self.rules, texts)})


def languages() -> tuple[str, ...]:
    """Return the languages there are templates for."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))


def load(name: str) -> Templates:
    """Return the templates of a language, or of a TOML file.

    Raises:
        NotFound: for a language without templates.
        ConfigError: for a file that lacks a text.
    """
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    if not path.is_file():
        raise NotFound("language of strategies", name, languages(), where="mining; or give the path of a TOML file")
    return _load(path, path.stat().st_mtime_ns)


@functools.cache
def _load(path: Path, _mtime: int) -> Templates:
    raw = path.read_bytes()
    try:
        table = tomllib.loads(raw.decode())
    except ValueError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None
    lost = [key for key in _FRAME if not isinstance(table.get(key), str)]
    lost += [f"strategies.{key}" for key in STRATEGIES if key not in table.get("strategies", {})]
    lost += [f"operators.{key}" for key in OPERATORS if key not in table.get("operators", {})]
    if lost:
        raise ConfigError(f"{path} lacks {', '.join(lost)}; each must be a text")
    return Templates(
        language=path.stem,
        task=table["task"],
        rules=table["rules"],
        examples=table["examples"],
        strategies=table["strategies"],
        operators=table["operators"],
        sha=hashlib.sha256(raw).hexdigest()[:16],
    )


def _fill(template: str, texts: Mapping[str, str]) -> str:
    """Put texts into `{slots}`; other braces stay, and what is put in is not read again."""
    parts = template.split("{")
    made = [parts[0]]
    for part in parts[1:]:
        name, closed, rest = part.partition("}")
        made.append(texts[name] + rest if closed and name in texts else "{" + part)
    return "".join(made).strip()
