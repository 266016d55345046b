"""Labels as text: missing values, spellings of the same class, and the order of the classes.

A label is missing if it is empty, or written as software writes a missing value. Lower-case words such as
`none` and `na` are classes, because people use them as names.
"""

from __future__ import annotations

import re
from decimal import Decimal

_MISSING = re.compile(r"|[+-]?(?i:nan|inf|infinity)|(?i:null)|None|NA|N/A|#N/A|<NA>")
# A number as programs write it. With a leading zero it is a code: 007 is not 7.
_NUMBER = re.compile(r"[+-]?(0|[1-9][0-9]*)(\.[0-9]*)?([eE][+-]?[0-9]{1,2})?")
_SORTED = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,2})?")
_TRUTH = {"True": "true", "TRUE": "true", "False": "false", "FALSE": "false"}


def is_missing(label: str) -> bool:
    """Return whether a label stands for a missing value."""
    return _MISSING.fullmatch(label) is not None


def canonical_label(label: str) -> str:
    """Return the canonical spelling of a label: 3.0, +3 and 3e0 are 3; True is true; 007 stays 007."""
    if _NUMBER.fullmatch(label) is None:
        return _TRUTH.get(label, label)
    number = Decimal(label)
    return str(int(number)) if number == number.to_integral_value() else label


def label_order(label: str) -> tuple[int, Decimal, str]:
    """Return the sort key of a class: numbers by value, then words in alphabetical order."""
    return (1, Decimal(0), label) if _SORTED.fullmatch(label) is None else (0, Decimal(label), label)
