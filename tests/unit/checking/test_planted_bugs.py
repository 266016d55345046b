"""Each check passes on what explora computes, and finds the bugs that it is there for."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from explora.core.base.find import base_tokenizer, open_base
from explora.core.base.weights import load_model
from explora.core.checking import answering
from explora.core.checking.check import Check, Finding
from explora.core.checking.run import CHECKS, OF_METHODS, SHARED, check_installation, find
from explora.core.checking.subject import Subject, write_rows
from explora.core.config.registry import METHODS
from explora.core.generate import sampling
from explora.core.generate.sampling import SamplingConfig
from explora.core.methods import adapted_layers
from explora.core.methods.dora_layers import DoRALinear
from explora.core.methods.lora import LoRA
from explora.core.methods.lora_layers import LoRALinear
from explora.core.model import recompute
from explora.core.model.cross_entropy import _TiedCrossEntropy, tied_cross_entropy
from explora.core.model.gpt2 import GPT2, Features
from explora.core.model.kv_cache import KeyValueCache
from explora.core.runs import open as opening
from explora.core.tasks.contract import Batch, Example
from explora.core.training import checkpoint, loop
from explora.core.training.checkpoint import trained_tensors
from explora.core.training.feature_cache import FeatureCache
from explora.core.training.loop import Training
from explora.errors import Interrupted

Patch = pytest.MonkeyPatch
DOCUMENTATION = Path(__file__).parents[3] / "docs" / "benchmarking.md"


@pytest.fixture(scope="module")
def findings(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Finding]:
    """All checks of all methods, the toy among them, as the product is."""
    scratch = tmp_path_factory.mktemp("scratch")
    found = list(check_installation(list(METHODS), str(tiny_base), scratch))
    assert [item.name for item in scratch.iterdir()] == ["data"]
    return found


def test_every_check_passes_for_every_method(findings: list[Finding]) -> None:
    assert [each for each in findings if each.failed] == []
    measured = {(each.method, each.check) for each in findings}
    assert measured == {(method, each.name) for method in METHODS for each in OF_METHODS} | {
        (None, each.name) for each in SHARED
    }


def test_only_what_trains_the_first_block_has_no_features_to_cache(findings: list[Finding]) -> None:
    left_out = {(each.method, each.check) for each in findings if not each.applies}
    # The two blocks of the tiny base are the ones that `top` trains.
    assert left_out == {(method, "cache") for method in ("full", "bitfit", "top")}


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> GPT2:
    opened = open_base(str(tiny_base))
    return load_model(opened, dtype=torch.float32, device=torch.device("cpu")).eval()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_the_documentation_has_the_claim_and_the_tolerance(check: Check[Any]) -> None:
    tolerance = "0" if check.tolerance == 0 else "1e-4"
    assert float(tolerance) == check.tolerance
    assert f"| {check.name} | {check.claim} | {tolerance} |" in DOCUMENTATION.read_text(encoding="utf-8")


# --- bugs in what a method does to the base --------------------------------------------------------


def b_is_not_zero_at_the_start(patch: Patch) -> None:
    build = LoRALinear.__init__

    def wrong(layer: LoRALinear, *given: Any, **options: Any) -> None:
        build(layer, *given, **options)
        torch.nn.init.normal_(layer.lora_B, std=0.02)

    patch.setattr(LoRALinear, "__init__", wrong)


def too_little_is_frozen(patch: Patch) -> None:
    apply = LoRA.apply

    def wrong(method: LoRA, model: GPT2) -> None:
        apply(method, model)
        model.ln_f.requires_grad_(True)

    patch.setattr(LoRA, "apply", wrong)


def the_optimizer_lacks_a_tensor(patch: Patch) -> None:
    make = loop.make_optimizers

    def wrong(*given: Any) -> list[Any]:
        optimizers = make(*given)
        optimizers[0].param_groups[0]["params"].pop()
        return optimizers

    patch.setattr(loop, "make_optimizers", wrong)


def a_frozen_tensor_is_updated(patch: Patch) -> None:
    update = Training.update

    def wrong(training: Training, norm: float) -> None:
        update(training, norm)
        training.model.wte.weight.data.mul_(1.001)

    patch.setattr(Training, "update", wrong)


# --- bugs in what saves memory or time -------------------------------------------------------------


def batches_are_averaged_instead_of_items(patch: Patch) -> None:
    accumulate = Training.accumulate

    def wrong(training: Training, batches: Sequence[Batch], items: int) -> list[Tensor]:
        parts = [accumulate(training, [batch], batch.weight * len(batches)) for batch in batches]
        return [loss for (loss,) in parts]

    patch.setattr(Training, "accumulate", wrong)


def the_last_batch_is_left_out(patch: Patch) -> None:
    accumulate = Training.accumulate

    def wrong(training: Training, batches: Sequence[Batch], items: int) -> list[Tensor]:
        return accumulate(training, batches[: max(1, len(batches) - 1)], items)

    patch.setattr(Training, "accumulate", wrong)


def recomputation_draws_another_dropout(patch: Patch) -> None:
    again = recompute.checkpoint

    def wrong(*given: Any, **options: Any) -> Any:
        return again(*given, **options, preserve_rng_state=False)

    patch.setattr(recompute, "checkpoint", wrong)


def a_recomputed_tensor_is_another(patch: Patch) -> None:
    recomputed = recompute.recomputed
    patch.setattr(recompute, "recomputed", lambda value, make: recomputed(value, lambda: make() * 1.001))


def features_are_of_the_block_below(patch: Patch) -> None:
    features = GPT2.features

    def wrong(model: GPT2, ids: Tensor, depth: int, positions: Tensor | None = None) -> Features:
        return features(model, ids, depth - 1, positions)

    patch.setattr(GPT2, "features", wrong)


def features_are_of_another_example(patch: Patch) -> None:
    attach = FeatureCache.attach

    def wrong(cache: FeatureCache) -> list[Example]:
        found = attach(cache)
        others = [*found[1:], found[0]]
        return [replace(own, features=next_.features) for own, next_ in zip(found, others, strict=True)]

    patch.setattr(FeatureCache, "attach", wrong)


# --- bugs in what a run keeps ----------------------------------------------------------------------


def the_optimizers_step_count_is_lost(patch: Patch) -> None:
    restore = checkpoint._restore_optimizer

    def wrong(optimizer: Any, *given: Any) -> None:
        restore(optimizer, *given)
        for state in optimizer.state.values():
            state["step"].zero_()

    patch.setattr(checkpoint, "_restore_optimizer", wrong)


def the_random_numbers_are_not_restored(patch: Patch) -> None:
    patch.setattr(torch, "set_rng_state", lambda state: None)


def a_resumed_run_begins_its_epoch_again(patch: Patch) -> None:
    load = loop.load_checkpoint

    def wrong(*given: Any) -> Any:
        progress, scaler = load(*given)
        return replace(progress, batch=0), scaler

    patch.setattr(loop, "load_checkpoint", wrong)


def a_tensor_of_the_file_is_not_loaded(patch: Patch) -> None:
    insert = opening.insert_adapter

    def wrong(model: GPT2, *given: Any) -> None:
        name, value = next(iter(trained_tensors(model).items()))
        kept = value.clone()
        insert(model, *given)
        trained_tensors(model)[name].copy_(kept)

    patch.setattr(opening, "insert_adapter", wrong)


def merging_takes_another_scale(patch: Patch) -> None:
    weight = LoRALinear.adapted_weight

    def wrong(layer: LoRALinear) -> Tensor:
        layer.scale *= layer.lora_B.shape[-1]  # alpha instead of alpha / rank
        return weight(layer)

    patch.setattr(LoRALinear, "adapted_weight", wrong)


def merging_forgets_the_magnitudes(patch: Patch) -> None:
    patch.setattr(DoRALinear, "merged", LoRALinear.merged)
    patch.setattr(DoRALinear, "adapted_weight", LoRALinear.adapted_weight)


def merging_leaves_the_adapters(patch: Patch) -> None:
    patch.setattr(adapted_layers, "merge_layers", lambda model: None)


OF_A_METHOD: dict[Callable[[Patch], None], tuple[str, str]] = {
    b_is_not_zero_at_the_start: ("lora", "start"),
    too_little_is_frozen: ("lora", "count"),
    the_optimizer_lacks_a_tensor: ("ia3", "moves"),
    a_frozen_tensor_is_updated: ("bitfit", "frozen"),
    batches_are_averaged_instead_of_items: ("full", "accumulation"),
    the_last_batch_is_left_out: ("last-linear", "accumulation"),
    recomputation_draws_another_dropout: ("lora", "checkpointing"),
    a_recomputed_tensor_is_another: ("full", "checkpointing"),
    features_are_of_the_block_below: ("last-linear", "cache"),
    features_are_of_another_example: ("norm-tuning", "cache"),
    the_optimizers_step_count_is_lost: ("lora", "resume"),
    the_random_numbers_are_not_restored: ("miss", "resume"),
    a_resumed_run_begins_its_epoch_again: ("top", "resume"),
    a_tensor_of_the_file_is_not_loaded: ("ia3", "saved"),
    merging_takes_another_scale: ("lora", "merge"),
    merging_forgets_the_magnitudes: ("dora", "merge"),
    merging_leaves_the_adapters: ("rslora", "merge"),
}


@pytest.mark.parametrize("bug", OF_A_METHOD, ids=lambda bug: bug.__name__)
def test_a_bug_in_training_is_found(
    bug: Callable[[Patch], None], tiny_base: Path, base: GPT2, tmp_path: Path, monkeypatch: Patch
) -> None:
    method, name = OF_A_METHOD[bug]
    write_rows(tmp_path / "data")
    subject = Subject(
        method=method,
        model=str(tiny_base),
        base=base,
        tokenizer=base_tokenizer(open_base(str(tiny_base))),
        data=tmp_path / "data",
        folder=tmp_path / "run",
    )
    (check,) = (each for each in OF_METHODS if each.name == name)
    bug(monkeypatch)
    found = find(check, subject)
    assert found.failed and not found.error, found


# --- bugs in what all methods share ----------------------------------------------------------------


def the_last_chunk_is_dropped(patch: Patch) -> None:
    def wrong(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        return tied_cross_entropy(hidden[:-5], weight, targets[:-5])

    patch.setattr(answering, "tied_cross_entropy", wrong)


def the_gradient_is_that_of_the_sum(patch: Patch) -> None:
    backward = _TiedCrossEntropy.backward

    def wrong(ctx: Any, *grads: Tensor) -> Any:
        return backward(ctx, torch.ones_like(grads[0]))

    patch.setattr(_TiedCrossEntropy, "backward", staticmethod(wrong))


def logits_are_of_other_rows(patch: Patch) -> None:
    logits = GPT2.logits

    def wrong(model: GPT2, hidden: Tensor, rows: Tensor | None = None) -> Tensor:
        return logits(model, hidden, None if rows is None else rows.sort().values)

    patch.setattr(GPT2, "logits", wrong)


def top_p_keeps_one_too_few(patch: Patch) -> None:
    def wrong(logits: Tensor, p: float) -> Tensor:
        ranked, order = logits.softmax(dim=-1).sort(dim=-1, descending=True)
        drop = ranked.cumsum(dim=-1) > p
        drop[:, 0] = False
        return logits.masked_fill(drop.gather(1, order.argsort(dim=-1)), -math.inf)

    patch.setattr(sampling, "keep_top_p", wrong)


def top_k_keeps_one_too_many(patch: Patch) -> None:
    keep = sampling.keep_top_k
    patch.setattr(sampling, "keep_top_k", lambda logits, k: keep(logits, k + 1))


def temperature_comes_after_top_p(patch: Patch) -> None:
    draw = answering.draw

    def wrong(logits: Tensor, config: SamplingConfig, generators: Any, seen: Tensor) -> Tensor:
        logits = sampling.penalise_repetition(logits, seen, config.repetition_penalty)
        if config.top_p is not None:
            logits = sampling.keep_top_p(logits, config.top_p)
        rest = replace(config, top_p=None, repetition_penalty=1.0)
        return draw(logits, rest, generators, seen)

    patch.setattr(answering, "draw", wrong)


def a_penalty_makes_negative_logits_likelier(patch: Patch) -> None:
    def wrong(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
        return torch.where(seen, logits / penalty, logits)

    patch.setattr(sampling, "penalise_repetition", wrong)


def padding_in_the_cache_is_read(patch: Patch) -> None:
    mask = KeyValueCache.mask

    def wrong(cache: KeyValueCache) -> Tensor | None:
        found = mask(cache)
        return None if found is None else torch.ones_like(found)

    patch.setattr(KeyValueCache, "mask", wrong)


def the_cache_keeps_other_rows(patch: Patch) -> None:
    keep = KeyValueCache.keep

    def wrong(cache: KeyValueCache, rows: Sequence[int]) -> None:
        keep(cache, [0, *range(1, len(rows))])

    patch.setattr(KeyValueCache, "keep", wrong)


OF_WHAT_IS_SHARED: dict[Callable[[Patch], None], str] = {
    the_last_chunk_is_dropped: "loss",
    the_gradient_is_that_of_the_sum: "loss",
    logits_are_of_other_rows: "rows",
    top_p_keeps_one_too_few: "sampling",
    top_k_keeps_one_too_many: "sampling",
    temperature_comes_after_top_p: "sampling",
    a_penalty_makes_negative_logits_likelier: "sampling",
    padding_in_the_cache_is_read: "decoding",
    the_cache_keeps_other_rows: "decoding",
}


@pytest.mark.parametrize("bug", OF_WHAT_IS_SHARED, ids=lambda bug: bug.__name__)
def test_a_bug_in_what_is_shared_is_found(
    bug: Callable[[Patch], None], base: GPT2, monkeypatch: Patch
) -> None:
    (check,) = (each for each in SHARED if each.name == OF_WHAT_IS_SHARED[bug])
    bug(monkeypatch)
    found = find(check, base)
    assert found.failed and not found.error, found


def test_every_check_has_a_bug_that_it_finds() -> None:
    found = {name for _, name in OF_A_METHOD.values()} | {*OF_WHAT_IS_SHARED.values()}
    assert found == {each.name for each in (*OF_METHODS, *SHARED)}


# --- what else can happen --------------------------------------------------------------------------


def test_an_exception_is_a_finding_and_ctrl_c_is_none(base: GPT2) -> None:
    def stops(error: BaseException) -> Callable[[GPT2], float]:
        def measure(_: GPT2) -> float:
            raise error

        return measure

    found = find(replace(SHARED[0], measure=stops(ValueError("shapes differ"))), base)
    assert found.failed and found.figure is None and found.error == "ValueError: shapes differ"
    with pytest.raises(Interrupted):
        find(replace(SHARED[0], measure=stops(Interrupted(2))), base)


@pytest.mark.parametrize(("figure", "failed"), [(0.1, False), (0.11, True), (math.nan, True), (None, False)])
def test_a_figure_passes_up_to_the_tolerance(figure: float | None, failed: bool) -> None:
    assert Finding(check="x", method=None, tolerance=0.1, figure=figure).failed is failed
