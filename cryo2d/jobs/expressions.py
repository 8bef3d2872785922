"""Rules over columns, as users write them: ``class_posterior > 0.5 and not shift >= 30``.

The text is parsed by Python's own grammar and walked by hand; it is never evaluated as code. A
rule may hold comparisons (also chained and ``in [1, 2]``), ``and``, ``or``, ``not``, parentheses,
numbers and names of columns, and nothing else.
"""

import ast
import difflib
import keyword
import operator
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from cryo2d.errors import InputError, Problem

MOST_CHARACTERS = 2000
MOST_NUMBER = 1e300
GRAMMAR = "comparisons of columns and numbers, joined by and, or, not and parentheses"

_COMPARISONS: Mapping[type[ast.cmpop], Callable[..., np.ndarray]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
# What a column may be called although Python keeps the word for itself.
_KEYWORDS = re.compile(rf"\b({'|'.join(set(keyword.kwlist) - {'and', 'or', 'not', 'in', 'is'})})\b")


class _Refused(ValueError):
    """Part of a rule that is not understood: what was found, expected, and what to do."""


@dataclass(frozen=True)
class Expression:
    """A rule, ready to be applied to columns.

    Attributes:
        text: the rule as it was written.
        names: the columns it reads, in order of appearance.
    """

    text: str
    names: tuple[str, ...]
    _tree: ast.expr

    def __call__(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """Whether each row follows the rule ``[n]`` (bool).

        A comparison with a missing value (nan) is false.

        Args:
            columns: at least those in ``names``, ``[n]`` each.
        """
        shape = next(iter(columns.values())).shape
        return np.broadcast_to(_truth(self._tree, columns), shape).copy()

    def conjuncts(self) -> tuple["Expression", ...]:
        """The rules that ``and`` joins on the outside, or this one alone."""
        whole = isinstance(self._tree, ast.BoolOp) and isinstance(self._tree.op, ast.And)
        trees = self._tree.values if whole else [self._tree]  # type: ignore[attr-defined]
        return tuple(Expression(_written(tree), tuple(_names(tree)), tree) for tree in trees)

    def limits(self) -> dict[str, list[float]]:
        """The numbers that each column is compared with."""
        found: dict[str, list[float]] = {}
        for node in ast.walk(self._tree):
            if isinstance(node, ast.Compare):
                sides = [node.left, *node.comparators]
                for one, other in pairwise(sides):
                    for name, value in ((one, other), (other, one)):
                        number = _number(value)
                        if isinstance(name, ast.Name) and number is not None:
                            found.setdefault(_column(name), []).append(number)
        return found


def parse(text: str, names: Collection[str], *, setting: str = "rules") -> Expression:
    """Understand a rule.

    Args:
        text: the rule.
        names: columns that it may use.
        setting: where it was written, for the message.

    Raises:
        InputError: if it holds anything but comparisons of these columns with numbers.
    """
    used: dict[str, None] = {}
    try:
        tree = _tree_of(text)
        _check_truth(tree, names, used)
        if not used:
            raise _Refused("no column", "a rule over columns", f"use {', '.join(sorted(names))}")
    except _Refused as refused:
        found, expected, action = refused.args
        raise InputError([Problem(f"{setting}={text!r}", found, expected, action)]) from refused
    return Expression(text, tuple(used), tree)


def _tree_of(text: str) -> ast.expr:
    if len(text) > MOST_CHARACTERS:
        raise _Refused(
            f"{len(text)} characters", f"at most {MOST_CHARACTERS}", "write a shorter rule"
        )
    try:
        return ast.parse(_KEYWORDS.sub(r"\1_", text.strip()), mode="eval").body
    except SyntaxError as error:
        around = (error.text or text).strip()[:60]
        raise _Refused(f"{error.msg} at {around!r}", GRAMMAR, "correct the rule") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise _Refused("text that cannot be read", GRAMMAR, "correct the rule") from error


def _check_truth(node: ast.expr, names: Collection[str], used: dict[str, None]) -> None:
    """Refuse a node that is not true or false."""
    if isinstance(node, ast.BoolOp):
        for part in node.values:
            _check_truth(part, names, used)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        _check_truth(node.operand, names, used)
    elif isinstance(node, ast.Compare):
        _check_value(node.left, names, used)
        for comparison, right in zip(node.ops, node.comparators, strict=True):
            if isinstance(comparison, ast.In | ast.NotIn) and len(node.ops) == 1:
                if _numbers(right) is None:
                    raise _Refused(ast.unparse(node), "a list of numbers", "write in [1, 2]")
                continue
            if type(comparison) not in _COMPARISONS:
                raise _Refused(ast.unparse(node), GRAMMAR, "compare with < <= > >= == or !=")
            _check_value(right, names, used)
    else:
        shown = ast.unparse(node)
        raise _Refused(shown, GRAMMAR, f"write a comparison such as {sorted(names)[0]} > 0.5")


def _check_value(node: ast.expr, names: Collection[str], used: dict[str, None]) -> None:
    """Refuse a node that is neither a number nor a column."""
    if _number(node) is not None:
        return
    if not isinstance(node, ast.Name):
        raise _Refused(ast.unparse(node), "a column or a number on each side", "write it so")
    name = _column(node)
    if name not in names:
        near = difflib.get_close_matches(name, sorted(names), 3)
        known = ", ".join(sorted(names))
        expected = f"{' or '.join(near)}, or another of {known}" if near else f"one of {known}"
        raise _Refused(f"the column {name}", expected, "correct the name")
    used[name] = None


def _number(node: ast.expr) -> float | None:
    sign = 1.0
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        sign, node = (-1.0 if isinstance(node.op, ast.USub) else 1.0), node.operand
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        value = node.value
        assert isinstance(value, int | float)
        return sign * float(value) if value < MOST_NUMBER else None
    return None


def _numbers(node: ast.expr) -> list[float] | None:
    """The entries of a list of numbers."""
    if not isinstance(node, ast.List | ast.Tuple | ast.Set):
        return None
    found = [_number(item) for item in node.elts]
    numbers = [number for number in found if number is not None]
    return numbers if len(numbers) == len(found) else None


def _column(node: ast.Name) -> str:
    """The name as it was written: a keyword of Python has lost its underscore again."""
    bare = node.id.removesuffix("_")
    return bare if keyword.iskeyword(bare) else node.id


def _names(tree: ast.expr) -> dict[str, None]:
    return {_column(node): None for node in ast.walk(tree) if isinstance(node, ast.Name)}


def _written(tree: ast.expr) -> str:
    """A rule as text, keywords of Python as they were written."""
    return re.sub(
        r"\b([a-z]+)_\b", lambda m: m[1] if keyword.iskeyword(m[1]) else m[0], ast.unparse(tree)
    )


def _truth(node: ast.expr, columns: Mapping[str, np.ndarray]) -> np.ndarray:
    if isinstance(node, ast.BoolOp):
        parts = [_truth(part, columns) for part in node.values]
        return (np.logical_and if isinstance(node.op, ast.And) else np.logical_or).reduce(parts)
    if isinstance(node, ast.UnaryOp):
        return np.logical_not(_truth(node.operand, columns))
    assert isinstance(node, ast.Compare)
    left = _value(node.left, columns)
    result = np.array(True)
    for comparison, other in zip(node.ops, node.comparators, strict=True):
        if isinstance(comparison, ast.In | ast.NotIn):
            listed = _numbers(other)
            assert listed is not None
            inside = np.isin(left, listed)
            known = ~np.isnan(left)
            return result & known & (inside if isinstance(comparison, ast.In) else ~inside)
        right = _value(other, columns)
        known = ~(np.isnan(left) | np.isnan(right))
        result = result & known & _COMPARISONS[type(comparison)](left, right)
        left = right
    return result


def _value(node: ast.expr, columns: Mapping[str, np.ndarray]) -> np.ndarray:
    number = _number(node)
    if number is not None:
        return np.asarray(number)
    assert isinstance(node, ast.Name)
    return np.asarray(columns[_column(node)], dtype=np.float64)
