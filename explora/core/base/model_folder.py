"""Write a finished model as a folder that `transformers` opens: configuration, weights, tokenizer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from explora.core.base.configuration import CONFIG
from explora.core.base.find import WEIGHTS
from explora.core.base.tokenizer import Tokenizer
from explora.core.base.weights import PREFIX, SCORE
from explora.core.config.registry import Shape
from explora.core.files import replacing_files_in
from explora.core.model.gpt2 import LAYER_NORM_EPSILON


def write_model(
    folder: Path,
    tensors: Mapping[str, Tensor],
    shape: Shape,
    tokenizer: Tokenizer,
    *,
    labels: Sequence[str] | None = None,
) -> None:
    """Write a model folder that `transformers` opens: configuration, weights, tokenizer.

    `tensors` have canonical names (`GPT2.state_dict()`). With `labels`, the class names, it is a
    GPT2ForSequenceClassification and `tensors` must hold its `score.weight`; else a GPT2LMHeadModel.
    A new folder appears whole or not at all; in a folder that exists each file is replaced whole.
    """
    assert (labels is None) == (SCORE not in tensors), "class names and a score head belong together"
    with replacing_files_in(folder) as staged:
        tokenizer.save(staged)
        dtype = str(tensors["wte.weight"].dtype).removeprefix("torch.")
        _write_json(staged / CONFIG, _config(shape, tokenizer.eos, dtype, labels))
        if labels is None:
            _write_json(staged / "generation_config.json", _special_ids(tokenizer.eos))
        keys = {name: name if name == SCORE else PREFIX + name for name in tensors}
        contiguous = {keys[name]: tensor.detach().contiguous() for name, tensor in tensors.items()}
        save_file(contiguous, staged / WEIGHTS, metadata={"format": "pt"})
        shutil.copymode(staged / CONFIG, staged / WEIGHTS)  # safetensors makes its files private


def _special_ids(eos: int) -> dict[str, int]:
    return {"bos_token_id": eos, "eos_token_id": eos, "pad_token_id": eos}


def _config(shape: Shape, eos: int, dtype: str, labels: Sequence[str] | None) -> dict[str, Any]:
    """Return a `config.json`: GPT2LMHeadModel, or with `labels` GPT2ForSequenceClassification."""
    config = {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel" if labels is None else "GPT2ForSequenceClassification"],
        "dtype": dtype,
        **asdict(shape),
        **_special_ids(eos),
        "activation_function": "gelu_new",
        "layer_norm_epsilon": LAYER_NORM_EPSILON,
        "initializer_range": 0.02,
        "tie_word_embeddings": True,
    }
    if labels is None:
        return config
    return config | {
        "id2label": {str(index): label for index, label in enumerate(labels)},
        "label2id": {label: index for index, label in enumerate(labels)},
        "problem_type": "single_label_classification",
    }


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
