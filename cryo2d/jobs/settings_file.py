"""The settings that a run leaves in its folder: data to those who read them.

A folder may come from anybody. Nothing that it names is built (``_target_``) and nothing that it
refers to is looked up (``${...}``).
"""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cryo2d.errors import InputError, Problem
from cryo2d.io.atomic import atomic_write
from cryo2d.jobs.targets import TARGET

FILE = "config.yaml"
OVERRIDES = Path(".hydra", "overrides.yaml")
RESUME = "resume"
REFERENCE = "${"
MOST_BYTES, MOST_LEVELS = 1 << 18, 50
BUILDS = (TARGET, "_args_", REFERENCE)


def write_settings(cfg: DictConfig, folder: Path) -> None:
    """Write the settings of a run into its folder."""
    text = OmegaConf.to_yaml(cfg, resolve=True)
    with atomic_write(folder / FILE) as file:
        file.write(text.encode())


def read_settings(folder: Path) -> DictConfig | None:
    """The settings of a run, None if its folder has none.

    Raises:
        InputError: if they are no plain values.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    found = _plain(path)
    if not isinstance(found, dict):
        raise _refused(path, f"{type(found).__name__}", "settings by their names")
    return OmegaConf.create(found)


def read_overrides(folder: Path) -> list[str]:
    """What was typed to start a run.

    Raises:
        InputError: if it is no list of words.
    """
    path = folder / OVERRIDES
    if not path.is_file():
        return []
    found = _plain(path, references=True)
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise _refused(path, "something else", "a list of key=value")
    return found


def completed(typed: Sequence[str]) -> list[str]:
    """A command line with ``resume=RUN``, with what was typed to start that run before it.

    Raises:
        InputError: if that is more than plain values.
    """
    now = list(_parsed(typed))
    folder = _folder(now)
    if folder is None:
        return list(typed)
    again = {override.key_or_group for override in now}
    deleted = {
        override.key_or_group: override.input_line for override in now if override.is_delete()
    }
    before, problems, undone = [], [], set()
    for override in _parsed(read_overrides(folder)):
        text, key = override.input_line or "", override.key_or_group
        above = next((name for name in deleted if f"{key}.".startswith(f"{name}.")), None)
        if above is not None and override.is_add():
            # what the run added is not there to be deleted
            undone.add(deleted[above])
            continue
        if override.is_hydra_override() or key in again:
            continue
        if any(word in text for word in BUILDS):
            expected = "plain values in the folder of a run"
            action = "if you know what it does, type it once more beside resume="
            if override.is_add():
                action += f", or ~{key.removesuffix(f'.{TARGET}')} to leave it out"
            problems.append(Problem(str(folder / ".hydra"), text, expected, action))
        before.append(text)
    if problems:
        raise InputError(problems)
    return [*before, *(text for text in typed if text not in undone)]


def in_place(typed: Sequence[str]) -> list[str]:
    """What makes Hydra go on in the folder of ``resume=RUN``, unless another is named."""
    now = list(_parsed(typed))
    folder = _folder(now)
    if folder is None or any(one.key_or_group == "hydra.run.dir" for one in now):
        return []
    escaped = str(folder).replace("\\", "\\\\").replace("'", "\\'")
    return [f"hydra.run.dir='{escaped}'", "hydra.output_subdir=null"]


def _parsed(texts: Sequence[str]) -> Iterator[Override]:
    """The overrides that can be read; the others are reported elsewhere."""
    parser = OverridesParser.create()
    for text in texts:
        try:
            yield parser.parse_override(text)
        except HydraException:
            continue


def _folder(typed: Sequence[Override]) -> Path | None:
    named = [one.value() for one in typed if one.key_or_group == RESUME and not one.is_delete()]
    folder = Path(named[-1]) if named and isinstance(named[-1], str) else None
    return folder if folder is not None and folder.is_dir() else None


def leaves(node: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values; a list is a value."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield from leaves(value, f"{above}.{name}" if above else str(name))
    else:
        yield above, node


def as_text(value: Any) -> str:
    """A value as it is typed; 1 is not true."""
    words = {None: "null", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else str(value)


def load(path: Path) -> Any:
    """What a YAML file of a run's folder holds, nothing built and nothing looked up.

    Raises:
        InputError: if it cannot be read; if it is longer or deeper than settings are, or refers to
            parts of itself, by which a few bytes could fill the memory.
    """
    try:
        with path.open("rb") as file:
            text = file.read(MOST_BYTES + 1)
        if len(text) > MOST_BYTES:
            raise _refused(path, f"more than {MOST_BYTES} bytes")
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise _refused(path, f"*{event.anchor}, a part that is named elsewhere")
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > MOST_LEVELS:
                raise _refused(path, f"more than {MOST_LEVELS} levels")
        return OmegaConf.load(io.BytesIO(text))
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, OSError) as error:
        if isinstance(error, InputError):
            raise
        raise _refused(path, f"what cannot be read ({str(error).splitlines()[0]})") from error


def _plain(path: Path, *, references: bool = False) -> Any:
    """The content of a YAML file as dictionaries, lists and values."""
    found = OmegaConf.to_container(load(path), resolve=False)
    if not references:
        for key, value in leaves(found):
            if REFERENCE in str(value):
                raise _refused(path, f"{key}={value}")
    return found


def _refused(path: Path, found: str, expected: str = "plain values") -> InputError:
    return InputError([Problem(str(path), found, expected, "use the folder of your own run")])
