"""Sweeps: the same training with several values of some settings, each in a run folder of its own."""
