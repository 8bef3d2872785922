import math

import numpy as np
import pytest
import torch
from reference import frequencies, plane_sum, polar, seen, turn
from synthetic import angle_between, synthetic

from cryo2d.em.coarse import CoarseBank, blocks_of, product_type, rounded_products
from cryo2d.em.search import shift_disc
from cryo2d.physics.mask import circular_mask

ROTATIONS, OFFSET = 24, 0.07


def exhaustive(images, averages, grid, shifts, band):
    """Re<image, A> of every particle, class, rotation and class-frame shift ``[n k r t]``."""
    psis = OFFSET + 2 * math.pi * np.arange(ROTATIONS) / ROTATIONS
    fx, fy = frequencies(grid)
    out = np.zeros((len(images), len(averages), ROTATIONS, len(shifts)))
    for k, average in enumerate(averages):
        for r, psi in enumerate(psis):
            still = seen(average, psi, (0.0, 0.0), grid)
            for t, shift in enumerate(shifts):
                x, y = turn(-psi) @ shift
                model = band * still * np.exp(2j * math.pi * (fx * x + fy * y))
                for n, image in enumerate(images):
                    out[n, k, r, t] = plane_sum((image.conj() * model).real)
    return out, psis


@pytest.mark.parametrize(("box", "first_ring"), [(32, 0), (33, 3)])
def test_best_of_every_class_is_that_of_the_exhaustive_search(box, first_ring, device):
    data = synthetic(3, box=box, rings=6, num_classes=2, sigma=0.5)
    grid, averages = data.grid, data.averages.numpy()
    images = data.weighted(device).image
    shifts = shift_disc(2.0, 1.4)
    band = (torch.arange(6) >= first_ring).float()
    exact = grid.harmonics(
        torch.from_numpy(np.stack([polar(a, grid) for a in averages])).to(images)
    )
    bank = CoarseBank(
        exact,
        grid,
        band=band,
        shifts=shifts.to(device),
        num_rotations=ROTATIONS,
        offset=OFFSET,
        extent=box,
    )
    found = bank.best(bank.parts(grid.harmonics(images)))
    table, psis = exhaustive(
        images.cpu().numpy(), averages, grid, shifts.double().numpy(), band.numpy()
    )
    best = table.max((2, 3))
    spread = np.abs(table).max()
    np.testing.assert_allclose(found.cross.cpu().numpy(), best, atol=5e-3 * spread)
    for n in range(3):
        for k in range(2):
            psi, t = float(found.psi[n, k]), int(found.shift[n, k])
            r = np.abs(np.exp(1j * psis) - np.exp(1j * psi)).argmin()
            assert abs(np.exp(1j * psis[r]) - np.exp(1j * psi)) < 1e-4
            assert table[n, k, r, t] >= best[n, k] - 5e-3 * spread


def test_particles_and_classes_do_not_mix(device):
    data = synthetic(5, rings=8)
    images = data.grid.harmonics(data.weighted(device).image)
    references = data.grid.harmonics(data.grid.sample(data.averages.to(device)))
    settings = {
        "band": torch.ones(8),
        "shifts": shift_disc(2.0, 1.5).to(device),
        "num_rotations": 20,
        "offset": 0.0,
        "extent": 32.0,
    }
    bank = CoarseBank(references, data.grid, **settings)
    together = bank.best(bank.parts(images))
    for k in range(3):
        bank = CoarseBank(references[k : k + 1], data.grid, **settings)
        for n in range(5):
            alone = bank.best(bank.parts(images[n : n + 1]))
            assert float(alone.cross) == pytest.approx(float(together.cross[n, k]), rel=1e-4)
            assert float(alone.psi) == pytest.approx(float(together.psi[n, k]), abs=1e-5)
            assert int(alone.shift) == int(together.shift[n, k])


def test_it_takes_the_orders_and_rings_that_it_needs(device):
    # images sampled more finely, to more rings: the bank reads its part
    fine, coarse = synthetic(4, rings=14), synthetic(4, rings=7)
    settings = {
        "band": torch.ones(7),
        "shifts": torch.zeros((1, 2), device=device),
        "num_rotations": 40,
        "offset": 0.0,
        "extent": 32.0,
    }
    averages = coarse.grid.harmonics(coarse.grid.sample(coarse.averages.to(device)))
    bank = CoarseBank(averages, coarse.grid, **settings)
    first = bank.best(bank.parts(fine.grid.harmonics(fine.weighted(device).image)))
    second = bank.best(bank.parts(coarse.grid.harmonics(coarse.weighted(device).image)))
    torch.testing.assert_close(first.cross, second.cross, rtol=2e-2, atol=0.1)
    assert bool((first.psi == second.psi).float().mean() > 0.8)


def test_products_are_rounded_on_a_gpu_alone_and_there_for_the_search_alone(device):
    before = torch.get_float32_matmul_precision()
    with rounded_products(device):
        inside = torch.get_float32_matmul_precision()
    assert inside == ("high" if device.type == "cuda" else before)
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.parametrize(
    ("has", "kind"),
    [
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"avx2": True, "amx_bf16": True}, torch.bfloat16),
        ({"avx2": True, "avx512_bf16": False}, torch.float32),
        ({}, torch.float32),
    ],
)
def test_products_have_few_bits_where_the_cpu_is_made_for_them(has, kind, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has, raising=False)
    assert product_type(torch.device("cpu")) == kind
    assert product_type(torch.device("cuda")) == torch.float32


def test_an_old_torch_multiplies_all_bits(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert product_type(torch.device("cpu")) == torch.float32


def test_products_of_few_bits_find_what_exact_ones_do(device, monkeypatch):
    data = synthetic(200, rings=10, num_classes=3, sigma=0.5)
    images = data.grid.harmonics(data.weighted(device).image)
    averages = data.grid.harmonics(data.grid.sample(data.averages.to(device)))
    settings = {
        "band": torch.ones(10),
        "shifts": shift_disc(3.0, 1.6),
        "num_rotations": 64,
        "offset": OFFSET,
        "extent": 32.0,
    }
    found = []
    for kind in (torch.float32, torch.bfloat16):
        monkeypatch.setattr("cryo2d.em.coarse.product_type", lambda device, kind=kind: kind)
        bank = CoarseBank(averages, data.grid, **settings)
        found.append(bank.best(bank.parts(images)))
    exact, rounded = found
    spread = float(exact.cross.std())
    assert 0.0 < float((rounded.cross - exact.cross).square().mean().sqrt()) < 1e-2 * spread
    assert float((rounded.shift == exact.shift).float().mean()) > 0.95
    assert float((rounded.psi == exact.psi).float().mean()) > 0.95


@pytest.mark.parametrize("extent", [16.0, 24.0, 32.0])
def test_blocks_hold_the_power_of_an_image_inside_the_disc(extent, device):
    data = synthetic(1, rings=15)
    grid = data.grid
    disc = circular_mask(32, extent / 2 - 3.0, extent / 2).to(device)
    noise = torch.randn((20, 32, 32), generator=torch.Generator().manual_seed(2)).to(device)
    power = grid.harmonics(grid.sample(noise * disc)).abs().square().sum(0)
    inside = torch.zeros_like(power, dtype=torch.bool)
    for block in blocks_of(grid, extent):
        inside[block.first : block.last, block.ring :] = True
    assert float(power[~inside].sum()) < 1e-3 * float(power.sum())
    # what is left out is worth it
    assert int((~inside).sum()) > 0.15 * inside.numel()


@pytest.mark.usefixtures("exact_products")
def test_between_the_rotations_lies_the_true_one(device):
    data = synthetic(12, rings=10, sigma=0.0)
    images = data.grid.harmonics(data.weighted(device).image)
    bank = CoarseBank(
        data.grid.harmonics(data.grid.sample(data.averages.to(device))),
        data.grid,
        band=torch.ones(10),
        shifts=shift_disc(3.0, 0.8),
        num_rotations=64,
        offset=OFFSET,
        extent=32.0,
    )
    found, row = bank.best(bank.parts(images)), torch.arange(12)
    step = 2 * math.pi / 64
    searched, between = (
        angle_between(psi.cpu()[row, data.classes], data.psi) for psi in (found.psi, found.between)
    )
    assert float(searched.max()) <= step
    assert float(between.square().mean()) < 0.3 * float(searched.square().mean())
    away = angle_between(found.between.cpu(), found.psi.cpu())
    assert float(away.max()) <= step + 1e-4


@pytest.mark.parametrize("sigma", [0.3, 1.0, 4.0])
def test_breadth_is_nearly_that_of_the_likelihood_over_all_poses(sigma, device):
    data = synthetic(100, rings=10, sigma=sigma)
    images, num_rotations, shifts = data.weighted(device), 64, shift_disc(3.0, 0.8)
    bank = CoarseBank(
        data.grid.harmonics(data.grid.sample(data.averages.to(device))),
        data.grid,
        band=torch.ones(10),
        shifts=shifts,
        num_rotations=num_rotations,
        offset=OFFSET,
        extent=32.0,
    )
    parts = bank.parts(data.grid.harmonics(images.image))
    logs = torch.stack([bank.scores(parts, k) for k in range(3)], dim=2)  # [r*t n k]
    exact = logs.logsumexp(0) - logs.amax(0)
    away = bank.best(parts).breadth - exact
    assert float(away.abs().mean()) < 0.5
    # from class to class of a particle, which is what decides between them
    differs = [x - x.mean(1, keepdim=True) for x in (away, exact)]
    assert float(differs[0].std()) < 0.75 * float(differs[1].std())
    # all poses are alike without contrast
    flat = bank.best(parts, scale=torch.zeros(100, device=device)).breadth
    torch.testing.assert_close(flat, torch.full_like(flat, math.log(num_rotations * len(shifts))))
