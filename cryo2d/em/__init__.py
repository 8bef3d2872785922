"""The classification algorithm; torch only."""
