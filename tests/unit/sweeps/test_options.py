"""Which options of `train` take several values, and how they are separated."""

from __future__ import annotations

import typer

from explora import cli
from explora.commands._settings import SETTINGS, given
from explora.core.sweeps.several import Several

COMMANDS = typer.main.get_command(cli.app).commands
OPTIONS = {option.name: option for option in COMMANDS["train"].params}
REPEATED = {"model", "tokenizer", "from_scratch", "data", "dev", "columns", "template", "label_words"}
REPEATED |= {"targets", "layers", "rank_pattern", "alpha_pattern", "device", "encoding", "from_run"}


def test_numbers_and_names_are_separated_by_commas_and_the_rest_is_repeated() -> None:
    settings = [name for name, (item, _) in SETTINGS.items() if item.kind is not bool]
    assert {name for name in settings if OPTIONS[name].multiple} == REPEATED
    for name in {*settings, "lora", "method"} - REPEATED:
        example = {int: "1,2", float: "0.5,0.25"}.get(
            SETTINGS[name][0].kind if name in SETTINGS else int, "a,b"
        )
        parsed = OPTIONS[name].type.convert("a,b" if name == "method" else example, None, None)
        assert isinstance(parsed, Several) and len(parsed) == 2, name


def test_other_commands_take_one_value() -> None:
    assert not any(option.multiple for name in ("params", "generate") for option in COMMANDS[name].params)


def test_each_of_several_values_is_parsed() -> None:
    assert given({"targets": ["key,value", "c_attn"]}) == {
        "targets": Several((("key", "value"), ("c_attn",)))
    }
    assert given({"targets": ["key"]}) == {"targets": ("key",)}
    assert given({"feature_cache": Several(("1kB", "off"))}) == {"feature_cache": Several((1000, 0))}
    assert given({"lora": Several((4, 8))}) == {"method": "lora", "rank": Several((4, 8))}
