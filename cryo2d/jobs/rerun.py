"""Job ``rerun``: a finished classification done again, and how far the results agree."""

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import to_absolute_path
from omegaconf import DictConfig, OmegaConf

from cryo2d.data.fingerprint import fingerprint
from cryo2d.errors import InputError, Problem
from cryo2d.jobs import classify, handbook, record, settings, settings_file, targets
from cryo2d.jobs.delivery import Delivery
from cryo2d.jobs.finished import FinishedRun, finished_runs
from cryo2d.jobs.particles import load
from cryo2d.jobs.repetition import Repetition, pose_shift, repetition
from cryo2d.training.callbacks.export import given_settings
from cryo2d.training.drawing.classes import number
from cryo2d.training.drawing.comparison import draw_pairs
from cryo2d.training.drawing.gallery import Picture
from cryo2d.training.drawing.montage import grey_levels
from cryo2d.training.drawing.report import Flow, Row, Table, cell, thumbnail
from cryo2d.training.drawing.style import image_png

log = logging.getLogger(__name__)

RUN = "run"
PATHS = ("data.path", "model.initial_references")
CAPTION = (
    "Above the averages of the run, below those of its repetition, largest first; grey levels are "
    "set class by class."
)


@dataclass(frozen=True)
class Recorded:
    """A finished run as its folder describes it.

    Attributes:
        folder: of the run.
        cfg: its settings, with paths that hold from here.
        facts: of run.json, none for a run of an earlier version.
    """

    folder: Path
    cfg: DictConfig
    facts: dict[str, Any]

    @property
    def file(self) -> str:
        """Name of the file with its settings."""
        return str(self.folder / "config.yaml")


def run(cfg: DictConfig, run_dir: Path) -> float:
    """Repeat a run and compare.

    Args:
        cfg: composed configuration of the job.
        run_dir: folder that everything is written to.

    Returns:
        Adjusted Rand index between the run and its repetition, for sweeps.

    Raises:
        InputError: if the folder holds no finished classification, if its settings name classes
            of other packages, or if its particles have changed.
    """
    earlier = recorded(Path(to_absolute_path(cfg.run)), cfg.trusted)
    notes = input_notes(earlier, refuse=not cfg.changed_input)
    folder = run_dir / RUN
    prepare(earlier, folder)
    classify.fitted(earlier.cfg, folder)
    runs, _ = finished_runs([earlier.folder, folder])
    result = repetition(*runs)
    notes = [result.verdict, *notes, *circumstances(earlier.facts, record.read(folder))]
    deliver(Delivery(run_dir, str(earlier.folder)), runs, result, notes)
    log.info("%s", "\n".join([*notes, str(run_dir / "report.html")]))
    return result.ari


def recorded(folder: Path, trusted: Any) -> Recorded:
    """The settings of a finished run, checked.

    Args:
        folder: of the run.
        trusted: names of classes of other packages that may be used.

    Raises:
        InputError: for everything that is wrong with them.
    """
    finished_runs([folder])
    file, facts = folder / "config.yaml", record.read(folder)
    job = facts.get("job", "classify")
    if job != "classify" or not file.is_file():
        found = f"a run of {job}" if file.is_file() else "no config.yaml"
        expected = "the folder of a finished classification, with config.yaml"
        raise InputError([Problem(str(folder), found, expected, "give another folder")])
    cfg = settings_file.load(file)
    assert isinstance(cfg, DictConfig)
    if cfg.get("resume"):
        return recorded(_placed(str(cfg.resume), facts), trusted)
    # neither changes a result, and both would write into the folders of the first run
    cfg.logger = {}
    OmegaConf.update(cfg, "data.cache", "ram", force_add=True)
    trusted = [trusted] if isinstance(trusted, str) else trusted
    allowed = targets.registered(handbook.config_dir()) | set(trusted)
    plain = OmegaConf.to_container(cfg, resolve=False)
    problems = targets.foreign(plain, allowed, str(file))
    problems = problems or _unfit(cfg, str(file), facts)
    if problems:
        raise InputError(problems)
    for key in PATHS:
        value = OmegaConf.select(cfg, key)
        if value is not None:
            OmegaConf.update(cfg, key, str(_placed(value, facts)))
    cfg.data.passthrough = [str(_placed(path, facts)) for path in cfg.data.passthrough]
    return Recorded(folder, cfg, facts)


def input_notes(earlier: Recorded, *, refuse: bool) -> list[str]:
    """What differs between the input of a run and what is there now.

    Raises:
        InputError: if something does and is to be refused.
    """
    known = earlier.facts.get("input")
    if earlier.cfg.data.path is None:
        return []
    if known is None:
        return ["The run did not record what its input was: the same files are taken for granted."]
    table, _ = load(earlier.cfg)
    now = fingerprint(table, classify.input_files(earlier.cfg))
    changed = [name for name in {**known, **now} if known.get(name) != now.get(name)]
    if changed and refuse:
        action = "give back the files of the run, or compare all the same: changed_input=true"
        raise InputError(
            [
                Problem(name, now.get(name, "nothing"), known.get(name, "nothing"), action)
                for name in changed
            ]
        )
    return [f"The input has changed: {', '.join(changed)}."] if changed else []


def prepare(earlier: Recorded, folder: Path) -> None:
    """Make the folder of the repetition with what a run finds in its own."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(earlier.cfg), encoding="utf-8")
    typed = earlier.folder / ".hydra" / "overrides.yaml"
    given = given_settings(typed.read_text(encoding="utf-8")) if typed.is_file() else []
    if typed.is_file():
        (folder / ".hydra").mkdir()
        shutil.copy(typed, folder / ".hydra" / typed.name)
    record.begin(folder, "classify", given)


def circumstances(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between the runs besides the result: versions, source, machine."""
    if not before:
        return ["The run did not record its versions and its machine."]
    found = []
    if "input" in before and before["input"]["images"] != now["input"]["images"]:
        found.append("The images differ.")
    for name in ("versions", "machine"):
        old, new = before.get(name, {}), now[name]
        found += [
            f"{key}: {old.get(key, 'unknown')}, now {value}"
            for key, value in new.items()
            if old.get(key) != value
        ]
    old, new = before.get("git"), now["git"]
    if old != new or (new or {}).get("changed"):
        found.append(f"source: {_source(old)}, now {_source(new)}")
    return found


def _source(git: dict[str, Any] | None) -> str:
    if git is None:
        return "installed"
    return f"commit {git['commit'][:10]}" + (" with changes" if git["changed"] else "")


def deliver(out: Delivery, runs: list[FinishedRun], result: Repetition, notes: list[str]) -> None:
    """Write the page."""
    first, second = runs
    count = first.averages.columns["count"]
    order = np.argsort(-count, kind="stable")
    order = order[result.partner[order] >= 0]
    pairs = draw_pairs(
        first.averages.images[order],
        second.averages.images[result.partner[order]],
        [f"{k + 1}" for k in order],
        result.correlation[order],
    )
    out.picture(Picture("Averages", image_png(pairs), CAPTION, "averages.png", 1.0))
    before, after = (run.measures["median_resolution"] for run in runs)
    headline = {
        "files the same": f"{len(result.same)} of {len(result.same) + len(result.different)}",
        "agreement (ARI)": number(result.ari, 4),
        "in the same class": f"{result.kept:.2%}",
        "sizes moved": f"{result.moved:.2%}",
        "least correlation of averages": number(result.least_correlation, 4),
        "median change of the shifts (A)": number(pose_shift(first, second), 2),
        "median resolution (A)": f"{number(before, 2)}, {number(after, 2)}",
    }
    facts = {
        "run": str(first.folder),
        "identical": result.identical,
        "same": list(result.same),
        "different": list(result.different),
        "ari": _finite(result.ari),
        "kept": result.kept,
        "moved": result.moved,
        "least_correlation": _finite(result.least_correlation),
    }
    tables = [class_table(runs, result), file_table(result)]
    flow = Flow(result.shared, {"in both runs": result.shared})
    out.close("Repetition of a run", flow, headline, facts=facts, notes=notes, tables=tables)


def class_table(runs: list[FinishedRun], result: Repetition) -> Table:
    """One row per class of the run: particles before and after, correlation."""
    first, second = (run.averages for run in runs)
    levels = grey_levels(first.images)
    before, after = (part.columns["count"].astype(np.int64) for part in (first, second))
    rows = []
    for k in np.argsort(-before, kind="stable").tolist():
        other = int(result.partner[k])
        cells = [
            cell(k + 1),
            cell(int(before[k])),
            cell(int(after[other])) if other >= 0 else ("-", "1e30"),
            cell(result.correlation[k], 4),
        ]
        empty = bool(before[k] == 0)
        rows.append(Row(cells, b"" if empty else thumbnail(levels[k]), empty))
    labels = ("class", "particles", "particles again", "correlation")
    return Table("Classes", labels, rows, pictures=True)


def file_table(result: Repetition) -> Table:
    """Which files are the same."""
    rows = [Row([(n, n), ("different", "0")], empty=True) for n in result.different]
    rows += [Row([(n, n), ("the same, bit for bit", "1")]) for n in result.same]
    return Table("Files compared", ("file", "content"), rows)


def _unfit(cfg: DictConfig, file: str, facts: dict[str, Any]) -> list[Problem]:
    """Settings that this version of the program cannot run."""
    version = facts.get("versions", {}).get("cryo2d", "an earlier version")
    action = f"install cryo2d {version}, or correct the file"
    problems = settings.problems("classify", cfg)
    return [Problem(file, problem.found, problem.expected, action) for problem in problems]


def _placed(path: str, facts: dict[str, Any]) -> Path:
    """A path of the run as it is called from here: relative ones began where it was started."""
    start = Path(facts["folder"]) if "folder" in facts else Path(to_absolute_path("."))
    return start / path


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
