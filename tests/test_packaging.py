"""The program works from a wheel, away from its sources."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def run(*command: str, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_package_is_listed():
    folders = {path.parent for path in (ROOT / "cryo2d").rglob("*.py")}
    packages = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == packages | {"cryo2d.conf"}


LOCK = (ROOT / "docs" / "requirements.lock").read_text(encoding="utf-8")


def locked() -> dict[str, list[str]]:
    """The versions of each package in the lock: one, or one for each Python."""
    found: dict[str, list[str]] = {}
    for pin in re.split(r"\n(?=\S)", LOCK.strip()):
        name, _, version = pin.split()[0].partition("==")
        found.setdefault(canonicalize_name(name), []).append(version)
    return found


def is_met(wanted: Requirement) -> bool:
    versions = locked().get(canonicalize_name(wanted.name), [])
    allowed = [wanted.specifier.contains(version, prereleases=True) for version in versions]
    return bool(allowed) and all(allowed)


def test_the_lock_has_every_dependency_in_a_version_that_is_allowed_and_with_a_hash():
    assert "://" not in LOCK, "whoever installs chooses where from"
    for pin in re.split(r"\n(?=\S)", LOCK.strip()):
        first, *others = pin.replace("\\\n", "\n").splitlines()
        assert re.fullmatch(r"[a-z0-9.-]+==[\w.]+( ; .+)?", first.strip()), first
        assert others, f"{first} has no hash"
        hashed = [re.fullmatch(r"    --hash=sha256:[0-9a-f]{64} *", line) for line in others]
        assert all(hashed), first
    wanted = map(Requirement, PROJECT["project"]["dependencies"])
    assert [str(one) for one in wanted if not is_met(one)] == []


def test_the_lock_has_what_its_packages_need_in_turn():
    """As far as they are installed here in the version of the lock."""
    missing, seen = [], 0
    for name, versions in locked().items():
        try:
            installed = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        if installed.version not in versions:
            continue
        for wanted in map(Requirement, installed.requires or []):
            if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
                seen += 1
                missing += [] if is_met(wanted) else [f"{name}: {wanted}"]
    assert missing == []
    assert seen


def test_what_is_safe_only_from_a_version_on_has_it_as_its_floor():
    floors = {"hydra-core": "1.3.8", "omegaconf": "2.3.1", "pytorch-lightning": "2.6.4"}
    unsafe = {"hydra-core": "1.3.7", "omegaconf": "2.3.0", "pytorch-lightning": "2.6.3"}
    for wanted in map(Requirement, PROJECT["project"]["dependencies"]):
        if wanted.name in floors:
            assert floors.pop(wanted.name) in wanted.specifier
            assert unsafe[wanted.name] not in wanted.specifier
    assert floors == {}


def test_every_package_has_a_docstring_and_nothing_else_to_import():
    for path in (ROOT / "cryo2d").rglob("*.py"):
        assert (path.parent / "__init__.py").is_file(), path.parent


@pytest.mark.slow
def test_a_wheel_has_everything_and_runs_anywhere(tmp_path):
    source, wheels, site = (tmp_path / name for name in ("source", "wheels", "site"))
    source.mkdir()
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, source)
    for name in ("cryo2d", "conf"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    pip = [sys.executable, "-m", "pip", "--quiet"]
    offline = ["--no-deps", "--no-index"]
    run(
        *pip,
        "wheel",
        *offline,
        "--no-build-isolation",
        "-w",
        str(wheels),
        str(source),
        cwd=tmp_path,
    )
    (wheel,) = wheels.glob("cryo2d-*.whl")
    run(*pip, "install", *offline, "--target", str(site), str(wheel), cwd=tmp_path)

    def files(folder: Path) -> set[str]:
        return {
            str(p.relative_to(folder)) for p in folder.rglob("*") if p.suffix not in ("", ".pyc")
        }

    assert files(source / "cryo2d") <= files(site / "cryo2d")
    assert files(source / "conf") == files(site / "cryo2d" / "conf")

    shutil.rmtree(source)
    place = [sys.executable, "-c", "import cryo2d.cli as c; print(c.__file__, c.config_dir())"]
    module, conf = run(*place, cwd=tmp_path, PYTHONPATH=str(site)).split()
    assert Path(module).is_relative_to(site)
    assert Path(conf) == site / "cryo2d" / "conf"
    command = [sys.executable, "-m", "cryo2d", "--cfg", "job", "experiment=quick"]
    assert "num_classes: 20" in run(*command, cwd=tmp_path, PYTHONPATH=str(site))
