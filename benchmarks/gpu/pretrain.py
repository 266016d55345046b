"""Pretrain a better embedded base within a time limit, and a control base without labelled rows.

    python benchmarks/gpu/pretrain.py FOLDER OUT --minutes 7.5

FOLDER is what `pack_corpus.py` wrote. OUT gets base.tar.xz and control.tar.xz, each a Hugging Face folder in
bf16, and pretrain.jsonl. After a kill, the same command resumes from the state file.

| phase | reads | learning rate |
|---|---|---|
| plain | text | constant |
| answers | text, and in a quarter of the rows weakly labelled pairs and reviews | constant |
| cloze | single pairs | a third, constant |
| base | as answers | two thirds, falling to zero |
| control-answers | text, from the end of `plain`, for the steps of `answers` | constant |
| control | text, for the steps of `base` | two thirds, falling to zero |
"""

from __future__ import annotations

import argparse
import json
import tarfile
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from compile_blocks import compile_blocks
from draw_batches import Batches
from fit_schedule import Schedule
from measure_bits import bits_per_byte
from pack_tokens import read_ids, read_manifest
from train_phases import Phase, Training

from explora.core.base.find import Base, base_tokenizer, open_base
from explora.core.base.model_folder import write_model
from explora.core.base.tokenizer import Tokenizer
from explora.core.base.weights import load_model
from explora.core.config.registry import Shape
from explora.core.model.gpt2 import GPT2

SKIPPABLE = ("shipped", "cloze", "control")
RESULTS = ("base", "control")  # phases whose end is a base to be judged
RESERVE = 0.04  # of the minutes, for the last measurements and for writing
MEASURED_FOR = 0.05  # of the time at most, for each result
REPORTED_EVERY = 50  # steps
SAVED_EVERY = 60.0  # seconds


@dataclass(frozen=True, kw_only=True)
class Size:
    """The shape of the model and of the batches, and how many steps warm up and lie between measurements."""

    shape: Shape
    batches: dict[str, int]
    warmup: int
    measured_every: int


WHOLE = Size(
    shape=Shape(n_layer=8, n_head=4, n_embd=256, n_positions=512, vocab_size=8192),
    batches={"rows": 128, "length": 512, "pairs": 512, "pair_length": 96},
    warmup=100,
    measured_every=500,
)
SMALL = Size(
    shape=Shape(n_layer=2, n_head=2, n_embd=64, n_positions=128, vocab_size=8192),
    batches={"rows": 8, "length": 128, "pairs": 16, "pair_length": 96},
    warmup=5,
    measured_every=25,
)


def make_phases(batches: Batches, warmup: int) -> list[Phase]:
    """Return the phases of the base, which end with `base`, then those of the control, with `control`."""
    mixed, text = batches.of_text_and_answers, batches.of_text
    row_tokens, pair_tokens = batches.rows * batches.length, batches.pairs * batches.pair_length
    return [
        Phase(name="plain", share=0.60, loss=text(1), tokens=row_tokens, kept=True, warmup=warmup),
        Phase(name="answers", share=0.04, loss=mixed(2), tokens=row_tokens),
        Phase(name="cloze", share=0.02, loss=batches.of_pairs(3), tokens=pair_tokens, rate=1 / 3),
        Phase(name="base", share=0.15, loss=mixed(4), tokens=row_tokens, rate=2 / 3, decay=1.0),
        Phase(
            name="control-answers",
            share=0.04,
            loss=text(2),
            tokens=row_tokens,
            start="plain",
            steps_of="answers",
        ),
        # Its share is larger than that of `base`, whose archive is written in the meantime.
        Phase(
            name="control",
            share=0.17,
            loss=text(4),
            tokens=row_tokens,
            rate=2 / 3,
            decay=1.0,
            steps_of="base",
        ),
    ]


class Pretraining:
    """One visit: what was read, the training, and where its results go.

    A phase without a schedule of its own gets its share of the seconds that are left.
    """

    def __init__(self, folder: Path, out: Path, state: Path, size: Size, device: torch.device) -> None:
        self.out, self.size, self.device = out, size, device
        self.ids, self.manifest = read_ids(folder), read_manifest(folder)
        self.tokenizer = shipped_tokenizer(self.manifest)
        self.batches = Batches(self.ids, self.tokenizer, device, **size.batches)
        model = new_model(size.shape, device)
        self.training = Training(model, state)
        out.mkdir(parents=True, exist_ok=True)

    def compile(self) -> None:
        """Compile the blocks and the loss."""
        compile_blocks(self.training.model)
        self.batches.compile()

    def run(self, seconds: float, steps: int | None, skipped: list[str]) -> None:
        """Take the phases that are not done yet, in `seconds` of training, or in a total of `steps`.

        The time to measure each result is set aside: what the shipped base takes, within limits.
        """
        at = self.training.progress
        if at.measuring is None and "shipped" not in skipped:
            at.measuring = self.measure_shipped()
        measuring = min(at.measuring or 0.0, MEASURED_FOR * seconds)
        phases = make_phases(self.batches, self.size.warmup)
        done = at.done
        if done and done[-1] in RESULTS and not self.archive(done[-1]).exists():
            self.write(done[-1])
        chosen = [phase for phase in phases if not phase.name.startswith(tuple(skipped))]
        left = [phase for phase in chosen if phase.name not in done]
        deadline = seconds - measuring * sum(phase.name in RESULTS for phase in left)
        for index, phase in enumerate(left):
            share = phase.share / sum(later.share for later in left[index:])
            schedule = self.schedule(phase, (deadline - self.training.seconds()) * share, steps)
            self.follow(phase, schedule, deadline)
            if phase.name in RESULTS:
                self.write(phase.name)
                deadline += measuring

    def measure_shipped(self) -> float:
        """Report the figures of the shipped base, and return the seconds that this took."""
        began = self.training.seconds()
        self.report_bits("shipped", shipped_model(self.device))
        return self.training.seconds() - began

    def schedule(self, phase: Phase, seconds: float, steps: int | None) -> Schedule:
        """Return the schedule of a phase: by the steps of another phase, by given steps, or by the clock."""
        known = self.training.progress
        if phase.steps_of in known.steps:
            return Schedule.of_steps(known.steps[phase.steps_of], phase.warmup, phase.decay)
        if steps:
            return Schedule.of_steps(max(1, round(steps * phase.share)), phase.warmup, phase.decay)
        return Schedule(seconds, phase.warmup, phase.decay, seconds_per_step=known.pace.get(phase.tokens))

    def follow(self, phase: Phase, schedule: Schedule, deadline: float) -> None:
        """Train through a phase; report, measure and save now and then."""
        training, saved = self.training, self.training.seconds()
        for facts in training.run(phase, schedule, deadline):
            is_last = facts["step"] == facts["of"]
            if facts["step"] % REPORTED_EVERY == 0 or is_last:
                self.report(**facts)
            if facts["step"] % self.size.measured_every == 0 or is_last:
                bits = self.bits("dev", training.model)
                self.report(phase=phase.name, step=facts["step"], dev_bits_per_byte=round(bits, 4))
                if phase.decay:
                    training.note_bits(bits)
            if training.seconds() - saved > SAVED_EVERY:
                training.save()
                saved = training.seconds()
        steps = training.progress.steps[phase.name]
        self.report(done=phase.name, steps=steps, of=schedule.total, tokens=steps * phase.tokens)

    def write(self, name: str) -> None:
        """Measure the finished model and write it, packed, in bf16."""
        model = self.training.model
        self.report_bits(name, model)
        self.report(model=name, weak_pair_accuracy=round(self.batches.pair_accuracy(model), 4))
        tensors = {key: value.to(torch.bfloat16).cpu() for key, value in model.state_dict().items()}
        archive = self.archive(name)
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / name
            write_model(folder, tensors, self.size.shape, self.tokenizer)
            partial = archive.with_suffix(".part")
            with tarfile.open(partial, "w:xz", preset=0) as packed:
                packed.add(folder, arcname=name)
            partial.replace(archive)
        self.report(wrote=archive.name, bytes=archive.stat().st_size)

    def archive(self, name: str) -> Path:
        """Return the file that a finished base is written to."""
        return self.out / f"{name}.tar.xz"

    def bits(self, segment: str, model: GPT2) -> float:
        """Return the bits per byte of a segment."""
        return bits_per_byte(model, self.ids[segment], self.manifest["text_bytes"][segment])

    def report_bits(self, name: str, model: GPT2) -> None:
        """Report the bits per byte of each held-out text, and of all of them together."""
        sizes = self.manifest["text_bytes"]
        texts = [segment for segment in self.ids if segment.startswith("held-out-")]
        bits = {segment: self.bits(segment, model) for segment in texts}
        whole = sum(bits[s] * sizes[s] for s in texts) / sum(sizes[s] for s in texts)
        rounded = {segment: round(value, 4) for segment, value in bits.items()}
        self.report(model=name, bits_per_byte=round(whole, 4), **rounded)

    def report(self, **facts: Any) -> None:
        """Write one line of JSON to the results and to standard output."""
        line = json.dumps({"seconds": round(self.training.seconds(), 1), **facts})
        print(line, flush=True)
        with (self.out / "pretrain.jsonl").open("a", encoding="utf-8") as lines:
            lines.write(line + "\n")


def shipped_tokenizer(manifest: dict[str, Any]) -> Tokenizer:
    """Return the tokenizer of the shipped base. Raises ValueError if the text was encoded by another one."""
    tokenizer = base_tokenizer(open_base("embedded"))
    if tokenizer.digest != manifest["tokenizer"]:
        raise ValueError("the text was encoded with another vocabulary than that of the shipped base")
    return tokenizer


def shipped_model(device: torch.device) -> GPT2:
    """Return the shipped base, to compute as the new ones do."""
    return _computing(load_model(open_base("embedded"), dtype=torch.float32, device=device))


def new_model(shape: Shape, device: torch.device) -> GPT2:
    """Return a model with random weights, always the same."""
    base = Base(name="scratch", folder=None, shape=shape, label="scratch")
    return _computing(load_model(base, dtype=torch.float32, device=device, seed=1))


def _computing(model: GPT2) -> GPT2:
    model.compute_dtype = torch.bfloat16 if model.device.type == "cuda" else torch.float32
    return model


def main() -> None:
    """Parse the arguments and pretrain."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, help="what pack_corpus.py wrote")
    parser.add_argument("out", type=Path, help="folder of the results")
    parser.add_argument("--minutes", type=float, required=True, help="time limit of everything")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument(
        "--small", action="store_true", help="a tiny model and tiny batches, for a try on a CPU"
    )
    parser.add_argument("--steps", type=int, help="total number of steps, instead of the clock")
    parser.add_argument("--skip", nargs="*", default=[], choices=SKIPPABLE, help="what to leave out")
    parser.add_argument("--state", type=Path, help="file to resume from (default: OUT-state.pt, beside OUT)")
    asked = parser.parse_args()
    began, device = time.monotonic(), torch.device(asked.device)
    state = asked.state or asked.out.with_name(asked.out.name + "-state.pt")
    size = SMALL if asked.small else WHOLE
    visit = Pretraining(asked.folder, asked.out, state, size, device)
    if device.type == "cuda":
        visit.compile()
    spent = time.monotonic() - began
    visit.run(60 * asked.minutes * (1 - RESERVE) - spent, asked.steps, asked.skip)


if __name__ == "__main__":
    main()
