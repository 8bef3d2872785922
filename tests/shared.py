"""Work for several processes: each runs what the tests give to all of them."""

import os
import time
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
from torch import distributed

from cryo2d.errors import EnvironmentFault
from cryo2d.training.ranks import Ranks


def connected(size: int, timeout: float = 120.0) -> Ranks:
    """This process among the others, without Lightning."""
    rank = int(os.environ["LOCAL_RANK"])
    # they start as slowly as the machine is busy
    patient = timedelta(minutes=3)
    distributed.init_process_group("gloo", rank=rank, world_size=size, timeout=patient)
    return Ranks(rank, size, timedelta(seconds=timeout))


def sums(size: int, folder: Path) -> None:
    """Add up, gather and exchange rows; write what this process has received."""
    ranks = connected(size)
    own = torch.arange(3.0) + ranks.rank
    wave = torch.complex(own, -own)
    total = ranks.total([own, wave, torch.tensor([ranks.rank])])
    gathered = ranks.gathered({"rank": ranks.rank})
    rows = torch.full((ranks.rank, 2), float(ranks.rank))
    columns = ranks.columns(rows, list(range(size)))
    torch.save((total, gathered, columns), folder / f"{ranks.rank}.pt")


def lost(size: int, how: str) -> None:
    """Meet once; then one process ends, fails, or says nothing more."""
    ranks = connected(size, timeout=2.0 if how == "silent" else 120.0)
    ranks.meet()
    if ranks.rank == size - 1:
        if how == "killed":
            os.kill(os.getpid(), 9)
        if how == "without its files":
            raise EnvironmentFault("particles.mrcs can no longer be read")
        time.sleep(60)
    ranks.meet()


def runs(folder: Path, ports: dict[int, int]) -> None:
    """Classify by three processes, the last of them without particles, and then by two."""
    from shared_run import fit

    here = int(os.environ["LOCAL_RANK"])
    for size, bounds in ((3, (0, 50, 60, 60)), (2, (0, 30, 60))):
        if here < size:
            os.environ["MASTER_PORT"] = str(ports[size])
            fit(folder / str(size), bounds)
            distributed.destroy_process_group()


work = {"sums": sums, "lost": lost, "runs": runs}


def of(name: str, *given: object) -> partial[None]:
    """One of these to be done by every process."""
    return partial(work[name], *given)
