"""What is installed, what works, memory and caches: the facts behind `demur doctor`."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

from demur import registry
from demur.cache import OFF, Cache, opened
from demur.files import cache_folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing looked at."""

    name: str
    ok: bool
    found: str
    todo: str = ""
    needed: bool = False
    """Whether the default job cannot run without it."""


def examine() -> list[Check]:
    """Look at everything and return the findings in the order they are shown."""
    return [_python(), *_extras(), _organism(), _memory(), _disk(), *_data(), _cache(), *_gpu()]


def _python() -> Check:
    return Check(name="python", ok=True, found=f"{platform.python_version()} on {platform.machine()}", needed=True)


def _extras() -> list[Check]:
    checks = []
    for extra, modules in registry.EXTRAS.items():
        missing = registry.missing(extra)
        found = f"{len(modules) - len(missing)} of {len(modules)} packages" + (
            f"; missing {', '.join(missing)}" if missing else ""
        )
        todo = registry.install_hint(extra) if missing else ""
        checks.append(Check(name=f"extra {extra}", ok=not missing, found=found, todo=todo, needed=extra == "local"))
    return checks


def _organism() -> Check:
    from demur import organism

    folder = organism.path("organism")
    weights = folder / "model.safetensors"
    if not weights.is_file():
        missing = f"no weights at {folder}"
        return Check(name="embedded model", ok=False, found=missing, todo="reinstall demur", needed=True)
    return Check(name="embedded model", ok=True, found=f"{weights.stat().st_size / 1e6:.1f} MB", needed=True)


def _memory() -> Check:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    found = f"{pages / 2**30:.1f} GiB, {free / 2**30:.1f} GiB unused; {os.cpu_count()} cores"
    return Check(name="memory", ok=True, found=found)


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free
    enough = free > 2**30
    found = f"{free / 2**30:.1f} GiB free here"
    return Check(name="disk", ok=enough, found=found, todo="" if enough else "free some space")


def _data() -> list[Check]:
    mirror = os.environ.get("DEMUR_DATA", "")
    files = len(list(Path(mirror).glob("*.jsonl"))) if mirror and Path(mirror).is_dir() else 0
    checks = [
        Check(
            name="local mirror (DEMUR_DATA)",
            ok=not mirror or files > 0,
            found=f"{files} sets in {mirror}" if mirror else "not set",
            todo="" if not mirror or files else "point DEMUR_DATA at a folder of .jsonl prompt sets",
        )
    ]
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    size = sum(f.stat().st_size for f in home.rglob("*") if f.is_file()) if home.is_dir() else 0
    checks.append(Check(name="hub cache", ok=True, found=f"{size / 2**30:.2f} GiB in {home}"))
    return checks


def _cache() -> Check:
    kept, size = Cache(folder=cache_folder()), 0
    with contextlib.suppress(OSError):
        size = kept.size()
    off = "" if opened() else f"; switched off by {OFF}"
    todo = "free it with `demur doctor --clear-cache`" if size else ""
    return Check(
        name="answers and verdicts kept", ok=True, found=f"{size / 1e6:.1f} MB in {kept.folder}{off}", todo=todo
    )


def _gpu() -> list[Check]:
    if importlib.util.find_spec("torch") is None:
        return []
    version = importlib.metadata.version("torch")
    smi = shutil.which("nvidia-smi")
    driver = "a GPU driver is present" if smi else "no GPU driver: runs on the CPU"
    return [Check(name="accelerator", ok=True, found=f"torch {version}; {driver}")]
