"""Find a base by name: its folder in Hugging Face's layout, and its shape. It does not load torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

from explora.core.base.configuration import (
    CONFIG,
    GENERATION_CONFIG,
    read_json_object,
    read_shape,
    start_token,
)
from explora.core.base.tokenizer import MERGES, SETTINGS, VOCABULARY, WHOLE, Tokenizer, load_tokenizer
from explora.core.config.registry import EMBEDDED, MODELS, Shape
from explora.core.hub import fetch_file
from explora.errors import WeightsError, did_you_mean

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
RANDOM = "random:"


@dataclass(frozen=True, kw_only=True)
class Base:
    """A pretrained model: its given name, its folder (None for random weights), and its shape.

    `label` is its name in output. `config` and `generation_config` are the settings in its folder, empty if a
    file is missing. They are read when the base is opened, because training may replace the folder.
    """

    name: str
    folder: Path | None
    shape: Shape
    label: str
    config: Mapping[str, Any] = field(default_factory=dict)
    generation_config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def start_token(self) -> int | None:
        """The token from which the base generates without a prompt, None if it has none."""
        return start_token(self.config, self.generation_config, self.shape.vocab_size)


def open_base(name: str) -> Base:
    """Find the base called `name` and read its shape, but not its weights.

    `name` is `embedded`, a short name (`gpt2`), a local folder, a hub id (`org/name`, downloaded into the
    hub's cache) or `random:gpt2`: random weights of that shape. A folder with the same name as a base is
    written `./gpt2`. Raises WeightsError.
    """
    if name.startswith(RANDOM):
        shape = _random_shape(name.removeprefix(RANDOM))
        return Base(name=name, folder=None, shape=shape, label=label_of(name))
    folder = _folder(name)
    config = read_json_object(folder / CONFIG)
    generation = folder / GENERATION_CONFIG
    base = Base(
        name=name,
        folder=folder,
        shape=read_shape(config, name),
        label=name,
        config=config,
        generation_config=read_json_object(generation) if generation.is_file() else {},
    )
    weight_files(base)
    return base


def label_of(name: str) -> str:
    """Return the name of a base in output, with a remark for random weights."""
    return f"{name} (random weights, for timing only)" if name.startswith(RANDOM) else name


def shape_of(name: str) -> Shape:
    """Return the shape of the base called `name` without opening its weights. Raises WeightsError."""
    if name in MODELS:
        return MODELS[name].shape
    if name.startswith(RANDOM):
        return _random_shape(name.removeprefix(RANDOM))
    config = Path(name).expanduser() / CONFIG
    if name == EMBEDDED:
        config = _embedded() / CONFIG
    elif not config.is_file() and _is_hub_id(name):
        config = _hub_config(name) or config
    if not config.is_file():
        _folder(name)
    return read_shape(read_json_object(config), name)


def base_tokenizer(base: Base, override: str | None = None) -> Tokenizer:
    """Return the tokenizer of a base, or the one in the folder `override`.

    Random weights use the tokenizer of the embedded base. Raises WeightsError if the tokenizer has ids for
    which the model has no embedding.
    """
    folder = Path(override) if override else base.folder or _embedded()
    tokenizer = load_tokenizer(folder)
    if tokenizer.vocab_size > base.shape.vocab_size:
        raise WeightsError(
            f"the tokenizer of {folder} has {tokenizer.vocab_size} tokens, but {base.label} has only "
            f"{base.shape.vocab_size} embeddings",
            "give the tokenizer that the model was trained with: --tokenizer FOLDER",
        )
    return tokenizer


def weight_files(base: Base) -> list[Path]:
    """Return the safetensors files of a base; none for random weights. Raises WeightsError."""
    folder = base.folder
    if folder is None:
        return []
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        raise WeightsError(f"{base.name} has no {WEIGHTS}", _conversion(base.name))
    files = [folder / name for name in _shard_names(folder / INDEX)]
    if absent := [file.name for file in files if not file.is_file()]:
        raise WeightsError(f"{base.name} lacks {', '.join(absent)}, which its index names", "fetch it again")
    return files


def _random_shape(name: str) -> Shape:
    if name not in MODELS:
        known = ", ".join(RANDOM + model for model in MODELS)
        raise WeightsError(f"no shape is called {name!r}{did_you_mean(name, MODELS)}", f"known: {known}")
    return MODELS[name].shape


def _folder(name: str) -> Path:
    if name == EMBEDDED:
        return _embedded()
    if name in MODELS:
        return _from_hub(MODELS[name].hub_id)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _local(folder)
    if folder.exists():
        raise WeightsError(f"{name} is a file", "a model is a folder with config.json and model.safetensors")
    if _is_hub_id(name):
        return _from_hub(name)
    known = [EMBEDDED, *MODELS]
    raise WeightsError(
        f"no model is called {name!r}{did_you_mean(name, known)}",
        f"give {', '.join(known)}, a local folder, a hub id (org/name) or {RANDOM}gpt2",
    )


def _is_hub_id(name: str) -> bool:
    return re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name) is not None


def _embedded() -> Path:
    folder = Path(str(resources.files("explora") / "assets" / "base"))
    if not (folder / CONFIG).is_file():
        raise WeightsError(
            "this installation has no embedded base", "install explora from a wheel, or give --model gpt2"
        )
    return folder


def _local(folder: Path) -> Path:
    if (folder / CONFIG).is_file():
        return folder
    if (folder / "adapter_config.json").is_file():
        raise WeightsError(
            f"{folder} is an adapter, not a model",
            f"train it further: train --from {folder}; or merge it: explora merge-lora {folder} -o FOLDER",
        )
    raise WeightsError(
        f"{folder} has no {CONFIG}", "a model is a folder with config.json and model.safetensors"
    )


def _hub_config(hub_id: str) -> Path | None:
    """Fetch config.json; None if there is none. An error also mentions a possible local folder."""
    try:
        return fetch_file(hub_id, CONFIG)
    except WeightsError as error:
        if Path(hub_id).parent.is_dir():
            raise WeightsError(
                error.message, f"there is no local folder {hub_id} either; {error.hint}"
            ) from None
        raise


def _from_hub(hub_id: str) -> Path:
    """Fetch configuration, weights and tokenizer of one commit; for other models only the configuration."""
    config = _hub_config(hub_id)
    if config is None:
        raise WeightsError(f"{hub_id} has no {CONFIG}", "a model of transformers needs one")
    read_shape(read_json_object(config), hub_id)
    folder = config.parent
    fetch = partial(fetch_file, hub_id, revision=folder.name)
    if fetch(WEIGHTS) is None and (index := fetch(INDEX)) is not None:
        for shard in _shard_names(index):
            fetch(shard)
    if fetch(WHOLE) is None:
        fetch(VOCABULARY)
        fetch(MERGES)
    with suppress(WeightsError):  # a cache that other software filled may lack them while the hub is offline
        for name in (GENERATION_CONFIG, *SETTINGS):
            fetch(name)
    return folder


def _shard_names(index: Path) -> list[str]:
    """Return the safetensors files that an index names; all are in its folder. Raises WeightsError."""
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise WeightsError(f"{index} has no weight_map")
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if not re.fullmatch(r"[\w-][\w.-]*\.safetensors", name):
            raise WeightsError(f"{index} names {name!r}, which is not a safetensors file in its own folder")
    return names


def _conversion(name: str) -> str:
    """Return a hint with the command that converts pickled weights, which explora never opens."""
    return (
        "pickled weights can run code and are not read; if you trust them, convert them: python -c "
        f"\"from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; p, q = '{name}', "
        "'converted'; M.from_pretrained(p).save_pretrained(q); T.from_pretrained(p).save_pretrained(q)\""
    )
