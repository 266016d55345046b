"""How each kind of cell is measured: one repeat, every contender in a fresh process, in turns."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

from errors import Refused
from prepare import Scratch, cut
from processes import EXPLORA, Done, run, script

from explora.core.bench.measurements import WARMUP_STEPS, Cell
from explora.core.bench.protocol import ask
from explora.core.config.run_config import TrainRun
from explora.core.machine.malloc import TUNABLES

SAME_LOSS = 1e-3  # of the first batch, fp32
SAME_PROBABILITY = {"float32": 1e-3, "bfloat16": 0.05}
AMP = {"float32": "off", "bfloat16": "bf16"}
PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE"}  # as `explora eval` sets it itself, and `explora train`:
TRAINING = {
    "GOMP_SPINCOUNT": "1000",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64",
    "LRU_CACHE_CAPACITY": "64",
} | TUNABLES
OWN, PEER = "explora", "peer"

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a contender gave: figures by the names of suite.FIGURES, and what is known of equality."""

    contender: str
    figures: Mapping[str, float]
    equality: str = ""


@dataclass(frozen=True, kw_only=True)
class Repeat:
    """What a measurement is told: the settings of its cell, where things lie, its number from 0."""

    settings: Mapping[str, Any]
    scratch: Scratch
    number: int
    seed: int

    def fill(self, value: Any) -> Any:
        """Fill {base}, {pairs}, {sentences} into a string; anything else is as it is."""
        where = self.scratch
        if not isinstance(value, str):
            return value
        return value.format(base=where.base, pairs=where.pairs, sentences=where.sentences)

    def turns(self, own: Callable[[], Result], peer: Callable[[], Result]) -> tuple[Result, Result]:
        """Call both, the peer first every other time; returns our result and the peer's."""
        if self.number % 2 == 0:
            return own(), peer()
        theirs = peer()
        return own(), theirs


def bench(repeat: Repeat) -> list[Found]:
    """`explora bench --peer`, which itself holds the losses of both against each other."""
    settings = repeat.settings
    command = [*EXPLORA, "bench", *settings["arguments"], "--methods", "lora", "--peer", "--json"]
    command += ["--model", str(repeat.scratch.base), "--seed", str(repeat.seed)]
    command += ["--steps", str(settings["steps"]), "--repeats", "1"]
    rows = json.loads(run(command).out)["rows"]
    if failed := [row["error"] for row in rows if row["error"]]:
        raise Refused(failed[0])
    return [_row(row) for row in rows]


def _row(row: Mapping[str, Any]) -> Found:
    names = ("tokens_per_second", "peak_memory_bytes", "matrix_share")
    figures = {name: row[name] for name in names} | {"seconds": row["steps"] * sum(row["seconds"].values())}
    if row["stack"] == OWN:
        return Found(contender=OWN, figures=figures)
    equality = f"fp32 loss {row['first_loss']:.6f}, ours {row['reference_loss']:.6f}"
    return Found(contender=PEER, figures=figures, equality=equality)


def train(repeat: Repeat) -> list[Found]:
    """A cell of the bench against peers/train.py: on the same rows, each with settings of its own."""
    arguments = [repeat.fill(word) for word in repeat.settings["arguments"]]
    plan = json.loads(run([*EXPLORA, "train", *arguments, "--dry-run", "--json"]).out)
    config = TrainRun.from_json(plan["config"])
    config = replace(config, training=replace(config.training, seed=repeat.seed))
    cell = Cell(run=config, length=None, steps=repeat.settings["steps"], seconds=0.0).to_json()
    reference = ask("explora.core.bench.peer_reference", {"cell": cell, "folder": str(repeat.scratch.base)})
    request = json.dumps(_peer_request(reference, repeat))
    own, peer = repeat.turns(
        lambda: ask("explora.core.bench.cell_process", cell, TRAINING),
        lambda: json.loads(run(script("peers/train.py"), request).out),
    )
    share = own["flop"] / own["seconds"] / own["matrix_peak"]
    return [
        Found(contender=OWN, figures=_trained(own) | {"matrix_share": share}),
        Found(contender=PEER, figures=_trained(peer), equality=same_training(own, peer, reference["loss"])),
    ]


def _peer_request(reference: Mapping[str, Any], repeat: Repeat) -> dict[str, Any]:
    batches = reference["batches"]
    return {
        **repeat.settings["peer"],
        **{name: reference[name] for name in ("base", "pad", "candidates")},
        "first": batches[0],
        "warm_up": list(chain.from_iterable(batches[:WARMUP_STEPS])),
        "rows": list(chain.from_iterable(batches[WARMUP_STEPS:])),
        "seed": repeat.seed,
    }


def _trained(found: Mapping[str, Any]) -> dict[str, float]:
    return {
        "seconds": found["seconds"],
        "tokens_per_second": found["tokens"] / found["seconds"],
        "peak_memory_bytes": found["peak_memory_bytes"],
    }


def same_training(own: Mapping[str, Any], peer: Mapping[str, Any], loss: float) -> str:
    """Say from which losses both start. Raises Refused for another loss, or another number of tokens."""
    losses = f"fp32 loss {peer['first_loss']:.6f}, ours {loss:.6f}"
    if not abs(peer["first_loss"] - loss) <= SAME_LOSS:
        raise Refused(f"the peer starts elsewhere: {losses}")
    if own["tokens"] != peer["tokens"]:
        raise Refused(f"the peer read {peer['tokens']} tokens, we {own['tokens']}")
    return f"{losses}; {own['tokens']} tokens each"


def epochs(repeat: Repeat) -> list[Found]:
    """One training: its later epochs, on average, against its first."""
    settings = {name: repeat.fill(value) for name, value in repeat.settings["settings"].items()}
    whole = Path(settings["data"])
    rows = repeat.scratch.folder / "cut" / whole.name
    for split in ("train.jsonl", "dev.jsonl"):
        cut(whole / split, rows / split, repeat.settings["rows"])
    settings |= {"data": str(rows), "seed": repeat.seed}
    done = run(script("own/epochs.py"), json.dumps({"task": repeat.settings["task"], "settings": settings}))
    found = json.loads(done.out)
    first, *later = [
        {"tokens_per_second": tokens / seconds, "seconds": seconds}
        for tokens, seconds in zip(found["tokens"], found["seconds"], strict=True)
    ]
    average = {name: fmean(each[name] for each in later) for name in first}
    memory = {"peak_memory_bytes": done.peak_memory_bytes}
    return [
        Found(contender="later epochs", figures=average | memory),
        Found(contender="first epoch", figures=first | memory),
    ]


def evaluate(repeat: Repeat) -> list[Found]:
    """own/eval.py against peers/eval.py: the same probabilities in fp32, and in bf16 up to its noise."""
    if repeat.number == 0:
        _evaluate(repeat, repeat.settings["checked"], "float32")
    return _evaluate(repeat, repeat.settings["rows"], "bfloat16")


def _evaluate(repeat: Repeat, rows: int, dtype: str) -> list[Found]:
    where = repeat.scratch
    cut_rows = where.folder / "cut"
    pairs = cut(where.pairs / "test.jsonl", cut_rows / "eval.jsonl", rows)
    ours, theirs = cut_rows / "ours.jsonl", cut_rows / "theirs.jsonl"
    given = [str(where.base), str(where.adapter("paraphrase")), str(pairs)]
    batch = ["--batch-size", str(repeat.settings["batch_size"]), "--dtype", dtype]
    own, peer = repeat.turns(
        lambda: run(script("own/eval.py", *given, str(ours), *batch), environment=PASSIVE),
        lambda: run(script("peers/eval.py", *given, str(theirs), *batch)),
    )
    equality = same_probabilities(_probabilities(ours), _probabilities(theirs), dtype)
    return [
        Found(contender=OWN, figures=_evaluated(own)),
        Found(contender=PEER, figures=_evaluated(peer), equality=equality),
    ]


def _evaluated(done: Done) -> dict[str, float]:
    found = json.loads(done.out)
    return {
        "seconds": found["seconds"],
        "rows_per_second": found["rows"] / found["seconds"],
        "peak_memory_bytes": done.peak_memory_bytes,
    }


def _probabilities(file: Path) -> list[float]:
    return [json.loads(line)["yes"] for line in file.read_text(encoding="utf-8").splitlines()]


def same_probabilities(ours: Sequence[float], theirs: Sequence[float], dtype: str) -> str:
    """Say how far two lists of probabilities agree. Raises Refused where they are not the same work."""
    if len(ours) != len(theirs):
        raise Refused(f"the peer scored {len(theirs)} rows, we {len(ours)}")
    apart = max(abs(one - two) for one, two in zip(ours, theirs, strict=True))
    if not apart <= SAME_PROBABILITY[dtype]:
        raise Refused(f"in {dtype} a probability differs by {apart:.4f}")
    agreed = fmean((one > 0.5) == (two > 0.5) for one, two in zip(ours, theirs, strict=True))
    return f"{dtype}: {100 * agreed:.1f} % of {len(ours)} answers agree, probabilities within {apart:.1e}"


def generate(repeat: Repeat) -> list[Found]:
    """`explora generate --greedy` against peers/generate.py: in fp32 the very same text."""
    if repeat.number == 0:
        _generate(repeat, repeat.settings["checked"], "float32")
    return _generate(repeat, repeat.settings["tokens"], "bfloat16")


def _generate(repeat: Repeat, tokens: int, dtype: str) -> list[Found]:
    where, given = repeat.scratch, _prompts(repeat)
    adapter, length = str(where.adapter("text")), ["--max-new-tokens", str(tokens)]
    options = ["--prompt", "-", "--greedy", "--json", "--amp", AMP[dtype], *length]
    peer = script("peers/generate.py", str(where.base), adapter, "--dtype", dtype, *length)
    done = repeat.turns(
        lambda: run([*EXPLORA, "generate", "text", adapter, *options], given),
        lambda: run(peer, given, repeat.settings["peer_environment"]),
    )
    ours, theirs = ([json.loads(line) for line in each.out.splitlines()] for each in done)
    equality = same_texts(ours, theirs, dtype)
    return [
        Found(contender=OWN, figures=_generated(done[0], ours)),
        Found(contender=PEER, figures=_generated(done[1], theirs), equality=equality),
    ]


def _prompts(repeat: Repeat) -> str:
    """Questions without their marks, one JSON object a line: random weights repeat the last token."""
    file = repeat.scratch.pairs / "test.jsonl"
    with file.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in islice(lines, repeat.settings["prompts"])]
    return "".join(json.dumps({"prompt": row["sentence1"].rstrip("? ")}) + "\n" for row in rows)


def _generated(done: Done, answers: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    speed = answers[0]["tokens_per_second"]
    return {
        "seconds": sum(answer["tokens"] for answer in answers) / speed,
        "tokens_per_second": speed,
        "first_output_seconds": done.first_output_seconds,
        "peak_memory_bytes": done.peak_memory_bytes,
    }


def same_texts(ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]], dtype: str) -> str:
    """Say how many texts are the same. Raises Refused for other lengths, and in fp32 for other texts."""
    if [answer["tokens"] for answer in ours] != [answer["tokens"] for answer in theirs]:
        raise Refused(f"in {dtype} the peer wrote other numbers of tokens than we did")
    if not all(answer["tokens"] for answer in ours):
        raise Refused(f"in {dtype} a text has no token at all")
    equal = sum(one["text"] == two["text"] for one, two in zip(ours, theirs, strict=True))
    if dtype == "float32" and equal < len(ours):
        raise Refused(f"in {dtype} {len(ours) - equal} of {len(ours)} greedy texts differ")
    return f"{dtype}: {equal} of {len(ours)} greedy texts are the same; float32: all"


def command(repeat: Repeat) -> list[Found]:
    """A whole command from a cold shell, beside the peer's Python code where there is some."""
    commands = {OWN: [*EXPLORA, *repeat.settings["command"]]}
    if "peer" in repeat.settings:
        commands[PEER] = [sys.executable, "-c", repeat.settings["peer"]]
    done = {name: run(words) for name, words in commands.items()}
    return [
        Found(
            contender=name,
            figures={"seconds": each.seconds, "peak_memory_bytes": each.peak_memory_bytes},
        )
        for name, each in done.items()
    ]


KINDS: dict[str, Callable[[Repeat], list[Found]]] = {
    "bench": bench,
    "train": train,
    "epochs": epochs,
    "eval": evaluate,
    "generate": generate,
    "command": command,
}
