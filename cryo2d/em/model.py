"""The state of a classification: references, class weights and noise."""

import torch
from torch import Tensor, nn


class ClassModel(nn.Module):
    """What the E-step compares particles with.

    The references are a parameter so that an optimizer can own them; no gradient is ever taken.

    Args:
        references: first class averages ``[k y x]``.
        noise: first noise power per optics group ``[g s]``.
    """

    def __init__(self, references: Tensor, noise: Tensor) -> None:
        super().__init__()
        num_classes, num_rings = len(references), noise.shape[1]
        self.references = nn.Parameter(references.clone(), requires_grad=True)
        self.noise: Tensor
        self.frc: Tensor
        self.weights: Tensor
        self.register_buffer("noise", noise.clone())
        self.register_buffer("frc", torch.zeros((num_classes, num_rings)))
        self.register_buffer("weights", torch.full((num_classes,), 1.0 / num_classes))

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.references)
