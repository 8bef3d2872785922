"""Settings that do not go together."""

from collections.abc import Iterator, Mapping
from typing import Any

from cryo2d.errors import Problem

COMMAND_LINE = "command line"

# How two settings compare where neither is null.
ORDERED = (
    ("data.window_inner", "<", "data.window_outer"),
    ("model.mask_diameter", "<", "model.mask_diameter_outer"),
    ("model.max_align_resolution", "<", "model.min_align_resolution"),
    ("simulation.defocus_min", "<=", "simulation.defocus_max"),
    ("simulation.num_optics_groups", "<=", "simulation.num_micrographs"),
)

# Switches that are part of another one.
PARTS = (
    ("model.non_negative", "model.clamp_solvent"),
    ("model.align_filaments", "model.align"),
)

# Settings that do nothing beside another: a key, its value that asks for nothing, the other key
# and whether that one is set.
IDLE = (
    ("model.recenter_binary", False, "model.recenter", False),
    ("model.full_frc", True, "model.frc_regularizer", False),
    ("model.local_regularizer", None, "model.clamp_solvent", True),
    ("model.initial_scale", 1, "model.initial_references", True),
    ("model.force_max", None, "model.align", False),
    ("model.max_shift", None, "model.align", False),
    ("model.shift_prior", True, "model.align", False),
    ("model.frc_regularizer", True, "optimizer.regularizer", True),
    ("model.full_frc", True, "optimizer.regularizer", True),
)


def conflicts(values: Mapping[str, Any]) -> Iterator[Problem]:
    """What is wrong between two settings, by dotted name."""
    for small, sign, large in ORDERED:
        low, high = values.get(small), values.get(large)
        if not isinstance(low, int | float) or not isinstance(high, int | float):
            continue
        if low > high or (sign == "<" and low == high):
            shown = f"{small}={low} and {large}={high}"
            yield Problem(COMMAND_LINE, shown, f"{small} {sign} {large}", "change one of them")
    yield from _filament_problems(values)
    yield from _idle_problems(values)
    for part, whole in PARTS:
        if values.get(part) is True and values.get(whole) is False:
            shown = f"{part}=true and {whole}=false"
            yield Problem(COMMAND_LINE, shown, f"{part} only with {whole}", f"add {whole}=true")


def _idle_problems(values: Mapping[str, Any]) -> Iterator[Problem]:
    """Settings that would change nothing because of another one."""
    for key, usual, other, is_set in IDLE:
        value, beside = values.get(key, usual), values.get(other)
        if key in values and value != usual and (beside not in (None, False)) == is_set:
            shown = f"{key}={as_typed(value)} and {other}={as_typed(beside)}"
            expected = f"{key}={as_typed(usual)} beside {other}={as_typed(beside)}"
            yield Problem(COMMAND_LINE, shown, expected, f"leave {key} out or change {other}")


def _filament_problems(values: Mapping[str, Any]) -> Iterator[Problem]:
    """Averages are turned upright in the second-last iteration; a full pass has to follow it."""
    online, full = (values.get(f"optimizer.{n}iterations") for n in ("", "full_"))
    if values.get("model.align_filaments") is not True or not isinstance(full, int):
        return
    if full < 1 or online == 0 and full < 2:
        yield Problem(
            COMMAND_LINE,
            f"model.align_filaments=true and optimizer.full_iterations={full}",
            "an iteration that turns the averages and a full one after it",
            f"set optimizer.full_iterations={full + 1}",
        )


def as_typed(value: object) -> str:
    """A value as it is typed on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
