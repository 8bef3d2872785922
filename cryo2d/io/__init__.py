"""Particle files and image stacks; numpy and pandas only."""
