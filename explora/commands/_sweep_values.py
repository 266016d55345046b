"""Let an option of `train` take several values: separated by commas, or by repeating the option.

Numbers and names are separated by commas. A path, a text or a list may contain commas itself, so such an
option is repeated.
"""

from __future__ import annotations

import copy
from typing import Annotated, Any, get_args

from explora.core.config.setting import Setting, spelled
from explora.core.sweeps.several import split_values

WANTED = {int: "a whole number", float: "a number", str: "a name"}
METAVARS = {int: "<int>", float: "<float>", str: "NAME"}


def sweeping(name: str, hint: Any, item: Setting | None) -> Any:
    """Return the annotation of an option that takes several values.

    `hint` annotates the option with one value. `item` is its setting, None for a method and its short forms.
    """
    optional, option = get_args(hint)
    kind = get_args(optional)[0]
    if kind is bool:
        return hint
    if not _is_number_or_name(item):
        return Annotated[list[str] | None, option]
    option = copy.copy(option)
    option.parser = lambda text: split_values(f"--{spelled(name)}", text, kind, WANTED[kind])
    option.metavar = option.metavar or METAVARS[kind]
    return Annotated[Any, option]


def _is_number_or_name(item: Setting | None) -> bool:
    return item is None or item.kind in (int, float) or bool(item.about.choices)
