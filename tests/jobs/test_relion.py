"""The contract of RELION's External job, as its manual states it."""

import json
import logging
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import starfile

from cryo2d import cli
from cryo2d.errors import InputError
from cryo2d.jobs import external
from cryo2d.jobs.external import ABORT, ABORTED, FAILURE, SUCCESS
from cryo2d.simulate.particles import simulate
from cryo2d.training.callbacks.checkpoint import IterationCheckpoint

COUNT, CLASSES, ITERATIONS = 60, 3, 3
JOB = "External/job001/"
PARTICLES = "Extract/job001/particles.star"
# what the External job's form has under Params, and its thread slider
PARAMETERS = [
    *("--num_classes", str(CLASSES), "--model.max_resolution", "16"),
    *("--iterations", str(ITERATIONS - 1), "--optimizer.batch_per_class", "10"),
    *("--hard_last", "hardware=cpu", "logger=none", "seed=1", "--j", "1"),
]


@pytest.fixture(scope="module")
def stack(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    settings = {"num_particles": COUNT, "box": 32, "pixel_size": 5.0, "num_molecules": 2}
    return simulate(folder / "Extract/job001", **settings, views=1, snr=0.5, seed=1)


@pytest.fixture
def project(stack, tmp_path, monkeypatch) -> Path:
    """A project folder, the current one, whose particles are named from it as RELION does."""
    (tmp_path / "Extract").symlink_to(stack.parents[1], target_is_directory=True)
    blocks = starfile.read(stack, always_dict=True)
    names = blocks["particles"]["rlnImageName"].str.split("@", expand=True)
    blocks["particles"]["rlnImageName"] = names[0] + "@Extract/job001/" + names[1]
    starfile.write(blocks, tmp_path / "named.star")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def relion(monkeypatch, project, capsys) -> Iterator[Callable[..., int]]:
    """Calls the job as the pipeline does; its exit code."""
    root = logging.getLogger()
    before = root.handlers[:], root.level, signal.getsignal(signal.SIGTERM)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")

    def call(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["cryo2d", "relion", *words])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code

    yield call
    for handler in set(root.handlers) - set(before[0]):
        handler.close()
    root.handlers[:], root.level = before[:2]
    signal.signal(signal.SIGTERM, before[2])


def marks(project: Path) -> set[str]:
    return {path.name for path in (project / JOB).glob("RELION_JOB_*")}


def general(path: Path, block: str) -> dict:
    return starfile.read(path, always_dict=True)[block].iloc[0].to_dict()


@pytest.mark.parametrize("given", ["named.star", PARTICLES])
def test_a_job_hands_its_classes_to_the_pipeline(relion, project, given):
    """Particles named from the project, and from the folder of their star."""
    assert relion("--o", JOB, "--in_parts", given, *PARAMETERS) == 0
    assert marks(project) == {SUCCESS}
    assert (project / JOB / SUCCESS).stat().st_size == 0
    nodes = starfile.read(project / JOB / "RELION_OUTPUT_NODES.star", always_dict=True)
    nodes = nodes["output_nodes"]
    root = f"{JOB}run_it{ITERATIONS:03d}"
    assert nodes["rlnPipeLineNodeName"].tolist() == [
        *(f"{root}_{part}.star" for part in ("data", "optimiser", "model")),
        f"{JOB}references.star",
    ]
    assert nodes["rlnPipeLineNodeType"].tolist() == [3, 9, 8, 5]
    assert nodes["rlnPipeLineNodeTypeLabel"].str.split(".").str[0].tolist() == [
        *("ParticleGroupMetadata", "OptimiserData", "ProcessData", "Image2DGroupMetadata"),
    ]
    for name in nodes["rlnPipeLineNodeName"]:
        assert (project / name).is_file()
    listed = json.loads((project / JOB / "manifest.json").read_text())["files"]
    assert {"RELION_OUTPUT_NODES.star", "references.star", "particles.star"} <= set(listed)


def test_the_selection_of_classes_finds_images_and_particles(relion, project):
    assert relion("--o", JOB, "--in_parts", PARTICLES, *PARAMETERS) == 0
    root = f"{JOB}run_it{ITERATIONS:03d}"
    optimiser = general(project / f"{root}_optimiser.star", "optimiser_general")
    assert optimiser["rlnModelStarFile"] == f"{root}_model.star"
    assert optimiser["rlnExperimentalDataStarFile"] == f"{root}_data.star"
    model = starfile.read(project / optimiser["rlnModelStarFile"], always_dict=True)
    assert model["model_general"].iloc[0]["rlnNrClasses"] == CLASSES
    classes = model["model_classes"]
    numbers, files = zip(*classes["rlnReferenceImage"].str.split("@"), strict=True)
    assert [int(number) for number in numbers] == list(range(1, CLASSES + 1))
    assert mrcfile.read(project / files[0]).shape[0] == CLASSES
    assert np.isclose(classes["rlnClassDistribution"].sum(), 1, atol=1e-5)
    assert (classes["rlnAccuracyRotations"] == 999).all()
    data = starfile.read(project / optimiser["rlnExperimentalDataStarFile"], always_dict=True)
    assert data["particles"]["rlnClassNumber"].isin(range(1, CLASSES + 1)).all()
    stacks = data["particles"]["rlnImageName"].str.split("@").str[1].unique()
    assert all((project / stack).is_file() for stack in stacks)
    references = starfile.read(project / JOB / "references.star")
    assert references["rlnReferenceImage"].tolist() == classes["rlnReferenceImage"].tolist()


def test_stacks_are_named_from_the_project(relion, project):
    """Even where the star named them from its own folder."""
    (project / "Import").mkdir()
    for path in (project / "Extract/job001").iterdir():
        (project / "Import" / path.name).write_bytes(path.read_bytes())
    assert relion("--o", JOB, "--in_parts", "Import/particles.star", *PARAMETERS) == 0
    data = starfile.read(project / JOB / f"run_it{ITERATIONS:03d}_data.star", always_dict=True)
    assert data["particles"]["rlnImageName"].str.contains("@Import/").all()


def test_a_failure_is_marked_and_says_why(relion, project, capsys):
    assert relion("--o", JOB, "--in_parts", "none.star", *PARAMETERS) == 2
    assert marks(project) == {FAILURE}
    assert relion("--o", JOB, "--in_parts", PARTICLES, "--num_clases", "3", "--j", "1") == 2
    assert "did you mean model.num_classes" in capsys.readouterr().err
    assert marks(project) == {FAILURE}


def test_an_abort_is_marked_and_continued(relion, project, monkeypatch, capsys):
    write = IterationCheckpoint.on_train_epoch_end

    def ask(callback, trainer, module):
        write(callback, trainer, module)
        if trainer.current_epoch == 0:
            Path(trainer.default_root_dir, ABORT).touch()

    with monkeypatch.context() as patch:
        patch.setattr(IterationCheckpoint, "on_train_epoch_end", ask)
        assert relion("--o", JOB, "--in_parts", PARTICLES, *PARAMETERS) == 143
    assert marks(project) == {ABORTED}
    assert not (project / JOB / "RELION_OUTPUT_NODES.star").exists()
    capsys.readouterr()
    # the form may say other things by now; the run keeps to what it began with
    again = ["--o", JOB, "--in_parts", PARTICLES, "--num_classes", "2", "--j", "1"]
    assert relion(*again) == 0
    assert "Going on from" in capsys.readouterr().out
    assert marks(project) == {SUCCESS}
    model = starfile.read(project / JOB / f"run_it{ITERATIONS:03d}_model.star", always_dict=True)
    assert len(model["model_classes"]) == CLASSES


def test_the_command_line_of_the_pipeline_becomes_settings():
    words = ["relion", "--o", JOB, "--in_parts", "it's.star", "--num_classes", "5"]
    words += ["--hard_last", "seed=2", "--pipeline_control", JOB, "--mask_diameter=180", "--j", "4"]
    assert external.as_overrides(words) == [
        "relion",
        f"hydra.run.dir='{JOB}'",
        "data.path='it\\'s.star'",
        *("model.num_classes=5", "optimizer.hard_last=true", "seed=2", "model.mask_diameter=180"),
        "hardware.threads=4",
    ]


@pytest.mark.parametrize("kind", ["movies", "mics", "coords", "3dref", "mask"])
def test_inputs_that_are_no_particles_are_refused(kind):
    words = ["relion", "--o", JOB, f"--in_{kind}", "x.star", "--j", "1"]
    with pytest.raises(InputError) as refused:
        external.as_overrides(words)
    assert [problem.found for problem in refused.value.problems] == [
        f"--in_{kind}",
        "no --in_parts",
    ]


def test_a_question_about_the_job_leaves_no_mark(relion, project, capsys):
    assert relion("--help") == 0
    assert "num_classes" in capsys.readouterr().out
    assert not (project / "External").exists()


@pytest.mark.parametrize(
    ("code", "mark"), [(0, SUCCESS), (2, FAILURE), (4, FAILURE), (130, ABORTED), (143, ABORTED)]
)
def test_the_mark_follows_the_exit_code(project, code, mark):
    (project / JOB).mkdir(parents=True)
    (project / JOB / FAILURE).touch()

    def end():
        with external.marked(["relion", "--o", JOB, "--j", "1"]):
            assert marks(project) == set()
            sys.exit(code)

    with pytest.raises(SystemExit):
        end()
    assert marks(project) == {mark}
