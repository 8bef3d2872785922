import logging
import math

import pytest
import torch

from cryo2d.em.faint import LEAST, Faint
from cryo2d.em.marginal import Marginalise
from cryo2d.em.posterior import maximise

CHOICES = math.log(200_000)


def gains(typical: float) -> torch.Tensor:
    """Of particles, some of which were never visited."""
    known = typical + torch.linspace(-3.0, 3.0, 301)
    return torch.cat((known, torch.full((50,), torch.nan)))


@pytest.mark.parametrize(("typical", "faint"), [(0.9 * LEAST, True), (1.1 * LEAST, False)])
def test_particles_that_gain_little_beside_their_choices_are_faint(typical, faint, caplog):
    caplog.set_level(logging.INFO)
    decide = Faint(3, Marginalise(), maximise)
    assert decide(gains(typical * CHOICES), CHOICES) is faint
    assert ("model.force_max=true" in caplog.text) is faint


def test_gains_that_nobody_knows_decide_nothing():
    assert not Faint(0, Marginalise(), maximise)(torch.full((9,), torch.nan), CHOICES)
