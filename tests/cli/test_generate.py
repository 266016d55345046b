"""`explora generate`: prompts in, continuations out, in order; what a seed promises; how it streams."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2LMHeadModel

from explora.commands.generate import Answer, _note_short
from explora.core.base.model_folder import write_model
from explora.core.base.tokenizer import Tokenizer, load_tokenizer
from explora.core.model.gpt2 import GPT2
from explora.core.runs.train import start_run
from explora.streams import clean
from tests.tiny_models import SHAPE, finish, randomise, tiny_run

Stdin = Callable[[str | bytes], None]
SHORT = ("--max-new-tokens", "12")


@pytest.fixture(scope="module")
def runs(tiny_base: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of a few steps for each of these tasks."""
    folder = tmp_path_factory.mktemp("trained") / "runs"
    for task in ("sonnet", "text", "sentiment"):
        finish(start_run(tiny_run(tiny_base, tiny_data, task, max_steps=1), folder / task))
    return folder


@pytest.fixture
def here(runs: Path, tmp_path: Path) -> None:
    """The runs as runs/TASK of the folder that commands run in."""
    (tmp_path / "runs").symlink_to(runs)


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Stdin:
    def feed(content: str | bytes) -> None:
        data = content.encode() if isinstance(content, str) else content
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(data))))

    return feed


def write_parrot(folder: Path, base: Path, tokens: Callable[[Tokenizer], list[int]]) -> Path:
    """Write a base that says these tokens alone, with even odds, whatever it reads."""
    tokenizer, model = load_tokenizer(base), randomise(GPT2(SHAPE))
    with torch.no_grad():
        model.ln_f.weight.zero_()
        model.ln_f.bias.zero_()
        model.ln_f.bias[0] = 1
        model.wte.weight[:, 0] = -30
        model.wte.weight[tokens(tokenizer), 0] = 1
    write_model(folder, model.state_dict(), SHAPE, tokenizer)
    return folder


@pytest.fixture(scope="module")
def poet(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base that writes short lines."""
    return write_parrot(tmp_path_factory.mktemp("poet") / "base", tiny_base, lambda t: t.encode("a\n"))


def texts(objects: list[dict[str, Any]]) -> list[str]:
    return [item["text"] for item in objects]


# --- prompts --------------------------------------------------------------------------------------


def test_the_text_is_the_prompt_with_its_continuation(explora, check_schema, here: None) -> None:
    done = explora("generate", "text", "--prompt", "The lamp", *SHORT, "--json")
    (value,) = done.objects
    check_schema("generate", value)
    assert (value["prompt"], value["tokens"], value["seed"]) == ("The lamp", 12, 11711)
    assert value["tokens_per_second"] > 0
    plain = explora("generate", "text", "--prompt", "The lamp", *SHORT)
    assert plain.out == "The lamp" + value["text"].rstrip("\n") + "\n"
    assert plain.err == done.err == "runs/text on " + done.err.partition(" on ")[2]
    assert len(done.err.splitlines()) == 1


def test_quiet_leaves_the_result_alone(explora, here: None) -> None:
    done = explora("generate", "text", "--prompt", "The lamp", *SHORT, "-q")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("The lamp")


LINES = ["The lamp", "a much longer prompt about the keeper of the light", "x", "two words", "the gale blew"]


def test_prompts_come_from_standard_input_and_keep_their_order(
    explora, check_schema, here: None, stdin: Stdin
) -> None:
    stdin("\n".join(LINES) + "\n")
    done = explora("generate", "text", "--prompt", "-", *SHORT, "--batch-size", "2", "--json")
    for value in done.objects:
        check_schema("generate", value)
    assert [value["prompt"] for value in done.objects] == LINES
    assert [value["seed"] for value in done.objects] == [11711 + i for i in range(5)]
    stdin("\n".join(LINES))
    at_once = explora("generate", "text", "--prompt", "-", *SHORT, "--json")
    assert texts(at_once.objects) == texts(done.objects)


def test_many_prompts_are_answered_in_portions(
    explora, here: None, stdin: Stdin, monkeypatch: pytest.MonkeyPatch
) -> None:
    stdin("\n".join(LINES))
    whole = explora("generate", "text", "--prompt", "-", "--num", "2", *SHORT, "--json").objects
    monkeypatch.setattr("explora.commands.generate.AT_ONCE", 2)
    stdin("\n".join(LINES))
    portions = explora("generate", "text", "--prompt", "-", "--num", "2", *SHORT, "--json").objects
    assert [(v["prompt"], v["seed"], v["text"]) for v in portions] == [
        (v["prompt"], v["seed"], v["text"]) for v in whole
    ]


def test_a_json_line_may_hold_several_lines(explora, here: None, stdin: Stdin) -> None:
    prompts = ["one\ntwo\n", "plain", "{braces}", "naïve 雨"]
    lines = [json.dumps({"prompt": prompts[0], "other": 1}), "plain", json.dumps({"prompt": prompts[2]})]
    stdin("\n\n".join([*lines, json.dumps({"prompt": prompts[3]}, ensure_ascii=False)]) + "\r\n")
    done = explora("generate", "text", "--prompt", "-", *SHORT, "--json")
    assert [value["prompt"] for value in done.objects] == prompts


def test_a_byte_order_mark_is_no_part_of_a_prompt(explora, here: None, stdin: Stdin) -> None:
    for content in ("The lamp\n", '{"prompt": "The lamp"}\n'):
        stdin(b"\xef\xbb\xbf" + content.encode())
        assert (
            explora("generate", "text", "--prompt", "-", *SHORT, "--json").objects[0]["prompt"] == "The lamp"
        )


def test_without_a_prompt_a_base_writes_from_its_start_token(
    explora, tiny_base: Path, tmp_path: Path, stdin: Stdin
) -> None:
    words = ("generate", "text", str(tiny_base), *SHORT, "--greedy", "--json")
    (value,) = explora(*words, "--prompt", "").objects
    base = GPT2LMHeadModel.from_pretrained(tiny_base).eval()
    theirs = base.generate(do_sample=False, max_new_tokens=12)[0, 1:].tolist()  # from bos_token_id
    assert value["text"] == load_tokenizer(tiny_base).decode(theirs[: value["tokens"]])
    assert value["tokens"] > 0
    (spelled,) = explora(*words, "--prompt", "<|endoftext|>").objects
    assert spelled["text"] == value["text"]
    stdin('{"prompt": ""}\n')
    (read,) = explora(*words, "--prompt", "-").objects
    assert (read["prompt"], read["text"]) == ("", value["text"])


def test_without_a_prompt_and_a_start_token_there_is_nothing_to_continue(
    explora, tiny_base: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_base, tmp_path / "base")
    for name in ("config.json", "generation_config.json"):
        file = tmp_path / "base" / name
        file.write_text(json.dumps(json.loads(file.read_text()) | {"bos_token_id": None}), encoding="utf-8")
    done = explora("generate", "text", "base", "--prompt", "")
    assert (done.code, done.out) == (1, "")
    assert "--prompt: the prompt is empty, and the base has no start token" in done.err
    assert explora("generate", "sonnet", "base", "--prompt", "", *SHORT).code == 0  # poems begin themselves


def test_no_prompts_are_no_answers(explora, here: None, stdin: Stdin) -> None:
    stdin("\n  \n")
    done = explora("generate", "text", "--prompt", "-", "--json")
    assert (done.code, done.out) == (0, "")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('fine\n{"prompt": \n', "<stdin>:2: a line that starts with { should be a JSON object"),
        ('fine\n\n{"text": "x"}\n', "<stdin>:3: a line that starts with {"),
        ('{"prompt": 3}\n', "<stdin>:1: column prompt: prompt should be a string, not 3"),
        ('{"prompt": "a\\u0000b"}\n', "<stdin>:1: the text has a NUL byte"),
        ('fine\n{"prompt": "\\ud83d"}\n', "<stdin>:2: half a surrogate pair"),
        ('{"a":' * 100_000 + "\n", "<stdin>:1: a line that starts with {"),
        (b"fine\nna\xefve\n", "<stdin>:2: byte 0xEF is not UTF-8"),
        (b"\xff\n", "<stdin>:1: byte 0xFF is not UTF-8"),
        ("fine\n" + "the lamp " * 100 + "\n", "<stdin>:2: the prompt has "),
    ],
    ids=range(9),
)
def test_a_bad_line_is_named(explora, here: None, stdin: Stdin, content: str | bytes, told: str) -> None:
    stdin(content)
    done = explora("generate", "text", "--prompt", "-", *SHORT, "--json")
    assert (done.code, done.out) == (1, "")
    assert told in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        ("the lamp " * 100, "this model reads at most 191 before it writes"),
        ("half \udcff", "--prompt: half a surrogate pair"),
    ],
    ids=range(2),
)
def test_a_bad_prompt_is_told(explora, here: None, prompt: str, told: str) -> None:
    done = explora("generate", "text", "--prompt", prompt)
    assert (done.code, done.out) == (1, "")
    assert told in done.err


# --- seeds ----------------------------------------------------------------------------------------


def test_a_prompt_that_is_the_name_of_a_file_is_warned_of(explora, here: None, tmp_path: Path) -> None:
    (tmp_path / "my prompts.txt").write_text("When\n")
    told = "not the file of this name. To continue its lines: --prompt - < 'my prompts.txt'"
    assert told in explora("generate", "text", "--prompt", "my prompts.txt", *SHORT).err
    assert "warning" not in explora("generate", "text", "--prompt", "When", *SHORT).err


def test_the_same_seed_gives_the_same_text(explora, here: None) -> None:
    def generate(*arguments: str) -> str:
        out = explora("generate", "text", "--prompt", "The lamp", *SHORT, *arguments).out
        assert isinstance(out, str)
        return out

    assert generate("--seed", "3") == generate("--seed", "3")
    assert generate("--seed", "3") != generate("--seed", "4")
    assert generate("--seed", "3", "--greedy") == generate("--seed", "4", "--greedy")
    assert generate() == generate("--seed", "11711")


def test_the_seed_of_a_sample_gives_that_sample_alone(explora, here: None, stdin: Stdin) -> None:
    stdin("\n".join(LINES))
    done = explora("generate", "text", "--prompt", "-", "--num", "3", "--seed", "7", *SHORT, "--json")
    assert [value["prompt"] for value in done.objects] == [line for line in LINES for _ in range(3)]
    assert [value["seed"] for value in done.objects] == list(range(7, 22))
    assert len({*texts(done.objects)[:3]}) == 3
    for value in done.objects[4], done.objects[-1]:
        again = explora(
            "generate", "text", "--prompt", value["prompt"], "--seed", str(value["seed"]), *SHORT, "--json"
        )
        assert texts(again.objects) == [value["text"]]


def test_every_sampling_option_matters(explora, here: None) -> None:
    def text(*arguments: str) -> str:
        done = explora("generate", "text", "--prompt", "The lamp", "--seed", "5", *arguments, "--json")
        return str(done.objects[0]["text"])

    plain = text(*SHORT)
    assert text("--top-k", "1", *SHORT) == text("--greedy", *SHORT) != plain
    for option in (("--temperature", "0.2"), ("--top-k", "2"), ("--top-p", "0.05")):
        assert text(*option, *SHORT) != plain
    greedy = text("--greedy", "--max-new-tokens", "40")
    assert text("--greedy", "--repetition-penalty", "1.8", "--max-new-tokens", "40") != greedy
    assert greedy.startswith(text("--greedy", "--max-tokens", "5"))


# --- sonnets --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "lines"), [("first", 14), ("first\n", 13), ("a\nb\nc\n", 11), ("x\n" * 20, 1)]
)
def test_a_sonnet_stops_after_fourteen_lines(explora, poet: Path, given: str, lines: int) -> None:
    done = explora("generate", "sonnet", "--model", str(poet), "--prompt", given, "--num", "5", "--json")
    assert [text.count("\n") for text in texts(done.objects)] == [lines] * 5
    assert all(text.endswith("\n") for text in texts(done.objects))


def test_sonnets_have_sampling_defaults_of_their_own(explora, here: None) -> None:
    def text(*arguments: str) -> str:
        done = explora("generate", "sonnet", "--prompt", "The lamp\n", *SHORT, *arguments, "--json")
        return str(done.objects[0]["text"])

    asked = ("--temperature", "0.7", "--top-p", "0.9", "--repetition-penalty", "1.2")
    plain = ("--temperature", "1", "--top-p", "1", "--repetition-penalty", "1")
    assert text() == text(*asked) != text(*plain)
    assert text("--greedy") == text("--greedy", "--repetition-penalty", "1")


def test_poems_are_continued_from_a_file(explora, here: None, tmp_path: Path) -> None:
    poems = "Poems\n\n1\n\none,\ntwo,\nthree,\nfour\n\n2\n\nfive,\nsix\n"
    (tmp_path / "poems.txt").write_text(poems, encoding="utf-8")
    done = explora("generate", "sonnet", "--data", "poems.txt", *SHORT, "--json")
    assert [value["prompt"] for value in done.objects] == ["one,\ntwo,\nthree,\n", "five,\nsix\n"]
    plain = explora("generate", "sonnet", "--data", "poems.txt", *SHORT)
    assert [value["id"] for value in done.objects] == ["1", "2"]
    whole = [
        f"{value['id']}\n\n{value['prompt']}" + value["text"].rstrip("\n") + "\n\n" for value in done.objects
    ]
    assert plain.out == "".join(whole)
    assert "2 of 2 texts have fewer than 14 lines" in plain.err


def test_only_short_poems_are_noted(capsys: pytest.CaptureFixture[str]) -> None:
    whole, short = (
        Answer(id="1", prompt="one\n", text="\nnext" * lines, tokens=1, tokens_per_second=1.0, seed=0)
        for lines in (13, 12)
    )
    _note_short([whole, short], 14)
    assert "1 of 2 texts have fewer than 14 lines" in capsys.readouterr().err
    _note_short([whole], 14)
    assert capsys.readouterr().err == ""


def test_predictions_are_a_submission_of_the_course(explora, here: None, tmp_path: Path) -> None:
    (tmp_path / "poems.txt").write_text("Poems\n\n1\n\none,\ntwo,\nthree\n\n2\n\nfour\n", encoding="utf-8")
    arguments = ("generate", "sonnet", "--data", "poems.txt", "--seed", "3", "--top-p", "0.8", *SHORT)
    objects = explora(*arguments, "--json").objects
    done = explora(*arguments, "--predictions", "out.txt")
    assert (done.code, done.out) == (0, "")
    assert "2 predictions in out.txt" in done.err
    written = (tmp_path / "out.txt").read_text(encoding="utf-8")
    poems = [f"\n{it['id']}\n{it['prompt']}{it['text'].rstrip(chr(10))}\n\n" for it in objects]
    assert written == "--Generated Sonnets-- \n\n" + "".join(poems)
    assert (
        explora(*arguments, "--predictions", "out.jsonl", "--json").objects[0]["text"] == objects[0]["text"]
    )
    first = json.loads((tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert first == {"id": "1", "prompt": "one,\ntwo,\nthree\n", "sampled": objects[0]["text"].rstrip("\n")}


# --- streaming ------------------------------------------------------------------------------------


def pieces_on_a_terminal(explora, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> list[str]:
    pieces: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(sys.stdout, "isatty", lambda: True)
        patch.setattr(sys.stdout, "write", lambda text: pieces.append(text) or len(text))
        assert explora(*arguments).code == 0
    return pieces


@pytest.mark.parametrize("task", ["text", "sonnet"])
@pytest.mark.parametrize("seed", range(5))
def test_a_terminal_sees_the_same_text_piece_by_piece(
    explora, here: None, monkeypatch: pytest.MonkeyPatch, task: str, seed: int
) -> None:
    """A random model writes broken characters too: they must not get lost or doubled."""
    arguments = ("generate", task, "--prompt", "The lamp\n", "--seed", str(seed), "-t", "1.5")
    at_once = explora(*arguments, "--max-new-tokens", "60").out
    pieces = pieces_on_a_terminal(explora, monkeypatch, *arguments, "--max-new-tokens", "60")
    assert "".join(pieces) == clean(at_once)
    assert len(pieces) > 20


def test_an_unfinished_character_at_the_end_is_not_lost(
    explora, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first byte of an é, again and again."""
    base = write_parrot(tmp_path / "base", tiny_base, lambda tokenizer: tokenizer.encode("é")[:1])
    arguments = ("generate", "text", "--model", str(base), "--prompt", "x", "--max-new-tokens", "3")
    at_once = explora(*arguments).out
    assert at_once == "x" + 3 * "\N{REPLACEMENT CHARACTER}" + "\n"
    assert "".join(pieces_on_a_terminal(explora, monkeypatch, *arguments)) == at_once


def test_json_and_several_samples_do_not_stream(explora, here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    done = explora("generate", "text", "--prompt", "The lamp", *SHORT, "--json")
    assert len(done.objects) == 1
    done = explora("generate", "text", "--prompt", "The lamp", *SHORT, "--num", "2")
    assert done.out.count("The lamp") == 2


def test_a_reader_that_leaves_early_is_no_error(runs: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "explora", "generate", "text", str(runs / "text"), "--json", "-q"]
    command += ["--prompt", "-", "--num", "40", "--max-new-tokens", "3"]
    started = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        text=True,
    )
    assert started.stdin is not None
    assert started.stdout is not None
    assert started.stderr is not None
    started.stdin.write("The lamp\n" * 200)
    started.stdin.close()
    assert json.loads(started.stdout.readline())["prompt"] == "The lamp"
    started.stdout.close()
    assert started.stderr.read() == ""
    assert started.wait(timeout=60) == 141
    started.stderr.close()


# --- what cannot be -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        ("text", 2, "give --prompt TEXT, --prompt - or --data FILE"),
        ("text", 2, "explora generate text --prompt"),
        ("text --prompt x --data y", 2, "give --prompt TEXT"),
        ("sentiment --prompt x", 2, "is a classifier and cannot continue a text"),
        ("text runs/sonnet --prompt x", 1, "was trained for sonnet, not for text"),
        ("sonnet --prompt x --predictions out.txt", 2, "for each poem of --data FILE"),
        ("sonnet --data x --num 2 --predictions out.txt", 2, "for each poem of --data FILE"),
        ("sonnet --data x --predictions -", 2, "--predictions names a file"),
        ("text --prompt x --temperature 0", 2, "temperature must be a positive number"),
        ("text --prompt x --temperature nan", 2, "temperature must be a positive number"),
        ("text --prompt x --top-p 1.5", 2, "top_p must be in (0, 1]"),
        ("text --prompt x --top-k 0", 2, "top_k must be at least 1"),
        ("text --prompt x --repetition-penalty 0", 2, "repetition_penalty must be a positive number"),
        ("text --prompt x --num 0", 2, "--num"),
        ("text --prompt x --max-new-tokens 0", 2, "--max-new-tokens"),
        ("text --prompt x --seed -1", 2, "--seed"),
        (f"text --prompt x --seed {2**64}", 2, "seed must be at least 0 and below 2^63"),
        ("text --prompt x --batch-size 0", 2, "batch-size must be at least 1"),
        ("text --prompt x --threads -1", 2, "threads must be at least 1"),
        ("text --prompt x --amp fp8", 2, "amp 'fp8' is not one of"),
        ("sonnet --data none.txt", 1, "none.txt: no such file"),
        ("sonnet --data sonnets", 2, "generate reads a file, not a data set by its name"),
        ("poems --prompt x", 2, "no task 'poems'"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(
    explora, here: None, arguments: str, code: int, told: str
) -> None:
    done = explora("generate", *arguments.split())
    assert (done.code, done.out) == (code, "")
    assert told in done.err
    assert "Traceback" not in done.err


def test_data_is_for_poems_and_text(explora, tiny_base: Path) -> None:
    done = explora("generate", "paraphrase", "--model", str(tiny_base), "--data", "pairs.csv")
    assert (done.code, done.out) == (2, "")
    assert "paraphrase takes --prompt" in done.err


def test_the_largest_seed_still_draws(explora, here: None) -> None:
    seed = str(2**63 - 1)
    done = explora("generate", "text", "--prompt", "x", "--num", "2", "--seed", seed, *SHORT, "--json")
    assert [value["seed"] for value in done.objects] == [2**63 - 1, 2**63]


def test_adapters_give_the_same_text_merged_and_beside_the_base(
    explora, runs: Path, here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Generation merges in memory; the text is that of the model with its adapters."""
    merged = explora("generate", "sonnet", "--prompt", "The lamp\n", "--json").objects
    monkeypatch.setattr("explora.core.runs.assemble.merge_in_memory", lambda session, dtype: None)
    beside = explora("generate", "sonnet", "--prompt", "The lamp\n", "--json").objects
    assert texts(merged) == texts(beside)


def test_predictions_do_not_replace_the_prompts(explora, tmp_path: Path) -> None:
    (tmp_path / "poems.txt").write_text("a poem", encoding="utf-8")
    done = explora("generate", "sonnet", "--data", "poems.txt", "--predictions", "poems.txt")
    assert done.code == 2
    assert "poems.txt holds data that this command reads" in done.err
    assert (tmp_path / "poems.txt").read_text(encoding="utf-8") == "a poem"
