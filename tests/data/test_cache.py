import dataclasses

import pytest
import torch
from synthetic import PIXEL, synthetic

from cryo2d.data.cache import ParticleCache
from cryo2d.physics.preprocess import weigh


def cache_of(count: int, device: torch.device) -> ParticleCache:
    cache = synthetic(count, sigma=0.5).cache()
    return dataclasses.replace(cache, optics=torch.arange(count) % 2).to(device)


def test_a_batch_holds_the_rows_asked_for(device):
    data, cache = synthetic(10, sigma=0.5), cache_of(10, device)
    rows = torch.tensor([7, 0, 3, 7])
    batch = cache.batch(rows)
    original = data.batch(device)
    assert batch.index.tolist() == rows.tolist()
    assert batch.rings.dtype == torch.complex64
    torch.testing.assert_close(batch.half, original.half[rows])
    torch.testing.assert_close(batch.optics.cpu(), rows % 2)
    torch.testing.assert_close(batch.ctf.defocus_u, original.ctf.defocus_u[rows])
    torch.testing.assert_close(batch.scale, torch.ones(4, device=device))
    # half precision: 11 bits
    torch.testing.assert_close(batch.rings, original.rings[rows], rtol=1e-3, atol=1e-4)


def test_half_precision_hardly_changes_a_score(device):
    data = synthetic(10, sigma=0.5)
    noise = data.noise(device)
    scores = []
    for batch in (data.batch(device), data.cache().to(device).batch(torch.arange(10))):
        batch = batch.to(device)
        images = weigh(batch, data.grid, pixel_size=PIXEL, noise=noise)
        samples = data.grid.sample(data.averages.to(device))
        scores.append(data.grid.inner(images.image[:, None], samples[None]))
    # the scores' own standard deviation is above 1
    torch.testing.assert_close(scores[0], scores[1], atol=0.02, rtol=1e-3)


def test_length_and_memory(device):
    cache = cache_of(10, device)
    assert len(cache) == 10
    assert cache.nbytes == 10 * cache.rings.shape[1] * cache.rings.shape[2] * 2 * 2


def test_mean_power_is_that_of_each_optics_group(device):
    cache = cache_of(20, device)
    found = cache.mean_power(3)
    power = torch.view_as_complex(cache.rings.float()).abs().square().mean(1)
    for group in (0, 1):
        torch.testing.assert_close(found[group], power[cache.optics == group].mean(0))
    # a group without particles has the mean of all
    torch.testing.assert_close(found[2], power.mean(0))


def test_mean_power_of_noise_is_the_noise(device):
    data = synthetic(600, sigma=5.0)
    found = data.cache().to(device).mean_power(1)[0]
    torch.testing.assert_close(found.cpu(), data.noise(torch.device("cpu"))[0], rtol=0.1, atol=0)
    some = data.cache().to(device).mean_power(1, most=100)[0]
    assert float(some.mean()) == pytest.approx(float(found.mean()), rel=0.05)
