"""Damaged inputs, and what may come out: a table that accounts for every row, or InputError.

Each target takes the bytes of one input, reads it as a run would, and lets any other error through.
"""

import gzip
import io
import json
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
import torch
from cryosparc.dataset import CSDAT_FORMAT, Dataset
from hypothesis import strategies as st
from particle_files import COUNT, cs_array, old_star
from safetensors.numpy import save

from cryo2d.cli import config_dir
from cryo2d.data.reader import iterate
from cryo2d.errors import InputError
from cryo2d.io.cs import write_array
from cryo2d.io.mrc import write_stack
from cryo2d.io.particles import ParticleTable, read_particles, write_particles
from cryo2d.jobs import overrides, record, settings_file
from cryo2d.training.checkpoint import (
    FACTS,
    FORMAT,
    DamagedCheckpointError,
    checkpoint_digest,
    read_state,
    write_state,
)

BOX = 16
Target = Callable[[bytes], None]


@cache
def folder() -> Path:
    """A folder with the stack that the metadata name, gone when the process ends."""
    kept = tempfile.TemporaryDirectory(prefix="cryo2d-fuzz-")
    _kept.append(kept)
    path = Path(kept.name)
    images = np.random.default_rng(0).normal(size=(COUNT, BOX, BOX)).astype(np.float32)
    write_stack(path / "stack.mrcs", images, 1.5)
    return path


_kept: list[tempfile.TemporaryDirectory[str]] = []


def _consistent(table: ParticleTable) -> None:
    """What everything behind the readers relies on."""
    count = len(table)
    assert count
    assert (table.image_index >= 0).all()
    assert ((table.stack_id >= 0) & (table.stack_id < len(table.stacks))).all()
    assert ((table.optics >= 0) & (table.optics < len(table.optics_names))).all()
    assert np.isfinite(table.pixel_size).all()
    assert set(np.unique(table.sign)) <= {-1.0, 1.0}
    if table.ctf is not None:
        assert all(np.isfinite(values).all() for values in vars(table.ctf).values())


def _read_and_written(name: str, data: bytes, rows: int | None = None) -> None:
    """Read metadata; if that succeeds, write both formats and read them back."""
    path = folder() / name
    path.write_bytes(data)
    for require_ctf in (True, False):
        try:
            table, excluded = read_particles(path, require_ctf=require_ctf)
        except InputError:
            continue
        _consistent(table)
        for ending in ("star", "cs"):
            out = folder() / f"out.{ending}"
            write_particles(out, table)
            again, beyond = read_particles(out, require_ctf=table.ctf is not None)
            assert len(again) + len(beyond.table) == len(table)
        assert len(table) + len(excluded.table) > 0


def star(data: bytes) -> None:
    """A star file."""
    _read_and_written("fuzz.star", data)


def cs(data: bytes) -> None:
    """A .cs file."""
    _read_and_written("fuzz.cs", data)


def mrc(data: bytes, name: str = "fuzz.mrcs") -> None:
    """A stack of images, every one of them read or accounted for."""
    path = folder() / name
    path.write_bytes(data)
    try:
        table, excluded = read_particles(path, require_ctf=False, pixel_size=1.0)
    except InputError:
        return
    found = [len(chunk.rows) + len(chunk.bad) for chunk in iterate(table, threads=1)]
    assert sum(found) == len(table)
    assert len(table) + len(excluded.table) > 0


def compressed(data: bytes) -> None:
    """A stack in gzip."""
    mrc(data, "fuzz.mrcs.gz")


def settings(data: bytes) -> None:
    """Words of a command line, one on each line."""
    texts = data.decode("utf-8", errors="surrogateescape").split("\n")
    try:
        typed = overrides.gathered("classify", [text for text in texts if text])
        typed = [overrides.quoted("classify", text) for text in typed]
        overrides.check("classify", typed, config_dir())
    except InputError:
        pass


def run_folder(data: bytes) -> None:
    """What a run leaves of its settings and its history."""
    run = folder() / "run"
    (run / ".hydra").mkdir(parents=True, exist_ok=True)
    for name in (settings_file.FILE, settings_file.OVERRIDES, record.FILE):
        (run / name).write_bytes(data)
    readers: list[Callable[[], object]] = [
        lambda: settings_file.read_settings(run),
        lambda: settings_file.completed([f"resume={run}"]),
        lambda: record.read(run),
    ]
    for read in readers:
        with suppress(InputError):
            read()


def checkpoint(data: bytes) -> None:
    """A checkpoint, and one of a right checksum whose state may be anything."""
    path = folder() / "fuzz.safetensors"
    path.write_bytes(data)
    with suppress(DamagedCheckpointError):
        read_state(path)
    text, arrays = data.decode("utf-8", errors="replace"), {"state.a": np.ones(3, np.float32)}
    header = {"format": FORMAT, "state": text, "sha256": checkpoint_digest(text, arrays)}
    path.write_bytes(save(arrays, {FACTS: json.dumps(header)}))
    with suppress(DamagedCheckpointError):
        assert isinstance(read_state(path), dict)


TARGETS: dict[str, Target] = {
    "star": star,
    "cs": cs,
    "mrc": mrc,
    "compressed": compressed,
    "settings": settings,
    "run_folder": run_folder,
    "checkpoint": checkpoint,
}


def _star_text(optics: bool) -> bytes:
    if not optics:
        return old_star().encode()
    head = (
        "# version 30001\n\ndata_optics\n\nloop_\n_rlnOpticsGroup #1\n_rlnOpticsGroupName #2\n"
        "_rlnAmplitudeContrast #3\n_rlnSphericalAberration #4\n_rlnVoltage #5\n"
        "_rlnImagePixelSize #6\n_rlnImageSize #7\n_rlnImageDimensionality #8\n"
        "1 'group 1' 0.1 2.7 300 1.5 16 2\n\ndata_particles\n\nloop_\n_rlnImageName #1\n"
        "_rlnMicrographName #2\n_rlnOpticsGroup #3\n_rlnDefocusU #4\n_rlnDefocusV #5\n"
        "_rlnDefocusAngle #6\n_rlnCoordinateX #7\n_rlnCoordinateY #8\n_rlnAnglePsi #9\n"
        "_rlnOriginXAngst #10\n_rlnOriginYAngst #11\n_rlnClassNumber #12\n_rlnGroupName #13\n"
    )
    rows = [
        f"{i + 1:06d}@stack.mrcs mics/m{i % 2}.mrc 1 1{i}000.5 9000 45 {i} 2 3 0.5 -1 {i} 'a b'\n"
        for i in range(COUNT)
    ]
    return (head + "".join(rows) + "\ndata_job\n\n_x 1\n\n").encode()


def _carrying_star() -> bytes:
    """A star that carries the fields of a .cs."""
    path = folder() / "seed.cs"
    with path.open("wb") as file:
        write_array(file, _array())
    write_particles(folder() / "seed.star", read_particles(path)[0])
    return (folder() / "seed.star").read_bytes()


def _array() -> np.ndarray:
    array = cs_array()
    array["blob/path"] = b"stack.mrcs"
    return array


def _carrying_array() -> bytes:
    """A .cs that carries the columns of a star."""
    (folder() / "seed.star").write_bytes(_star_text(optics=True))
    write_particles(folder() / "seed.cs", read_particles(folder() / "seed.star")[0])
    return (folder() / "seed.cs").read_bytes()


def _array_bytes() -> bytes:
    file = io.BytesIO()
    write_array(file, _array())
    return file.getvalue()


def _stream_bytes() -> bytes:
    array = _array()
    array["pick_stats/odd text"] = b"text"
    Dataset(array).save(str(folder() / "seed.cs"), format=CSDAT_FORMAT)
    return (folder() / "seed.cs").read_bytes()


@cache
def seeds() -> dict[str, list[bytes]]:
    """Whole inputs of each target, which are then damaged."""
    write_state(folder() / "state.safetensors", {"epoch": 3, "a": torch.ones(4), "b": [1, None]})
    stack = (folder() / "stack.mrcs").read_bytes()
    extended = stack[:92] + (64).to_bytes(4, "little") + stack[96:1024] + bytes(64) + stack[1024:]
    words = [
        b"model.num_classes=5\nmodel.icuf=3",
        b"data.path=a.star\n+model.x=[1,2]\n~logger\nexperiment=quick",
        b"hardware=gpu\nlogger=[csv,wandb]\noptimizer.step_size={a: 1}\nmodel.icuf=1,2",
    ]
    return {
        "star": [_star_text(True), _star_text(False), _carrying_star()],
        "cs": [_array_bytes(), _stream_bytes(), _carrying_array()],
        "mrc": [stack[: 1024 + 3 * 4 * BOX * BOX], extended[: 1088 + 2 * 4 * BOX * BOX]],
        "compressed": [gzip.compress(stack[: 1024 + 3 * 4 * BOX * BOX])],
        "settings": words,
        "run_folder": [
            b"- model.num_classes=5\n- 'data.path=a.star'\n",
            b"model: {num_classes: 5, icuf: 1.5}\nseed: 3\ndata:\n  path: a.star\n  x: &a [1]\n",
            b'{"job": "classify", "versions": {"torch": "2"}, "git": null}\n',
        ],
        "checkpoint": [
            (folder() / "state.safetensors").read_bytes(),
            b'{"dict": [["epoch", 3], ["a", {"tensor": "state.a"}], [1, [2, 3.5, null]]]}',
        ],
    }


TOKENS: dict[str, list[bytes]] = {
    "star": [
        *(b"data_", b"loop_", b"_rlnImageName", b"_rlnOpticsGroup", b"_rlnDefocusU", b"#", b"'"),
        *(b'"', b"\n", b"\r\n", b" ", b"\t", b"\0", b"@", b"nan", b"inf", b"-1", b"1e400", b"0"),
        *(b"99999999999999999999@", b"\xff\xfe", b"../../x", b"/dev/zero", b"1e308", b"\n\n"),
    ],
    "cs": [
        *(b"'<f4'", b"'|O'", b"'<u8'", b"'S0'", b"(6,)", b"(-6,)", b"(99999999999,)", b"(2,)"),
        *(b"[[[[", b"))))", b"b'", b"{", b"'V1000000000'", b"\xff\xff\xff\xff", b"\0\0\0\0", b"\n"),
    ],
    "mrc": [
        *(b"\xff\xff\xff\x7f", b"\0\0\0\0", b"\1\0\0\0", b"\xff\xff\xff\xff", b"MAP "),
        *(b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\x11\x11\0\0", b"\xca\xf2\x49\x71"),
    ],
    "compressed": [b"\x1f\x8b", b"\0\0\0\0", b"\xff\xff\xff\xff"],
    "run_folder": [
        *(b"- ", b": ", b"\n", b"{", b"[", b"[" * 300, b"&a ", b"*a", b"<<: *a", b"? ", b"| "),
        *(b"!!python/name:x", b"_target_", b"${oc.env:HOME}", b"!!binary ", b"\t", b"\0", b"'"),
        *(b"---\n", b"resume=", b"1e999", b'"', b"\xff", b".inf", b"2001-01-01", b"%YAML 9.9\n"),
    ],
    "checkpoint": [
        *(b'{"dict": ', b'{"tensor": ', b'"state.b"', b"[[", b"]", b"[" * 2000, b"null", b"1e999"),
        *(b"NaN", b'"', b"\xff\xff\xff\xff\xff\xff\xff\x7f", b'"F16"', b'"BF16"', b"[99999999999]"),
    ],
    "settings": [
        *(b"=", b"[", b"]", b"{", b"}", b"${", b"}", b"${oc.env:HOME}", b"'", b'"', b",", b"+"),
        *(b"~", b"++", b"null", b"true", b"1e999", b"nan", b"_target_", b"!!python/object", b"\\"),
        *(b"model", b"data.path", b"hydra.run.dir", b"@", b":", b"glob(*)", b"range(1,9)", b"\n"),
        *(b"choice(1,2)", b"\xc3\xa4", b"\xff", b"\t", b" ", b"--", b"-m", b"interval(0,1)"),
    ],
}


@st.composite
def damaged(draw: st.DrawFn, name: str) -> bytes:
    """A whole input of a target with a few injuries, or no such input at all."""
    data = draw(st.sampled_from(seeds()[name]) | st.binary(max_size=64))
    token = st.sampled_from(TOKENS[name]) | st.binary(max_size=8)
    for _ in range(draw(st.integers(0, 4))):
        # most of what matters is near the front
        place = draw(st.integers(0, min(len(data), 1200)) | st.integers(0, len(data)))
        length = draw(st.sampled_from([0, 1, 4, 16, 200]))
        kind = draw(st.sampled_from(["put", "cut", "repeat", "end"]))
        if kind == "put":
            new = draw(token)
            data = data[:place] + new + data[place + draw(st.sampled_from([0, len(new)])) :]
        elif kind == "cut":
            data = data[:place] + data[place + length :]
        elif kind == "repeat":
            piece = data[place : place + length]
            data = data[:place] + piece * draw(st.sampled_from([2, 3, 50])) + data[place:]
        else:
            data = data[:place]
    return data
