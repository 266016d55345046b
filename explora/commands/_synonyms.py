"""Accept the spellings of other tools: `_` for `-`, and other names for our options.

The names come from PEFT, TRL, transformers, LLaMA-Factory, ms-swift, axolotl, unsloth, mlx-lm, litgpt and
CS224N's starter code. They are rewritten before parsing, so every option is declared once.
"""

from __future__ import annotations

from collections.abc import Container

_NAMES: dict[str, str] = {
    "--model": "model-name-or-path base-model model-size",
    "--rank": "lora-r lora-rank",
    "--alpha": "lora-alpha",
    "--targets": "lora-target-modules target-modules lora-target lora-targets",
    "--data": "dataset train-file train-data",
    "--dev": "dev-data eval-data validation-file",
    "--max-length": "max-seq-length max-seq-len cutoff-len",
    "--learning-rate": "lr",
    "--optimizer": "optim",
    "--beta1": "adam-beta1",
    "--beta2": "adam-beta2",
    "--clip": "grad-clip max-grad-norm",
    "--warmup": "warmup-ratio",
    "--schedule": "lr-scheduler lr-scheduler-type",
    "--epochs": "num-epochs num-train-epochs",
    "--max-steps": "iters",
    "--batch-size": "per-device-train-batch-size micro-batch-size train-batch-size",
    "--accumulate": "gradient-accumulation-steps grad-accumulation-steps",
    "--dropout": "hidden-dropout-prob",
    "--eval-every": "eval-steps",
    "--save-every": "save-steps",
    "--patience": "early-stopping-patience early-stopping-steps",
    "--grad-checkpoint": "gradient-checkpointing",
    "--output": "output-dir out-dir out",
    "--resume": "resume-from-checkpoint",
    "--max-new-tokens": "max-tokens",
    "--temperature": "temp",
    "--num": "num-return-sequences num-samples",
    "--prompt": "prompts",
    "--amp=bf16": "bf16",
    "--amp=fp16": "fp16",
    "--device=cpu": "use-cpu",
    "--device=cuda": "use-gpu",
}

SYNONYMS: dict[str, str] = {
    f"--{name}": canonical for canonical, names in _NAMES.items() for name in names.split()
}


def normalise(argv: list[str], flags: Container[str]) -> list[str]:
    """Return `argv` with every long option under its canonical name.

    `flags` are the canonical options that take no value; whatever follows another option is its value and
    stays as it is, and so does everything after `--`.
    """
    normal: list[str] = []
    rest = iter(argv)
    for word in rest:
        if word == "--":
            return [*normal, word, *rest]
        option = _canonical(word) if word.startswith("--") else word
        normal.append(option)
        if _takes_next(option, flags):
            normal.extend(value for value in (next(rest, None),) if value is not None)
    return normal


def _canonical(word: str) -> str:
    name, equals, value = word.partition("=")
    name = name.replace("_", "-")
    return SYNONYMS.get(name, name) + equals + value


def _takes_next(word: str, flags: Container[str]) -> bool:
    """Return whether the word after `word` is its value."""
    if word.startswith("--"):
        return "=" not in word and word not in flags
    letters = word[1:] if word.startswith("-") else ""
    valued = next((index for index, letter in enumerate(letters) if f"-{letter}" not in flags), None)
    return valued is not None and valued == len(letters) - 1
