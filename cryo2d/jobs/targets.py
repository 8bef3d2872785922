"""Classes that a configuration from a run folder may name: the program's own, no others.

Hydra builds whatever ``_target_`` says, and a folder may come from anyone.
"""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from cryo2d.errors import Problem

TARGET = "_target_"


def registered(conf: Path) -> frozenset[str]:
    """Every class that the files of conf/ name."""
    names: set[str] = set()
    for path in conf.rglob("*.yaml"):
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
        names |= {str(name) for _, name in _targets(content)}
    return frozenset(names)


def foreign(settings: Any, allowed: Collection[str], file: str) -> list[Problem]:
    """Classes that are not allowed, and values that would only be looked up, each as a problem.

    Args:
        settings: plain containers, not resolved.
        allowed: names of classes.
        file: that the settings come from.
    """
    found = [
        Problem(
            file,
            f"{key}: {name}",
            "a class of cryo2d's own conf/",
            f"read that class, and if you trust it add 'trusted=[{name}]'",
        )
        for key, name in _targets(settings)
        if name not in allowed
    ]
    found += [
        Problem(file, f"{key}: {value}", "a value, as runs record it", "write the value itself")
        for key, value in _leaves(settings)
        if isinstance(value, str) and "${" in value
    ]
    return found


def _targets(node: Any) -> Iterator[tuple[str, Any]]:
    for key, value in _leaves(node):
        parent, _, last = key.rpartition(".")
        if last == TARGET:
            yield parent, value


def _leaves(node: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and plain values, those inside lists too."""
    if isinstance(node, dict | list):
        pairs = node.items() if isinstance(node, dict) else enumerate(node)
        for name, value in pairs:
            yield from _leaves(value, f"{above}.{name}" if above else str(name))
    else:
        yield above, node
