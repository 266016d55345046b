"""Sampling against its definition, in plain Python, and against the warpers of transformers.

Both comparisons must also catch planted bugs, each a mistake that some library has shipped or nearly so.
"""

import math
from collections.abc import Callable

import pytest
import torch
from transformers import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from explora.core.generate import sampling
from explora.core.generate.sampling import (
    SamplingConfig,
    draw,
    keep_top_k,
    keep_top_p,
    penalise_repetition,
    row_generators,
)
from explora.errors import UsageError

Filter = Callable[[torch.Tensor, float], torch.Tensor]
SLACK = 1e-6
CPU = torch.device("cpu")


def distributions() -> list[torch.Tensor]:
    """Logits (1, V) of 300 distributions: flat to extremely peaked, with ties, one-hot, uniform."""
    generator = torch.Generator().manual_seed(0)
    rows = [torch.zeros(1, size) for size in (1, 2, 7, 64)]
    rows += [torch.full((1, 9), -math.inf).index_fill(1, torch.tensor([4]), 0.0)]
    rows += [torch.tensor([[0.0, 80.0, 0.0, -80.0]]), torch.tensor([[5.0, 5.0, 5.0, -5.0]])]
    while len(rows) < 200:
        size = int(torch.randint(2, 80, (), generator=generator))
        spread = 10 ** float(torch.empty(()).uniform_(-2, 2, generator=generator))
        rows.append(torch.randn(1, size, generator=generator) * spread)
    while len(rows) < 300:  # few distinct values: ties everywhere
        rows.append(torch.randint(-3, 4, (1, 24), generator=generator).float())
    return rows


DISTRIBUTIONS = distributions()
TOP_PS = (1e-9, 0.05, 0.33, 0.5, 0.8, 0.95, 0.999)
TOP_KS = (1, 2, 3, 10, 1000)


def probabilities_of(logits: torch.Tensor) -> list[float]:
    largest = max(logits[0].tolist())
    weights = [math.exp(value - largest) for value in logits[0].tolist()]
    return [weight / sum(weights) for weight in weights]


def kept_by(filtered: torch.Tensor) -> set[int]:
    return {i for i, value in enumerate(filtered[0].tolist()) if value > -math.inf}


def is_top_p_set(logits: torch.Tensor, kept: set[int], p: float) -> bool:
    """The definition: tokens no less probable than the others, that hold p, and none of them is spare."""
    probabilities = probabilities_of(logits)
    inside = [probabilities[i] for i in kept]
    outside = [probabilities[i] for i in range(len(probabilities)) if i not in kept]
    if not kept or min(inside) < max(outside, default=0.0):
        return False
    holds_p = sum(inside) >= p - SLACK
    none_is_spare = len(kept) == 1 or sum(inside) - min(inside) < p + SLACK
    return holds_p and none_is_spare


def is_top_k_set(logits: torch.Tensor, kept: set[int], k: int) -> bool:
    """The definition: a token stays if fewer than k tokens are more probable."""
    values = logits[0].tolist()
    more_probable = [sum(other > value for other in values) for value in values]
    return kept == {i for i, above in enumerate(more_probable) if above < k and values[i] > -math.inf}


def top_p_agrees_with_definition(candidate: Filter) -> bool:
    return all(
        is_top_p_set(logits, kept_by(candidate(logits, p)), p) for logits in DISTRIBUTIONS for p in TOP_PS
    )


def top_k_agrees_with_definition(candidate: Callable[[torch.Tensor, int], torch.Tensor]) -> bool:
    return all(
        is_top_k_set(logits, kept_by(candidate(logits, k)), k) for logits in DISTRIBUTIONS for k in TOP_KS
    )


def top_p_agrees_with_transformers(candidate: Filter) -> bool:
    """As values in order, since which of several tied tokens stays is left to the sort."""
    unclear = 0
    for logits in DISTRIBUTIONS:
        ordered = sorted(probabilities_of(logits), reverse=True)
        sums = [sum(ordered[: i + 1]) for i in range(len(ordered))]
        for p in TOP_PS:
            if any(abs(total - p) < SLACK for total in sums):  # float32 rounding decides there
                unclear += 1
                continue
            theirs = TopPLogitsWarper(p)(torch.zeros(1, 1, dtype=torch.long), logits)
            if not torch.equal(candidate(logits, p).sort().values, theirs.sort().values):
                return False
    assert unclear < 0.1 * len(DISTRIBUTIONS) * len(TOP_PS)
    return True


def _one_too_many(logits: torch.Tensor, p: float) -> torch.Tensor:
    ordered, order = logits.sort(descending=True)
    total = ordered.softmax(-1).cumsum(-1)
    spare = (total - ordered.softmax(-1)) >= p
    spare = torch.cat([torch.zeros_like(spare[:, :1]), spare[:, :-1]], dim=1)
    return logits.masked_fill(spare.scatter(1, order, spare), -math.inf)


def _always_two(logits: torch.Tensor, p: float) -> torch.Tensor:
    two = logits >= logits.topk(min(2, logits.shape[-1])).values[:, -1:]
    return torch.where(two, logits, keep_top_p(logits, p))


def _stops_before_p(logits: torch.Tensor, p: float) -> torch.Tensor:
    ordered, order = logits.sort(descending=True)
    beyond = ordered.softmax(-1).cumsum(-1) > p
    beyond[:, 0] = False
    return logits.masked_fill(beyond.scatter(1, order, beyond), -math.inf)


def _not_scattered_back(logits: torch.Tensor, p: float) -> torch.Tensor:
    ordered, _ = logits.sort(descending=True)
    return logits.masked_fill(~keep_top_p(ordered, p).isfinite(), -math.inf)


TOP_P_BUGS = [_one_too_many, _always_two, _stops_before_p, _not_scattered_back]


def test_top_p_is_the_smallest_set_that_holds_p() -> None:
    assert top_p_agrees_with_definition(keep_top_p)


def test_top_p_agrees_with_transformers() -> None:
    assert top_p_agrees_with_transformers(keep_top_p)


@pytest.mark.parametrize("bug", TOP_P_BUGS)
def test_both_comparisons_catch_top_p_bugs(bug: Filter) -> None:
    assert not top_p_agrees_with_definition(bug)
    assert not top_p_agrees_with_transformers(bug)


def test_top_p_sorts_on_where_its_head_is_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "MOST_PROBABLE", 3)
    assert top_p_agrees_with_definition(keep_top_p)
    monkeypatch.setattr(sampling, "_largest_holding", lambda probabilities, p: probabilities.topk(1).values)
    assert not top_p_agrees_with_definition(keep_top_p)


def test_top_p_of_one_keeps_everything() -> None:
    logits = torch.tensor([[0.0, 200.0, -200.0]])
    assert torch.equal(keep_top_p(logits, 1.0), logits)


def test_top_p_keeps_the_lower_ids_of_a_tie() -> None:
    assert kept_by(keep_top_p(torch.zeros(1, 8), 0.5)) == {0, 1, 2, 3}
    assert kept_by(keep_top_p(torch.tensor([[1.0, 1.0, 9.0, 1.0]]), 0.9992)) == {0, 2}


def test_filters_treat_the_rows_of_a_batch_alone() -> None:
    batch = torch.randn(5, 40, generator=torch.Generator().manual_seed(1)) * torch.arange(1, 6)[:, None]
    for one in (lambda logits: keep_top_p(logits, 0.7), lambda logits: keep_top_k(logits, 4)):
        assert torch.equal(one(batch), torch.cat([one(batch[i : i + 1]) for i in range(5)]))


def test_top_k_keeps_the_k_most_probable() -> None:
    assert top_k_agrees_with_definition(keep_top_k)


def test_top_k_agrees_with_transformers() -> None:
    for logits in DISTRIBUTIONS:
        for k in TOP_KS:
            theirs = TopKLogitsWarper(k)(torch.zeros(1, 1, dtype=torch.long), logits)
            assert torch.equal(keep_top_k(logits, k), theirs)


def test_the_definition_catches_top_k_bugs() -> None:
    assert not top_k_agrees_with_definition(lambda logits, k: keep_top_k(logits, k + 1))
    assert not top_k_agrees_with_definition(
        lambda logits, k: logits.masked_fill(
            logits <= logits.topk(min(k, logits.shape[-1])).values[:, -1:], -math.inf
        )
    )


@pytest.mark.parametrize("penalty", [0.5, 1.0, 1.2, 5.0])
def test_repetition_penalty_agrees_with_transformers(penalty: float) -> None:
    assert penalty_agrees_with_transformers(penalise_repetition, penalty)


def penalty_agrees_with_transformers(
    candidate: Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor], penalty: float
) -> bool:
    generator = torch.Generator().manual_seed(2)
    for _ in range(100):
        logits = torch.randn(3, 30, generator=generator) * 4
        context = torch.randint(0, 30, (3, 12), generator=generator)  # with repeated tokens
        seen = torch.zeros(3, 30, dtype=torch.bool).scatter(1, context, True)
        if not torch.equal(
            candidate(logits, seen, penalty), RepetitionPenaltyLogitsProcessor(penalty)(context, logits)
        ):
            return False
    return True


@pytest.mark.parametrize(
    "bug",
    [
        lambda logits, seen, penalty: torch.where(seen, logits / penalty, logits),
        lambda logits, seen, penalty: torch.where(
            seen, torch.where(logits < 0, logits / penalty, logits * penalty), logits
        ),
        lambda logits, seen, penalty: penalise_repetition(logits, ~seen, penalty),
    ],
    ids=["divides negative logits", "rewards repetition", "penalises the unseen"],
)
def test_the_comparison_catches_penalty_bugs(
    bug: Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor],
) -> None:
    assert not penalty_agrees_with_transformers(bug, 1.2)


def test_draws_come_from_the_distribution_that_transformers_would_sample() -> None:
    """All steps together and in transformers' order; frequencies within a chi-square bound."""
    config = SamplingConfig(temperature=0.7, top_k=6, top_p=0.9, repetition_penalty=1.3)
    generator = torch.Generator().manual_seed(3)
    draws = 4000
    for _ in range(5):
        logits = torch.randn(1, 12, generator=generator) * 2
        context = torch.randint(0, 12, (1, 4), generator=generator)
        expected = logits
        for step in (
            RepetitionPenaltyLogitsProcessor(1.3),
            TemperatureLogitsWarper(0.7),
            TopKLogitsWarper(6),
            TopPLogitsWarper(0.9),
        ):
            expected = step(context, expected)
        seen = torch.zeros(1, 12, dtype=torch.bool).scatter(1, context, True).expand(draws, -1)
        ids = draw(logits.expand(draws, -1), config, [generator] * draws, seen)
        assert chi_square_is_plausible(ids, expected.softmax(-1)[0])


def chi_square_is_plausible(ids: torch.Tensor, probabilities: torch.Tensor) -> bool:
    """No impossible token, and the chi-square statistic below its 99.9 % quantile (Wilson-Hilferty)."""
    observed = torch.bincount(ids, minlength=len(probabilities)).double()
    possible = probabilities > 0
    if observed[~possible].any():
        return False
    freedom = int(possible.sum()) - 1
    if freedom == 0:
        return True
    expected = probabilities[possible].double() * len(ids)
    statistic = float(((observed[possible] - expected) ** 2 / expected).sum())
    bound = freedom * (1 - 2 / (9 * freedom) + 3.09 * math.sqrt(2 / (9 * freedom))) ** 3
    return statistic < bound


def test_draw_frequencies_match_the_probabilities_of_each_row() -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0, 0.5], [0.0, 0.0, 0.0, 0.0], [30.0, -math.inf, 0.0, 29.0]])
    generators = row_generators([5, 6, 7], CPU)
    ids = torch.stack([draw(logits, SamplingConfig(), generators) for _ in range(4000)])  # (draws, B)
    probabilities = logits.softmax(-1)
    assert all(chi_square_is_plausible(ids[:, row], probabilities[row]) for row in range(3))
    assert not chi_square_is_plausible(ids[:, 0], (logits[0] / 1.1).softmax(-1))


def test_a_row_is_drawn_the_same_whatever_its_neighbours() -> None:
    generator = torch.Generator().manual_seed(8)
    logits = torch.randn(10, 6, 50, generator=generator)  # (steps, B, V)
    config = SamplingConfig(temperature=1.5, top_p=0.95)

    def sequence(rows: list[int]) -> torch.Tensor:
        generators = row_generators([100 + row for row in rows], CPU)
        return torch.stack([draw(step[rows], config, generators) for step in logits], dim=1)

    together = sequence([0, 1, 2, 3, 4, 5])
    assert torch.equal(together[[4, 1]], sequence([4, 1]))
    assert torch.equal(together[3:4], sequence([3]))
    assert not torch.equal(together[0], together[1])


def test_equal_rows_with_different_seeds_differ_and_with_equal_seeds_agree() -> None:
    logits = torch.zeros(3, 1000)
    first, second, third = draw(logits, SamplingConfig(), row_generators([1, 2, 1], CPU)).tolist()
    assert first == third != second


def test_greedy_takes_the_most_probable_after_the_penalty_and_leaves_the_generators_alone() -> None:
    logits = torch.tensor([[3.0, 2.9, 0.0], [0.0, 1.0, 2.0]])
    seen = torch.tensor([[True, False, False], [False, False, False]])
    generators = row_generators([0, 0], CPU)
    before = generators[0].get_state()
    config = SamplingConfig(greedy=True, repetition_penalty=1.5, temperature=9.0, top_k=1)
    assert draw(logits, config, generators, seen).tolist() == [1, 2]
    assert draw(logits, config, generators).tolist() == [0, 2]
    assert torch.equal(before, generators[0].get_state())


def test_extremes_draw_the_most_probable_token() -> None:
    logits = torch.tensor([[-1e4, 1e4, 9.9e3]])
    for config in (
        SamplingConfig(temperature=sampling.MIN_TEMPERATURE),
        SamplingConfig(top_k=1),
        SamplingConfig(top_p=1e-12),
    ):
        assert draw(logits, config, row_generators([0], CPU)).tolist() == [1]


def test_half_precision_logits_are_drawn_in_float32() -> None:
    logits = torch.randn(2, 20, generator=torch.Generator().manual_seed(4)).bfloat16()
    config = SamplingConfig(temperature=0.9, top_p=0.8)
    ids = draw(logits, config, row_generators([1, 2], CPU))
    assert torch.equal(ids, draw(logits.float(), config, row_generators([1, 2], CPU)))


def test_each_row_needs_its_generator() -> None:
    with pytest.raises(ValueError, match="zip"):
        draw(torch.zeros(2, 3), SamplingConfig(), row_generators([0], CPU))


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("temperature", 0.0),
        ("temperature", -1.0),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_k", 0),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("top_p", math.nan),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", math.nan),
    ],
)
def test_a_setting_out_of_range_is_a_usage_error_that_names_it(setting: str, value: float) -> None:
    with pytest.raises(UsageError, match=setting) as caught:
        SamplingConfig(**{setting: value})
    assert caught.value.hint
