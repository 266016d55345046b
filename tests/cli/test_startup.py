"""Help and counts are light: they work where torch and its company cannot even be imported."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
import typer

from explora.cli import app
from explora.commands._settings import PANEL_ORDER

HEAVY = ("torch", "transformers", "numpy", "sacrebleu", "peft", "safetensors", "huggingface_hub")
COMMANDS = typer.main.get_command(app).commands

WITHOUT_HEAVY = f"""
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY!r}:
            raise ImportError(f"{{name}} must not be imported here")

sys.meta_path.insert(0, Refuse())
from explora.cli import main
sys.exit(main(sys.argv[1:]))
"""


def run_light(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_HEAVY, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)], ids=" ".join)
def test_help_is_light_and_has_examples(command):
    done = run_light(*command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Examples:" in done.stdout
    assert "•" not in done.stdout  # Markdown takes a help text that begins with a dash for a list
    assert f"explora {' '.join(command)}".rstrip().replace("fuse", "merge-lora") in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_panel_and_help_with_the_default_in_one_form(name):
    for option in COMMANDS[name].params:
        is_argument = option.param_type_name == "argument"
        assert is_argument or option.rich_help_panel, option.name
        assert option.help.endswith("."), option.name
        assert not option.default or not option.show_default, option.name  # typer's own form: [default: X]
        assert "Default" not in option.help, option.name
        is_flag = not is_argument and option.is_flag and not option.secondary_opts
        is_required = option.required or "(required)" in option.help
        has_default = re.search(r"\(default: [^()]+(\([^()]*\)[^()]*)*\)\.$", option.help)
        assert (is_flag or is_required) != bool(has_default), (option.name, option.help)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_first_what_is_needed_most(name):
    panels = [each.rich_help_panel for each in COMMANDS[name].params if each.rich_help_panel]
    assert panels == sorted(panels, key=PANEL_ORDER.index)


def test_options_and_names_known_wrong_are_refused_without_torch():
    done = run_light("train", "parafrase")
    assert done.returncode == 2
    assert "paraphrase" in done.stderr


def test_params_is_light_and_exact():
    done = run_light("params", "--model", "gpt2", "--lora", "8", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    counts = json.loads(done.stdout)
    assert counts["total"] == 124_439_808
    assert counts["trainable"] == 294_912


def test_the_refusal_itself_works():
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_HEAVY.replace("from explora.cli import main", "import torch")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "must not be imported" in done.stderr


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("explora par", ["params"]),
        ("explora train par", ["paraphrase"]),
        ("explora train paraphrase --amp b", ["bf16"]),
        ("explora train paraphrase --model gpt2-x", ["gpt2-xl"]),
    ],
)
def test_completion_is_light(words, offered, monkeypatch):
    monkeypatch.setenv("_EXPLORA_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    done = run_light()
    assert (done.returncode, done.stdout.split()) == (0, offered)
