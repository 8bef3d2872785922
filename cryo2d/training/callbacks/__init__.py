"""Lightning callbacks: what a run shows, logs and writes."""
