"""Whole runs: train, open, evaluate and merge them, and what their folders hold."""
