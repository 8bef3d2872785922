"""Whole runs of a few iterations on a few particles, without files."""

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from in_memory import FULL, ONLINE, fit, module_of
from synthetic import PIXEL, Synthetic, angle_between, synthetic

from cryo2d.em.anneal import PowerLaw, Uncertainty
from cryo2d.em.faint import Faint
from cryo2d.em.marginal import Marginalise
from cryo2d.em.population import Reseed
from cryo2d.em.posterior import maximise
from cryo2d.geometry.transform import rotate_vector
from cryo2d.training.callbacks.checkpoint import newest_checkpoint
from cryo2d.training.module import Classification


@pytest.fixture(scope="module")
def data() -> Synthetic:
    return synthetic(60, sigma=0.3, reach=1.5)


class Listener(pl.Callback):
    """Keeps the summaries as callbacks see them."""

    def __init__(self) -> None:
        self.seen = []
        self.found = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seen.append(pl_module.summary)
        self.found.append(pl_module.assignments)


def test_one_epoch_is_one_iteration(data, device, tmp_path):
    listener, module = Listener(), module_of(data)
    trainer = fit(module, data, tmp_path, device, callbacks=(listener,))
    assert trainer.global_step == trainer.current_epoch == ONLINE + FULL
    seen = listener.seen
    assert [s.iteration for s in seen] == list(range(ONLINE + FULL))
    assert [s.particles for s in seen] == [30] * ONLINE + [60]
    assert [s.full for s in seen] == [False] * ONLINE + [True]
    assert [s.step_size for s in seen] == [*(PowerLaw()(t) for t in range(ONLINE)), 1.0]
    assert [s.uncertainty for s in seen] == [Uncertainty(2.0, 0, 3)(t) for t in range(5)]
    for summary in seen:
        assert int(summary.counts.sum()) == summary.particles
        assert float(summary.weights.sum()) == pytest.approx(1.0, rel=1e-4)
        assert 1.0 <= summary.effective_classes <= 3.0 + 1e-4
        assert summary.averages.device.type == "cpu"
        assert summary.averages.shape == (3, 32, 32)
    # chi-squared per sample: the noise alone is left
    assert seen[-1].mean_error == pytest.approx(1.0, abs=0.15)
    assert np.isnan(seen[0].unchanged)
    before, after = listener.found[-2:]
    visited = ~before.class_posterior.isnan()
    same = (before.class_index == after.class_index)[visited]
    assert seen[-1].unchanged == pytest.approx(float(same.float().mean()))
    # noise of this power per sample
    power, weights = seen[-2].noise[0], data.grid.ring_weights
    entropy = float((power.log() * weights).sum() / weights.sum())
    assert seen[-1].log_likelihood == pytest.approx(-entropy - seen[-1].mean_error, rel=1e-4)


def test_it_finds_classes_and_poses(data, device, tmp_path):
    module = module_of(data)
    fit(module, data, tmp_path, device)
    found = module.assignments
    assert found.psi.device.type == "cpu"
    assert float((found.class_index == data.classes).float().mean()) > 0.95
    # one rotation and one shift of a class are free
    for k in range(3):
        rows = data.classes == k
        off = rotate_vector(found.shift[rows] / PIXEL - data.shift[rows], found.psi[rows])
        assert float((off - off.median(0).values).norm(dim=1).median()) < 0.4
        turned = found.psi[rows] - data.psi[rows]
        middle = torch.atan2(turned.sin().mean(), turned.cos().mean())
        assert float(angle_between(turned, middle).median()) < 0.06


def state(module: Classification) -> dict[str, torch.Tensor]:
    optimizer = module.optimizers().optimizer
    return {
        **{f"model/{name}": value for name, value in module.state_dict().items()},
        **{f"stats/{name}": value for name, value in optimizer.stats.as_dict().items()},
        **{f"found/{name}": value for name, value in vars(module.assignments).items()},
    }


# the classes below the mean are replaced after the first and after the fourth iteration
RESEED = Reseed(total=ONLINE, at=(0.0, 0.75), least=1.0, varied=1.0)
# and what varies in them is looked at in all of these
VARIED = Reseed(total=ONLINE, at=(0.0, 0.75), least=1.0, varied=0.0, shortest=0)


@pytest.mark.parametrize("reseed", [None, RESEED, VARIED])
@pytest.mark.parametrize("stop", [1, 2, ONLINE])
def test_a_resumed_run_is_the_uninterrupted_run(stop, reseed, data, tmp_path):
    # on the CPU only: sums on a GPU are added in no fixed order
    device = torch.device("cpu")
    whole = module_of(data, reseed=reseed, scale_per_particle=True)
    fit(whole, data, tmp_path / "whole", device)
    first = module_of(data, reseed=reseed, scale_per_particle=True)
    fit(first, data, tmp_path / "parts", device, iterations=stop)
    second = module_of(data, reseed=reseed, scale_per_particle=True)
    checkpoint, _ = newest_checkpoint(tmp_path / "parts")
    trainer = fit(second, data, tmp_path / "parts", device, resume=checkpoint)
    assert trainer.global_step == ONLINE + FULL
    one, other = state(whole), state(second)
    assert one.keys() == other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert different == []


class Counted:
    """An E-step that counts its calls."""

    def __init__(self) -> None:
        self.calls, self.own = 0, Marginalise()

    def __call__(self, *images, **options):
        self.calls += 1
        return self.own(*images, **options)


@pytest.mark.parametrize("faint", [False, True])
def test_poses_are_summed_over_once_particles_turn_out_to_be_faint(faint, device, tmp_path):
    data = synthetic(60, sigma=8.0 if faint else 0.3, reach=1.5)
    every = Counted()
    module = module_of(data, faint=Faint(2, every, maximise))
    fit(module, data, tmp_path, device, size=1000, iterations=2)
    assert every.calls == 0
    # whether it is decided in the same run or after a checkpoint
    fit(module, data, tmp_path, device, size=1000, resume=newest_checkpoint(tmp_path)[0])
    assert (every.calls > 0) == faint


def test_faint_particles_stay_faint_in_a_resumed_run(tmp_path):
    device, data = torch.device("cpu"), synthetic(60, sigma=8.0, reach=1.5)
    whole, first, second = (module_of(data, faint=Faint(2, Counted(), maximise)) for _ in range(3))
    fit(whole, data, tmp_path / "whole", device)
    fit(first, data, tmp_path / "parts", device, iterations=3)
    fit(second, data, tmp_path / "parts", device, resume=newest_checkpoint(tmp_path / "parts")[0])
    assert whole.settings.faint.faint.calls > second.settings.faint.faint.calls > 0
    one, other = state(whole), state(second)
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_a_run_goes_on_after_a_checkpoint(data, device, tmp_path):
    first, second = module_of(data), module_of(data)
    fit(first, data, tmp_path, device, iterations=2)
    trainer = fit(second, data, tmp_path, device, resume=newest_checkpoint(tmp_path)[0])
    assert trainer.global_step == ONLINE + FULL
    assert bool(torch.isfinite(second.assignments.class_posterior).all())


def test_a_checkpoint_keeps_what_was_found(data, device, tmp_path):
    module = module_of(data)
    fit(module, data, tmp_path, device, iterations=1)
    visited = ~module.assignments.class_posterior.isnan()
    assert int(visited.sum()) == 30
    assert torch.equal(visited.nonzero()[:, 0], module.plan.rows(0).sort().values)
    other = module_of(data)
    other.on_load_checkpoint(newest_checkpoint(tmp_path)[1])
    for name, value in vars(other.assignments).items():
        torch.testing.assert_close(value, getattr(module.assignments, name), equal_nan=True)


def test_the_size_of_the_batches_does_not_matter(data, device, tmp_path):
    small, large = module_of(data), module_of(data)
    fit(small, data, tmp_path / "small", device, size=7, iterations=2)
    fit(large, data, tmp_path / "large", device, size=1000, iterations=2)
    one, other = small.summary.averages, large.summary.averages
    torch.testing.assert_close(one, other, atol=1e-2 * float(other.abs().max()), rtol=0)
    assert torch.equal(small.summary.counts, large.summary.counts)


def test_threads_share_the_particles(data, tmp_path, monkeypatch):
    monkeypatch.setattr("cryo2d.training.module.PORTION", 4)
    before, modules = torch.get_num_threads(), []
    try:
        for number, count in enumerate((1, 2, 2)):
            torch.set_num_threads(count)
            modules.append(module_of(data))
            fit(modules[-1], data, tmp_path / str(number), torch.device("cpu"))
            assert modules[-1]._threads.count == count
    finally:
        torch.set_num_threads(before)
    one, two, again = (module.summary.averages for module in modules)
    torch.testing.assert_close(one, two, atol=1e-2 * float(one.abs().max()), rtol=0)
    assert torch.equal(modules[0].assignments.class_index, modules[1].assignments.class_index)
    assert torch.equal(two, again)


@pytest.mark.parametrize("expectation", [maximise, Marginalise()])
@pytest.mark.parametrize("step", ["_gains_of", "_record"])
def test_a_device_short_of_memory_gives_the_same_result(
    expectation, step, data, tmp_path, monkeypatch
):
    usual, short = (module_of(data, expectation=expectation, reseed=VARIED) for _ in range(2))
    fit(usual, data, tmp_path / "usual", torch.device("cpu"))
    whole = getattr(Classification, step)

    def fails(module: Classification, *arguments) -> object:
        if len(arguments[1].index if step == "_gains_of" else arguments[0]) > 6:
            # the sums have been added to by then, if the step is the last one
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return whole(module, *arguments)

    monkeypatch.setattr(Classification, step, fails)
    fit(short, data, tmp_path / "short", torch.device("cpu"))
    one, other = usual.summary.averages, short.summary.averages
    torch.testing.assert_close(one, other, atol=1e-2 * float(one.abs().max()), rtol=0)
    assert torch.equal(usual.assignments.class_index, short.assignments.class_index)


def test_half_sets_stay_apart(data, device, tmp_path):
    module = module_of(data)
    fit(module, data, tmp_path, device)
    # Lightning leaves the optimizer on the CPU
    count = module.optimizers().optimizer.stats.count.sum(1).cpu()
    expected = torch.bincount(data.half).float()
    torch.testing.assert_close(count, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("hard", [False, True])
def test_a_hard_last_pass_counts_whole_particles(hard, device, tmp_path):
    noisy = synthetic(60, sigma=1.0, reach=1.5)
    module = module_of(noisy, hard_last=hard, uncertainty=Uncertainty(2.0, 100, 1))
    fit(module, noisy, tmp_path, device)
    count = module.optimizers().optimizer.stats.count.sum(0).cpu()
    whole = torch.allclose(count, count.round(), atol=1e-4)
    assert whole == hard
    if hard:
        assert torch.equal(count.round().long(), module.summary.counts)


def test_contrast_scales_are_recovered(device, tmp_path):
    varied = synthetic(120, sigma=0.2, reach=1.0, scale_spread=0.35)
    module = module_of(varied, scale_per_particle=True)
    fit(module, varied, tmp_path, device)
    found = module.scale.cpu()
    assert float(found.mean()) == pytest.approx(1.0, abs=1e-4)
    both = torch.stack((found.log(), varied.scale.log()))
    assert float(torch.corrcoef(both)[0, 1]) > 0.9
    ratio = found / varied.scale
    assert float((ratio / ratio.median()).log().abs().median()) < 0.1
    fixed = module_of(varied)
    fit(fixed, varied, tmp_path / "fixed", device, iterations=2)
    assert float((fixed.scale - 1).abs().max()) == 0.0


def test_noise_is_that_of_the_particles(data, device, tmp_path):
    module = module_of(data)
    fit(module, data, tmp_path, device)
    noise = module.model.noise[0].cpu()
    # what the averages fit of the noise is missing
    assert 0.85 < float(noise.mean()) / data.sigma2 < 1.1


def test_a_reseeded_class_is_used(device, tmp_path):
    several = synthetic(60, sigma=0.3, reach=1.0)
    start = several.averages.clone()
    start[2] *= -1  # nothing looks like this
    listeners = []
    for reseed in (None, Reseed(total=ONLINE, at=(0.0,), least=0.9)):
        module = module_of(several, reseed=reseed, start=start)
        listeners.append(Listener())
        fit(module, several, tmp_path, device, callbacks=(listeners[-1],))
    without, with_it = (float(listener.seen[0].weights.min()) for listener in listeners)
    assert with_it > without
    assert float(listeners[-1].seen[1].weights.min()) > 0.1


class Raise(pl.Callback):
    """Makes the average of one half-set ten times as strong before an epoch."""

    def __init__(self, epoch: int, half: int) -> None:
        self.epoch, self.half = epoch, half

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == self.epoch:
            held = next(iter(trainer.optimizers[0].state.values()))
            held["num"][self.half] *= 10.0
            if "halves" in held:
                held["halves"][self.half] *= 10.0


@pytest.mark.parametrize("parting", [ONLINE, ONLINE + 1])
def test_half_sets_are_aligned_to_their_own_averages(parting, data, device, tmp_path):
    module = module_of(data, parting=parting)
    fit(module, data, tmp_path, device, callbacks=(Raise(ONLINE, 0),))
    power = module.assignments.slice_pow
    strong = power > 10.0 * power[data.half == 1].median()
    # the averages of both were solved for before that
    expected = (data.half == 0) if parting == ONLINE else torch.zeros_like(strong)
    assert torch.equal(strong, expected)
