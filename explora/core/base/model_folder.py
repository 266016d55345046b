"""Write a finished model as a folder that `transformers` opens: configuration, weights, tokenizer.

A model that was trained from a base keeps the base's settings, except those of the weights and the head.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from explora.core.base.configuration import CONFIG, GENERATION_CONFIG
from explora.core.base.find import WEIGHTS, Base
from explora.core.base.tokenizer import Tokenizer
from explora.core.base.weights import PREFIX, SCORE
from explora.core.config.registry import Shape
from explora.core.files import replacing_files_in, write_atomically, write_tensors
from explora.core.model.gpt2 import LAYER_NORM_EPSILON

OF_THE_HEAD = ("id2label", "label2id", "num_labels", "problem_type")
OLD_DTYPE = "torch_dtype"  # the name of `dtype` in older versions of transformers


def write_model(
    folder: Path,
    tensors: Mapping[str, Tensor],
    shape: Shape,
    tokenizer: Tokenizer,
    *,
    labels: Sequence[str] | None = None,
    base: Base | None = None,
) -> None:
    """Write a model folder that `transformers` opens: configuration, weights, tokenizer.

    `tensors` have canonical names (`GPT2.state_dict()`). With `labels`, the class names, the model is a
    GPT2ForSequenceClassification and `tensors` must contain its `score.weight`; otherwise it is a
    GPT2LMHeadModel. `base` is the model whose settings are kept, None for a new model. A new folder appears
    whole or not at all; in an existing folder, each file is replaced whole.
    """
    assert (labels is None) == (SCORE not in tensors), "class names and a score head belong together"
    config, generation_config = _settings(base, shape, tokenizer.eos)
    config = _without_head(config) if labels is None else _with_head(config, labels, tokenizer.eos)
    config["dtype"] = str(tensors["wte.weight"].dtype).removeprefix("torch.")
    with replacing_files_in(folder) as staged:
        tokenizer.save(staged)
        _write_json(staged / CONFIG, config)
        if generation_config:
            _write_json(staged / GENERATION_CONFIG, generation_config)
        keys = {name: name if name == SCORE else PREFIX + name for name in tensors}
        contiguous = {keys[name]: tensor.detach().contiguous() for name, tensor in tensors.items()}
        write_tensors(staged / WEIGHTS, contiguous, metadata={"format": "pt"})


def _settings(base: Base | None, shape: Shape, eos: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return config.json without a head, and generation_config.json: those of the base, or new ones."""
    if base is not None and base.config:
        kept = {name: value for name, value in base.config.items() if name != OLD_DTYPE}
        return kept, dict(base.generation_config)
    special = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), eos)
    config = {
        "model_type": "gpt2",
        **asdict(shape),
        "n_ctx": shape.n_positions,
        **special,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": LAYER_NORM_EPSILON,
        "initializer_range": 0.02,
        "tie_word_embeddings": True,
    }
    return config, special


def _without_head(config: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in config.items() if name not in OF_THE_HEAD}
    return kept | {"architectures": ["GPT2LMHeadModel"]}


def _with_head(config: Mapping[str, Any], labels: Sequence[str], eos: int) -> dict[str, Any]:
    """Add a head. A classifier needs a padding token: it finds the last token of a row by the padding."""
    pad = config.get("pad_token_id")
    return _without_head(config) | {
        "architectures": ["GPT2ForSequenceClassification"],
        "id2label": {str(index): label for index, label in enumerate(labels)},
        "label2id": {label: index for index, label in enumerate(labels)},
        "problem_type": "single_label_classification",
        "pad_token_id": eos if pad is None else pad,
    }


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    write_atomically(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
