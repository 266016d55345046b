"""Measure explora beside transformers and peft on one GPU: training steps and decoding.

    python benchmarks/gpu/fast.py RESULTS.jsonl WORK --minutes 3

Each line of RESULTS is one comparison: rows of `explora bench`, our speed and peak memory as ratios to the
peer's, and the targets. Lines that are there already are not measured again, and no comparison begins after
the time limit. WORK keeps the bases, which have random weights.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from cells import compiled, free_memory, in_this_process

from explora.core.base.find import base_tokenizer, open_base
from explora.core.base.model_folder import write_model
from explora.core.base.tokenizer import Tokenizer
from explora.core.base.weights import load_model
from explora.core.bench.measurements import Contender
from explora.core.bench.plan import Plan
from explora.core.bench.run import open_bench
from explora.core.config.concerns import DataConfig
from explora.core.config.precedence import resolve
from explora.core.data.splits import find_split
from explora.core.generate.decode import Prompt, generate
from explora.core.generate.sampling import SamplingConfig
from explora.errors import ExploraError

FASTER_AT = {8: 2.0, 64: 1.3}  # batch size -> how many times the peer's speed is the target
MEMORY = 0.6  # share of the peer's peak memory that is the target
PROMPT_TOKENS, NEW_TOKENS = 24, 128
REPEATS = 2
STEPS = {8: 24, 64: 12}


@dataclass(frozen=True, kw_only=True)
class Training:
    """A comparison of training steps. `length`: all rows are filled to it, None leaves them as they are."""

    model: str
    method: str
    batch_size: int
    length: int | None = None
    is_compiled: bool = False


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """A comparison of greedy decoding, with a batch of this number of prompts."""

    model: str
    prompts: int


# In order of value: what is cut off by the time limit stands last.
CELLS: list[Training | Decoding] = [
    *(
        Training(model=model, method=method, batch_size=size)
        for model in ("gpt2", "gpt2-large")
        for method in ("lora", "full")
        for size in (8, 64)
    ),
    *(Decoding(model=model, prompts=count) for model in ("gpt2", "gpt2-large") for count in (1, 64)),
    *(
        Training(model="gpt2", method=method, batch_size=size, length=64, is_compiled=is_compiled)
        for method in ("lora", "full")
        for size in (8, 64)
        for is_compiled in (False, True)
    ),
    *(
        Training(model="gpt2-medium", method=method, batch_size=size)
        for method in ("lora", "full")
        for size in (8, 64)
    ),
]
SMALL: list[Training | Decoding] = [
    Training(model="embedded", method="lora", batch_size=8),
    Training(model="embedded", method="full", batch_size=8),
    Decoding(model="embedded", prompts=1),
    Decoding(model="embedded", prompts=4),
    Training(model="embedded", method="full", batch_size=8, length=64, is_compiled=True),
]


def base_folder(model: str, work: Path) -> Path:
    """Return the folder of a base with random weights of a known shape; it is written the first time."""
    folder = work / model
    if not (folder / "model.safetensors").exists():
        base = open_base(model if model == "embedded" else f"random:{model}")
        weights = load_model(base, dtype=torch.float32, device=torch.device("cpu")).state_dict()
        write_model(folder, weights, base.shape, base_tokenizer(base))
    return folder


def train(cell: Training, folder: Path, device: str) -> dict[str, Any]:
    """Return the rows of explora and the peer, and their ratios."""
    settings = {
        "model": str(folder),
        "method": cell.method,
        "batch_size": cell.batch_size,
        "device": device,
        "amp": "bf16" if device == "cuda" else "off",
    }
    run, _ = resolve("paraphrase", settings | ({"rank": 8} if cell.method == "lora" else {}))
    contenders = (Contender(run=run, length=cell.length),)
    plan = Plan(contenders=contenders, repeats=REPEATS, steps=STEPS[cell.batch_size], peer=True)
    with tempfile.TemporaryDirectory() as scratch, in_this_process(), _variant(cell):
        bench = open_bench(plan, Path(scratch))
        for _ in bench.measure():
            pass
        own, peer = bench.result().rows
    found: dict[str, Any] = {"ours": own.to_json(), "theirs": peer.to_json()}
    if own.error or peer.error:
        return found | {"error": own.error or peer.error}
    assert own.tokens_per_second and peer.tokens_per_second
    assert own.peak_memory_bytes and peer.peak_memory_bytes
    return found | {
        "times_as_fast": own.tokens_per_second / peer.tokens_per_second,
        "share_of_memory": own.peak_memory_bytes / peer.peak_memory_bytes,
        "target": {"times_as_fast": FASTER_AT[cell.batch_size], "share_of_memory": MEMORY},
    }


def _variant(cell: Training) -> Any:
    return compiled() if cell.is_compiled else nullcontext()


def decode(cell: Decoding, folder: Path, device: str) -> dict[str, Any]:
    """Return tokens per second of both, from the prompts to the last token, and their ratio."""
    tokenizer = base_tokenizer(open_base(str(folder)))
    prompts, place = _prompts(tokenizer, cell.prompts), torch.device(device)
    ours = _decode_by_explora(folder, tokenizer, prompts, place)
    free_memory()
    theirs = _decode_by_transformers(folder, tokenizer.eos, prompts, place)
    return {"ours": ours, "theirs": theirs, "times_as_fast": ours / theirs}


def _decode_by_explora(
    folder: Path, tokenizer: Tokenizer, prompts: list[list[int]], device: torch.device
) -> float:
    model = load_model(open_base(str(folder)), dtype=torch.bfloat16, device=device).eval()
    model.compute_dtype = torch.bfloat16
    asked = [Prompt(ids=ids, seed=0) for ids in prompts]
    greedy = SamplingConfig(greedy=True)

    def continue_all() -> int:
        found = generate(model, asked, greedy, NEW_TOKENS, tokenizer, batch_size=len(asked))
        return sum(len(each.ids) for each in found)

    return _tokens_per_second(continue_all, device)


def _decode_by_transformers(folder: Path, eos: int, prompts: list[list[int]], device: torch.device) -> float:
    torch.use_deterministic_algorithms(False)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).to(device).eval()
    given = torch.tensor(prompts, device=device)

    def continue_all() -> int:
        whole = model.generate(
            input_ids=given,
            attention_mask=torch.ones_like(given),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            pad_token_id=eos,
        )
        ended = (whole[:, given.shape[1] :] == eos).cumsum(dim=1) > 0
        return int((~ended).sum())

    return _tokens_per_second(continue_all, device)


def _prompts(tokenizer: Tokenizer, count: int) -> list[list[int]]:
    """Return prompts of equal length out of the sample poems."""
    text = Path(find_split("sonnet", DataConfig(), "train").file).read_text(encoding="utf-8")
    ids = tokenizer.encode(text)
    starts = range(0, len(ids), max(1, (len(ids) - PROMPT_TOKENS) // count))
    return [ids[start : start + PROMPT_TOKENS] for start in starts][:count]


def _tokens_per_second(work: Callable[[], int], device: torch.device) -> float:
    """Return the median of three, after a first one that does not count."""
    work()
    speeds = []
    for _ in range(3):
        _wait_for(device)
        started = time.perf_counter()
        tokens = work()
        _wait_for(device)
        speeds.append(tokens / (time.perf_counter() - started))
    return statistics.median(speeds)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def describe(cell: Training | Decoding) -> dict[str, Any]:
    """Return what identifies a comparison."""
    return {"kind": type(cell).__name__.lower(), **asdict(cell)}


def measure(cell: Training | Decoding, work: Path, device: str) -> dict[str, Any]:
    """Measure one comparison; a failure is a result too."""
    started = time.perf_counter()
    free_memory()
    try:
        folder = base_folder(cell.model, work)
        found = train(cell, folder, device) if isinstance(cell, Training) else decode(cell, folder, device)
    except (ExploraError, RuntimeError, AssertionError) as error:
        found = {"error": f"{type(error).__name__}: {error}"}
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    return {"cell": describe(cell), **found, "device": name, "seconds": time.perf_counter() - started}


def main() -> None:
    """Measure what the file lacks, until the time is up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("results", type=Path, help="file that JSON lines are appended to")
    parser.add_argument("work", type=Path, help="folder of the bases")
    parser.add_argument("--minutes", type=float, default=3.0, help="time limit")
    parser.add_argument("--small", action="store_true", help="a few cells on the embedded base, on the CPU")
    arguments = parser.parse_args()
    until = time.monotonic() + 60 * arguments.minutes
    lines = arguments.results.read_text().splitlines() if arguments.results.exists() else []
    known = [json.loads(line)["cell"] for line in lines]
    device = "cpu" if arguments.small else "cuda"
    for cell in SMALL if arguments.small else CELLS:
        if describe(cell) in known:
            continue
        if time.monotonic() > until:
            print(f"time is up before {cell}")
            return
        line = measure(cell, arguments.work, device)
        with arguments.results.open("a") as out:
            out.write(json.dumps(line) + "\n")
        shown = {key: line[key] for key in ("times_as_fast", "share_of_memory", "error") if key in line}
        print(cell, shown, f"{line['seconds']:.1f} s", flush=True)


if __name__ == "__main__":
    main()
