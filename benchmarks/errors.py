"""What may go wrong here and is said in one line."""

from __future__ import annotations


class BenchmarkError(Exception):
    """A file, a name or a process that is not what it should be."""


class Refused(BenchmarkError):
    """Two contenders did different work, so their figures are not compared."""
