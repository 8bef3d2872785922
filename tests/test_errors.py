import pickle

import pytest

from cryo2d.errors import InputError, Problem


def test_a_problem_names_everything() -> None:
    text = str(Problem("p.star", "11 values", "12 columns", "repair the row", row=57))
    assert text == "p.star, line 57: found 11 values; expected 12 columns. Do: repair the row."


def test_a_table_has_rows_and_a_text_lines() -> None:
    assert "p.cs, row 3:" in str(Problem("p.cs", "a", "b", "c", row=3))
    assert "p.star, line 3:" in str(Problem("p.star", "a", "b", "c", row=3))


def test_the_report_shows_twenty_and_counts_the_rest() -> None:
    problems = [Problem(f"{i}.mrcs", "nothing", "a stack", "copy it") for i in range(25)]
    report = str(InputError(problems))
    assert report.startswith("25 problems")
    assert "20. 19.mrcs" in report
    assert "20.mrcs" not in report
    assert report.endswith("and 5 more.")


def test_an_input_error_is_a_value_error_and_travels_between_processes() -> None:
    error = InputError([Problem("a", "b", "c", "d", count=3)])
    assert isinstance(error, ValueError)
    assert error.exit_code == 2
    again = pickle.loads(pickle.dumps(error))
    assert again.problems == error.problems
    with pytest.raises(AssertionError):
        InputError([])
