"""Pictures and pages of a run: class montage, curves, report."""
