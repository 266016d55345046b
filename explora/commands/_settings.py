"""Make the options that stand for settings of a run from the descriptions of these settings.

A command that is decorated with `with_settings` has one parameter `settings`: what the user gave, by setting
name, parsed. Options that were not given are not in it, so that option > config file > task > field holds.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from explora.commands import _short_forms
from explora.commands._sweep_values import sweeping
from explora.core.config.registry import DEFAULT_METHOD, METHODS, MODELS, method_class
from explora.core.config.run_config import CONCERNS, TrainRun, field_names, method_settings, methods_with
from explora.core.config.setting import Setting, settings_of_class
from explora.core.sweeps.several import Several, one_or_several

PANELS = {
    "data": "Data",
    "encoding": "Data",
    "optimizer": "Optimizer",
    "training": "Training",
    "runtime": "Machine",
}
# The order of the panels of --help in every command: what is needed most comes first.
PANEL_ORDER = (
    *("Prompts", "Output", "Data", "Model", "Method", "Training", "Optimizer", "Comparison"),
    *("Compared settings", "Advice", "Memory", "Sampling", "Decoding", "Sweep", "Machine"),
)
TEXT_FORM = {int, float, bool, str}  # types whose options need no parser

MODEL = ("model", "tokenizer", "from_scratch")
START = ("from_run",)
METHOD = ("method", *_short_forms.NAMES, *method_settings())
DATA = (*field_names(CONCERNS["data"]), *field_names(CONCERNS["encoding"]))
OPTIMIZER = tuple(sorted(field_names(CONCERNS["optimizer"]), key="learning_rate".__ne__))  # it comes first
TRAINING = tuple(field_names(CONCERNS["training"]))
MACHINE = tuple(field_names(CONCERNS["runtime"]))

_HINTS: dict[str, Any] = {
    "method": Annotated[
        str | None,
        typer.Option(
            "--method",
            metavar="NAME",
            rich_help_panel="Method",
            help=f"Training method: {', '.join(METHODS)} (default: {DEFAULT_METHOD}).",
        ),
    ],
    **_short_forms.HINTS,
}


def _all_settings() -> dict[str, tuple[Setting, str]]:
    """Return every setting of any run, by name, with its panel of --help."""
    found = {item.name: (item, "Model") for item in settings_of_class(TrainRun)}
    found |= {name: (item, "Method") for name, item in method_settings().items()}
    for concern, kind in CONCERNS.items():
        found |= {item.name: (item, PANELS[concern]) for item in settings_of_class(kind)}
    return found


SETTINGS = _all_settings()


def with_settings(
    *names: str,
    defaults: Mapping[str, str] | None = None,
    panels: Mapping[str, str] | None = None,
    sweeps: bool = False,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for each of these settings, in the place of its parameter `settings`.

    `defaults` are the defaults, as help shows them, that the command chooses itself; `panels` likewise. With
    `sweeps`, the options take several values, which reach the command as Several. All options are sorted by
    their panel.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True).parameters
        place = list(own).index("settings")
        options = [
            _parameter(name, (defaults or {}).get(name), (panels or {}).get(name), sweeps=sweeps)
            for name in names
        ]
        parameters = [*own.values()][:place] + options + [*own.values()][place + 1 :]
        parameters.sort(key=_place_in_help)

        @functools.wraps(command)
        def run(**values: Any) -> None:
            settings = given({name: values.pop(name) for name in names})
            command(**values, settings=settings)

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        return run

    return decorate


def _place_in_help(parameter: inspect.Parameter) -> int:
    """Return the place of a parameter's panel in --help; arguments come first."""
    described = getattr(parameter.annotation, "__metadata__", ())
    panel = next((getattr(each, "rich_help_panel", None) for each in described), None)
    return PANEL_ORDER.index(panel) if panel else -1


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that the user gave, parsed, with short forms expanded."""
    known = {name: value for name, value in values.items() if value is not None}
    return {name: _parsed(name, value) for name, value in _short_forms.expand(known).items()}


def _parsed(name: str, value: Any) -> Any:
    if isinstance(value, (list, Several)):
        return one_or_several(_parsed(name, each) for each in value)
    parse = SETTINGS[name][0].about.parse if name in SETTINGS else None
    return value if parse is None else parse(value)


def _parameter(name: str, default: str | None, panel: str | None, *, sweeps: bool) -> inspect.Parameter:
    hint = _HINTS.get(name) or _hint(SETTINGS[name][0], panel or SETTINGS[name][1], default)
    if sweeps:
        hint = sweeping(name, hint, SETTINGS[name][0] if name in SETTINGS else None)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=hint)


def _hint(item: Setting, panel: str, default: str | None) -> Any:
    """Return the annotation of an option whose value is None if it is not given."""
    about, kind = item.about, item.kind if item.kind in TEXT_FORM and item.about.parse is None else str
    names = (f"--{item.spelled}/--no-{item.spelled}",) if kind is bool else (f"--{item.spelled}",)
    metavar = "" if kind is bool else about.metavar or "|".join(about.choices) or None
    words = tuple(MODELS) if item.name == "model" else about.choices
    option = typer.Option(
        *names,
        metavar=metavar,
        rich_help_panel=panel,
        help=_help(item, default),
        autocompletion=completion(words),
    )
    return Annotated[kind | None, option]


def completion(words: tuple[str, ...]) -> Callable[[str], list[str]] | None:
    """Return the function that completes an option's value in a shell, or None if no values are known."""
    if not words:
        return None

    def complete(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    return complete


def _help(item: Setting, default: str | None) -> str:
    """Return the help with, for a setting of some methods, their names, and the default."""
    text = item.about.help.removesuffix(".")
    if item.name in method_settings() and (users := methods_with(item.name)) != list(METHODS):
        text += f". Only for {', '.join(users)}"
    return f"{text} (default: {default or item.about.default or _defaults(item)})."


def _defaults(item: Setting) -> str:
    """Return the default, and other defaults of single methods: `8, for miss 16`."""
    shown = item.show(item.default)
    if item.name not in method_settings():
        return shown
    own = {
        method: item.show(getattr(method_class(method)(), item.name)) for method in methods_with(item.name)
    }
    return ", ".join([shown, *(f"for {method} {value}" for method, value in own.items() if value != shown)])
