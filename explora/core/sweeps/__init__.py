"""Sweeps: the same training with several values of some settings, each in its own run folder."""
