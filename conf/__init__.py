"""The configuration of every job; installed as ``cryo2d.conf``."""
