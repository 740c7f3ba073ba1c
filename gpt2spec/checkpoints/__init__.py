"""This package reads and writes weights and training state."""
