from pathlib import Path

import numpy as np
import pytest

from cryo2d.io.mrc import write_stack
from cryo2d.io.stacks import find_stacks, output_names, read_headers

ONE = np.zeros((1, 8, 8), np.float32)


def make(path: Path) -> str:
    write_stack(path, ONE, 1.0)
    return str(path)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "project" / "Select" / "job5").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "project"


def test_the_order_in_which_a_stack_is_looked_for(project: Path, tmp_path: Path) -> None:
    star = project / "Select" / "job5" / "particles.star"
    name = "Extract/a.mrcs"
    # From the last resort to the first choice: each new file must win over those before it.
    places = [
        star.parent / "a.mrcs",
        project / name,
        project / "Select" / name,
        tmp_path / "elsewhere" / name,
        star.parent / name,
    ]
    assert find_stacks(star, [name]).missing == (0,)
    for place in places:
        make(place)
        assert find_stacks(star, [name]).paths == (str(place),)
    absolute = make(tmp_path / "b.mrcs")
    assert find_stacks(star, [absolute]).paths == (absolute,)


def test_a_moved_absolute_path_is_found_by_its_base_name(project: Path) -> None:
    beside = make(project / "a.mrcs")
    assert find_stacks(project / "p.star", ["/old/disk/a.mrcs"]).paths == (beside,)


def test_a_base_name_that_two_stacks_share_is_refused(project: Path) -> None:
    make(project / "a.mrcs")
    found = find_stacks(project / "p.star", ["x/a.mrcs", "y/a.mrcs"])
    assert found.missing == (0, 1)
    assert all("shares its base name" in p.found for p in found.problems)


def test_missing_stacks_are_one_problem_with_the_places(project: Path) -> None:
    make(project / "here.mrcs")
    names = ["here.mrcs", *(f"gone/{i}.mrcs" for i in range(30))]
    (problem,) = find_stacks(project / "p.star", names).problems
    assert "30 of 31 image stacks missing: gone/0.mrcs" in problem.found
    for place in (project, Path.cwd(), project.parent):
        assert str(place) in problem.expected


def test_names_that_no_file_can_have(project: Path) -> None:
    found = find_stacks(project / "p.star", ["", "a\0b", "x" * 5000, "/", "."])
    assert found.missing == (0, 1, 2, 3, 4)


def test_boxes_must_be_square_and_even(tmp_path: Path) -> None:
    for name, shape in {"a": (1, 8, 6), "b": (1, 7, 7), "c": (1, 8, 8)}.items():
        write_stack(tmp_path / f"{name}.mrcs", np.zeros(shape, np.float32), 1.0)
    headers = read_headers([str(tmp_path / f"{name}.mrcs") for name in "abc"])
    assert [p.expected for p in headers.problems] == ["square images", "an even box size"]


def test_output_names_stay_where_they_lead_to_the_stack(project: Path, tmp_path: Path) -> None:
    path = make(project / "Extract" / "a.mrcs")
    names = ["Extract/a.mrcs", path, "a.mrcs", "gone.mrcs"]
    paths = [path, path, path, "gone.mrcs"]
    inside = output_names(paths, names, project / "Class2D" / "run")
    assert inside == ["Extract/a.mrcs", path, path, "gone.mrcs"]
    outside = output_names(paths, names, tmp_path / "elsewhere")
    assert outside == [path, path, path, "gone.mrcs"]
