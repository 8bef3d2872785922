import dataclasses
import re

import pytest
import shared
import torch

from cryo2d.training.companions import Companions, free_port
from cryo2d.training.ranks import ALONE, LostProcessError, packed, unpacked
from cryo2d.types import Assignments


def test_one_process_has_everything_itself():
    values = [torch.arange(3), torch.ones(2, dtype=torch.complex64)]
    assert all(a is b for a, b in zip(ALONE.total(values), values, strict=True))
    assert ALONE.gathered("this") == ["this"]
    assert ALONE.columns(values[0], [3])[0] is values[0]


def test_sums_and_rows_of_three_processes(tmp_path):
    work = shared.of("sums", 3, tmp_path)
    with Companions(3, work):
        work()
    for rank in range(3):
        (real, wave, number), gathered, columns = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(real, 3.0 * torch.arange(3) + 3.0)
        torch.testing.assert_close(wave, torch.complex(real, -real))
        assert float(number) == 3.0
        assert gathered == [{"rank": 0}, {"rank": 1}, {"rank": 2}]
        assert [part.tolist() for part in columns] == [[], [[1.0, 1.0]], [[2.0, 2.0]] * 2]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("killed", "process 2 of 2 was ended by SIGKILL"),
        ("without its files", r"process 2 of 2 has failed \(exit code 3\)"),
        ("silent", r"did not answer within 0:00:02: .*Rank(s|) 1 failed"),
    ],
)
def test_a_lost_process_is_named(how, said, capfd):
    work = shared.of("lost", 2, how)
    companions = Companions(2, work)
    with pytest.raises(LostProcessError, match=re.compile(said, re.S)), companions:
        work()
    assert not any(process.is_alive() for process in companions._started)
    cause = "cryo2d: process 2 of 2: particles.mrcs can no longer be read"
    assert (cause in capfd.readouterr().err) == (how == "without its files")


def test_rows_and_back():
    generator = torch.Generator().manual_seed(0)
    columns = {f.name: torch.rand(5, generator=generator) for f in dataclasses.fields(Assignments)}
    columns["class_index"] = torch.tensor([0, 3, 2, 99, 1 << 20])
    columns["shift"] = torch.rand((5, 2), generator=generator)
    back = unpacked(packed(Assignments(**columns)))
    for name, value in columns.items():
        assert torch.equal(getattr(back, name), value)
        assert getattr(back, name).dtype == value.dtype


@pytest.mark.slow
def test_runs_of_one_two_and_three_processes_end_the_same(tmp_path):
    from shared_run import fit

    fit(tmp_path / "1", (0, 60))
    whole = torch.load(tmp_path / "1" / "held0.pt")
    assert int(whole["visited"]) == 60
    work = shared.of("runs", tmp_path, {2: free_port(), 3: free_port()})
    with Companions(3, work):
        work()
    for size in (2, 3):
        parts = [torch.load(tmp_path / str(size) / f"held{rank}.pt") for rank in range(size)]
        for name, expected in whole.items():
            for part in parts[1:]:
                # every process holds the same, bit by bit
                assert torch.equal(part[name].nan_to_num(), parts[0][name].nan_to_num()), name
            scale = float(expected.abs().max())
            torch.testing.assert_close(
                parts[0][name], expected, atol=2e-4 * scale, rtol=0, equal_nan=True, msg=name
            )
        assert (tmp_path / str(size) / "checkpoints" / "last.safetensors").is_file()
