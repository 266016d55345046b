"""Record how a run continues one text: at its start, in its middle and at its best step.

The records are in samples.jsonl in the run folder, so that a resumed run keeps those of its earlier part.
Sampling does not change the training: it uses generators of its own, and no dropout.
"""

from __future__ import annotations

import dataclasses
import json

from explora.core.config.registry import TASKS
from explora.core.files import append_line
from explora.core.generate.decode import generate
from explora.core.generate.sampling import SamplingConfig
from explora.core.runs.events import Completed, RunEvent
from explora.core.runs.running import Running
from explora.core.runs.samples import BEST, MIDDLE, SAMPLES_FILE, START, Sample, read_samples
from explora.core.training.events import StepDone

LONGEST_PROMPT = 60  # characters
MAX_NEW_TOKENS = 192
LINES = 14  # of a sonnet


class Sampler:
    """Recorder of the samples of a run: one at once, the others at the events of their steps."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.known = {each.moment for each in read_samples(running.place)}
        self.prompt = _first_line(running)
        if running.resumed_at == 0:
            self._take(START, 0)

    def __call__(self, event: RunEvent) -> None:
        """Record the sample that belongs to an event, if there is one."""
        if isinstance(event, StepDone) and MIDDLE not in self.known and 2 * event.step >= event.steps:
            self._take(MIDDLE, event.step)
        elif isinstance(event, Completed):  # the session has the weights of the best step again
            self._take(BEST, event.result.best_step)

    def _take(self, moment: str, step: int) -> None:
        session = self.running.session
        prompt = session.prompt(self.prompt, seed=self.running.run.training.seed)
        prompt = dataclasses.replace(prompt, lines=prompt.lines or LINES)
        sampling = SamplingConfig(**TASKS[session.task_name].sampling)
        session.model.eval()  # the loop calls train() before each step
        (found,) = generate(session.model, [prompt], sampling, MAX_NEW_TOKENS, session.tokenizer)
        text = session.tokenizer.decode(found.ids)
        sample = Sample(moment=moment, step=step, prompt=self.prompt, text=text)
        append_line(self.running.place / SAMPLES_FILE, json.dumps(dataclasses.asdict(sample)))
        self.known.add(moment)


def samplers(running: Running) -> list[Sampler]:
    """Return a sampler for a run whose task continues texts; none for a classification task."""
    return [Sampler(running)] if TASKS[running.run.task].classes is None else []


def _first_line(running: Running) -> str:
    """Return the beginning of the first dev row: its first line, or the first words of a long line."""
    example = running.dev.examples[0]
    text = example.row.values.get("text") or running.session.tokenizer.decode(example.ids[:64])
    line = text.strip().splitlines()[0]
    return f"{line}\n" if len(line) <= LONGEST_PROMPT else line[:LONGEST_PROMPT].rpartition(" ")[0]
