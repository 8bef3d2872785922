from pathlib import Path

from cryo2d.data.memory import UNLIMITED, free_memory


def machine(root: Path, groups: str, files: dict[str, str]) -> tuple[Path, Path]:
    """A process file system and control groups of one's own."""
    for name, text in {"proc/self/cgroup": groups, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root / "proc", root / "groups"


MEMINFO = {"proc/meminfo": "MemTotal: 9000 kB\nMemAvailable:    8000 kB\n"}


def test_the_machine_and_no_limit(tmp_path):
    where = machine(tmp_path, "0::/user\n", MEMINFO | {"groups/user/memory.max": "max\n"})
    assert free_memory(*where) == 8000 * 1024
    assert free_memory(tmp_path / "none", tmp_path / "none") == UNLIMITED
    assert 0 < free_memory() < UNLIMITED


def test_the_limit_of_a_group_or_its_parent(tmp_path):
    files = MEMINFO | {
        "groups/job/memory.max": "5000000\n",
        "groups/job/memory.current": "3000000\n",
        "groups/job/memory.stat": "anon 1\ninactive_file 500000\n",
        "groups/job/step/memory.max": "max\n",
    }
    assert free_memory(*machine(tmp_path, "0::/job/step\n", files)) == 2_500_000


def test_the_older_kind_of_group(tmp_path):
    files = MEMINFO | {
        "groups/memory/job/memory.limit_in_bytes": "4000000\n",
        "groups/memory/job/memory.usage_in_bytes": "1000000\n",
    }
    groups = "5:cpu,cpuacct:/job\n4:memory:/job\n"
    assert free_memory(*machine(tmp_path, groups, files)) == 3_000_000
