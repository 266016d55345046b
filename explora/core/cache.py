"""Folder for data that can be recomputed: token ids, digests, and measurements of the machine."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
from pathlib import Path

VARIABLE = "XDG_CACHE_HOME"


def cache_folder() -> Path:
    """Return the folder of the cache: $XDG_CACHE_HOME/explora, or ~/.cache/explora.

    If that is not writable, it is a temporary folder of this process, which is removed at exit.
    """
    return _temporary_folder() if why_temporary() else _usual_folder()


def why_temporary() -> str:
    """Return why the cache is in a temporary folder; "" if it is in its usual place."""
    try:
        folder = _usual_folder()
        folder.mkdir(parents=True, exist_ok=True)
    except RuntimeError:
        return "there is no home folder"
    except OSError as error:
        return f"{folder} cannot be created: {error.strerror}"
    return "" if os.access(folder, os.W_OK) else f"{folder} cannot be written"


def _usual_folder() -> Path:
    root = os.environ.get(VARIABLE)
    return (Path(root) if root else Path.home() / ".cache") / "explora"


@functools.cache
def _temporary_folder() -> Path:
    folder = tempfile.mkdtemp(prefix="explora-cache-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
