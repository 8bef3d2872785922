"""Every preset runs: one small iteration of each, and whole runs where its settings show."""

import numpy as np
import pytest
import starfile
from hydra import compose, initialize_config_dir
from scipy.ndimage import rotate

from cryo2d import cli
from cryo2d.errors import InputError
from cryo2d.io.mrc import read_images
from cryo2d.jobs import settings
from cryo2d.jobs.classify import run
from cryo2d.simulate.particles import simulate

PRESETS = sorted(path.stem for path in (cli.config_dir() / "experiment").glob("*.yaml"))
SMALL = ["hardware=cpu", "hardware.threads=1", "logger=none", "seed=4"]
SCENE = {
    "num_particles": 60,
    "box": 32,
    "pixel_size": 7.0,
    "num_micrographs": 4,
    "snr": 0.5,
    "neighbours": 0.0,
}


def composed(*overrides: str, **scene: object):
    simulated = [f"simulation.{key}={value}" for key, value in (SCENE | scene).items()]
    with initialize_config_dir(str(cli.config_dir()), version_base="1.3"):
        cfg = compose("classify", overrides=[*SMALL, *simulated, *overrides])
    settings.check("classify", cfg)
    return cfg


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_runs(preset, tmp_path):
    tiny = ["model.num_classes=4", "optimizer.iterations=1", "optimizer.batch_per_class=8"]
    cfg = composed(f"experiment={preset}", *tiny, "optimizer.full_iterations=1")
    assert run(cfg, tmp_path) > 0
    assert (tmp_path / "particles.star").is_file()


def test_presets_say_what_they_are_for():
    small, membrane = composed("experiment=small_particle"), composed("experiment=membrane_protein")
    assert small.model.min_align_resolution == membrane.model.min_align_resolution == 50
    assert membrane.model.recenter is False
    assert small.optimizer.batch_per_class > composed().optimizer.batch_per_class
    assert composed("experiment=negative_stain").model.ctf == "none"
    filament = composed("experiment=filament")
    assert filament.model.align_filaments is True
    assert filament.post.remove_duplicates is False


@pytest.mark.parametrize(("online", "full"), [(5, 0), (0, 1)])
def test_upright_averages_need_an_iteration_after_them(online, full):
    with pytest.raises(InputError, match=f"set optimizer.full_iterations={full + 1}"):
        composed(
            "model.align_filaments=true",
            f"optimizer.iterations={online}",
            f"optimizer.full_iterations={full}",
        )


def test_duplicates_that_cannot_be_found_are_refused_before_the_run(tmp_path):
    star = simulate(tmp_path / "p", **SCENE)
    text = star.read_text()
    star.write_text(text.replace("MicrographPixelSize", "UnknownPixelSize"))
    (tmp_path / "out").mkdir()
    cfg = composed("post.remove_duplicates=true")
    cfg.data.path = str(star)
    with pytest.raises(InputError, match="unknown pixel size of the micrograph"):
        run(cfg, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


@pytest.fixture(scope="module")
def filaments(tmp_path_factory):
    """A whole run on tubes of four diameters."""
    folder = tmp_path_factory.mktemp("filaments")
    cfg = composed(
        "experiment=filament",
        "model.num_classes=8",
        "model.max_resolution=14",
        "optimizer.iterations=20",
        "optimizer.batch_per_class=40",
        "seed=1",
        num_particles=640,
        num_tubes=4,
        box=56,
        pixel_size=6.0,
        snr=1.0,
        junk_fraction=0.0,
        num_optics_groups=1,
    )
    run(cfg, folder)
    rows = starfile.read(folder / "particles.star", always_dict=True)["particles"]
    return folder, rows, dict(np.load(folder / "simulated" / "truth.npz"))


def test_psi_stands_every_segment_upright(filaments):
    _, rows, truth = filaments
    assert len(rows) == len(truth["psi"])
    image = np.array([int(name.split("@")[0]) - 1 for name in rows["rlnImageName"]])
    error = (rows["rlnAnglePsi"].to_numpy() - truth["psi"][image] + 90.0) % 180.0 - 90.0
    assert np.median(np.abs(error)) < 1.0
    assert (np.abs(error) < 5.0).mean() > 0.95
    for number in rows["rlnClassNumber"].unique():
        # how far an average leans, from the truth of the particles in it
        assert abs(np.median(error[rows["rlnClassNumber"] == number])) < 3.0
    prior = rows["rlnAnglePsiPrior"].to_numpy() + 90.0
    apart = (rows["rlnAnglePsi"].to_numpy() - prior + 90.0) % 180.0 - 90.0
    np.testing.assert_allclose(apart, error, atol=1e-3)


def test_averages_of_wide_tubes_are_upright(filaments):
    folder, rows, truth = filaments
    averages = read_images(folder / "class_averages.mrcs")
    image = np.array([int(name.split("@")[0]) - 1 for name in rows["rlnImageName"]])
    names = truth["names"][truth["species"][image]]
    angles = np.arange(-90.0, 90.0, 0.5)
    measured = 0
    for k, average in enumerate(averages):
        members = names[rows["rlnClassNumber"] == k + 1]
        # the strands of actin wind too far for their outline to be straight
        if len(members) < 20 or (members == "actin").mean() > 0.1:
            continue
        profiles = [rotate(average, a, reshape=False, order=1).sum(0).var() for a in angles]
        assert abs(angles[int(np.argmax(profiles))]) <= 3.0, k
        measured += 1
    assert measured >= 3


def test_helical_columns_survive(filaments):
    folder, rows, _ = filaments
    before = starfile.read(folder / "simulated" / "particles.star")["particles"]
    both = rows.merge(before, on=["rlnMicrographName", "rlnCoordinateX", "rlnCoordinateY"])
    assert len(both) == len(rows)
    for label in ("HelicalTubeID", "AnglePsiPrior", "HelicalTrackLengthAngst", "AngleTiltPrior"):
        np.testing.assert_array_equal(both[f"rln{label}_x"], both[f"rln{label}_y"])
    slot = np.load(folder / "particles.cs")
    np.testing.assert_allclose(
        slot["filament/filament_pose"], np.radians(-rows["rlnAnglePsiPrior"]), atol=1e-5
    )
    tubes = before.groupby(["rlnMicrographName", "rlnHelicalTubeID"]).ngroups
    assert len(np.unique(slot["filament/filament_uid"])) == tubes
