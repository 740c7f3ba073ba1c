"""Training runs: their settings, their directory on disk, and the loop."""
