"""Fixtures for every test: a device, exact products, a seeded random generator."""

import numpy as np
import pytest
import torch

GPU = pytest.param("cuda", marks=pytest.mark.gpu)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(params=["cpu", GPU])
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


@pytest.fixture
def exact_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """The dense search with all bits, though this CPU may be faster with fewer."""
    monkeypatch.setattr("cryo2d.em.coarse.product_type", lambda device: torch.float32)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20261122)
