import dataclasses
import math
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import starfile
import torch
import yaml

from cryo2d.errors import InputError
from cryo2d.physics.ctf import ctf_at
from cryo2d.simulate.ice import noise_power
from cryo2d.simulate.molecules import molecules
from cryo2d.simulate.particles import simulate
from cryo2d.simulate.phantom import project
from cryo2d.simulate.recipe import Recipe
from cryo2d.simulate.scene import apportioned
from cryo2d.types import CtfParams

BOX, PIXEL_SIZE = 48, 4.0
SMALL = {
    "num_particles": 240,
    "box": BOX,
    "pixel_size": PIXEL_SIZE,
    "num_molecules": 3,
    "views": 3,
    "num_micrographs": 6,
}


def read(folder):
    with mrcfile.open(folder / "particles.mrcs") as stack:
        images, voxel = stack.data.copy(), float(stack.voxel_size.x)
    blocks = starfile.read(folder / "particles.star")
    return images, voxel, blocks, dict(np.load(folder / "truth.npz"))


def make(folder, **settings):
    simulate(folder, **(SMALL | settings))
    return read(folder)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return make(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """No neighbours, no uneven background: signal and noise alone."""
    return make(
        tmp_path_factory.mktemp("bare"), neighbours=0.0, gradient=0.0, snr=0.2, phase_shift=20.0
    )


def ctf_of(blocks):
    rows = blocks["particles"].merge(blocks["optics"], on="rlnOpticsGroup")
    rows = rows.sort_values("rlnImageName")

    def column(name, factor=1.0):
        return torch.from_numpy(rows[f"rln{name}"].to_numpy(dtype=np.float32) * factor)

    return CtfParams(
        defocus_u=column("DefocusU"),
        defocus_v=column("DefocusV"),
        defocus_angle=column("DefocusAngle", math.pi / 180),
        voltage=column("Voltage"),
        spherical_aberration=column("SphericalAberration", 1e7),
        amplitude_contrast=column("AmplitudeContrast"),
        phase_shift=column("PhaseShift", math.pi / 180),
        b_factor=column("CtfBfactor"),
    )


def signals(blocks, truth, canvas):
    """The good particles' signals from the truth and the star alone, ``[n y x]``."""
    axis = torch.fft.fftfreq(canvas, PIXEL_SIZE)
    fy, fx = torch.meshgrid(axis, axis, indexing="ij")
    ctf = ctf_at(ctf_of(blocks), fx, fy)
    images = torch.zeros(len(truth["kind"]), canvas, canvas)
    for species, phantom in enumerate(molecules(len(truth["names"]))):
        rows = truth["species"] == species
        turns, shift = (torch.from_numpy(truth[key][rows]).float() for key in ("R", "shift"))
        images[torch.from_numpy(rows)] = project(phantom, turns, shift, canvas, PIXEL_SIZE)
    gain = torch.from_numpy(truth["clean_scale"] * truth["scale"]).float()
    return torch.fft.ifft2(torch.fft.fft2(images * gain[:, None, None]) * ctf).real


def cropped(images):
    first = images.shape[-1] // 2 - BOX // 2
    return images[:, first : first + BOX, first : first + BOX]


def test_files_agree(small):
    images, voxel, blocks, truth = small
    assert images.shape == (240, BOX, BOX)
    assert images.dtype == np.float32
    assert voxel == PIXEL_SIZE
    rows = blocks["particles"]
    assert list(rows["rlnImageName"]) == [f"{i + 1:06d}@particles.mrcs" for i in range(240)]
    assert all(len(truth[key]) == 240 for key in ("species", "view", "R", "shift", "kind", "scale"))
    np.testing.assert_allclose(rows["rlnDefocusU"], truth["defocus"][:, 0], atol=0.01)
    assert len(truth["clean_views"]) == 9
    assert len(truth["names"]) == 3


@pytest.mark.parametrize(("rarest", "expected"), [(1.0, [300] * 4), (0.001, [1080, 108, 11, 1])])
def test_abundances_fall_geometrically(rarest, expected):
    found = apportioned(np.arange(70, 1270), 4, rarest)
    np.testing.assert_allclose(np.bincount(found, minlength=4), expected, atol=1)
    if rarest == 1.0:
        np.testing.assert_array_equal(found, np.arange(70, 1270) % 4)


def test_one_molecule_has_all_particles():
    np.testing.assert_array_equal(apportioned(np.arange(5), 1, 0.1), np.zeros(5))
    assert len(apportioned(np.arange(0), 3, 0.1)) == 0


def test_composition(small):
    truth = small[3]
    good = truth["kind"] == 0
    np.testing.assert_array_equal(np.bincount(truth["kind"]), [216, 8, 8, 8])
    assert (truth["species"][~good] == -1).all()
    assert (truth["view"][~good] == -1).all()
    np.testing.assert_array_equal(truth["view"][good] // 3, truth["species"][good])
    assert np.bincount(truth["species"][good]).min() > 60
    assert truth["scale"].mean() == pytest.approx(1.0)


def test_micrographs_and_optics_groups(small):
    rows = small[2]["particles"]
    assert set(rows["rlnOpticsGroup"]) == {1, 2}
    assert len(small[2]["optics"]) == 2
    by_micrograph = rows.groupby("rlnMicrographName")
    assert len(by_micrograph) == 6
    assert (by_micrograph["rlnDefocusU"].nunique() == 1).all()
    assert (by_micrograph["rlnOpticsGroup"].nunique() == 1).all()
    assert rows["rlnDefocusU"].nunique() == 6
    for _, group in by_micrograph:
        xy = group[["rlnCoordinateX", "rlnCoordinateY"]].to_numpy(dtype=float)
        apart = np.abs(xy[:, None] - xy[None]).max(-1) + 1e9 * np.eye(len(xy))
        assert apart.min() >= BOX
        assert xy.min() >= BOX / 2


def test_background_is_normalised(small):
    axis = np.arange(BOX) - BOX // 2
    corners = small[0][:, np.hypot(axis[None], axis[:, None]) > 0.92 * BOX / 2]
    np.testing.assert_allclose(corners.mean(1), 0.0, atol=1e-4)
    np.testing.assert_allclose(corners.std(1, ddof=1), 1.0, atol=1e-4)


def test_signal_to_noise_ratio_is_the_one_asked_for(bare):
    _, _, blocks, truth = bare
    canvas = BOX * 3 // 2
    clean = signals(blocks, truth, canvas).numpy()
    axis = np.arange(canvas) - canvas // 2
    diameters = [phantom.diameter / PIXEL_SIZE for phantom in molecules(3)]
    ratios = []
    for row in np.nonzero(truth["kind"] == 0)[0]:
        x, y = axis - truth["shift"][row, 0], axis - truth["shift"][row, 1]
        inside = np.hypot(x[None], y[:, None]) <= diameters[truth["species"][row]] / 2
        ratios.append(clean[row][inside].var())
    assert np.mean(ratios) == pytest.approx(0.2, rel=0.01)


def test_images_hold_the_signal_that_truth_and_star_describe(bare):
    images, _, blocks, truth = bare
    clean = cropped(signals(blocks, truth, BOX * 3 // 2)).double().numpy()
    good = truth["kind"] == 0
    clean, images = clean[good], images[good].astype(np.float64)
    clean -= clean.mean((1, 2), keepdims=True)
    amplitude = (clean * images).sum((1, 2)) / (clean**2).sum((1, 2))
    # the signal reaches into the corners, whose deviation, a little above 1, became the unit
    assert np.mean(amplitude) == pytest.approx(1.0, abs=0.06)
    residual = images - amplitude[:, None, None] * clean
    assert residual.var((1, 2)).mean() == pytest.approx(1.0, abs=0.06)


def test_noise_has_the_documented_spectrum(tmp_path):
    settings = {"neighbours": 0.0, "gradient": 0.0, "num_optics_groups": 1}
    images, _, blocks, truth = make(tmp_path, junk_fraction=1.0, num_particles=900, **settings)
    empty = truth["kind"] == 1
    axis = torch.fft.fftfreq(BOX * 3 // 2, PIXEL_SIZE)
    fy, fx = torch.meshgrid(axis, axis, indexing="ij")
    ctf = ctf_at(ctf_of(blocks)[torch.from_numpy(empty)], fx, fy)
    power = noise_power(fx, fy, ctf, PIXEL_SIZE, torch.ones(len(ctf)))
    expected = torch.fft.ifft2(power).real.mean(0)
    noise = images[empty].astype(np.float64)
    for y, x in [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (3, 2), (0, 6)]:
        found = (noise[:, y:, x:] * noise[:, : BOX - y, : BOX - x]).mean()
        # covariances at a lag are the power spectrum's transform, whatever the crop
        assert found == pytest.approx(float(expected[y, x]), abs=0.01), (y, x)
    assert float(expected[0, 0]) == pytest.approx(1.0, abs=1e-5)


def wrap(degrees):
    return (degrees + 180.0) % 360.0 - 180.0


def turn_z(degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    zero, one = np.zeros_like(c), np.ones_like(c)
    return np.stack([c, -s, zero, s, c, zero, zero, zero, one], -1).reshape(-1, 3, 3)


def test_true_poses_written_as_a_star_have_no_error(small):
    # the mathematics of a score: what is left of rotation and shift after the star's poses
    truth = small[3]
    psi, origin = truth["psi"], -truth["shift"]
    for view in range(9):
        rows = np.nonzero(truth["view"] == view)[0]
        assert len(rows) > 5
        left = turn_z(psi[rows]) @ truth["R"][rows].astype(float)
        angle = np.degrees(np.arctan2(left[:, 1] @ left[0, 0], left[:, 0] @ left[0, 0]))
        np.testing.assert_allclose(wrap(angle - angle[0]), 0.0, atol=1e-3)
        np.testing.assert_allclose(left, left[:1].repeat(len(rows), 0), atol=1e-5)
        np.testing.assert_allclose(-origin[rows] - truth["shift"][rows], 0.0)


def test_poses_take_the_image_to_its_clean_view(small):
    # class frame y = R(psi) (x + origin) about the box centre, x right, y down
    truth = small[3]
    phantoms = molecules(3)
    axis = torch.arange(BOX, dtype=torch.float64) - BOX // 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    for row in np.nonzero(truth["kind"] == 0)[0][:12]:
        turn = torch.from_numpy(truth["R"][row])[None]
        shift = torch.from_numpy(truth["shift"][row])[None].float()
        image = project(phantoms[truth["species"][row]], turn, shift, BOX, PIXEL_SIZE)
        c, s = math.cos(math.radians(truth["psi"][row])), math.sin(math.radians(truth["psi"][row]))
        source = torch.stack(
            [c * x + s * y + truth["shift"][row, 0], -s * x + c * y + truth["shift"][row, 1]], -1
        )
        grid = (2.0 * (source + BOX // 2) + 1.0) / BOX - 1.0
        back = torch.nn.functional.grid_sample(
            image[None].double(), grid[None], mode="bicubic", align_corners=False
        )[0, 0]
        view = torch.from_numpy(truth["clean_views"][truth["view"][row]]).double()
        assert float((back - view).norm() / view.norm()) < 0.06


def test_views_of_a_molecule_look_different(small):
    clean = small[3]["clean_views"].reshape(9, -1)
    clean = clean / np.linalg.norm(clean, axis=1, keepdims=True)
    assert (clean @ clean.T - np.eye(9)).max() < 0.97


def test_every_direction_without_fixed_views(tmp_path):
    _, _, _, truth = make(tmp_path, views=None, num_particles=600, snr=0.05)
    assert (truth["view"] == -1).all()
    assert "clean_views" not in truth
    assert np.isnan(truth["psi"]).all()
    assert (truth["R"][:, 2, 2] ** 2).mean() == pytest.approx(1 / 3, abs=0.05)


def test_same_seed_same_files_other_seed_other_files(tmp_path):
    stacks = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / name).mkdir()
        simulate(tmp_path / name, **(SMALL | {"num_particles": 40, "seed": seed}))
        images, _, blocks, _ = read(tmp_path / name)
        stacks.append((images, blocks["particles"]))
    np.testing.assert_array_equal(stacks[0][0], stacks[1][0])
    assert stacks[0][1].equals(stacks[1][1])
    assert not np.allclose(stacks[0][0], stacks[2][0])


def test_half_precision_differs_by_its_rounding_only(small, tmp_path):
    images, _, _, _ = make(tmp_path, float16=True)
    assert images.dtype == np.float16
    np.testing.assert_allclose(images.astype(np.float32), small[0], rtol=1e-3, atol=1e-3)


def test_neighbours_reach_into_the_box_and_gradient_tilts_it(tmp_path):
    corners = {}
    for name, settings in (("none", {"neighbours": 0.0}), ("many", {"neighbours": 4.0})):
        (tmp_path / name).mkdir()
        images = make(tmp_path / name, num_particles=60, snr=2.0, gradient=0.0, **settings)[0]
        corners[name] = (images[:, :6, :6].mean((1, 2)) ** 2).mean()
    assert corners["many"] > 1.5 * corners["none"]


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"box": 63}, ["box"]),
        ({"snr": 0.0, "num_molecules": 99}, ["snr", "num_molecules"]),
        ({"num_optics_groups": 5, "num_micrographs": 2}, ["num_optics_groups"]),
        ({"views": 0}, ["views"]),
        ({"rarest": 0.0}, ["rarest"]),
    ],
)
def test_impossible_settings_are_refused_all_at_once(tmp_path, settings, names):
    with pytest.raises(InputError) as error:
        simulate(tmp_path, **settings)
    assert [problem.file for problem in error.value.problems].sort() == names.sort()
    assert all(f"setting {name}" in str(error.value) for name in names)
    assert not list(tmp_path.iterdir())


def test_unknown_settings_are_refused(tmp_path):
    with pytest.raises(TypeError, match="num_particle"):
        simulate(tmp_path, num_particle=3)


def test_demo_configuration_is_the_recipe_with_its_defaults():
    conf = Path(__file__).parents[2] / "conf" / "simulation" / "demo.yaml"
    settings = yaml.safe_load(conf.read_text(encoding="utf-8"))
    assert settings.pop("seed") == "${seed}"
    defaults = {field.name: field.default for field in dataclasses.fields(Recipe)}
    defaults.pop("seed")
    settings["junk"] = tuple(settings["junk"])
    assert settings == defaults
    assert list(settings) == list(defaults)


def test_molecules_are_chosen_by_name(tmp_path):
    few = {"num_particles": 20, "box": 32, "pixel_size": 6.0, "num_micrographs": 2, "views": 1}
    simulate(tmp_path / "two", molecules=["shell", "antibody"], **few)
    simulate(tmp_path / "one", molecules="shell", **few)
    names = [np.load(tmp_path / name / "truth.npz")["names"].tolist() for name in ("two", "one")]
    assert names == [["shell", "antibody"], ["shell"]]
    with pytest.raises(InputError, match="teapot"):
        simulate(tmp_path, molecules=["teapot"])
