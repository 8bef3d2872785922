"""RELION's External job: its command line, and the files by which a job talks to the pipeline.

RELION calls ``PROGRAM --o External/job001/ --in_parts FILE --LABEL VALUE ... --j THREADS`` in the
project folder and looks into the output folder for ``RELION_JOB_EXIT_SUCCESS``, ``_FAILURE`` or
``_ABORTED``; its user asks for an end by ``RELION_JOB_ABORT_NOW``.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from cryo2d.errors import InputError, Problem
from cryo2d.jobs import settings
from cryo2d.jobs.settings import COMMAND_LINE

JOB = "relion"
ABORT = "RELION_JOB_ABORT_NOW"
SUCCESS, FAILURE, ABORTED = (f"RELION_JOB_EXIT_{end}" for end in ("SUCCESS", "FAILURE", "ABORTED"))
STOPPED = (130, 143)
"""Exit codes of a job that was told to stop."""

FOLDER = "--o"
ARGUMENTS: Mapping[str, str] = {
    FOLDER: "hydra.run.dir",
    "--in_parts": "data.path",
    "--j": "hardware.threads",
}
NEEDED = {FOLDER: "--o External/job001/", "--in_parts": "--in_parts particles.star"}
PIPELINE = "--pipeline_control"
"""Names the output folder once more."""

OTHER_INPUTS = ("--in_movies", "--in_mics", "--in_coords", "--in_3dref", "--in_mask")
INFORMATION = ("--help", "-h", "--hydra-help", "--cfg", "-c", "--info", "-i", "--version", "-sc")


def is_external(words: Sequence[str]) -> bool:
    """Whether a command line is a call by RELION, not a question about the job."""
    return words[:1] == [JOB] and not any(
        word.split("=")[0] in (*INFORMATION, "--shell-completion") for word in words
    )


def as_overrides(words: Sequence[str]) -> list[str]:
    """The command line of RELION as ``relion key=value ...``.

    A label is the name of a setting, its last part where no other ends so; without a value it is
    switched on.

    Args:
        words: what was typed, the job first.

    Raises:
        InputError: if the folder or the particles are missing, or an input is of another kind.
    """
    problems, given = [], []
    for label, value in _pairs(words[1:]):
        if label in OTHER_INPUTS:
            action = "leave it empty and give particles, with --in_parts"
            problems.append(Problem(COMMAND_LINE, label, "particles, --in_parts", action))
        elif label in ARGUMENTS and not value:
            expected = NEEDED.get(label, f"{label} with a value")
            problems.append(Problem(COMMAND_LINE, label, expected, "give the value"))
        elif not label:
            given.append(value)
        elif label != PIPELINE:
            given.append(_override(label, value))
    for label, example in NEEDED.items():
        if label not in words:
            found = f"no {label}"
            action = "start it as RELION's External job does, from the project folder"
            problems.append(Problem(COMMAND_LINE, found, example, action))
    if problems:
        raise InputError(problems)
    return [words[0], *given]


def _pairs(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Labels with their values; a word of its own, as any ``key=value``, has no label."""
    waiting = ""
    for word in words:
        if word.startswith("--"):
            if waiting:
                yield waiting, ""
            waiting, equals, value = word.partition("=")
            if equals:
                yield waiting, value
                waiting = ""
        elif waiting and "=" in word and waiting not in ARGUMENTS:
            yield waiting, ""
            yield "", word
            waiting = ""
        else:
            yield waiting, word
            waiting = ""
    if waiting:
        yield waiting, ""


def _override(label: str, value: str) -> str:
    """A label and its value as Hydra reads them."""
    if label in ARGUMENTS:
        text = value.replace("'", "\\'")
        quoted = value if label == "--j" else f"'{text}'"
        return f"{ARGUMENTS[label]}={quoted}"
    name = label.removeprefix("--")
    ends = [key for key in settings.SETTINGS[JOB] if key.rsplit(".", 1)[-1] == name]
    key = ends[0] if len(ends) == 1 and "." not in name else name
    return f"{key}={value or 'true'}"


@contextmanager
def marked(words: Sequence[str]) -> Iterator[None]:
    """Leave the mark of how the job ended in its folder; other jobs leave none.

    Args:
        words: what was typed, the job first.
    """
    folder = dict(_pairs(words[1:])).get(FOLDER) if is_external(words) else None
    if not folder:
        yield
        return
    place = Path(folder).absolute()
    for name in (SUCCESS, FAILURE, ABORTED):
        (place / name).unlink(missing_ok=True)
    end = FAILURE
    try:
        yield
        end = SUCCESS
    except SystemExit as stop:
        if not stop.code:
            end = SUCCESS
        elif stop.code in STOPPED:
            end = ABORTED
        raise
    finally:
        place.mkdir(parents=True, exist_ok=True)
        (place / ABORT).unlink(missing_ok=True)
        (place / end).touch()
