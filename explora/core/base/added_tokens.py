"""Tokens that the files of a tokenizer add to its vocabulary, read in the same way as transformers does.

Tokens get the next free ids in the order in which they are added; a token that is in the vocabulary keeps its
id. Several generations of files contain them:

|raw|    added_tokens_decoder in tokenizer_config.json     by id; if it is present, the next two are not read
    special_tokens_map.json                           named tokens (bos_token, ...) and additional ones
    added_tokens.json                                 ids by token
    *_token, extra_special_tokens and additional_special_tokens in tokenizer_config.json
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tokenizers import AddedToken

CONFIG_FILE = "tokenizer_config.json"
MAP_FILE = "special_tokens_map.json"
ADDED_FILE = "added_tokens.json"
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
LISTED, EXTRA, ADDITIONAL = "added_tokens_decoder", "extra_special_tokens", "additional_special_tokens"


def read_settings(files: Mapping[str, bytes]) -> dict[str, Any]:
    """Return the settings of tokenizer_config.json, overridden by special_tokens_map.json if it is read."""
    settings = _object(files, CONFIG_FILE)
    if not settings.get(EXTRA) and ADDITIONAL in settings:
        settings[EXTRA] = settings.pop(ADDITIONAL)
    return settings if LISTED in settings else settings | _object(files, MAP_FILE)


def listed_tokens(files: Mapping[str, bytes], settings: Mapping[str, Any]) -> list[AddedToken]:
    """Return the added tokens that a file lists with their ids, in the order of the ids."""
    if LISTED in settings:
        by_number = sorted(settings[LISTED].items(), key=lambda item: int(item[0]))
        return [AddedToken(**fields) for _, fields in by_number]
    special = {token.content for token in special_tokens(settings)}
    by_id = sorted(_object(files, ADDED_FILE).items(), key=lambda item: int(item[1]))
    return [AddedToken(text, normalized=text not in special, special=text in special) for text, _ in by_id]


def special_tokens(settings: Mapping[str, Any]) -> list[AddedToken]:
    """Return the special tokens: those with standard names, those with the model's own names, and others."""
    extra = settings[EXTRA] if EXTRA in settings else settings.get(ADDITIONAL)
    named_extra = extra if isinstance(extra, dict) else {}
    own = {name: value for name, value in settings.items() if name.endswith("_token") and name not in NAMED}
    values = [settings.get(name) for name in NAMED] + [*own.values(), *named_extra.values()]
    values += [] if isinstance(extra, dict) else list(extra or ())
    return [_special_token(value) for value in values if isinstance(value, (str, dict))]


def _special_token(value: str | Mapping[str, Any]) -> AddedToken:
    """Build a special token from its text or from its fields."""
    if isinstance(value, str):
        return AddedToken(value, normalized=False, special=True)
    fields = {name: field for name, field in value.items() if name != "__type"}
    return AddedToken(**fields | {"special": True})


def _object(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    """Return the JSON object in a file, empty if there is no file. Raises ValueError."""
    value = json.loads(files[name]) if name in files else {}
    if not isinstance(value, dict):
        raise ValueError(f"{name} should be a JSON object")
    return value
