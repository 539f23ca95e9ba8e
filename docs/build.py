"""What the package says of itself, put into the pages of the documentation: a hook of mkdocs (see `mkdocs.yml`).

A page is written by hand up to the place where facts begin: options, settings, cards, signatures. Those come from the
package while the site is built and stand nowhere else, so they cannot be out of date. A verb or an open folder
without a page of its own gets one that holds the facts alone.
"""

from __future__ import annotations

from typing import Any

import build_api
import build_parts
import build_verbs
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from demur import cli, registry


def facts(uri: str) -> str:
    """Return what a page ends with, as Markdown; nothing for a page that is written by hand."""
    folder, _, name = uri.removesuffix(".md").rpartition("/")
    if folder == "verbs":
        return build_verbs.overview() if name == "index" else build_verbs.page(name)
    if folder == "parts":
        return build_parts.page(name)
    made = {"recipes": build_parts.recipes, "api": build_api.page, "modules": build_api.modules}
    return made[name]() if not folder and name in made else ""


def titles() -> dict[str, str]:
    """Return the pages that hold facts, and the titles of those that nobody wrote."""
    verbs = {f"verbs/{verb}.md": f"demur {verb}" for verb in cli.VERBS}
    return {**verbs, **{f"parts/{kind}.md": build_parts.TITLES[kind] for kind in registry.KINDS}}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put every verb into the navigation."""
    for entry in config.nav or []:
        entry.get("How-to", []).extend({verb: f"verbs/{verb}.md"} for verb in cli.VERBS)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that nobody wrote."""
    for uri, title in titles().items():
        if files.get_file_from_path(uri) is None:
            files.append(File.generated(config, uri, content=f"# {title}\n"))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Put the facts of a page under what was written."""
    made = facts(page.file.src_uri)
    return f"{markdown.rstrip()}\n\n{made}\n" if made else markdown
