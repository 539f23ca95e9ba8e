"""`demur show`: one part's documentation, settings and card."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import typer

from demur.cli._console import console, emit_json, table

if TYPE_CHECKING:
    from demur.source_fields import Setting
    from demur.suites import Suite


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""

    @app.command(help="Show what a part is, its settings with defaults, and a benchmark's card.")
    def show(
        name: str = typer.Argument(
            ..., help="A name from `demur list`, a path to a file, or a part with settings, as in `built:path=own`."
        ),
        as_json: bool = typer.Option(False, "--json", help="Print JSON."),
    ) -> None:
        from demur import registry
        from demur.errors import NotFound
        from demur.settings import build, parse_part
        from demur.suites import SUITES
        from demur.types import to_json

        part_of = parse_part(name) if ":" in name else None
        name = part_of.name if part_of else name
        kinds = [k for k in registry.KINDS if name in registry.names(k)]
        if name in SUITES:
            _show_suite(SUITES[name], as_json)
            return
        if not kinds:
            raise NotFound("part", name, [*SUITES, *(n for k in registry.KINDS for n in registry.names(k))])
        shown: list[dict[str, Any]] = []
        for kind in kinds:
            cls = registry.find(kind, name)
            made = build(kind, part_of) if part_of else cls
            card = getattr(made, "card", None)
            details = getattr(made, "details", None) if part_of else None
            shown.append(
                {
                    "kind": kind,
                    "name": name,
                    "documentation": inspect.cleandoc(cls.__doc__ or ""),
                    "settings": [*map(_setting, registry.fields(kind, name))],
                    "modifiers": [*map(_setting, _modifiers(kind, name))],
                    "card": to_json(card) if card is not None else None,
                    "details": details() if details else {},
                }
            )
        if as_json:
            emit_json(shown)
            return
        for part in shown:
            console().print(f"{part['name']} ({part['kind']})", style="bold", highlight=False)
            console().print(f"\n{part['documentation']}\n", highlight=False, markup=False)
            rows = [[s["name"], s["type"], s["default"], s["meaning"]] for s in part["settings"]]
            if rows:
                table("settings", ("name", "type", "default", "meaning"), rows)
            if part["modifiers"]:
                rows = [[s["name"], s["type"], s["default"], s["meaning"]] for s in part["modifiers"]]
                table("settings of any benchmark", ("name", "type", "default", "meaning"), rows)
            if part["card"]:
                table("card", ("field", "value"), [[k, _text(v)] for k, v in part["card"].items() if v])
            for title, rows in part["details"].items():
                if rows:
                    table(title, tuple(rows[0]), [[str(value) for value in row.values()] for row in rows])


def _setting(field: Setting) -> dict[str, str]:
    return {"name": field.name, "type": field.type, "default": str(field.default), "meaning": field.doc}


def _modifiers(kind: str, name: str) -> list[Setting]:
    """Return the settings that a benchmark takes without declaring them."""
    from demur import modifiers, registry

    own = {field.name for field in registry.fields(kind, name)}
    return [field for field in modifiers.settings() if field.name not in own] if kind == "benchmarks" else []


def _show_suite(suite: Suite, as_json: bool) -> None:
    from demur.types import to_json

    if as_json:
        emit_json([{"kind": "suites", **to_json(suite)}])
        return
    console().print(f"{suite.name} (suites)", style="bold", highlight=False)
    console().print(f"\n{suite.summary}\n", highlight=False, markup=False)
    table("benchmarks", ("part",), [[part] for part in suite.parts])


def _text(value: object) -> str:
    if isinstance(value, list):
        more = f"; and {len(value) - 20} more, see --json" if len(value) > 20 else ""
        return "; ".join(map(_one, value[:20])) + more
    return str(value)


def _one(value: object) -> str:
    """Return an item of a list as text: a mapping as `a=1, b=2`, without what is empty."""
    if isinstance(value, dict):
        return ", ".join(f"{key}={inner}" for key, inner in value.items() if inner)
    return ": ".join(map(str, value)) if isinstance(value, list) else str(value)
