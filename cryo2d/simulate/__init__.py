"""Particle stacks whose truth is known."""
