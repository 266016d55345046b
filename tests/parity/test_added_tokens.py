"""The same ids as transformers for tokenizers with added tokens, special tokens and a start token."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, processors
from tokenizers import Tokenizer as Inner
from transformers import AutoTokenizer

from explora.core.base import tokenizer as tokenizers_of_bases
from explora.core.base.tokenizer import END_OF_TEXT, load_tokenizer
from tests.parity.test_tokenizer_parity import DOCUMENTS, saved_pair, train_tokenizer

TEXTS = [
    "The winter follows the summer.",
    "<|im_start|> The winter <|im_end|>",
    "The<|im_start|>winter<|im_end|>\n<|user|>follows",
    f"a{END_OF_TEXT}b {END_OF_TEXT} ",
    "<image> <|im_start", "wintermorning winter", "  <|im_start|>  spaces  <|im_end|>  ", "", " ",
]  # fmt: skip
START, END, USER = "<|im_start|>", "<|im_end|>", "<|user|>"


def write_json(folder: Path, name: str, value: Any) -> None:
    (folder / name).write_text(json.dumps(value), encoding="utf-8")


def configure(folder: Path, **settings: Any) -> None:
    """Change tokenizer_config.json; None removes a key."""
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    write_json(folder, file.name, {k: v for k, v in (config | settings).items() if v is not None})


def keep_pair(folder: Path) -> None:
    """Leave vocab.json and merges.txt, as GPT-2 was first published."""
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()


def chat(folder: Path) -> None:
    """Add special tokens with transformers, which writes tokenizer.json."""
    theirs = AutoTokenizer.from_pretrained(folder)
    theirs.add_special_tokens({"additional_special_tokens": [START, USER], "eos_token": END})
    theirs.save_pretrained(folder)


def words(folder: Path) -> None:
    theirs = AutoTokenizer.from_pretrained(folder)
    theirs.add_tokens(["wintermorning", AddedToken("<image>", lstrip=True, rstrip=True)])
    theirs.save_pretrained(folder)


def decoder_of_version_4(folder: Path) -> None:
    fields = {"lstrip": False, "rstrip": False, "single_word": False}
    decoder = {
        "299": fields | {"content": END_OF_TEXT, "normalized": True, "special": True},
        "301": fields | {"content": "wintermorning", "normalized": True, "special": False},
        "300": fields | {"content": START, "normalized": False, "special": True, "rstrip": True},
    }
    keep_pair(folder)
    configure(folder, added_tokens_decoder=decoder, tokenizer_class="GPT2Tokenizer", bos_token=START)
    write_json(folder, "special_tokens_map.json", {"eos_token": END})  # not read


def added_tokens_file(folder: Path) -> None:
    keep_pair(folder)
    write_json(folder, "added_tokens.json", {USER: 302, START: 300, "wintermorning": 301})
    write_json(
        folder,
        "special_tokens_map.json",
        {
            "bos_token": {
                "content": START, "lstrip": True, "rstrip": True, "normalized": False, "single_word": False
            },
            "eos_token": END_OF_TEXT, "pad_token": "<image>", "additional_special_tokens": [USER, END],
        },
    )  # fmt: skip


def added_tokens_beside_the_one_file(folder: Path) -> None:
    write_json(folder, "added_tokens.json", {START: 300, "wintermorning": 301})


def additional_tokens(folder: Path) -> None:
    keep_pair(folder)
    configure(folder, additional_special_tokens=[START, END], unk_token=USER)


def extra_tokens_by_name(folder: Path) -> None:
    configure(folder, extra_special_tokens={"user_token": USER}, image_token="<image>", mask_token=END)


def start_token_of_old_files(folder: Path) -> None:
    keep_pair(folder)
    configure(folder, add_bos_token=True, bos_token=START)


def no_start_token_to_add(folder: Path) -> None:
    keep_pair(folder)
    configure(folder, add_bos_token=True)
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    write_json(folder, "tokenizer_config.json", config | {"bos_token": None})


def start_token_with_fields(folder: Path) -> None:
    keep_pair(folder)
    token = {"__type": "AddedToken", "content": START, "lstrip": False, "rstrip": True, "single_word": False}
    configure(
        folder, add_bos_token=True, bos_token=token | {"normalized": True}, tokenizer_class="GPT2Tokenizer"
    )


def start_and_end_of_old_files(folder: Path) -> None:
    keep_pair(folder)
    configure(folder, add_bos_token=True, add_eos_token=True)


def start_token_by_post_processor(folder: Path) -> None:
    chat(folder)
    inner = Inner.from_file(str(folder / "tokenizer.json"))
    ids = [(START, inner.token_to_id(START))]
    inner.post_processor = processors.TemplateProcessing(single=f"{START} $A", special_tokens=ids)
    inner.save(str(folder / "tokenizer.json"))
    configure(folder, add_bos_token=False)  # not read beside a tokenizer.json


def the_same_as_gpt2(folder: Path) -> None:
    start_token_by_post_processor(folder)
    configure(folder, tokenizer_class="GPT2Tokenizer")


def prefix_space(folder: Path) -> None:
    configure(folder, add_prefix_space=True, tokenizer_class="GPT2TokenizerFast")


def prefix_space_that_is_not_read(folder: Path) -> None:
    configure(folder, add_prefix_space=True)


def split_special_tokens(folder: Path) -> None:
    chat(folder)
    configure(folder, split_special_tokens=True)


def the_one_file_alone(folder: Path) -> None:
    chat(folder)
    (folder / "tokenizer_config.json").unlink()


FOLDERS = [
    chat, words, keep_pair, decoder_of_version_4, added_tokens_file, added_tokens_beside_the_one_file,
    additional_tokens, extra_tokens_by_name, start_token_of_old_files, no_start_token_to_add,
    start_token_with_fields, start_and_end_of_old_files,
    start_token_by_post_processor, the_same_as_gpt2, prefix_space, prefix_space_that_is_not_read,
    split_special_tokens, the_one_file_alone,
]  # fmt: skip
Change = Callable[[Path], None]


@pytest.fixture(scope="module", params=FOLDERS, ids=lambda change: change.__name__)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = saved_pair(tmp_path_factory.mktemp("tokenizer"), train_tokenizer(DOCUMENTS, 300))
    write_json(found, "config.json", {"model_type": "gpt2"})
    request.param(found)
    return found


@pytest.fixture(scope="module")
def expected(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


def test_a_text_has_the_ids_of_transformers(folder: Path, expected: Any) -> None:
    ours = load_tokenizer(folder)
    assert ours.encode_batch(TEXTS) == expected(TEXTS).input_ids
    assert ours.encode_parts(TEXTS) == expected(TEXTS, add_special_tokens=False).input_ids
    assert ours.vocab_size == len(expected)
    assert ours.eos == expected.convert_tokens_to_ids(END_OF_TEXT)
    every = list(range(len(expected)))
    assert ours.decode(every) == expected.decode(every)


def test_a_saved_copy_is_the_same_in_transformers(folder: Path, expected: Any, tmp_path: Path) -> None:
    load_tokenizer(folder).save(tmp_path)
    write_json(tmp_path, "config.json", {"model_type": "gpt2"})
    copy = AutoTokenizer.from_pretrained(tmp_path)
    assert copy(TEXTS).input_ids == expected(TEXTS).input_ids
    assert copy.special_tokens_map == expected.special_tokens_map


def spell_out(patch: pytest.MonkeyPatch) -> None:
    read = tokenizers_of_bases._read

    def reading(*arguments: Any) -> Inner:
        inner = read(*arguments)
        inner.encode_special_tokens = True
        return inner

    patch.setattr(tokenizers_of_bases, "_read", reading)


def forget_added_tokens(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(tokenizers_of_bases, "listed_tokens", lambda *_: [])


def forget_the_start(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(tokenizers_of_bases, "_post_processor", lambda *_: None)


@pytest.mark.parametrize(
    ("plant", "change"),
    [
        (spell_out, chat),
        (forget_added_tokens, added_tokens_file),
        (forget_added_tokens, added_tokens_beside_the_one_file),
        (forget_the_start, start_token_of_old_files),
    ],
)
def test_a_planted_bug_changes_ids(
    plant: Callable[[pytest.MonkeyPatch], None],
    change: Change,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    saved_pair(tmp_path, train_tokenizer(DOCUMENTS, 300))
    write_json(tmp_path, "config.json", {"model_type": "gpt2"})
    change(tmp_path)
    plant(monkeypatch)
    assert (
        load_tokenizer(tmp_path).encode_batch(TEXTS)
        != AutoTokenizer.from_pretrained(tmp_path)(TEXTS).input_ids
    )
