"""The shell around the commands: streams, exit codes, signals, synonyms."""

from __future__ import annotations

import errno
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer

from explora import cli, console
from explora.commands import _options, _short_forms
from explora.commands._settings import given
from explora.commands._synonyms import SYNONYMS, normalise
from explora.core.config import values
from explora.core.config.values import Blocks
from explora.errors import DataError, ExploraError, Interrupted, UsageError
from explora.quantities import duration, size, sizes

COMMANDS = typer.main.get_command(cli.app).commands


@pytest.fixture
def probe() -> Iterator[Callable[[Callable[..., None]], None]]:
    """Register a function as the hidden command `probe` of the real app."""

    def register(function: Callable[..., None]) -> None:
        cli.app.command("probe", hidden=True)(function)

    before = list(cli.app.registered_commands)
    yield register
    cli.app.registered_commands[:] = before


def start_probe(body: str, **options) -> subprocess.Popen:
    """Start a fresh process whose command `probe` does `body`."""
    lines = [
        "import sys, time",
        "from explora import cli, console",
        "@cli.app.command('probe')",
        "def probe():",
    ]
    lines += [f"    {line}" for line in body.splitlines()] + ["sys.exit(cli.main(['probe']))"]
    return subprocess.Popen([sys.executable, "-c", "\n".join(lines)], **options)


# --- exit codes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ExploraError("no such run", "explora train"), 1, "error: no such run\nhint: explora train\n"),
        (
            DataError("empty", file="a.csv", line=3, column="label"),
            1,
            "error: a.csv:3: column label: empty\n",
        ),
        (UsageError("wrong"), 2, "error: wrong\n"),
        (Interrupted(2), 130, "interrupted\n"),
        (Interrupted(15), 143, "interrupted\n"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "error: [Errno 28] No space left on device\n"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), 1, "error: Permission denied: x\n"),
    ],
)
def test_an_expected_failure_is_one_line_a_hint_and_a_code(explora, probe, error, code, line):
    def fail() -> None:
        raise error

    probe(fail)
    outcome = explora("probe")
    assert (outcome.code, outcome.out, outcome.err) == (code, "", line)


def test_a_bug_is_told_with_its_traceback_and_70(explora, probe):
    def fail() -> None:
        raise ZeroDivisionError("planted")

    probe(fail)
    outcome = explora("probe")
    assert outcome.code == 70
    assert "Traceback" in outcome.err
    assert "ZeroDivisionError: planted" in outcome.err
    assert "please report it" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trian"], "Did you mean 'train'?"),
        (["train", "paraphrase", "--epoch", "1"], "did you mean --epochs"),
        (["train", "parafrase"], "did you mean paraphrase?"),
        (["train"], "TASK"),
        (["train", "paraphrase", "--lora", "eight"], "--lora"),
        (["train", "paraphrase", "--layers", "6-"], "--layers"),
        (["train", "paraphrase", "--lora", "8", "--full"], "one method"),
    ],
)
def test_a_wrong_call_is_2_and_says_what_would_be_right(explora, arguments, said):
    outcome = explora(*arguments)
    assert outcome.code == 2
    assert outcome.out == ""
    assert said in outcome.err
    assert "Traceback" not in outcome.err


def test_no_arguments_show_the_help(explora):
    outcome = explora()
    assert outcome.code == 0
    assert all(name in outcome.out for name, command in COMMANDS.items() if not command.hidden)


def test_version(explora):
    import explora as package

    outcome = explora("--version")
    assert (outcome.code, outcome.out) == (0, f"explora {package.__version__}\n")


# --- signals and pipes ----------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_command_with_its_code(number, code):
    process = start_probe(
        "print('ready', flush=True)\ntime.sleep(30)",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (code, "interrupted\n")


def test_a_signal_that_an_import_would_swallow_ends_the_command_too(tmp_path):
    """numpy's import, which torch wraps in such a clause, is one."""
    (tmp_path / "swallowing.py").write_text(
        "import os, signal\ntry:\n    os.kill(os.getpid(), signal.SIGINT)\nexcept BaseException:\n    pass\n"
    )
    process = start_probe(
        "import swallowing\nprint('went on')",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (
        130,
        "",
        "interrupted; nothing was saved\nhint: give the same command again\n",
    )


def test_ctrl_c_while_the_command_line_is_loaded_is_one_line(tmp_path):
    (tmp_path / "typer.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    found = subprocess.run(
        [sys.executable, "-m", "explora", "--help"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        check=False,
    )
    assert (found.returncode, found.stdout, found.stderr) == (130, "", "interrupted\n")


def test_handlers_of_the_caller_come_back(explora):
    before = signal.getsignal(signal.SIGTERM)
    explora("--version")
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("write", ["console.result('line')", "print('line')"])
def test_a_closed_pipe_is_quiet(write):
    process = start_probe(f"for _ in range(100000): {write}", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == b"line\n"
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=20) == 141
    process.stderr.close()


def test_a_closed_pipe_is_quiet_for_help():
    process = subprocess.Popen(
        [sys.executable, "-m", "explora", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=20) == 141
    process.stderr.close()


# --- the result -----------------------------------------------------------------------------------


def test_json_is_one_compact_line_and_has_no_nan(capsys):
    console.result_json({"a": [1.5, float("nan")], "b": {"c": float("inf")}, "é": "ö\n"})
    assert capsys.readouterr().out == '{"a":[1.5,null],"b":{"c":null},"é":"ö\\n"}\n'


def test_a_table_is_aligned(capsys):
    console.result_table(["method", "tokens/s"], [["full", "1,200"], ["last-linear", "9"]])
    assert capsys.readouterr().out.splitlines() == [
        "method       tokens/s",
        "full            1,200",
        "last-linear         9",
    ]


def test_a_narrow_terminal_gets_the_first_columns_and_the_names_of_the_others():
    table = "console.result_table(['task', 'b' * 20, 'c' * 20, 'd' * 40], [['x', '1', '2', '3']])"
    shown = in_a_terminal(table, NO_COLOR="1").splitlines()
    assert [line.split() for line in shown[:2]] == [["task", "b" * 20, "c" * 20], ["x", "1", "2"]]
    assert f"also shows: {'d' * 40}" in shown[2]
    assert "d" * 40 in in_a_terminal(table, COLUMNS="100").splitlines()[0]


def test_the_time_left_comes_before_the_facts(monkeypatch, capsys):
    clock = iter(range(1000))
    monkeypatch.setattr(console.time, "monotonic", lambda: float(next(clock)))
    with console.progress("train", 4) as advance:
        for step in (1, 2):
            advance(step, "loss 0.10")
    assert re.match(r"train 2/4  \d+:\d\d left  loss 0.10$", capsys.readouterr().err.splitlines()[-1])


@pytest.mark.parametrize("locale", ["C", "POSIX"])
def test_output_is_utf8_in_any_locale(locale):
    environment = {**os.environ, "LC_ALL": locale, "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    process = start_probe(
        "console.result('caf\\u00e9 \\ud800')\nconsole.warn('\\u2665')",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    )
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0
    assert out == "café \\ud800\n".encode()
    assert err == "warning: ♥\n".encode()


# --- progress and terminals -----------------------------------------------------------------------

LOOP = """with console.progress("train", 40) as advance:
    for step in range(1, 41):
        advance(step, f"loss {1 / step:.2f}")
        if step == 20: console.note("halfway")
        time.sleep(0.01)"""


def in_a_terminal(body: str, **variables: str) -> str:
    """What a terminal of 60 columns would receive from the command."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "60"}
    environment.pop("NO_COLOR", None)
    process = start_probe(body, stdout=theirs, stderr=theirs, env=environment | variables)
    os.close(theirs)
    received = b""
    try:
        while piece := os.read(ours, 4096):
            received += piece
    except OSError:  # how Linux tells that the other end was closed
        pass
    os.close(ours)
    assert process.wait(timeout=20) == 0
    return received.decode()


def test_a_terminal_gets_a_bar_that_ends_full():
    shown = in_a_terminal(LOOP)
    assert "━" * 10 + " train 40/40  loss 0.03\r\n" in shown
    assert "halfway" in shown
    frames = shown.split("\r\x1b[K")
    assert len(frames) >= 4
    assert all(len(frame.strip()) < 60 for frame in frames if "halfway" not in frame)


def test_a_narrow_terminal_shows_the_time_left_and_drops_later_facts_whole(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "45")
    console._draw_bar("train 1/9  0:10 left  loss 2.08  1,483 tokens/s", 0.1)
    console._end_bar()
    assert capsys.readouterr().err.endswith(" train 1/9  0:10 left  loss 2.08\n")


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_plain_lines_where_control_codes_are_not_wanted(variables):
    shown = in_a_terminal(LOOP, **variables)
    assert "\x1b" not in shown
    assert "train 40/40  loss 0.03" in shown


def test_a_file_gets_a_line_every_tenth_of_the_way(capsys):
    with console.progress("train", 100) as advance:
        for step in range(1, 101):
            advance(step, "loss 0.10")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        f"train {step}/100" for step in (1, *range(10, 101, 10))
    ]
    assert lines[-1] == "train 100/100  loss 0.10"


def test_quiet_silences_notes_and_progress_only(explora, probe):
    def talk(quiet: _options.Quiet = False) -> None:
        console.note("a note")
        with console.progress("train", 1) as advance:
            advance(1, "")
        console.warn("careful")
        console.result("done")

    probe(talk)
    assert explora("probe", "-q").err == "warning: careful\n"
    assert "a note\ntrain 1/1\n" in explora("probe").err
    assert explora("probe", "--quiet").out == "done\n"


def test_control_characters_of_data_do_not_reach_a_terminal():
    hostile = "'red\\x1b[31m\\x9b2J\\x07\\rover\\x7f\\ttab'"
    shown = in_a_terminal(f"console.result({hostile})\nconsole.error({hostile})", NO_COLOR="1")
    escaped = r"red\x1b[31m\x9b2J\x07\x0dover\x7f" + "\ttab\r\n"
    assert shown == escaped + "error: " + escaped


def test_a_pipe_gets_the_text_as_it_is(capsys):
    console.result("a\x1b[31m")
    assert capsys.readouterr().out == "a\x1b[31m\n"


def test_numbers_for_people():
    assert [duration(seconds) for seconds in (0, 59.6, 185, 3723)] == [
        "0:00",
        "1:00",
        "3:05",
        "1:02:03",
    ]
    assert [size(count) for count in (0, 999, 1200, 1_200_000, 5e9)] == [
        "0 B",
        "999 B",
        "1.2 kB",
        "1.2 MB",
        "5.0 GB",
    ]
    assert sizes([1_200_000, None, 5e9]) == ["1.2 MB", "", "5,000.0 MB"]


def test_words_in_a_table_are_on_the_left_and_figures_on_the_right(capsys):
    console.result_table(["run", "score", "answer"], [["a", "0.5", "always no"], ["bb", "0.25", "no"]])
    assert capsys.readouterr().out.splitlines() == [
        "run  score  answer",
        "a      0.5  always no",
        "bb    0.25  no",
    ]


def test_a_colour_terminal_gets_the_header_and_the_best_row_in_bold():
    table = "console.result_table(['run', 'score'], [['a', '1'], ['b', '2']], best=1)"
    shown = in_a_terminal(table).splitlines()
    assert shown == ["\x1b[1mrun  score\x1b[0m", "a        1", "\x1b[1mb        2\x1b[0m"]


# --- synonyms -------------------------------------------------------------------------------------

FLAGS = {"--json", "--full", "-q", "-h"}


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("train --lora_r 8", "train --rank 8"),
        ("train --lora-rank=8", "train --rank=8"),
        ("train --learning_rate 1e-3 --lr 2", "train --learning-rate 1e-3 --learning-rate 2"),
        ("train --bf16 --epochs 1", "train --amp=bf16 --epochs 1"),
        ("train --gradient_checkpointing", "train --grad-checkpoint"),
        ("train --label_words=a_b,c_d", "train --label-words=a_b,c_d"),
        (
            "generate --prompt --max_tokens --max_tokens 3",
            "generate --prompt --max_tokens --max-new-tokens 3",
        ),
        ("generate --json --max_tokens 3", "generate --json --max-new-tokens 3"),
        ("train -o --lora_r -q --lora_r 8", "train -o --lora_r -q --rank 8"),
        ("train -qo --lora_r --lora_r 8", "train -qo --lora_r --rank 8"),
        ("train -oruns --lora_r 8", "train -oruns --rank 8"),
        ("eval my_task --full -- --lora_r a_b", "eval my_task --full -- --lora_r a_b"),
        ("generate --prompt - --temp 1", "generate --prompt - --temperature 1"),
        ("train --data", "train --data"),
    ],
)
def test_long_options_are_normalised_and_values_are_not(typed, meant):
    assert normalise(typed.split(), FLAGS) == meant.split()


def test_every_synonym_leads_to_an_option_and_hides_none():
    options = {name for command in COMMANDS.values() for option in command.params for name in option.opts}
    assert {canonical.partition("=")[0] for canonical in SYNONYMS.values()} <= options
    assert not SYNONYMS.keys() & options


# --- values ---------------------------------------------------------------------------------------


def test_values_are_parsed():
    assert values.Blocks.parse("6-11") == tuple(range(6, 12))
    assert values.Blocks.parse(" 6 ") == (6,)
    assert values.Blocks.parse("7, 0-2,1") == (0, 1, 2, 7)
    assert values.parse_ranks_by_module("mlp.c_fc=16, h.3.attn.c_attn=4") == {
        "mlp.c_fc": 16,
        "h.3.attn.c_attn": 4,
    }
    assert values.parse_targets("query, attn_out,c_attn") == ("query", "attn-out", "c_attn")
    assert values.parse_columns("label=is_dup, sentence1 = a b") == {"label": "is_dup", "sentence1": "a b"}
    sizes = {"off": 0, "0": 0, "17": 17, "28.5kB": 28_500, "500 MB": 500_000_000, "4gb": 4 * 10**9}
    assert {text: values.parse_size(text) for text in sizes} == sizes
    assert values.parse_label_words("yes, no") == ("yes", "no")
    assert _short_forms.expand({"lora": 4}) == {"method": "lora", "rank": 4}
    assert _short_forms.expand({"last_linear": True, "seed": 3}) == {"method": "last-linear", "seed": 3}
    assert _short_forms.expand({"lora": 4, "method": "lora"}) == {"method": "lora", "rank": 4}
    assert _short_forms.expand({}) == {}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"lora": 4, "full": True}, "one method at a time, not --lora and --full"),
        ({"full": True, "method": "lora"}, "one method at a time, not --full and --method lora"),
        ({"lora": 4, "rank": 8}, "--lora 4 and --rank 8 contradict each other"),
    ],
)
def test_short_forms_that_contradict_are_refused(asked, message):
    with pytest.raises(UsageError) as caught:
        _short_forms.expand(asked)
    assert caught.value.message == message


@pytest.mark.parametrize(
    ("parse", "text"),
    [(values.Blocks.parse, text) for text in ("", "a", "-1", "3-", "7-3", "1-2-3", "1.5", "1,")]
    + [(values.parse_ranks_by_module, text) for text in ("", "mlp.c_fc", "mlp.c_fc=", "mlp.c_fc=1.5")]
    + [(values.parse_targets, text) for text in ("", " , ")]
    + [(values.parse_columns, text) for text in ("", "label", "=a", "label=", "label=a,label=b")]
    + [(values.parse_size, text) for text in ("", "GB", "4 gigabytes", "-1MB", "1e9", "4iB", "on")]
    + [(values.parse_label_words, text) for text in ("", "yes", "yes,yes", "yes,no,maybe", "yes,")],
)
def test_bad_values_are_usage_errors(parse, text):
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert caught.value.message


def test_a_column_without_the_task_s_gets_no_other_task_s_example():
    with pytest.raises(UsageError) as caught:
        values.parse_columns("review,stars")
    assert caught.value.hint == "write the task's column first: OURS=review"


def test_only_what_was_given_is_an_option():
    options = {"layers": "2-3", "alpha": None, "skip_bad": False, "columns": None, "epochs": 0}
    assert given(options) == {"layers": Blocks.parse("2-3"), "skip_bad": False, "epochs": 0}


def test_a_run_of_the_module_is_the_command(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "explora", "--version"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    assert done.stdout.startswith("explora ")


def test_a_full_disk_behind_stdout_is_told_and_one_behind_stderr_stops_nothing(tmp_path: Path) -> None:
    command = f"{shlex.quote(sys.executable)} -m explora --version"
    full = ["sh", "-c", f"{command} >/dev/full"]
    done = subprocess.run(full, cwd=tmp_path, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: standard output cannot be written: No space left on device\n")
    with Path("/dev/full").open("w") as stderr:
        process = start_probe(
            "console.warn('lost')\nconsole.result('kept')", stdout=subprocess.PIPE, stderr=stderr
        )
    assert (process.communicate()[0], process.returncode) == (b"kept\n", 0)


def test_no_file_gets_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    body = "from explora import console; console.start(); f = open('seen', 'w'); f.write(str(f.fileno()))"
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(body)} <&- >&- 2>&-"
    subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True)
    assert int((tmp_path / "seen").read_text()) > 2


def test_a_stdout_that_was_closed_from_the_start(tmp_path: Path) -> None:
    command = f"{shlex.quote(sys.executable)} -m explora params --json >&-"
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
