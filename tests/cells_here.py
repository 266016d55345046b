"""The cells of a bench without their processes: the same modules, the same JSON, faster."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from typing import Any

ENTRY = {"cell": "measure", "reference": "export", "peer": "measure"}


def ask_here(module: str, request: Mapping[str, Any]) -> dict[str, Any]:
    """Do in this process what the process of a cell does."""
    entry = getattr(importlib.import_module(module), ENTRY[module.rpartition(".")[2]])
    result: dict[str, Any] = json.loads(json.dumps(entry(json.loads(json.dumps(request)))))
    return result
