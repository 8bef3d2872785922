"""What the pages in docs/ say can be typed, imported and run."""

import importlib
import re
import shlex
import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from fake_run import FakeData, FakeModule, make_summary
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from cryo2d.cli import config_dir
from cryo2d.jobs import external, overrides
from cryo2d.jobs.settings import SETTINGS, is_known

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    path for path in (ROOT / "docs").glob("*.md") if path.name != "settings.md"
) + sorted((ROOT / ".github").glob("*.md"))
EXTENDING = ROOT / "docs" / "extending.md"
PLUGINS = ("hparams_search=", "hardware=slurm", "hydra/launcher=")


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)


def commands() -> list[tuple[str, str]]:
    lines = [(p.name, line) for p in PAGES for b in blocks(p, "bash") for line in b.splitlines()]
    found = [(name, line.split("  #")[0].strip()) for name, line in lines]
    return [(name, line) for name, line in found if re.match(r"(PYTHONPATH=\. )?cryo2d\b", line)]


def written(folder: Path) -> None:
    """The files that docs/extending.md shows."""
    for language in ("yaml", "python"):
        for block in blocks(EXTENDING, language):
            name, _, text = block.partition("\n")
            path = folder / name.removeprefix("# ")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    written(folder)
    return folder


@pytest.mark.parametrize(("page", "command"), commands())
def test_commands_compose(page, command, own):
    words = shlex.split(command.removeprefix("PYTHONPATH=. "))[1:]
    if external.is_external(words):
        words = external.as_overrides(words)
    if "--help" in words:
        assert words in (["--help"], [words[0], "--help"])
        assert words[0] in ("--help", *SETTINGS)
        return
    if "--cfg" in words:
        assert words[-2:] == ["--cfg", "job"]
        words = words[:-2]
    extra = None
    if "--config-dir" in words:
        place = words.index("--config-dir")
        extra = own / words[place + 1]
        del words[place : place + 2]
    multirun = "-m" in words
    typed = [word for word in words if word != "-m"]
    job = "classify" if not typed or "=" in typed[0] else typed.pop(0)
    if job == "settings":
        return
    # plugins of Hydra are not part of the test environment; the rest of the line is checked
    typed = [w for w in typed if not w.startswith((*PLUGINS, "hydra.sweeper.", "hydra.launcher."))]
    typed = [overrides.quoted(job, text) for text in overrides.gathered(job, typed)]
    overrides.check(job, typed, config_dir(), extra_dir=extra, multirun=multirun)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere_and_settings_exist(path):
    text = path.read_text(encoding="utf-8")
    assert text.isascii()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert "://" in target or (path.parent / target).exists(), target
    groups = {key.split(".")[0] for table in SETTINGS.values() for key in table if "." in key}
    for key in re.findall(r"`((?:" + "|".join(groups) + r")\.[a-z0-9_.]+)", text):
        assert any(is_known(job, key.rstrip(".")) for job in SETTINGS), key


@pytest.mark.parametrize("job", sorted(SETTINGS))
def test_every_job_has_a_page_with_a_picture_and_a_command(job):
    page = ROOT / "docs" / f"{job}.md"
    assert f"({page.name})" in (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    text = page.read_text(encoding="utf-8")
    assert re.search(r"!\[[^\]]+\]\(images/\w+\.png\)", text)
    command = r"cryo2d( -m)? (\w+\.)?\w+=" if job == "classify" else rf"cryo2d {job}\b"
    assert any(re.search(command, block) for block in blocks(page, "bash"))


def test_every_page_is_in_the_index():
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert {name for name in pages if f"({name})" not in index} == set()


def test_pictures_are_shown_and_small():
    pictures = sorted((ROOT / "docs" / "images").iterdir())
    texts = "".join(p.read_text(encoding="utf-8") for p in [*PAGES, ROOT / "README.md"])
    assert [path.name for path in pictures if f"images/{path.name}" not in texts] == []
    sizes = [path.stat().st_size for path in pictures]
    assert max(sizes) < 300_000
    assert sum(sizes) < 4_000_000


def test_a_method_of_ones_own_is_used(own, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(own))
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        search = f"hydra.searchpath=['file://{own}/my_conf']"
        cfg = compose("classify", overrides=["experiment=mine", search])
    schedule = instantiate(cfg.optimizer.step_size)
    assert [schedule(0), schedule(30)] == [1.0, 0.25]
    frc = torch.tensor([[0.9, 0.5, 0.1, 0.6]])
    weights = instantiate(cfg.optimizer.regularizer)(frc, frc, frc.sum(1))
    assert weights.tolist() == [[1, 1, 0, 0]]
    largest = instantiate(cfg.callbacks.largest)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=2,
        logger=False,
        callbacks=[largest],
        default_root_dir=tmp_path,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    trainer.fit(FakeModule(total=2), datamodule=FakeData())
    sizes = [int(make_summary(i).counts.max()) for i in (0, 1)]
    assert (tmp_path / "largest.txt").read_text() == f"0 {sizes[0]}\n1 {sizes[1]}\n"
    for name in [name for name in sys.modules if name.startswith("my_methods")]:
        del sys.modules[name]
    importlib.invalidate_caches()
