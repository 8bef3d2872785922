"""Grids and Fourier geometry; knows no microscope."""
