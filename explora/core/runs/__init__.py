"""Whole runs: train, open, evaluate and merge them, and read and write their folders."""
