"""What the settings mean, read from the comments of conf/ and the table of settings.

A comment block above a key explains it and the keys that follow without a comment of their own; a
block that a blank line or ``defaults:`` follows, at the top of a file, is its header. The header of
a job's file has its one-line description first and its examples, indented, after that.
"""

import re
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from cryo2d.errors import EnvironmentFault, InputError, Problem
from cryo2d.jobs import settings
from cryo2d.jobs.conflicts import as_typed
from cryo2d.jobs.rules import Objects

DEFAULT_JOB = "classify"

KEY = re.compile(r"( *)(\w+):")
GROUPS_OF_ONE = ("hydra", "data", "model", "optimizer", "post", "callbacks", "post", "simulation")

FIRST_SETTINGS = (
    "data.path",
    "data.invert",
    "model.num_classes",
    "model.mask_diameter",
    "model.max_resolution",
    "model.icuf",
    "optimizer.iterations",
    "optimizer.batch_per_class",
    "hardware.threads",
    "seed",
)
EXAMPLES = (
    ("cryo2d", "simulated particles: works at once"),
    ("cryo2d experiment=quick data.path=particles.star", "a first look in a minute"),
    ("cryo2d data.path=particles.star model.num_classes=100 model.mask_diameter=180", ""),
    ("cryo2d data.path=J1/particles.cs 'data.passthrough=[J1/J1_passthrough_particles.cs]'", ""),
    ("cryo2d -m data.path=p.star model.icuf=1,2,4 seed=1,2", "a sweep, compared at its end"),
    ("cryo2d select run=outputs/classify/RUN", "choose classes in the browser"),
)
FLAGS = (
    ("-m", "run every combination of key=a,b,c"),
    ("--cfg job", "print the settings of the run, and stop"),
    ("--config-dir DIR", "experiments and other options of your own"),
    ('eval "$(cryo2d -sc install=bash)"', "the shell completes keys and options"),
    ("--version, --hydra-help", "the version; all other flags"),
)


@dataclass(frozen=True)
class Setting:
    """One setting of a job.

    Attributes:
        key: its dotted name.
        default: as it is typed.
        values: what it may hold, in words.
        meaning: what it does and when to touch it.
    """

    key: str
    default: str
    values: str
    meaning: str


def config_dir() -> Path:
    """The folder conf/: inside the package in a wheel, beside it in a checkout or editable install.

    Raises:
        EnvironmentFault: if the installation lacks it.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / f"{DEFAULT_JOB}.yaml").is_file():
            return folder
    raise EnvironmentFault(f"no configuration beside {package}; install cryo2d again")


def job_names(conf: Path) -> list[str]:
    """The jobs: the primary configurations in conf/, the usual one first."""
    return sorted(
        (p.stem for p in conf.glob("*.yaml")), key=lambda name: (name != DEFAULT_JOB, name)
    )


def header(path: Path) -> list[str]:
    """The lines of a file's header, without ``#``."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("# @package"):
            continue
        if not line.startswith("#"):
            break
        lines.append(line[2:])
    return lines


def title(path: Path) -> str:
    """The first sentence of a file's header, or its first line."""
    words = " ".join(header(path))
    return (re.match(r".*?[.;](?= |$)", words) or [words])[0].rstrip(".;")


def meanings(path: Path) -> dict[str, str]:
    """Dotted key within a file -> its comment, or that of the object it is part of; or nothing."""
    found: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    block: list[str] = []
    # per indentation, since keys inside an object have comments of their own
    told: dict[int, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        text = line.strip()
        key = KEY.match(line)
        if text.startswith("#"):
            block.append(text[1:].strip())
        elif not text:
            block, told = [], {}
        elif key:
            indent, name = len(key[1]), key[2]
            above = [*((i, n) for i, n in above if i < indent), (indent, name)]
            told = {i: words for i, words in told.items() if i <= indent}
            if block and name != "defaults":
                told[indent] = " ".join(block)
            nearest = told[max(told)] if told else ""
            found[".".join(n for _, n in above)] = nearest
            block = []
    return found


def _content(path: Path) -> dict[str, Any]:
    content: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    return content


def groups(job: str, conf: Path) -> dict[str, str | None]:
    """The groups that a job is made of, and the option of each that is usual."""
    loaded = _content(conf / f"{job}.yaml")
    pairs = [item for item in loaded.get("defaults", []) if isinstance(item, dict)]
    return {str(group): option for pair in pairs for group, option in pair.items()}


def entries(job: str, conf: Path) -> list[Setting]:
    """Every setting of a job in the order of the files, those inside free objects included."""
    sources = [
        (group, conf / group / f"{option}.yaml") for group, option in groups(job, conf).items()
    ]
    named = [(f"{group}.", path) for group, path in sources if group != "hydra" and path.is_file()]
    rows: dict[str, Setting] = {}
    for prefix, path in [*named, ("", conf / f"{job}.yaml")]:
        told = meanings(path)
        for key, value in _leaves(_content(path)):
            full = f"{prefix}{key}"
            if not key.startswith("defaults") and settings.is_known(job, full):
                above = key.rpartition(".")[0]
                said = f"See {prefix}{above}." if told[key] == told.get(above) else told[key]
                rows |= _rows(job, full, value, said)
    for group, path in sources:
        if isinstance(settings.SETTINGS[job].get(group), Objects):
            text = " ".join(header(path))
            rows[group] = Setting(group, path.stem, Objects.expected, text)
    return list(rows.values())


def _rows(job: str, key: str, value: Any, meaning: str) -> dict[str, Setting]:
    """The row of a key; none for what is filled in from another setting inside a free object."""
    rule = settings.SETTINGS[job].get(key)
    filled = isinstance(value, str) and value.startswith("${")
    if rule is None and (filled or isinstance(value, dict)):
        return {}
    if rule is None:
        part_of = key.rsplit(".", 1)[0]
        return {key: Setting(key, _typed(value), f"argument of {part_of}", meaning)}
    return {key: Setting(key, _typed(value), rule.expected, meaning)}


def _leaves(node: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values: plain ones, and objects before their arguments."""
    for name, value in node.items():
        key = f"{above}{name}"
        if name == "_target_":
            continue
        if not isinstance(value, dict) or "_target_" in value:
            yield key, value
        if isinstance(value, dict):
            yield from _leaves(value, f"{key}.")


def _typed(value: Any) -> str:
    """A default as it is typed on the command line."""
    if isinstance(value, str) and value.startswith("${"):
        return f"that of {value[2:-1]}"
    if isinstance(value, list):
        return f"[{','.join(map(_typed, value))}]"
    if isinstance(value, dict):
        return str(value["_target_"])
    return as_typed(value)


def answer(typed: Sequence[str], conf: Path) -> str:
    """What ``cryo2d settings`` prints: ``job=JOB``, ``format=markdown``, and words to look for.

    Raises:
        InputError: for a job or a format that does not exist.
    """
    given = {"job": "", "format": ""}
    words = []
    for text in typed:
        key, equals, value = text.partition("=")
        if equals and key in given:
            given[key] = value
        else:
            words.append(text)
    jobs = job_names(conf)
    if words and words[0] in jobs and not given["job"]:
        given["job"] = words.pop(0)
    if given["job"] not in ("", *jobs) or given["format"] not in ("", "markdown"):
        found = "settings " + " ".join(typed)
        expected = f"job= one of {', '.join(jobs)}; format=markdown, or none"
        raise InputError([Problem(settings.COMMAND_LINE, found, expected, "correct it")])
    if given["format"]:
        return markdown(conf)
    return listing(given["job"] or jobs[0], conf, tuple(words)) + "\n"


def listing(job: str, conf: Path, words: tuple[str, ...] = ()) -> str:
    """The settings of a job for the terminal.

    Args:
        job: whose settings.
        conf: the folder conf/.
        words: only settings that have each of these in their key or meaning.
    """
    width = min(shutil.get_terminal_size((100, 24)).columns, 120)
    lines = []
    for entry in entries(job, conf):
        text = f"{entry.key} {entry.meaning}".lower()
        if all(word.lower() in text for word in words):
            lines.append(f"{entry.key}={entry.default}   ({entry.values})")
            lines += textwrap.wrap(
                entry.meaning, width - 4, initial_indent=" " * 4, subsequent_indent=" " * 4
            )
    return "\n".join(lines or [f"No setting of {job} has {' and '.join(words)} in it."])


def markdown(conf: Path) -> str:
    """The settings of all jobs as one page."""
    lines = [
        "# Settings",
        "",
        "Every setting of every job, as `cryo2d settings job=JOB` lists them. This page is made by",
        "`cryo2d settings format=markdown > docs/settings.md` from the comments in `conf/`.",
    ]
    for job in job_names(conf):
        lines += ["", f"## {job}", "", title(conf / f"{job}.yaml") + ".", ""]
        lines += ["| setting | default | values | meaning |", "|---|---|---|---|"]
        for entry in entries(job, conf):
            cells = (f"`{entry.key}`", f"`{entry.default}`", entry.values, entry.meaning)
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def overview(conf: Path) -> str:
    """The page of ``cryo2d --help``."""
    jobs = [(job, title(conf / f"{job}.yaml")) for job in job_names(conf)]
    jobs.append(("settings", "Every setting of a job with its default, values and meaning"))
    every = {entry.key: entry for entry in entries("classify", conf)}
    first = [
        (f"{key}={every[key].default}", _sentence(every[key].meaning)) for key in FIRST_SETTINGS
    ]
    parts = [
        "cryo2d: 2D classification of cryo-EM particles\n\n"
        "  cryo2d [JOB] key=value ...        without JOB: classify",
        "Jobs (cryo2d JOB --help)\n" + _columns(jobs),
        f"The settings people change first, of {len(every)} (cryo2d settings)\n" + _columns(first),
        "Options of groups (group=option)\n" + _columns(options("classify", conf)),
        "Examples\n" + _columns(EXAMPLES, 78),
        "Flags\n" + _columns(FLAGS),
    ]
    return "\n\n".join(parts) + "\n"


def options(job: str, conf: Path) -> list[tuple[str, str]]:
    """``group=option`` of the groups that offer a choice, with what each option is for."""
    return [
        (f"{group}={path.stem}", title(path))
        for group in groups(job, conf)
        if group not in GROUPS_OF_ONE
        for path in sorted((conf / group).glob("*.yaml"))
        if _fits(job, group, path)
    ]


def _fits(job: str, group: str, path: Path) -> bool:
    """Whether an option sets anything that the job has."""
    if group in {key.split(".")[0] for key in settings.SETTINGS[job]}:
        return True
    content = _content(path)
    return any(key == "hydra" or settings.is_known(job, key) for key in content)


def job_help(job: str, conf: Path) -> str:
    """The page of ``cryo2d JOB --help``."""
    about = "\n".join(header(conf / f"{job}.yaml"))
    parts = [f"cryo2d {job} key=value ...\n\n{about}"]
    if options(job, conf):
        parts.append("Options of groups (group=option)\n" + _columns(options(job, conf)))
    parts.append(f"Settings\n{textwrap.indent(listing(job, conf), '  ')}")
    return "\n\n".join(parts) + "\n"


def _sentence(text: str) -> str:
    return (re.match(r".*?\.(?= |$)", text) or [text])[0].rstrip(".")


def _columns(rows: Any, width: int = 0) -> str:
    """Lines of two columns."""
    rows = list(rows)
    width = width or max(len(left) for left, _ in rows)
    return "\n".join(f"  {left:{width}}  {right}".rstrip() for left, right in rows)
