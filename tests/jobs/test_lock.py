import subprocess
import sys
from pathlib import Path

import pytest

from cryo2d.errors import InputError
from cryo2d.jobs.lock import locked


def test_the_second_program_in_a_folder_is_told_of_the_first(tmp_path: Path):
    told = pytest.raises(InputError, match="in use by process .* on .* since 20")
    with locked(tmp_path), told, locked(tmp_path):
        pytest.fail("two programs write to one folder")
    with locked(tmp_path):
        pass


def test_a_program_that_was_killed_leaves_no_lock(tmp_path: Path):
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from cryo2d.jobs.lock import locked\n"
        "with locked(Path(sys.argv[1])):\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert done.returncode == -9
    assert "process" in (tmp_path / ".lock").read_text()
    with locked(tmp_path):
        pass
