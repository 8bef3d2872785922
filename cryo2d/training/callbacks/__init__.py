"""What a run draws, logs, saves and exports."""
