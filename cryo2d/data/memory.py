"""How much memory this process may still take."""

from collections.abc import Iterator
from pathlib import Path

UNLIMITED = 1 << 60
_V1, _V2 = ("memory.limit_in_bytes", "memory.usage_in_bytes"), ("memory.max", "memory.current")


def free_memory(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes left on the machine, or in the control group that a queue has put us into.

    Args:
        proc: the process file system.
        groups: where the control groups are mounted.

    Returns:
        The smallest limit; a very large number where none is known.
    """
    free = [UNLIMITED]
    for line in _lines(proc / "meminfo"):
        if line.startswith("MemAvailable:"):
            free.append(int(line.split()[1]) * 1024)
    for line in _lines(proc / "self" / "cgroup"):
        _, controllers, path = line.split(":", 2)
        if not controllers:
            free += _left(groups, path, *_V2)
        elif "memory" in controllers.split(","):
            free += _left(groups / "memory", path, *_V1)
    return max(0, min(free))


def _left(root: Path, path: str, limit_name: str, usage_name: str) -> Iterator[int]:
    """Bytes left in a group and in each of its parents that has a limit."""
    folder = root / path.strip("/")
    for level in (folder, *folder.parents):
        limit = "".join(_lines(level / limit_name))
        if limit.isdigit() and int(limit) < UNLIMITED:
            used = int("".join(_lines(level / usage_name)) or 0)
            # what the group has read from files can be dropped
            droppable = [
                int(line.split()[1])
                for line in _lines(level / "memory.stat")
                if line.startswith(("inactive_file ", "total_inactive_file "))
            ]
            yield int(limit) - used + max(droppable, default=0)
        if level == root:
            return


def _lines(path: Path) -> list[str]:
    """The lines of a small file; none if it cannot be read."""
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
