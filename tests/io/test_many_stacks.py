"""Ten thousand stacks, with fewer descriptors than that."""

from pathlib import Path

from child import run_child

PROGRAM = """
import resource
from pathlib import Path
import numpy as np
from cryo2d.data.reader import iterate
from cryo2d.io.mrc import stack_header
from cryo2d.io.particles import read_particles

COUNT = 10_000
head = stack_header(np.ones((1, 4, 4), np.float32), 1.0, 2)
rows = []
for i in range(COUNT):
    pixels = np.arange(16, dtype="<f4") + i
    Path(f"{i}.mrcs").write_bytes(head + pixels.tobytes())
    rows.append(f"1@{i}.mrcs 1.0\\n")
Path("a.star").write_text("data_\\nloop_\\n_rlnImageName\\n_rlnPixelSize\\n" + "".join(rows))
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
table, excluded = read_particles("a.star", require_ctf=False)
assert len(table) == COUNT and not len(excluded.table)
# twice: what was closed is opened again
for _ in range(2):
    seen = np.zeros(COUNT, bool)
    for rows, images, bad in iterate(table, threads=4):
        assert not bad
        assert (images[:, 0, 0] == rows).all()
        seen[rows] = True
    assert seen.all()
"""


def test_ten_thousand_stacks_with_256_descriptors(tmp_path: Path) -> None:
    run_child(PROGRAM, tmp_path, seconds=300)
