"""How torch's threads wait for each other: a fixed rule for each command, read when torch is loaded.

GNU's OpenMP lets them spin by default. With one busy neighbour on two cores that costs two thirds of the
speed of training (docs/LOG.md). What the user sets in OMP_WAIT_POLICY or GOMP_SPINCOUNT stands.
"""

from __future__ import annotations

import os

SPINS = "1000"  # some microseconds: as long as the next product is away while training


def wait_passively() -> None:
    """Sleep at once: for work of many tiny products."""
    if "GOMP_SPINCOUNT" not in os.environ:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def wait_briefly() -> None:
    """Spin for a moment, then sleep: for training."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
