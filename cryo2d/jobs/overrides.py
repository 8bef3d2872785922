"""What was typed after the job: every override is checked before anything is written."""

import os
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cryo2d.errors import InputError, Problem
from cryo2d.jobs import handbook, settings
from cryo2d.jobs.rules import Condition, OrNull, Several
from cryo2d.jobs.settings import COMMAND_LINE
from cryo2d.jobs.settings_file import leaves

LISTED_SWEEPS = (ValueType.CHOICE_SWEEP, ValueType.SIMPLE_CHOICE_SWEEP, ValueType.RANGE_SWEEP)
# Settings of a job that take words without a name.
POSITIONAL = {"compare": "runs", "rerun": "run"}
# Jobs that may go on in the folder of an earlier run.
CONTINUED = ("relion",)
SECRET = re.compile(r"(?i)(api_?key|password|secret|(^|[._])token)$")
SECRET_VALUE = re.compile(r"(?i)oc\.env:\w*(key|password|secret|token)")
SECRET_ADDRESS = re.compile(r"://[^/@\s:]+:[^/@\s]+@")
# More values of one swept setting than this are checked when their run starts.
CHECKED_VALUES = 50
# Bytes of a name that file systems allow.
LONGEST_NAME = 255


def quoted(job: str, text: str) -> str:
    """An override as Hydra can read it: a rule over columns is put in quotes if it has none."""
    key, _, value = text.partition("=")
    rule = settings.SETTINGS[job].get(key)
    rule = rule.rule if isinstance(rule, OrNull) else rule
    if not isinstance(rule, Condition) or value[:1] in ("", '"', "'") or value == "null":
        return text
    escaped = value.replace("'", "\\'")
    return f"{key}='{escaped}'"


def gathered(job: str, typed: Sequence[str]) -> list[str]:
    """The overrides, words without ``=`` gathered in the setting that takes them."""
    key = POSITIONAL.get(job)
    words = [text for text in typed if "=" not in text and not text.startswith("~")]
    if key is None or not words:
        return list(typed)
    if len(words) == 1 and not isinstance(settings.SETTINGS[job][key], Several):
        return [f"{key}={_in_quotes(text)}" if text in words else text for text in typed]
    listed = ",".join(map(_in_quotes, words))
    return [*(text for text in typed if text not in words), f"{key}=[{listed}]"]


def _in_quotes(word: str) -> str:
    return '"' + word.replace('"', '\\"') + '"'


def check(
    job: str,
    typed: Sequence[str],
    config_dir: Path,
    *,
    extra_dir: Path | None = None,
    multirun: bool = False,
    names_only: bool = False,
) -> None:
    """Refuse a command line that the job cannot run.

    Args:
        job: name of the job and of its configuration.
        typed: the overrides, as ``key=value``.
        config_dir: the folder conf/.
        extra_dir: a further folder of configurations (``--config-dir``), searched first.
        multirun: whether lists of values are swept.
        names_only: whether values may be missing or wrong, because nothing will run.

    Raises:
        InputError: with every problem found.
    """
    overrides, problems = _parse(typed)
    if extra_dir is not None and not extra_dir.is_dir():
        found = f"--config-dir {extra_dir}"
        problems.append(Problem(COMMAND_LINE, found, "a folder", "correct its path"))
        extra_dir = None
    extended = extra_dir is not None or any("searchpath" in text for text in typed)
    search = [] if extra_dir is None else [f"hydra.searchpath=['file://{extra_dir.resolve()}']"]
    with initialize_config_dir(str(config_dir), job_name=job, version_base="1.3"):
        options = OptionLists(GlobalHydra.instance().config_loader())
        groups = [name for name in handbook.groups(job, config_dir) if name != "hydra"]
        for override in overrides:
            problems += _name_problems(job, override, options, groups, extended)
            if override.is_sweep_override() and not multirun:
                problems.append(_unswept(override))
        if not problems and not names_only:
            for texts in _combinations(overrides) if multirun else [list(typed)]:
                problems += _composition_problems(job, texts, search)
    if problems:
        raise InputError(list(dict.fromkeys(problems)))


class OptionLists(dict[str, list[str]]):
    """The options of each group, none for what is no group; each looked up once.

    Args:
        loader: Hydra's, which takes tens of milliseconds to answer.
    """

    def __init__(self, loader: ConfigLoader) -> None:
        self._loader = loader
        self._groups = frozenset(loader.list_groups(""))

    def __missing__(self, group: str) -> list[str]:
        known = group.strip("/").partition("/")[0] in self._groups
        self[group] = sorted(self._loader.get_group_options(group)) if known else []
        return self[group]


def _parse(typed: Sequence[str]) -> tuple[list[Override], list[Problem]]:
    """The overrides Hydra understands, and the problems of those it does not."""
    parser = OverridesParser.create()
    overrides, problems = [], []
    for text in typed:
        if len(text.partition("=")[0]) > LONGEST_NAME:
            problems.append(_unreadable(_shown(text)))
            continue
        try:
            overrides.append(parser.parse_override(text))
        except (OverrideParseException, HydraException, RecursionError, ValueError):
            # the last two: brackets too deep, a number of too many digits
            problems.append(_unreadable(_shown(text)))
    return overrides, problems


def _shown(text: str) -> str:
    """A text as messages show it."""
    return text if len(text) <= LONGEST_NAME else f"{text[:LONGEST_NAME]}..."


def flag_problem(message: str) -> Problem:
    """What the parser of flags refused, in its words; settings are no flags."""
    found = message.removeprefix("unrecognized arguments: ")
    word, _, value = found.split(" ")[0].lstrip("-").partition("=")
    near = settings.nearest(word.replace("-", "_"), tuple(settings.SETTINGS["classify"]), count=1)
    hint = f": {near[0]}={value or 'VALUE'}" if near and word in found.split(" ")[0] else ""
    expected = "key=value, or a flag of cryo2d --help"
    return Problem(COMMAND_LINE, found, expected, f"write settings without dashes{hint}")


def _unreadable(text: str) -> Problem:
    key, equals, value = text.partition("=")
    if not equals:
        action = f"write {text}=VALUE without spaces around =, or leave it out"
        return Problem(COMMAND_LINE, text, "key=value", action)
    if value.startswith("~"):
        action = f"write the folder out: {key}=$HOME{value[1:]}"
        return Problem(COMMAND_LINE, text, "a path without ~, which only a shell knows", action)
    bare = value.strip("\"'")
    return Problem(
        COMMAND_LINE,
        text,
        "a value without the characters = , : ( ) [ ] { } # % & or else in quotes",
        f"quote it twice, once for the shell: '{key}=\"{bare}\"'",
    )


def _unswept(override: Override) -> Problem:
    key, values = override.key_or_group, _value(override)
    action = f"add -m to run once with each of them, or write a list as {key}=[{values}]"
    if re.search(r"/|\w\.[a-z]", values):
        action += f"; quote a name that has commas twice: '{key}=\"{values}\"'"
    return Problem(COMMAND_LINE, f"{key}={values}", "one value", action)


def _value(override: Override) -> str:
    """The value as it was typed."""
    return (override.input_line or "").partition("=")[2]


def _name_problems(
    job: str, override: Override, lists: "OptionLists", groups: Sequence[str], extended: bool
) -> Iterator[Problem]:
    """An unknown key, group or option; a run folder that is in use."""
    key = override.key_or_group
    options = lists[key]
    typed = _value(override)
    if SECRET.search(key) or SECRET_VALUE.search(typed) or SECRET_ADDRESS.search(typed):
        yield _secret_problem(key)
        return
    present = key in (settings.SETTINGS[job] if not options else groups)
    if override.is_hydra_override():
        if job not in CONTINUED:
            yield from _folder_problems(override)
    elif options and key not in groups:
        expected = f"a group of the job {job}: {', '.join(groups) or 'it has none'}"
        yield Problem(COMMAND_LINE, override.input_line or key, expected, "leave it out")
    elif present and override.is_add():
        plain = (override.input_line or "").lstrip("+")
        expected = "no +, which is for keys that are not there yet"
        yield Problem(COMMAND_LINE, override.input_line or key, expected, f"write {plain}")
    elif present and not override.is_delete() and not _value(override).strip():
        action = f"write it right after =, as {key}=VALUE, without a space"
        yield Problem(COMMAND_LINE, f"{key}= and nothing", "a value", action)
    elif options:
        yield from _option_problems(override, options, extended)
    elif not settings.is_known(job, key) and not extended:
        value = None if override.is_delete() else _value(override)
        yield settings.unknown(job, key, value, also=tuple(groups))


def _option_problems(override: Override, options: list[str], extended: bool) -> Iterator[Problem]:
    """A choice that the group does not offer."""
    if override.is_delete() or extended:
        return
    group = override.key_or_group
    values: list[object] = []
    if override.value_type in LISTED_SWEEPS:
        values += override.sweep_string_iterator()
    elif not override.is_sweep_override():
        chosen = override.value()
        values += chosen if isinstance(chosen, list) else [chosen]
    for value in values:
        if group == "experiment" and value is None:
            continue
        if not isinstance(value, str):
            action = f"choose one, or set its keys one by one: {group}.KEY=VALUE"
        elif value not in options:
            near = settings.nearest(value, tuple(options), count=1)
            action = f"choose {near[0]}" if near else "choose one of them"
        else:
            continue
        yield Problem(
            COMMAND_LINE,
            f"{group}={_value(override)}",
            f"one of {', '.join(options)}",
            action,
        )


def _folder_problems(override: Override) -> Iterator[Problem]:
    """A run never writes into the folder of another.

    One that was ended before it wrote down its settings has left nothing to keep.
    """
    records = {"hydra.run.dir": (".hydra", "config.yaml"), "hydra.sweep.dir": ("multirun.yaml",)}
    left = records.get(override.key_or_group)
    if left is None or override.is_delete():
        return
    folder = override.value()
    if not isinstance(folder, str) or "${" in folder:
        return
    if any(len(os.fsencode(part)) > LONGEST_NAME for part in Path(folder).parts):
        found = f"{override.key_or_group}={_shown(folder)}"
        expected = f"names of at most {LONGEST_NAME} bytes"
        yield Problem(COMMAND_LINE, found, expected, "shorten it")
    elif all(os.path.exists(Path(folder) / name) for name in left):
        yield Problem(
            COMMAND_LINE,
            f"{override.key_or_group}={folder}, the folder of a run",
            "a folder that no run has used",
            "name another, or leave it out: every run gets its own",
        )


def named_folder(typed: Sequence[str], *, multirun: bool) -> Path | None:
    """The folder that a run or a sweep was told to write to; None where it gets its own."""
    key = "hydra.sweep.dir" if multirun else "hydra.run.dir"
    named = [one for one in _parse(typed)[0] if one.key_or_group == key]
    if not named or named[-1].is_delete():
        return None
    folder = named[-1].value()
    return Path(folder) if isinstance(folder, str) and "${" not in folder else None


def check_folder(job: str, typed: Sequence[str]) -> None:
    """Refuse the folder of another run: part of :func:`check`, for who has waited since.

    Raises:
        InputError: if a run has used the folder that this one was told to write to.
    """
    overrides = [] if job in CONTINUED else _parse(typed)[0]
    problems = [problem for one in overrides for problem in _folder_problems(one)]
    if problems:
        raise InputError(problems)


def _combinations(overrides: Sequence[Override]) -> Iterator[list[str]]:
    """Command lines without sweeps that have, together, every value of every sweep."""
    sweeps = [
        [f"{o.get_key_element()}={v}" for v in islice(o.sweep_string_iterator(), CHECKED_VALUES)]
        for o in overrides
        if o.value_type in LISTED_SWEEPS
    ]
    plain = [o.input_line for o in overrides if not o.is_sweep_override() and o.input_line]
    firsts = [texts[0] for texts in sweeps]
    yield plain + firsts
    for i, texts in enumerate(sweeps):
        for text in texts[1:]:
            yield [*plain, *firsts[:i], text, *firsts[i + 1 :]]


def _composition_problems(job: str, texts: list[str], search: list[str]) -> Iterator[Problem]:
    """What is wrong with the values."""
    try:
        cfg = compose(job, overrides=[*texts, *search])
        wrong = [*_secret_problems(cfg), *settings.problems(job, cfg)]
    except (HydraException, OmegaConfBaseException) as error:
        wrong = [composition_problem(error)]
    if wrong:
        yield from wrong
        return
    if job == "classify" and cfg.data.path is not None:
        for text in texts:
            if text.lstrip("+").startswith("simulation"):
                yield Problem(
                    COMMAND_LINE,
                    f"{text} with data.path={cfg.data.path}",
                    "simulation settings only where particles are simulated",
                    "leave one of the two out",
                )


def _secret_problems(cfg: DictConfig) -> Iterator[Problem]:
    """Secrets in files of settings, where a run would write them down."""
    for key, value in leaves(OmegaConf.to_container(cfg, resolve=False)):
        is_secret = SECRET.search(key) and value is not None
        if is_secret or SECRET_VALUE.search(str(value)) or SECRET_ADDRESS.search(str(value)):
            yield _secret_problem(key)


def _secret_problem(key: str) -> Problem:
    return Problem(
        COMMAND_LINE,
        f"{key}, which looks like a secret",
        "secrets in the environment only: settings are written to files",
        "export WANDB_API_KEY or what the service reads, and leave it out",
    )


def composition_problem(error: Exception) -> Problem:
    """A configuration or object that Hydra could not put together, in Hydra's own words."""
    words, cause = str(error), str(error.__cause__ or "")
    plugin = re.search(r"Could not find 'hydra/(\w+)/(\w+)'", words)
    if plugin:
        extra = "slurm" if plugin[2].startswith("submitit") else "sweep"
        found, expected = f"hydra/{plugin[1]}={plugin[2]}", f"the {plugin[1]} to be installed"
        return Problem(COMMAND_LINE, found, expected, f"pip install 'cryo2d[{extra}]'")
    if cause not in words:
        words = f"{words} {cause}"
    return Problem(
        COMMAND_LINE,
        " ".join(words.split()).rstrip("."),
        "settings that fit together",
        "correct the setting that is named",
    )
