"""The list of what a finished run left behind; its presence says that the run is complete."""

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from cryo2d import __version__
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
