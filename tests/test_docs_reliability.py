"""The table of faults tells the truth: every test that it names exists."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reliability.md"
ROW = re.compile(r"^\| *([A-Z]\d+) *\|(.+)\|(.+)\|(.+)\|$", re.MULTILINE)
NAMED = re.compile(r"(tests/[\w/]+\.py)::(test_\w+)")


def rows() -> list[tuple[str, ...]]:
    """Id, fault, what happens, tests."""
    found = ROW.findall(PAGE.read_text(encoding="utf-8"))
    return [tuple(cell.strip() for cell in row) for row in found]


@cache
def functions_of(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    functions = (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef))
    return {function.name for function in functions if function.name.startswith("test_")}


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_each_row_names_tests_that_exist(row):
    identity, fault, happens, tests = row
    assert fault
    assert happens
    named = NAMED.findall(tests)
    assert named, "no test"
    for file, test in named:
        assert (ROOT / file).is_file(), file
        assert test in functions_of(file), f"{file}::{test}"
    assert not NAMED.sub("", tests).strip(" ,"), "something that is no test"


def test_every_row_of_the_tables_is_one_of_these():
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    table = [line for line in lines if line.startswith("|") and not line.startswith("|---")]
    heads = [line for line in table if line.startswith("| id ")]
    assert len(table) == len(heads) + len(rows())
    found = [row[0] for row in rows()]
    assert len(found) == len(set(found))
    assert found == sorted(found, key=lambda name: (name[0], int(name[1:])))
