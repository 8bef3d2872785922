"""What the README promises can be typed and clicked."""

import re
import shlex
from pathlib import Path

import pytest

from cryo2d.cli import config_dir
from cryo2d.jobs import overrides

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
LINES = [line.split("  #")[0].strip() for block in BLOCKS for line in block.splitlines()]
COMMANDS = [line for line in LINES if line.startswith("cryo2d")]


def test_it_is_short():
    assert len(TEXT.splitlines()) <= 150


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#]+)\)", TEXT))))
def test_links_lead_somewhere(target):
    assert (ROOT / target).exists()


def test_there_are_commands():
    assert "cryo2d" in COMMANDS
    assert 'pip install -e ".[test]"' in LINES


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_compose(command):
    words = shlex.split(command)[1:]
    multirun = "-m" in words
    typed = [word for word in words if word != "-m"]
    job = "classify" if not typed or "=" in typed[0] else typed.pop(0)
    overrides.check(job, typed, config_dir(), extra_dir=None, multirun=multirun)


def test_settings_it_names_exist():
    from cryo2d.jobs.settings import is_known

    named = re.findall(r"`((?:model|data|optimizer|post)\.[a-z_]+)`", TEXT)
    assert named
    assert [key for key in named if not is_known("classify", key)] == []
