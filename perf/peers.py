"""The environments of the peers, and the processes that the comparison talks to."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CONSTRAINTS = HERE.parent / "constraints.txt"
LOOSENED = {
    "repeng": {"numpy"},  # asks for numpy < 2
    "steering-vectors": {"transformers", "tokenizers", "huggingface_hub"},  # asks for transformers < 5
}
"""For each peer, the pins its own metadata refuse; everything else, torch above all, is as in `constraints.txt`."""


def python_of(peer: str) -> Path:
    """Return the interpreter of a peer's environment, building the environment under our constraints if needed."""
    folder = HERE / ".venvs" / peer
    kept = [
        line
        for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#") and line.split("==")[0] not in LOOSENED[peer]
    ]
    stamp, wanted = folder / "installed", hashlib.sha256("\n".join(kept).encode()).hexdigest()
    python = folder / "bin" / "python"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    say(f"installing {peer} into {folder.relative_to(HERE.parent)}")
    venv.create(folder, with_pip=True, clear=True)
    rules = folder / "constraints.txt"
    rules.write_text("\n".join(kept) + "\n", encoding="utf-8")
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", str(rules)]
    index = os.environ.get("TORCH_INDEX", "")
    if index:
        subprocess.run([*pip, "--no-deps", "--index-url", index, "torch"], check=True)
    subprocess.run([*pip, peer, "torch", "transformers"], check=True)
    stamp.write_text(wanted, encoding="utf-8")
    return python


def say(text: str) -> None:
    """Print one line of progress on standard error."""
    print(f"· {text}", file=sys.stderr, flush=True)


class Contender:
    """One running side. Use as a context manager: leaving it ends the process."""

    def __init__(self, name: str, *, python: Path, model: Path, ids: Path, layers: list[int], threads: int) -> None:
        self.name = name
        self._command = [str(python), str(HERE / "contender.py"), name, str(model), str(ids)]
        self._command += [json.dumps(layers), str(threads)]
        self._threads = threads
        self.versions: dict[str, str] = {}

    def __enter__(self) -> Contender:
        env = os.environ | {"OMP_NUM_THREADS": str(self._threads), "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
        self._log = (HERE / "out" / "contenders.log").open("a", encoding="utf-8")
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, env=env
        )
        self.versions = self._read()["ready"]
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()  # type: ignore[union-attr]
        self._process.wait(timeout=60)
        self._process.stdout.close()  # type: ignore[union-attr]
        self._log.close()

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send one request and return the answer."""
        self._process.stdin.write(json.dumps(request) + "\n")  # type: ignore[union-attr]
        self._process.stdin.flush()  # type: ignore[union-attr]
        return self._read()

    def _read(self) -> dict[str, Any]:
        line = self._process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            raise SystemExit(f"{self.name} ended early; its messages are in {self._log.name}")
        return dict(json.loads(line))
