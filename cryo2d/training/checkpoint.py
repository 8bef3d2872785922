"""The state of a run in a file that holds numbers and text, and nothing that could be run.

A safetensors file: the arrays, and in its header everything else as JSON with a hash over both.
Whoever opens it builds no object but those; a file that was cut, changed or is of another kind is
refused.
"""

import hashlib
import json
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric.plugins import CheckpointIO
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from cryo2d.io.atomic import atomic_write

FORMAT = "1"
FACTS = "cryo2d"
"""Key of what the program itself wants to know again, beside Lightning's."""

IN_MEMORY = "in memory"
"""Storage option of a checkpoint that is held and not written."""


class DamagedCheckpointError(ValueError):
    """A checkpoint that is not as it was written."""


class CheckpointFiles(CheckpointIO):
    """Lightning's reading and writing of checkpoints.

    Lightning's own goes through the system's temporary folder, which is no single step between two
    disks, and through pickle.

    Args:
        facts: plain values that every file carries beside the state of the run.
    """

    def __init__(self, facts: Mapping[str, Any]) -> None:
        self.facts = dict(facts)
        self._held: tuple[Path, dict[str, Any]] | None = None

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write a file whole or not at all, or hold it in place of an earlier one of that name.

        Raises:
            EnvironmentFault: if it cannot be written.
        """
        state = {**checkpoint, FACTS: self.facts}
        if storage_options == IN_MEMORY:
            self._held = Path(path), deepcopy(state)
            return
        write_state(Path(path), state)
        self._held = None

    def write_held(self) -> bool:
        """Write the checkpoint that is held in memory alone; whether there was any.

        Raises:
            EnvironmentFault: if it cannot be written.
        """
        if self._held is None:
            return False
        write_state(*self._held)
        self._held = None
        return True

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a file; every tensor is on the CPU.

        Raises:
            DamagedCheckpointError: if it is not as it was written.
        """
        return read_state(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a file."""
        Path(path).unlink(missing_ok=True)


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write nested dictionaries and lists of tensors, numbers and text.

    Raises:
        EnvironmentFault: if the file cannot be written.
        TypeError: for a value of another kind.
    """
    arrays: dict[str, np.ndarray] = {}
    text = json.dumps(_plain(state, arrays, "state"))
    header = {"format": FORMAT, "state": text, "sha256": checkpoint_digest(text, arrays)}
    with atomic_write(path) as file:
        # one entry: several would stand in no fixed order
        file.write(save(arrays, {FACTS: json.dumps(header)}))


def read_state(path: Path) -> dict[str, Any]:
    """What :func:`write_state` has written.

    Raises:
        DamagedCheckpointError: if the file is not as it was written.
    """
    try:
        with safe_open(path, framework="np") as file:
            header = json.loads((file.metadata() or {}).get(FACTS, "{}"))
            found = header.get("format", "none") if isinstance(header, dict) else "none"
            if found != FORMAT:
                raise DamagedCheckpointError(f"its format is {found}, not {FORMAT}")
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        text = str(header.get("state", ""))
        if checkpoint_digest(text, arrays) != header.get("sha256"):
            raise DamagedCheckpointError("its content does not match its checksum")
        state = _whole(json.loads(text), arrays)
    except DamagedCheckpointError:
        raise
    except SafetensorError as error:
        raise DamagedCheckpointError(f"it is cut or no checkpoint ({error})") from error
    except OSError as error:
        raise DamagedCheckpointError(f"it cannot be read ({error.strerror or error})") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedCheckpointError(f"its header is damaged ({type(error).__name__})") from error
    if not isinstance(state, dict):
        raise DamagedCheckpointError("it holds no state of a run")
    return state


def checkpoint_digest(text: str, arrays: Mapping[str, np.ndarray]) -> str:
    """Hash over everything that a checkpoint holds: its text and its arrays."""
    found = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        array = arrays[name]
        found.update(f"\n{name} {array.dtype.str} {array.shape}\n".encode())
        found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def _plain(value: Any, arrays: dict[str, np.ndarray], name: str) -> Any:
    """A value as JSON: tensors by name, dictionaries as pairs, because their keys may be numbers.

    Args:
        value: what to write.
        arrays: gets the tensors.
        name: of this value.
    """
    if isinstance(value, torch.Tensor):
        arrays[name] = value.detach().cpu().contiguous().numpy()
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"dict": [[k, _plain(v, arrays, f"{name}.{k}")] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        return [_plain(v, arrays, f"{name}.{i}") for i, v in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{name} is {type(value).__name__}, which a checkpoint does not keep")


def _whole(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """The value that :func:`_plain` was given."""
    if isinstance(value, list):
        return [_whole(one, arrays) for one in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return torch.from_numpy(arrays[value["tensor"]])
    return {key: _whole(one, arrays) for key, one in value["dict"]}
