"""The algorithm as a Lightning module, its data and its callbacks."""
