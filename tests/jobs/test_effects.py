"""Every setting changes the result, and in the direction that it promises."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from guided import BOX, PIXEL, SHORT, altered, from_views, made
from truth import Found, Stack, agreement, classified, pose_errors, purity, views_found

from cryo2d.physics.solvent import gaussian


@pytest.fixture(scope="module")
def stack(tmp_path_factory) -> Stack:
    return made(tmp_path_factory.mktemp("stack"))


@pytest.fixture(scope="module")
def guided(stack):
    """Runs on the stack from its true views; the same settings run once."""

    @cache
    def run(*overrides: str) -> Found:
        return classified(stack, *SHORT, *from_views(stack), *overrides)

    return run


def outer_power(found: Found) -> float:
    """Power of the averages beyond 0.7 of Nyquist, as a part of the whole."""
    box = found.averages.shape[-1]
    power = np.abs(np.fft.fft2(found.averages)) ** 2
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(box), np.fft.fftfreq(box)))
    return float(power[:, radius > 0.35].sum() / power[:, radius > 0].sum())


def ring_power(found: Found, first: int, last: int) -> float:
    """Power of the averages on some rings, those before ``last``."""
    box = found.averages.shape[-1]
    power = np.abs(np.fft.fft2(found.averages)) ** 2
    ring = box * np.hypot(*np.meshgrid(np.fft.fftfreq(box), np.fft.fftfreq(box)))
    return float(power[:, (ring >= first) & (ring < last)].sum())


def longest_shift(found: Found) -> float:
    """Angstrom."""
    return float(np.hypot(*found.shift.T).max() * PIXEL)


def test_true_views_are_kept_and_random_ones_take_longer(stack, guided):
    given = guided()
    assert purity(given, stack) > 0.9
    assert views_found(given, stack) == 6
    assert pose_errors(given, stack).right > 0.85
    unaided = classified(stack, *SHORT)
    assert purity(unaided, stack) < purity(given, stack) - 0.1


def test_the_seed_alone_decides(stack, guided):
    again = classified(stack, *SHORT, *from_views(stack))
    for name in ("classes", "psi", "shift", "averages"):
        np.testing.assert_array_equal(getattr(again, name), getattr(guided(), name))
    assert not np.array_equal(guided("seed=9").psi, guided().psi)


def test_inverted_images_need_invert(stack, guided, tmp_path):
    dark = altered(stack, tmp_path / "dark", lambda images: -images)
    right = classified(dark, *SHORT, *from_views(stack), "data.invert=true")
    np.testing.assert_allclose(right.averages, guided().averages, atol=1e-5)
    np.testing.assert_array_equal(right.classes, guided().classes)
    wrong = classified(dark, *SHORT, "optimizer.iterations=6")
    assert wrong.averages.min() < -wrong.averages.max()  # black particles


def test_a_wrong_pixel_size_is_a_wrong_ctf(stack):
    size = "data.pixel_size"
    right, wrong = (
        classified(stack, *SHORT[:1], *SHORT[2:], "model.max_resolution=14.5", *more)
        for more in ((), (f"{size}=7",))
    )
    # the box stays what it is in pixels, and grows in Angstrom
    assert right.history[-1].frequency[0] == pytest.approx(1 / (BOX * PIXEL))
    assert wrong.history[-1].frequency[0] == pytest.approx(1 / (BOX * 7.0))
    assert agreement(wrong, stack) < agreement(right, stack)


def test_only_the_first_particles(guided):
    few = guided("data.max_particles=150")
    assert len(few.classes) == 150
    assert few.history[-1].particles == 150


def test_the_window_takes_neighbours_away(stack, tmp_path):
    row, column = np.indices((BOX, BOX)) - BOX // 2
    place = np.random.default_rng(0).uniform(0, 2 * np.pi, 240)

    def crowd(images):
        y, x = (0.8 * BOX / 2 * f(place)[:, None, None] for f in (np.sin, np.cos))
        return images + 4.0 * np.exp(-((row - y) ** 2 + (column - x) ** 2) / (2 * 2.0**2))

    crowded = altered(stack, tmp_path / "crowd", crowd)
    wide, tight = (
        classified(
            crowded,
            *SHORT,
            *from_views(stack),
            f"data.window_inner={inner}",
            f"data.window_outer={inner + 0.1}",
        )
        for inner in (0.9, 0.65)
    )
    assert pose_errors(tight, stack).right > pose_errors(wide, stack).right
    none = classified(crowded, *SHORT, *from_views(stack), "data.window=false")
    assert not np.array_equal(none.psi, wide.psi)


def test_maximum_resolution_sets_the_working_box(stack, guided):
    coarse = classified(stack, *SHORT, "model.max_resolution=25")
    assert coarse.averages.shape[-1] == 16
    assert 1 / coarse.history[-1].frequency[-1] >= 25 - 1e-3
    assert guided().averages.shape[-1] == BOX
    assert 1 / guided().history[-1].frequency[-1] == pytest.approx(10)


def test_alignment_on_coarse_waves_alone_is_blunt(stack, guided):
    blunt, sharp = guided("model.max_align_resolution=60"), guided()
    assert blunt.history[-1].resolution >= 60 > sharp.history[-1].resolution
    assert pose_errors(blunt, stack).degrees > 3 * pose_errors(sharp, stack).degrees
    # the averages still hold all resolutions
    assert blunt.averages.shape == sharp.averages.shape


def test_a_high_pass_rescues_the_alignment_from_micelles(tmp_path):
    girdled = made(tmp_path, box=48, snr=0.5, micelle=8.0, defocus_min=12000.0, defocus_max=25000.0)
    usual, high = (
        classified(
            girdled,
            *SHORT,
            *from_views(girdled),
            "model.remove_neighbours=false",
            "model.recenter=false",
            f"model.min_align_resolution={limit}",
        )
        for limit in ("null", 50)
    )
    lost, saved = pose_errors(usual, girdled), pose_errors(high, girdled)
    assert saved.degrees < 0.6 * lost.degrees
    assert saved.right > lost.right + 0.25
    assert purity(high, girdled) > purity(usual, girdled) + 0.15


def test_the_mask_cuts_the_averages(guided):
    row, column = np.indices((BOX, BOX)) - BOX // 2
    radius = np.hypot(row, column) * PIXEL
    for settings, edge in (
        (("model.mask_diameter=130",), 78.0),
        (("model.mask_diameter=130", "model.mask_diameter_outer=180"), 90.0),
        ((), 0.97 * 100.0),
    ):
        averages = np.abs(guided(*settings).averages).max(0)
        assert averages[radius > edge + PIXEL].max(initial=0) == 0, settings
        assert averages[(radius > edge - 3 * PIXEL) & (radius < edge - PIXEL)].max() > 0, settings


def test_full_correction_beats_flipping_beats_none(tmp_path):
    stack = made(tmp_path, snr=0.25, defocus_min=25000.0, defocus_max=40000.0, seed=5)
    found = {
        kind: classified(stack, *SHORT, *from_views(stack), f"model.ctf={kind}")
        for kind in ("full", "flip", "none")
    }
    like = {kind: agreement(run, stack) for kind, run in found.items()}
    assert like["full"] > like["flip"] + 0.02
    assert like["flip"] > like["none"] + 0.1
    right = {kind: pose_errors(run, stack).right for kind, run in found.items()}
    assert right["full"] > max(right["flip"], right["none"]) + 0.1


@pytest.mark.usefixtures("exact_products")
def test_filters_of_the_averages(tmp_path):
    stack = made(tmp_path, snr=0.05)
    # what a mask of each average's own takes away is no filter's
    alike = ("model.icuf=2", "model.remove_neighbours=false")
    none, half, full = (
        classified(stack, *SHORT, *alike, *from_views(stack), *settings)
        for settings in (("model.frc_regularizer=false",), ("model.full_frc=false",), ())
    )
    assert outer_power(none) > 3 * outer_power(full)
    # w = 2F / (1 + F) of both half-sets against F of one: the more, the less the halves agree
    inner, outer = ((first, first + 6) for first in (1, 7))
    assert ring_power(full, *inner) > 1.1 * ring_power(half, *inner)
    assert ring_power(full, *outer) > 1.3 * ring_power(half, *outer)


def test_the_local_weight_leaves_less_noise_beside_the_particles(tmp_path):
    stack = made(tmp_path, snr=0.1)
    weighted, plain = (
        classified(stack, *SHORT, *from_views(stack), f"model.local_regularizer={how}")
        for how in ("true", "false")
    )
    row, column = np.indices((BOX, BOX)) - BOX // 2
    beside = np.hypot(row, column) > 0.38 * BOX
    less, more = (float(np.std(run.averages[:, beside])) for run in (weighted, plain))
    assert less < 0.85 * more
    assert agreement(weighted, stack) > agreement(plain, stack)
    # the default, but where averages are clamped
    usual = classified(stack, *SHORT, *from_views(stack))
    np.testing.assert_array_equal(usual.averages, weighted.averages)


def hazed(stack: Stack, folder: Path, groups=(0, 1)) -> Stack:
    """Noise of long wavelengths added to some optics groups."""
    noise = torch.randn(240, BOX, BOX, generator=torch.Generator().manual_seed(0))
    slow = gaussian(noise, 2.5)
    slow *= 0.5 / slow.std()
    micrograph = np.sort(np.arange(240) % 10)
    own = np.isin(micrograph % 2, groups)
    return altered(stack, folder, lambda images: images + own[:, None, None] * slow.numpy())


def test_coloured_noise_needs_a_coloured_model(stack, tmp_path):
    hazy = hazed(stack, tmp_path / "hazy")
    coloured, white = (
        classified(hazy, *SHORT, *from_views(stack), f"model.noise={kind}")
        for kind in ("coloured", "white")
    )
    assert pose_errors(coloured, stack).right > pose_errors(white, stack).right + 0.1
    assert purity(coloured, stack) > purity(white, stack)
    power = coloured.history[-1].noise
    assert float(power[:, 1].min()) > 5 * float(power[:, -1].max())
    assert white.history[-1].noise.unique(dim=1).shape[1] == 1


def test_noise_belongs_to_its_optics_group(stack, tmp_path):
    hazy = hazed(stack, tmp_path / "hazy", groups=(1,))
    power = classified(hazy, *SHORT, *from_views(stack)).history[-1].noise
    assert len(power) == 2
    # normalisation makes the same noise smaller where there is more of another kind
    ratio = power / power[:, -4:].mean(1, keepdim=True)
    assert float(ratio[1, :3].mean()) > 3 * float(ratio[0, :3].mean())


def test_faint_first_averages_commit_less(stack):
    faint, usual = (
        classified(stack, *SHORT, "model.icuf=1", f"model.initial_scale={scale}").history[0]
        for scale in (0.2, 1)
    )
    assert float(faint.ess.mean()) > 1.2 * float(usual.ess.mean())
    assert float(faint.posteriors.mean()) < float(usual.posteriors.mean())


def test_a_larger_uncertainty_factor_keeps_particles_undecided_for_a_while(stack):
    early, late = (
        classified(
            stack,
            *SHORT,
            "optimizer.iterations=6",
            "optimizer.anneal_start=2",
            "optimizer.anneal_iterations=3",
            f"model.icuf={icuf}",
        ).history
        for icuf in (1, 8)
    )
    for t in range(3):
        assert float(late[t].ess.mean()) > 1.2 * float(early[t].ess.mean()), t
        assert float(late[t].posteriors.mean()) < float(early[t].posteriors.mean()), t
    factors = [summary.uncertainty for summary in late]
    assert factors == pytest.approx([8, 8, 8, 8 - 7 / 3, 8 - 14 / 3, 1, 1])
    assert float(late[-1].ess.mean()) < 0.6 * float(late[0].ess.mean())


def test_annealing_follows_the_iterations_unless_it_is_told(guided):
    default = [s.uncertainty for s in guided().history]
    assert default[0] == 1.5
    assert default[-1] == 1.0
    later = guided("optimizer.anneal_start=3", "optimizer.anneal_iterations=10").history
    assert [s.uncertainty for s in later] == pytest.approx([1.5, 1.5, 1.5, 1.5])


@pytest.mark.usefixtures("exact_products")
def test_shifts_beyond_the_largest_are_not_found(stack, guided):
    short, wide = guided("model.max_shift=2"), guided("model.max_shift=30")
    # the local search goes one step further than the grid
    assert longest_shift(short) < 2 + PIXEL
    assert longest_shift(wide) > 14
    assert pose_errors(short, stack).angstrom > 1.3 * pose_errors(guided(), stack).angstrom


def test_perturbed_grids_differ_between_iterations_and_find_the_same(stack, guided):
    moved, still = guided(), guided("model.perturb_poses=false")
    assert not np.array_equal(moved.psi, still.psi)
    assert pose_errors(still, stack).degrees < 2.5
    assert pose_errors(moved, stack).degrees < 2.5


def test_batches_are_as_large_as_asked(guided):
    usual, small = guided(), guided("optimizer.batch_per_class=10")
    # from a third of the mean to five thirds, and never more than there are
    assert [s.particles for s in usual.history] == [100, 180, 240, 240]
    assert [s.particles for s in small.history] == [33, 60, 87, 240]
    even = guided("optimizer.batch_growth=1")
    assert [s.particles for s in even.history] == [180, 180, 180, 240]
    assert float(small.history[0].class_resolution[:, 0].mean()) > float(
        usual.history[0].class_resolution[:, 0].mean()
    )
    twice = guided("optimizer.full_iterations=2")
    assert [s.full for s in twice.history] == [False] * 3 + [True] * 2


def test_the_step_size_is_how_much_a_batch_counts(guided):
    usual, forgetful = guided(), guided("optimizer.step_size.floor=1")
    assert [s.step_size for s in forgetful.history] == [1.0] * 4
    steps = [s.step_size for s in usual.history]
    assert steps == pytest.approx([1.0, 2.5**-0.6, 3.5**-0.6, 1.0])
    # with memory an average holds more particles
    remembered, forgotten = (
        float(run.history[2].class_resolution[:, 0].mean()) for run in (usual, forgetful)
    )
    assert remembered <= forgotten


def test_hard_assignment_of_the_last_pass(guided):
    hard, soft = guided("optimizer.hard_last=true"), guided()
    np.testing.assert_array_equal(hard.classes, soft.classes)
    assert not np.array_equal(hard.averages, soft.averages)


def test_half_sets_aligned_alone_agree_less(guided):
    apart, together = guided(), guided("model.independent_halves=false")
    assert not np.array_equal(apart.averages, together.averages)
    alone, shared = (float(run.history[-1].frc.mean()) for run in (apart, together))
    assert alone < shared


def test_the_prior_of_shifts_holds_particles_near_their_picks(stack, guided):
    prior, flat = guided(), guided("model.shift_prior=false")
    lengths = [np.linalg.norm(run.shift, axis=1) for run in (prior, flat)]
    assert lengths[0].mean() < lengths[1].mean()
    errors = [np.median(pose_errors(run, stack).shift) for run in (prior, flat)]
    assert errors[0] < errors[1] * 1.05


def test_padding_of_the_references(stack, guided):
    exact = guided("model.zeropad=3")
    near, far = (
        np.abs(guided(f"model.zeropad={pad}").averages - exact.averages).mean() for pad in (2, 1)
    )
    assert near < far
    assert pose_errors(exact, stack).degrees < 2.5


@pytest.mark.parametrize("force_max", ["true", "false"])
def test_cross_posteriors_alter_what_is_said_and_not_what_is_found(force_max, guided):
    halves = (f"model.force_max={force_max}", "optimizer.full_iterations=2")
    usual = guided(*halves, "model.cross_posteriors=false")
    cross = guided(*halves, "model.cross_posteriors=true")
    for name in ("classes", "psi", "shift", "averages"):
        np.testing.assert_array_equal(getattr(cross, name), getattr(usual, name))
    said, before = cross.columns["class_posterior"], usual.columns["class_posterior"]
    assert float(said.min()) >= 0.0
    assert float(said.max()) <= 1.0 + 1e-5
    assert said.mean() < before.mean()
    assert not np.array_equal(cross.columns["class_ess"], usual.columns["class_ess"])
    quick = guided(*halves).columns["class_posterior"]
    # nearly as sure as the judged ones on the whole, in the order of the E-step's own
    assert abs(quick.mean() - said.mean()) < 0.2 * abs(before.mean() - said.mean())
    assert (np.diff(quick[before.argsort()]) >= 0.0).all()
