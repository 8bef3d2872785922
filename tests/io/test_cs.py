import contextlib
from pathlib import Path

import numpy as np
import pytest
from cryosparc.dataset import CSDAT_FORMAT, NUMPY_FORMAT, Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from cryo2d.errors import InputError
from cryo2d.io.cs import build, read_array, read_cs, write_array


def particles(count: int = 5, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return build(
        {
            "uid": rng.permutation(1000)[:count].astype("<u8") + 2**60,
            "blob/path": np.array([b">J1/a.mrc", b"J1/long/name.mrc"])[np.arange(count) % 2],
            "blob/idx": np.arange(count, dtype="<u4"),
            "alignments2D/shift": rng.normal(size=(count, 2)).astype("<f4"),
        },
        count,
    )


def save(path: Path, array: np.ndarray) -> Path:
    with path.open("wb") as file:
        write_array(file, array)
    return path


@pytest.mark.parametrize("kind", [NUMPY_FORMAT, CSDAT_FORMAT])
def test_files_of_cryosparc_tools_read(tmp_path: Path, kind: int) -> None:
    array = particles()
    path = str(tmp_path / "a.cs")
    Dataset(array).save(path, format=kind)
    got = read_array(path)
    assert set(got.dtype.names) == set(array.dtype.names)
    for name in array.dtype.names:
        np.testing.assert_array_equal(got[name], array[name])


def test_our_files_read_in_cryosparc_tools(tmp_path: Path) -> None:
    array = particles()
    dataset = Dataset.load(str(save(tmp_path / "a.cs", array)))
    for name in array.dtype.names:
        np.testing.assert_array_equal(dataset[name].astype(array[name].dtype), array[name])


def test_many_fields(tmp_path: Path) -> None:
    array = build({f"alignments_class_{i}/pose": np.zeros(2, "<f4") for i in range(2000)}, 2)
    assert len(read_array(save(tmp_path / "a.cs", array)).dtype.names) == 2000


def test_passthrough_is_joined_by_uid(tmp_path: Path) -> None:
    array = particles()
    order = np.array([3, 1, 4, 0, 2])
    other = build(
        {"uid": array["uid"][order], "ctf/df1_A": order.astype("<f4"), "blob/idx": order}, 5
    )
    path = save(tmp_path / "a.cs", array)
    got = read_cs(path, [save(tmp_path / "p.cs", other)])
    np.testing.assert_array_equal(got["ctf/df1_A"], np.arange(5))
    np.testing.assert_array_equal(got["blob/idx"], array["blob/idx"])


def test_passthrough_of_other_particles_is_refused_with_counts(tmp_path: Path) -> None:
    array, other = particles(8), particles(8)
    path = save(tmp_path / "a.cs", array[:6])
    with pytest.raises(InputError, match="1 of 6 particles of .*, 3 of its 8 not"):
        read_cs(path, [save(tmp_path / "p.cs", np.concatenate([other[:5], _strangers(3)]))])
    with pytest.raises(InputError, match="6 of 6 particles"):
        read_cs(path, [save(tmp_path / "p.cs", other[:0])])


def _strangers(count: int) -> np.ndarray:
    array = particles(count)
    array["uid"] = np.arange(count)
    return array


@pytest.mark.parametrize("twice", ["main", "passthrough"])
def test_a_repeated_uid_is_refused(tmp_path: Path, twice: str) -> None:
    array = particles()
    repeated = array.copy()
    repeated["uid"][1] = repeated["uid"][0]
    pair = (repeated, array) if twice == "main" else (array, repeated)
    paths = [save(tmp_path / f"{i}.cs", a) for i, a in enumerate(pair)]
    with pytest.raises(InputError, match="1 uid repeated"):
        read_cs(paths[0], paths[1:])


def test_damaged_files_say_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "a.cs"
    whole = save(path, particles()).read_bytes()
    cases = {
        b"": "starting with b''",
        b"version https://git-lfs.github.com/spec/v1\noid": "Git LFS pointer",
        b"\x80\x04\x95": "pickle",
        whole[:-1]: "4 of 5 rows",
        whole[:60]: "damaged header",
        b"\x95CSDAT" + bytes(40): "compressed .cs that cannot be read",
        b"hello": "starting with b'hello'",
    }
    for data, message in cases.items():
        path.write_bytes(data)
        with pytest.raises(InputError, match=message):
            read_array(path)
    with path.open("wb") as file:
        np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="Python objects"):
        read_array(path)
    with path.open("wb") as file:
        np.save(file, np.zeros((3, 3)))
    with pytest.raises(InputError, match="plain array"):
        read_array(path)
    with pytest.raises(InputError, match="no such file"):
        read_array(tmp_path / "none.cs")


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 300), st.binary(min_size=1, max_size=8))
def test_any_damage_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, place: int, junk: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.cs"
    data = save(path, particles()).read_bytes()
    path.write_bytes(data[:place] + junk + data[place + len(junk) :])
    with contextlib.suppress(InputError):
        read_array(path)
