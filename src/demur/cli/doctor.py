"""`demur doctor`: what is installed, what works, memory and caches."""

from __future__ import annotations

import typer

from demur.cli._console import emit_json, table


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""

    @app.command(help="Say what is installed, what works, how much memory there is, and where caches lie.")
    def doctor(
        as_json: bool = typer.Option(False, "--json", help="Print JSON."),
        clear_cache: bool = typer.Option(False, "--clear-cache", help="First remove all kept answers and verdicts."),
    ) -> None:
        from demur.cache import Cache
        from demur.doctor import examine
        from demur.files import cache_folder

        if clear_cache:
            Cache(folder=cache_folder()).clear()
        found = examine()
        if as_json:
            emit_json([{"check": c.name, "ok": c.ok, "found": c.found, "do": c.todo} for c in found])
        else:
            rows = [[("ok" if c.ok else "missing" if c.needed else "optional"), c.name, c.found, c.todo] for c in found]
            table("doctor", ("", "check", "found", "to do"), rows)
        if not all(c.ok for c in found if c.needed):
            raise typer.Exit(1)
