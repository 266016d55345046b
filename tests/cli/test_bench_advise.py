"""`explora bench --advise`: the command to paste, the JSON, what is refused."""

from __future__ import annotations

import shlex

import pytest

from explora.core.advice import probing, study
from tests.hand_made_study import make_study, trial


@pytest.fixture
def advised(monkeypatch) -> None:
    """A study of two tasks where LoRA is best, and a machine that trains ten rows a second."""
    cells = {"quora": ("paraphrase", 40), "sst": ("sentiment", 40)}
    rows = [
        trial(cell, name, score)
        for cell in cells
        for name, score in {"full": 0.5, "lora": 0.8, "last-linear": 0.4}.items()
    ]
    monkeypatch.setattr(study, "read_study", lambda: make_study(cells, rows))
    monkeypatch.setattr(probing, "time_rows", lambda run, rows: 10.0)


def test_the_advised_command_trains_as_advised(explora, advised, tiny_base, tiny_data, check_schema):
    data = str(tiny_data / "paraphrase")
    asked = ("bench", "paraphrase", "--advise", "--data", data, "--model", str(tiny_base))
    told = explora(*asked, "--examples", "4000", "--ram", "8GB", "--minutes", "500")
    assert told.code == 0, told.err
    command = told.out.splitlines()[0]
    words = shlex.split(command)
    assert words[:3] == ["explora", "train", "paraphrase"]
    dry = explora(*words[1:], "--dry-run", "--json")
    assert dry.code == 0, dry.err
    config = dry.objects[0]["config"]
    assert (config["data"]["data"], config["model"]) == (data, str(tiny_base))
    assert (config["method"]["method"], config["method"]["targets"]) == ("lora", ["key", "value"])
    assert "Confidence: low." in told.out
    assert "- always lora: within a point of the best in 2 of 2 cells" in told.out

    (value,) = explora(*asked, "--examples", "4000", "--ram", "8GB", "--minutes", "500", "--json").objects
    check_schema("bench-advice", value)
    assert value["command"] == command
    assert value["chosen"]["learning_rate"] == config["optimizer"]["learning_rate"]
    assert value["chosen"]["settings"] == {"method": "lora", "rank": 8, "targets": "key,value"}
    assert (value["examples"], value["ram_bytes"], value["minutes"]) == (4000, 8_000_000_000, 500)
    assert value["evidence"][0]["cell"] == "quora"


def test_a_command_for_a_short_time_is_cut(explora, advised, tiny_base, tiny_data):
    data = str(tiny_data / "paraphrase")
    asked = ("bench", "paraphrase", "--advise", "--data", data, "--model", str(tiny_base))
    told = explora(*asked, "--examples", "4000", "--minutes", "0.5")
    assert told.out.splitlines()[0].endswith("--max-minutes 0.5")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--advise", "--quality"), "--advise takes no --quality"),
        (("--advise", "--rank-pattern", "mlp.c_fc=2"), "--advise takes no --rank-pattern"),
        (("--ram", "4GB"), "--ram belongs to --advise"),
        (("--check", "--advise"), "--check takes no --advise"),
        (("--advise", "--ram", "much"), "'much' is not a size in bytes"),
    ],
)
def test_what_does_not_go_together_is_refused(explora, tiny_base, options, message):
    refused = explora("bench", *options, "--model", str(tiny_base))
    assert refused.code == 2
    assert message in refused.err
