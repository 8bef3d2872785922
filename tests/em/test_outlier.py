import dataclasses

import numpy as np
import pytest
import torch
from scipy.stats import norm
from synthetic import search_of, synthetic

from cryo2d.em.marginal import Marginalise
from cryo2d.em.outlier import Gains, free_blob, is_junk, outlier
from cryo2d.em.posterior import maximise
from cryo2d.em.score import PoseScorer
from cryo2d.em.stats import SufficientStats
from cryo2d.physics.solvent import gaussian


def test_a_blob_gains_what_the_best_gaussian_does(rng, device):
    # n real samples of variance u in units of the noise: their most likely Gaussian
    weights = torch.tensor([40.0, 60.0])
    samples = [rng.standard_normal(40) * 1.8, rng.standard_normal(60) * 0.7]
    power = torch.tensor([[float((s**2).sum()) for s in samples]])
    spread = np.sqrt((samples[0] ** 2).mean())
    expected = norm.logpdf(samples[0], scale=spread).sum() - norm.logpdf(samples[0]).sum()
    found = free_blob(power.to(device), weights.to(device))
    # the second ring has less power than noise has
    assert float(found) == pytest.approx(expected, rel=1e-4)


def test_the_measure_is_zero_for_typical_gains_and_one_for_none(device):
    gain = torch.tensor([50.0, 0.0, 100.0, -25.0], device=device)
    found = outlier(gain, torch.tensor(50.0, device=device))
    assert found.tolist() == [0.0, 1.0, -1.0, 1.5]
    assert outlier(gain, torch.tensor(-3.0, device=device)).tolist() == [0.0] * 4


def test_particles_of_no_class_stand_out(device):
    data = synthetic(90, sigma=0.8)
    strange = torch.arange(90) % 9 == 0
    fields = torch.randn((10, 32, 32), generator=torch.Generator().manual_seed(4))
    clumps = gaussian(fields, 2.5)
    clumps *= data.averages.std() / clumps.std()
    pictures = data.images.clone()
    pictures[strange] = clumps + 0.8 * fields
    data = dataclasses.replace(data, images=pictures)
    images, grid = data.weighted(device), data.grid
    scorer = PoseScorer(data.averages.to(device), grid, search_of(grid.box), rings=12)
    found = maximise(scorer, images, log_prior=torch.zeros(3, device=device), uncertainty=1.0)
    gain = found.gain - free_blob(images.power, grid.ring_weights.to(device))
    measure = outlier(gain, gain.median()).cpu()
    assert float(measure[~strange].median()) < 0.2
    assert float(measure[strange].median()) > 0.7


def test_small_particles_are_measured_by_their_own_class():
    nan = float("nan")
    generator = torch.Generator().manual_seed(2)
    large, small, junk = (
        level + 3.0 * torch.randn(20, generator=generator) for level in (400.0, 60.0, 5.0)
    )
    gain = torch.cat((large, large, small, junk, torch.tensor([nan, 1000.0])))
    classes = torch.tensor([0] * 40 + [1] * 20 + [2] * 20 + [2, 3])
    gains = Gains.of(gain, classes, 4)
    assert float(gains.overall) == pytest.approx(400.0, abs=10.0)
    assert gains.classes.tolist() == pytest.approx([400.0, 60.0, 5.0, 400.0], abs=12.0)
    assert gains.known.tolist() == [True, True, True, False]
    assert float(outlier(small, gains.typical[classes[40:60]]).abs().max()) < 0.3
    # a clump in the class of the large ones
    assert float(outlier(torch.tensor([60.0]), gains.typical[:1])) > 0.8
    assert gains.junk(chance=12.0).tolist() == [False, False, True, False]
    # small particles are no junk: they gain far more than chance
    clean = Gains.of(gain[:60], classes[:60], 4)
    assert not clean.junk(chance=12.0).any()
    assert not Gains.of(junk, torch.zeros(20, dtype=torch.int64), 1).junk(12.0).any()
    # a few particles make no class of junk, but stay where there is one
    few = torch.where(torch.arange(len(gain)) % 20 < 5, classes, 3)
    assert not Gains.of(torch.where(few == 2, gain, 400.0), few, 4).junk(12.0).any()
    classes[:5] = 3
    gain[:5] = 4.0
    assert Gains.of(gain, classes, 4).junk(12.0).tolist() == [False, False, True, True]


def test_junk_goes_to_the_class_of_junk():
    generator = torch.Generator().manual_seed(2)
    gain = torch.cat([level + 3.0 * torch.randn(20, generator=generator) for level in (400.0, 5.0)])
    classes = torch.tensor([0] * 20 + [1] * 15 + [2] * 5)
    found = Gains.of(gain, classes, 4).gathering(12.0, torch.ones((4, 6)))
    assert found is not None
    assert found.into == 1
    assert found.stay.tolist() == [False, True, False, False]
    assert found.known.tolist() == [True, True, False, False]
    assert found.log_prior.tolist() == [0.0] * 4
    # four in five of the junk gain less than what junk gains
    junk = gain[20:]
    assert float((junk < found.usual).float().mean()) == pytest.approx(0.8, abs=0.06)
    # a class begun anew gives away what gains no more, one that is known its outliers, junk none
    few, more = float(found.usual) - 1.0, float(found.usual) + 1.0
    gains = torch.tensor([few, more, 300.0, few, more, few, few])
    classes = torch.tensor([0, 0, 0, 3, 3, 1, 2])
    typical = torch.full((7,), 400.0)
    taken = found.takes(gains, typical, classes)
    assert taken.tolist() == [True, True, False, True, False, False, True]


@pytest.mark.parametrize(("clumps", "emptied"), [(30, 2), (14, 1), (9, None)])
def test_a_poor_class_is_emptied_for_more_outliers_than_it_has_members(clumps, emptied):
    members = (60, 12, 20, 40)
    gain = torch.cat((torch.full((132,), 400.0), torch.full((clumps,), -300.0)))
    classes = torch.repeat_interleave(torch.arange(4), torch.tensor(members))
    gain[60:72] = 300.0  # not all are alike
    classes = torch.cat((classes, torch.zeros(clumps, dtype=torch.int64)))
    gains = Gains.of(gain, classes, 4)
    assert gains.outliers == clumps
    assert not gains.junk(12.0).any()
    frc = torch.tensor([0.8, 0.3, 0.2, 0.1])[:, None].expand(4, 6)
    found = gains.gathering(12.0, frc)
    if emptied is None:
        assert found is None
        return
    assert found is not None
    assert found.into == emptied
    assert not found.stay.any()
    assert found.log_prior.isinf().nonzero().flatten().tolist() == [emptied]
    # with two classes there is none to spare
    assert Gains.of(gain, classes.clamp(max=1), 2).gathering(12.0, frc[:2]) is None


@pytest.mark.parametrize("step", [maximise, Marginalise()])
@pytest.mark.parametrize("uncertainty", [1.0, 2.0])
@pytest.mark.parametrize("sigma", [0.1, 1.0])
def test_an_emptied_class_takes_no_particle(step, sigma, uncertainty, device):
    data = synthetic(30, sigma=sigma)
    images, grid = data.weighted(device), data.grid
    scorer = PoseScorer(data.averages.to(device), grid, search_of(grid.box), rings=12)
    prior = torch.tensor([0.0, -torch.inf, 0.0], device=device)
    posterior = step(scorer, images, log_prior=prior, uncertainty=uncertainty)
    stats = SufficientStats.zeros(grid, 3, 1, device)
    posterior.add_to(stats, grid, images)
    assert float(stats.count[:, 1].sum()) == 0.0
    assert float(stats.count.sum()) == pytest.approx(30, rel=0.02)
    assert bool(stats.num.isfinite().all())
    assert bool((posterior.peak().best_poses.classes != 1).all())


def test_what_noise_explains_is_no_junk():
    # gains of members whose expectation is g have the variance 2 g
    generator = torch.Generator().manual_seed(1)
    for expected in (12.0, 40.0, 300.0):
        typical = torch.full((20_000,), expected)
        gain = expected + (2.0 * expected) ** 0.5 * torch.randn(20_000, generator=generator)
        assert float(is_junk(gain, typical).float().mean()) < 0.007
    # of small particles an empty box cannot be told, of large ones it can
    empty = torch.zeros(3)
    assert is_junk(empty, torch.tensor([12.0, 40.0, 300.0])).tolist() == [False, True, True]
    # of particles that gain next to nothing none can be told
    assert not is_junk(torch.tensor([-3.0]), torch.tensor([0.5]))
    # contrast varies more than noise: what explains half as much is no junk
    assert not is_junk(torch.tensor([150.0]), torch.tensor([300.0]))


@pytest.mark.parametrize("step", [maximise, Marginalise()])
def test_moved_particles_count_once_in_their_new_class(step, device):
    data = synthetic(30, sigma=1.0)
    images, grid = data.weighted(device), data.grid
    scorer = PoseScorer(data.averages.to(device), grid, search_of(grid.box), rings=12)
    posterior = step(scorer, images, log_prior=torch.zeros(3, device=device), uncertainty=2.0)
    apart = torch.arange(30, device=device) % 5 == 0
    before = posterior.peak().best_poses
    moved = posterior.moved(apart, 2)
    poses = moved.peak().best_poses
    assert bool((poses.classes[apart] == 2).all())
    assert torch.equal(poses.classes[~apart], before.classes[~apart])
    torch.testing.assert_close(poses.psi, before.psi)
    stats = SufficientStats.zeros(grid, 3, 1, device)
    moved.add_to(stats, grid, images)
    assert float(stats.count.sum()) == pytest.approx(30, rel=0.02)
    only = SufficientStats.zeros(grid, 3, 1, device)
    moved.moved(torch.ones(30, dtype=torch.bool, device=device), 1).add_to(only, grid, images)
    assert float(only.count[:, 1].sum()) == pytest.approx(30, rel=1e-4)
