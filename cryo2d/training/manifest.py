"""The list of what a finished run left behind; its presence says that the run is complete."""

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from cryo2d import __version__
from cryo2d.errors import InputError, Problem
from cryo2d.io.atomic import atomic_write

PACKAGES = ("torch", "pytorch-lightning", "numpy", "scipy", "mrcfile", "hydra-core")


def versions() -> dict[str, str]:
    """Versions of cryo2d, Python and the packages that can change a result."""
    found = {"cryo2d": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def sha256(path: Path) -> str:
    """Hash of a file's content, read piece by piece."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_facts(path: Path) -> dict[str, Any]:
    """What a run wrote down in JSON.

    Raises:
        InputError: if the file does not hold facts by their names.
    """
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise _damaged(path, f"what cannot be read ({error})") from error
    if not isinstance(found, dict):
        raise _damaged(path, f"{type(found).__name__}")
    return found


def _damaged(path: Path, found: str) -> InputError:
    action = "run it again if the file is damaged"
    return InputError([Problem(str(path), found, "facts of a run, as cryo2d wrote them", action)])


def write_manifest(folder: Path, files: Iterable[str], facts: Mapping[str, Any]) -> Path:
    """Write ``manifest.json``: facts of the run, then size and hash of each file.

    Args:
        folder: of the run.
        files: names inside it.
        facts: values that JSON can hold.
    """
    listed = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": sha256(folder / name)}
        for name in files
    }
    text = json.dumps({**facts, "files": listed}, indent=2)
    path = folder / "manifest.json"
    with atomic_write(path) as file:
        file.write((text + "\n").encode())
    return path
