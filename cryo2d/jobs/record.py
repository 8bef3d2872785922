"""What every run writes down of where it comes from: ``run.json`` in its folder."""

import json
import platform
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryo2d.io.atomic import atomic_write
from cryo2d.training.manifest import read_facts, versions

FILE = "run.json"
GIT_SECONDS = 5.0


def begin(folder: Path, job: str, overrides: Sequence[str]) -> None:
    """Write down how a run was started.

    Args:
        folder: of the run.
        job: its name.
        overrides: what was typed, ``key=value`` each.
    """
    words = ["cryo2d", *([] if job == "classify" else [job]), *overrides]
    facts = {
        "job": job,
        "command": shlex.join(words),
        "folder": str(Path.cwd()),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "git": git_state(),
        "machine": machine(),
    }
    _write(folder, facts)


def add(folder: Path, /, **facts: Any) -> None:
    """Add to what was written down."""
    _write(folder, read(folder) | facts)


def read(folder: Path) -> dict[str, Any]:
    """What a run wrote down, nothing if it is older than this file.

    Raises:
        InputError: if the file is damaged.
    """
    path = folder / FILE
    return read_facts(path) if path.is_file() else {}


def git_state() -> dict[str, Any] | None:
    """Commit of the checkout that the program runs from, and whether files differ from it."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    commit = _git(root, "rev-parse", "HEAD")
    changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    return None if not commit else {"commit": commit, "changed": bool(changed)}


def machine() -> dict[str, str]:
    """What rounding depends on besides the program: system and processor."""
    return {"system": platform.platform(), "processor": _processor()}


def _git(root: Path, *words: str) -> str:
    """The answer of git, nothing if there is none."""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *words],
            capture_output=True,
            text=True,
            timeout=GIT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _write(folder: Path, facts: Mapping[str, Any]) -> None:
    with atomic_write(folder / FILE) as file:
        file.write((json.dumps(facts, indent=2) + "\n").encode())
