"""Choosing classes of a finished classification, by a rule or by eye."""
