"""2D classification of cryo-EM particles."""

__version__ = "0.1.0"
