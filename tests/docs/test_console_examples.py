"""The commands that the documentation shows exist, and the output that it shows was really printed."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import pytest
import typer

from docs.console_examples import MADE_BY, PAGES, RUN, Block, blocks_of, run
from explora import console
from explora.cli import _flags, app
from explora.commands._synonyms import normalise
from explora.core.config.registry import METHODS, TASKS

BLOCKS = [block for page in PAGES for block in blocks_of(page)]
RUN_HERE = [block for block in BLOCKS if block.comment == RUN]
ONLY_SHOWN = [block for block in BLOCKS if block.comment != RUN]
IN_SHELL = set("();<>|&")


def explora_calls(command: str) -> Iterator[list[str]]:
    """Yield the arguments of each `explora` in a line of shell, up to a pipe or a redirection."""
    words = shlex.shlex(command, posix=True, punctuation_chars=True)
    words.whitespace_split = True
    call: list[str] = []
    for word in [*words, ";"]:
        if not set(word) <= IN_SHELL:
            call.append(word)
            continue
        if call[:1] == ["explora"]:
            yield call[1:]
        call = []


def check_call(call: list[str]) -> None:
    """Parse the arguments of a command. Raises a TyperException for what it does not take."""
    root = typer.main.get_command(app)
    name, *arguments = normalise(call, _flags(root))
    if name in root.commands:
        root.commands[name].make_context(name, arguments)
    else:
        assert name in [each for option in root.params for each in option.opts], name


@pytest.fixture(autouse=True)
def as_loud_as_before() -> Iterator[None]:
    """Parsing --quiet has an effect."""
    yield
    console.set_quiet(False)


@pytest.mark.parametrize("block", ONLY_SHOWN, ids=lambda block: block.place)
def test_every_command_is_one_that_explora_takes(block):
    for command in block.commands:
        for call in explora_calls(command):
            check_call(call)


@pytest.mark.parametrize("block", ONLY_SHOWN, ids=lambda block: block.place)
def test_shown_output_tells_where_it_comes_from(block):
    assert not block.has_output or MADE_BY.fullmatch(block.comment), "see docs/console_examples.py"


@pytest.mark.parametrize("block", RUN_HERE, ids=lambda block: block.place)
def test_shown_output_is_what_explora_prints(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(TASKS, "entailment")  # a task and a method that only tests have
    monkeypatch.delitem(METHODS, "norm-tuning")
    printed = run(block)
    assert block.shows(printed), f"make reference would write:\n{printed}"


def test_an_option_that_does_not_exist_is_found():
    calls = list(explora_calls("cat prompts.txt | explora train paraphrase --lorra 8 > out  # --no"))
    assert calls == [["train", "paraphrase", "--lorra", "8"]]
    with pytest.raises(typer.TyperException, match="--lorra"):
        check_call(calls[0])


def test_output_equals_itself_but_for_numbers_and_left_out_lines():
    printed = "$ explora\nloss 1.5\nnoise\nnoise\naccuracy  0.25\n"
    assert Block("", printed.replace("1.5", "12")).shows(printed)
    assert Block("", "$ explora\nloss 1.5\n...\naccuracy 0.3\n").shows(printed)
    assert not Block("", printed.replace("loss", "los")).shows(printed)
    assert not Block("", printed.removesuffix("accuracy  0.25\n")).shows(printed)
