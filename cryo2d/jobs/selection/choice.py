"""Which classes are chosen: by their numbers, or by a rule over their measures."""

from collections.abc import Mapping, Sequence

import numpy as np

from cryo2d.errors import InputError, Problem
from cryo2d.jobs.expressions import parse


def by_rule(rule: str, measures: Mapping[str, np.ndarray]) -> np.ndarray:
    """Classes that follow a rule such as ``resolution < 12 and count > 200`` ``[k]`` (bool).

    Args:
        rule: text of :mod:`cryo2d.jobs.expressions`.
        measures: values of each class ``[k]``.

    Raises:
        InputError: for a rule that is not understood.
    """
    return parse(rule, list(measures))(measures)


def by_number(numbers: Sequence[int], count: int) -> np.ndarray:
    """Classes with these 1-based numbers ``[k]`` (bool).

    Raises:
        InputError: for a number that no class has.
    """
    wrong = sorted({number for number in numbers if not 1 <= number <= count})
    if wrong:
        found = f"classes={wrong}"
        raise InputError([Problem("command line", found, f"1 to {count}", "correct the numbers")])
    mask = np.zeros(count, bool)
    mask[np.array(numbers, np.int64) - 1] = True
    return mask


def numbers_of(mask: np.ndarray) -> list[int]:
    """The 1-based numbers of the chosen classes."""
    return [int(k) + 1 for k in np.flatnonzero(mask)]
