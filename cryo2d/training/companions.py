"""The processes that a run starts besides its own."""

import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Self

import torch
from torch import distributed

from cryo2d.errors import EnvironmentFault, InputError
from cryo2d.training.ranks import LostProcessError

TERMINATED = 143
PATIENCE = 5.0  # time that a process which failed has to end (s)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Companions:
    """The other processes of a run on this machine, for as long as it lasts.

    Args:
        size: processes of the run; none is started for 1.
        work: what they do, which has to be picklable; it goes on in each as in this process.
    """

    def __init__(self, size: int, work: Callable[[], object]) -> None:
        self.size, self.work = size, work
        self._started: list[BaseProcess] = []
        self._before: dict[str, str | None] = {}

    def __enter__(self) -> Self:
        if self.size == 1:
            return self
        port = str(free_port())
        for rank in range(1, self.size):
            self._tell({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "LOCAL_RANK": str(rank)})
            # not forked: threads and GPUs do not survive that
            context = torch.multiprocessing.get_context("spawn")
            process = context.Process(target=_follow, args=(self.work, self.size), daemon=True)
            process.start()
            self._started.append(process)
        # Lightning then starts none of its own
        self._tell({"LOCAL_RANK": "0", "NODE_RANK": "0"})
        return self

    def _tell(self, values: dict[str, str]) -> None:
        for name, value in values.items():
            self._before.setdefault(name, os.environ.get(name))
            os.environ[name] = value

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Wait for them; end them if this process has failed.

        Raises:
            LostProcessError: if this process failed because another one had ended.
        """
        for name, before in self._before.items():
            if before is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = before
        if not self._started:
            return
        # a lost process shows as an error of whatever was said to it last
        ours = isinstance(error, EnvironmentFault) and not isinstance(error, LostProcessError)
        ended = self._ended() if isinstance(error, RuntimeError) and not ours else ""
        for process in self._started:
            if error is not None:
                process.terminate()
            process.join(PATIENCE)
            if process.is_alive():
                process.kill()
                process.join()
        if distributed.is_initialized():
            distributed.destroy_process_group()
        if ended:
            raise LostProcessError(ended) from error

    def _ended(self) -> str:
        """Which processes have ended, and how."""
        wait([process.sentinel for process in self._started], PATIENCE)
        # what has closed its connections may take a moment more to end
        for process in self._started:
            process.join(0.2)
        causes = [
            f"process {rank} of {self.size} {_cause(process.exitcode)}"
            for rank, process in enumerate(self._started, start=2)
            if process.exitcode is not None
        ]
        return "; ".join(causes)


def _cause(code: int | None) -> str:
    """What an exit code says."""
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        hint = ", as when memory runs out" if name == "SIGKILL" else ""
        return f"was ended by {name}{hint}"
    return f"has failed (exit code {code})"


def _follow(work: Callable[[], object], size: int) -> None:
    """Do the work of one process and exit with the code of its error."""
    # what there is to say the first process says
    logging.disable(logging.WARNING)
    # it hears the user and ends this one
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(TERMINATED))
    try:
        work()
    except (LostProcessError, InputError) as error:
        # the first process says so too
        sys.exit(error.exit_code)
    except EnvironmentFault as error:
        rank = int(os.environ["LOCAL_RANK"])
        sys.stderr.write(f"cryo2d: process {rank + 1} of {size}: {error}\n")
        sys.exit(error.exit_code)
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()
