"""Continuation of sonnets, or of any poems, from their first lines.

A poem is encoded as end-of-text, its lines with a line break each, end-of-text. The loss covers the text
after the first k lines. Each epoch draws a new k, so that the model is trained on contexts of every length.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, TypeVar

import torch
from torch import Tensor

from explora.core.config.concerns import DataConfig
from explora.core.config.registry import SONNET_LINES
from explora.core.data.batching import in_length_order, pad
from explora.core.data.prompts import PROMPT_LINES, first_lines, first_lines_of
from explora.core.data.splits import Row, load_split, read_table
from explora.core.generate.decode import Prompt, generate
from explora.core.generate.sampling import SamplingConfig
from explora.core.model.cross_entropy import tied_cross_entropy, token_losses
from explora.core.model.gpt2 import GPT2
from explora.core.tasks.continuations import ContinuationScoring, scoring_notes
from explora.core.tasks.contract import (
    Batch,
    Evaluation,
    Example,
    Split,
    TaskContext,
    encode_rows,
    find_places,
    stack_features,
)
from explora.core.tasks.metrics import Score
from explora.core.tasks.poem_scores import (
    by_poem,
    perplexities,
    trivial_perplexities,
)
from explora.errors import DataError

MOST_GIVEN = 12
MAX_NEW_TOKENS = 256
WAYS = {"greedy": SamplingConfig(greedy=True), "sampled": SamplingConfig(temperature=1.0, top_p=0.9)}
HUMAN = "human"

T = TypeVar("T")


class Sonnet:
    """Continuation of poems as described above."""

    metric = "perplexity"
    higher_is_better = False
    labels: tuple[str, ...] = ()
    candidates: tuple[int, ...] | None = None

    def __init__(self, context: TaskContext) -> None:
        self.context = context

    def head_classes(self) -> int | None:
        """Return None: the tied head predicts the tokens."""
        return None

    def load(self, config: DataConfig, split: str) -> Split:
        """Read and encode a split; see `Task`."""
        table = load_split(self.context.name, config, split, self.context.seed)
        return encode_rows(table, self.encode, skip_bad=config.skip_bad)

    def read(self, source: str, config: DataConfig) -> Split:
        """Read and encode one file; see `Task`."""
        table = read_table(source, self.context.name, config)
        return encode_rows(table, self.encode, skip_bad=config.skip_bad)

    def encode(self, row: Row) -> Example:
        """Encode a poem line by line, cut to the largest number of tokens.

        Raises DataError if that removes lines that are given in a continuation.
        """
        lines = self.context.tokenizer.encode_parts([line + "\n" for line in row.values["text"].split("\n")])
        eos = self.context.tokenizer.eos
        ids = [eos, *(token for line in lines for token in line), eos][: self.context.max_length]
        ends = tuple(accumulate((len(line) for line in lines), initial=1))[1:]
        breaks = tuple(at for at in ends if at <= len(ids))
        given = min(PROMPT_LINES, len(lines))
        if len(breaks) < given:
            raise DataError(
                f"the first {given} lines have {ends[given - 1]} tokens, more than the limit of {len(ids)}",
                "raise --max-length, or leave such poems out with --skip-bad",
                file=row.file,
                line=row.line,
            )
        return Example(row=row, ids=ids, breaks=breaks)

    def prompt(self, text: str, seed: int) -> Prompt:
        """Encode a prompt with the start of a training poem; generation stops after fourteen lines."""
        (continued,) = self.context.tokenizer.encode_parts([text])
        ids = [self.context.tokenizer.eos, *continued]
        return Prompt(ids=ids, seed=seed, lines=max(1, SONNET_LINES - text.count("\n")))

    def prompts(self, source: str) -> Iterator[tuple[Row, str]]:
        """Yield each poem of a file with its first lines as the prompt."""
        return first_lines(read_table(source, self.context.name, DataConfig(data=source)))

    def collate(self, examples: Sequence[Example], epoch: int) -> Batch:
        """Make a batch with the tokens after the first k lines as targets.

        k is random, as a function of seed, epoch and poem only.
        """
        input_ids = pad([example.ids for example in examples], self.context.tokenizer.eos)
        targets = torch.full_like(input_ids, -100)
        for row, example in enumerate(examples):
            start, end = self._given(example, epoch), len(example.ids)
            targets[row, start - 1 : end - 1] = input_ids[row, start:end]
        lengths = torch.tensor([len(example.ids) for example in examples])
        places = find_places(targets)
        return Batch(
            input_ids=input_ids,
            targets=targets,
            positions=lengths - 1,
            weight=len(places),
            tokens=int(lengths.sum()),
            places=places,
            features=stack_features(examples),
        )

    def _given(self, example: Example, epoch: int) -> int:
        """Return the number of given tokens in this epoch: end-of-text and k whole lines."""
        generator = random.Random(f"{self.context.seed} {epoch} {example.row.line}")
        given = generator.randint(0, min(MOST_GIVEN, len(example.breaks) - 1))
        return example.breaks[given - 1] if given else 1

    def loss(self, model: GPT2, batch: Batch) -> Tensor:
        """Return the cross-entropy summed over the targets of the batch."""
        states, targets = batch.predicted(model(batch.inputs))
        return tied_cross_entropy(states, model.wte.weight, targets)

    def dev_score(self, model: GPT2, examples: Sequence[Example], batch_size: int) -> Score:
        """Return the perplexity of the continuations after 1, 3, 6 and 12 given lines, together."""
        return self._perplexities(model, examples, batch_size)["perplexity"]

    def evaluate(
        self, model: GPT2, examples: Sequence[Example], train: Sequence[Example], batch_size: int
    ) -> Evaluation:
        """Return perplexities, BLEU and chrF of greedy and sampled continuations, and the form of verse.

        If a poem has only the given lines, there are continuations and no scores. Form is measured on sampled
        continuations and, under names that end with `_human`, on the poems themselves.
        """
        texts = {way: self._continue(model, examples, sampling, batch_size) for way, sampling in WAYS.items()}
        prompts = [first_lines_of(example.row) for example in examples]
        predictions: list[dict[str, Any]] = [
            {"id": example.row.id, "prompt": prompt, "greedy": greedy, "sampled": sampled}
            for example, prompt, greedy, sampled in zip(
                examples, prompts, texts["greedy"], texts["sampled"], strict=True
            )
        ]
        if any(len(_lines(example)) <= PROMPT_LINES for example in examples):
            return Evaluation(examples=len(examples), scores=None, predictions=predictions)
        scores = self._perplexities(model, examples, batch_size)
        scores["perplexity"] = by_poem(scores["perplexity"], examples)
        scoring = _scoring(examples, train)
        for way, found in texts.items():
            scores |= _named(scoring.likeness(found), way)
        scores |= _named(scoring.form(texts["sampled"]), "sampled")
        scores |= _named(scoring.form(scoring.references), HUMAN)
        trivial = trivial_perplexities(examples, train, model.shape.vocab_size)
        for answer, values in scoring.trivial(self.context.seed).items():
            trivial[answer] = {name: it for way in (*WAYS, HUMAN) for name, it in _named(values, way).items()}
        return Evaluation.of(
            scores, trivial, examples=len(examples), predictions=predictions, notes=scoring_notes()
        )

    def score_texts(
        self, examples: Sequence[Example], texts: Sequence[str], train: Sequence[Example]
    ) -> dict[str, Score]:
        """Return BLEU, chrF and the scores of form. Raises DataError for a poem with only the given lines."""
        for example in examples:
            if len(_lines(example)) <= PROMPT_LINES:
                raise DataError(
                    f"the poem ends after the {PROMPT_LINES} given lines",
                    "use a file of whole poems",
                    file=example.row.file,
                    line=example.row.line,
                )
        return _scoring(examples, train).scores(texts)

    def prediction_lines(self, predictions: Sequence[Mapping[str, Any]]) -> list[str]:
        """Return the numbered poems: the given lines and the sampled continuation of each."""
        lines = ["--Generated Sonnets-- ", ""]
        for item in predictions:
            lines += ["", str(item["id"]), f"{item['prompt']}{item['sampled']}", ""]
        return lines

    def _continue(
        self, model: GPT2, examples: Sequence[Example], sampling: SamplingConfig, batch_size: int
    ) -> list[str]:
        prompts = []
        for example in examples:
            given = min(PROMPT_LINES, len(example.breaks))
            ids = example.ids[: example.breaks[given - 1]]
            lines = max(1, SONNET_LINES - given)
            prompts.append(Prompt(ids=ids, seed=self.context.seed + example.row.line, lines=lines))
        found = generate(model, prompts, sampling, MAX_NEW_TOKENS, self.context.tokenizer, batch_size)
        return [self.context.tokenizer.decode(item.ids).rstrip("\n") for item in found]

    @torch.inference_mode()
    def _perplexities(self, model: GPT2, examples: Sequence[Example], batch_size: int) -> dict[str, Score]:
        return perplexities(examples, self._token_losses(model, examples, batch_size))

    def _token_losses(self, model: GPT2, examples: Sequence[Example], batch_size: int) -> list[Tensor]:
        """Return, for each poem, the losses of its tokens without the first one, (T - 1,)."""
        losses: dict[int, Tensor] = {}
        for rows in in_length_order([len(example.ids) for example in examples], batch_size):
            batch = self.collate([examples[row] for row in rows], 0).to(model.device)
            hidden = model(batch.inputs)
            for place, row in enumerate(rows):
                end = len(examples[row].ids)
                losses[row] = token_losses(
                    hidden[place, : end - 1], model.wte.weight, batch.input_ids[place, 1:end]
                ).cpu()
        return [losses[row] for row in range(len(examples))]


def _lines(example: Example) -> list[str]:
    return example.row.values["text"].split("\n")


def _tail(example: Example) -> str:
    return "\n".join(_lines(example)[PROMPT_LINES:])


def _scoring(examples: Sequence[Example], train: Sequence[Example]) -> ContinuationScoring:
    return ContinuationScoring(
        prompts=[first_lines_of(example.row) for example in examples],
        references=[_tail(example) for example in examples],
        training=[example.row.values["text"] for example in train],
        tails=[tail for tail in map(_tail, train) if tail],
    )


def _named(scores: Mapping[str, T], way: str) -> dict[str, T]:
    return {f"{name}_{way}": score for name, score in scores.items()}
