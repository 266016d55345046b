"""`explora bench --check`: the table, the JSON, a failure that is explained, what is refused."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from explora.core.methods.lora_layers import LoRALinear

TOY = ("bench", "--check", "--methods", "norm-tuning")


@pytest.fixture
def scratch(tmp_path_factory, monkeypatch) -> Path:
    """The folder for temporary files, empty before the command."""
    folder = tmp_path_factory.mktemp("scratch")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_a_method_that_was_added_has_a_column_and_nothing_is_left(explora, tiny_base, scratch, tmp_path):
    done = explora(*TOY, "--model", str(tiny_base))
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[0].split() == ["check", "norm-tuning", "shared"]
    names = "start count moves frozen accumulation checkpointing cache resume saved merge"
    assert [line.split()[0] for line in lines[1:11]] == names.split()
    assert [line.split()[0] for line in lines[11:15]] == ["loss", "rows", "sampling", "decoding"]
    assert all(float(line.split()[1]) <= 1e-4 for line in lines[1:15])
    assert lines[-1].startswith("14 of 14 checks passed in ")
    assert [*scratch.iterdir()] == [*tmp_path.iterdir()] == []


def test_a_failure_names_what_it_means_and_what_to_do(explora, tiny_base, scratch, monkeypatch, check_schema):
    weight = LoRALinear.adapted_weight

    def with_another_scale(layer):
        layer.scale *= 2
        return weight(layer)

    monkeypatch.setattr(LoRALinear, "adapted_weight", with_another_scale)
    chosen = ("bench", "--check", "--model", str(tiny_base), "--methods")
    done = explora(*chosen, "lora,last-linear")
    assert done.code == 1
    (cells,) = (line for line in done.out.splitlines() if line.startswith("merge"))
    assert "FAILED" in cells
    explained = done.out[done.out.index("FAILED  lora, merge: ") :]
    assert "means   merge-lora writes a model that answers differently from the run" in explained
    assert "do      use the run folder instead of a merged model" in explained
    assert "23 of 24 checks passed" in explained
    assert "error: 1 check failed, the first: merge of lora" in done.err
    assert "hint: install explora and torch again" in done.err
    assert [*scratch.iterdir()] == []

    failed = explora(*chosen, "lora", "--json")
    (value,) = failed.objects
    check_schema("bench-check", value)
    assert failed.code == 1 and value["passed"] is False
    wrong = [(each["method"], each["check"]) for each in value["findings"] if each["passed"] is False]
    assert wrong == [("lora", "merge")]


@pytest.mark.parametrize(
    ("beside", "named"),
    [(("--repeats", "3"), "--repeats"), (("--rank-pattern", "mlp.c_fc=2"), "--rank-pattern")],
)
def test_options_of_measurements_are_refused(explora, beside, named):
    refused = explora("bench", "--check", *beside)
    assert refused.code == 2
    assert f"--check takes no {named}" in refused.err
    assert explora("bench", "sonnet", "--check").code == 2
