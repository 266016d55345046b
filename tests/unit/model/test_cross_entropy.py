"""Cross-entropy in chunks against torch's on whole logits."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from explora.core.model import cross_entropy
from explora.core.model.cross_entropy import tied_cross_entropy, token_losses

VOCABULARY, WIDTH, CHUNK = 37, 8, 16


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 16 rows, so that a few rows make several."""
    monkeypatch.setattr(cross_entropy, "FEWEST_ROWS", 1)
    monkeypatch.setattr(cross_entropy, "LOGITS_AT_ONCE", CHUNK * VOCABULARY)


def draw(rows: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows)
    hidden = torch.randn(rows, WIDTH, generator=generator).to(dtype).requires_grad_(True)
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator).requires_grad_(True)
    return hidden, weight, torch.randint(VOCABULARY, (rows,), generator=generator)


def expected(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Loss and gradients by torch, in fp32."""
    hidden, weight = (value.detach().float().requires_grad_(True) for value in (hidden, weight))
    loss = F.cross_entropy(hidden @ weight.t(), targets, reduction="sum")
    loss.backward()
    assert hidden.grad is not None and weight.grad is not None
    return loss.detach(), hidden.grad, weight.grad


@pytest.mark.parametrize("rows", [1, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK + 3])
def test_loss_and_gradients_are_those_of_torch(rows: int) -> None:
    hidden, weight, targets = draw(rows)
    loss = tied_cross_entropy(hidden, weight, targets)
    loss.backward()
    for found, wanted in zip(
        (loss, hidden.grad, weight.grad), expected(hidden, weight, targets), strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_a_frozen_embedding_gets_no_gradient_and_changes_nothing() -> None:
    hidden, weight, targets = draw(50)
    tied_cross_entropy(hidden, weight.detach(), targets).backward()
    torch.testing.assert_close(hidden.grad, expected(hidden, weight, targets)[1], rtol=1e-5, atol=1e-5)
    assert weight.grad is None


def test_a_trained_embedding_under_a_frozen_model_gets_its_gradient() -> None:
    hidden, weight, targets = draw(50)
    tied_cross_entropy(hidden.detach(), weight, targets).backward()
    torch.testing.assert_close(weight.grad, expected(hidden, weight, targets)[2], rtol=1e-5, atol=1e-5)


def test_what_comes_after_scales_the_gradients() -> None:
    """A division by the batch's weight and a loss scale reach both gradients."""
    hidden, weight, targets = draw(50)
    (tied_cross_entropy(hidden, weight, targets) * 1024 / 50).backward()
    for found, wanted in zip((hidden.grad, weight.grad), expected(hidden, weight, targets)[1:], strict=True):
        torch.testing.assert_close(found, wanted * 1024 / 50, rtol=1e-5, atol=1e-4)


def test_gradients_add_up_with_those_of_the_embedding_itself() -> None:
    """The tied embedding is used twice: as input and as head."""
    _, weight, targets = draw(20)
    twin = weight.detach().clone().requires_grad_(True)
    tied_cross_entropy(F.embedding(targets, weight), weight, targets.flip(0)).backward()
    logits = F.embedding(targets, twin) @ twin.t()
    F.cross_entropy(logits, targets.flip(0), reduction="sum").backward()
    torch.testing.assert_close(weight.grad, twin.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("trained", [True, False])
def test_bf16_hidden_states(trained: bool) -> None:
    hidden, weight, targets = draw(50, torch.bfloat16)
    loss = tied_cross_entropy(hidden, weight if trained else weight.detach().bfloat16(), targets)
    loss.backward()
    wanted_loss, wanted_hidden, wanted_weight = expected(hidden, weight, targets)
    assert hidden.grad is not None and hidden.grad.dtype is torch.bfloat16
    torch.testing.assert_close(loss, wanted_loss, rtol=0.01, atol=0)
    torch.testing.assert_close(hidden.grad.float(), wanted_hidden, rtol=0.05, atol=0.05)
    if trained:
        assert weight.grad is not None and weight.grad.dtype is torch.float32
        torch.testing.assert_close(weight.grad, wanted_weight, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("rows", [1, CHUNK, 3 * CHUNK + 5])
def test_the_losses_of_single_tokens(rows: int) -> None:
    hidden, weight, targets = draw(rows)
    wanted = F.cross_entropy(hidden @ weight.t(), targets, reduction="none")
    found = token_losses(hidden, weight, targets)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert not found.requires_grad


def test_no_targets_cost_nothing() -> None:
    hidden, weight, targets = draw(1)
    assert token_losses(hidden[:0], weight, targets[:0]).shape == (0,)
    loss = tied_cross_entropy(hidden[:0], weight, targets[:0])
    loss.backward()
    assert loss.item() == 0
    assert weight.grad is not None and not weight.grad.any()


def test_the_whole_logits_never_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    whole = F.log_softmax

    def noted(logits: Tensor, dim: int) -> Tensor:
        sizes.append(logits.numel())
        return whole(logits, dim=dim)

    monkeypatch.setattr(F, "log_softmax", noted)
    hidden, weight, targets = draw(3 * CHUNK + 5)
    tied_cross_entropy(hidden, weight, targets).backward()
    assert sizes == [CHUNK * VOCABULARY] * 3 + [5 * VOCABULARY]


def log_softmax_over_rows(logits: Tensor, dim: int) -> Tensor:
    return torch.log_softmax(logits, dim=0)


def one_less(log_probabilities: Tensor, targets: Tensor, reduction: str) -> Tensor:
    return F.cross_entropy(log_probabilities[:-1], targets[:-1], reduction=reduction)


@pytest.mark.parametrize(
    ("name", "bug"),
    [("log_softmax", log_softmax_over_rows), ("nll_loss", one_less)],
    ids=["log_softmax", "nll_loss"],
)
def test_a_planted_bug_fails_the_comparison(name: str, bug: object, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, targets = draw(50)
    wanted = expected(hidden, weight, targets)
    monkeypatch.setattr(cross_entropy.F, name, bug)
    loss = tied_cross_entropy(hidden, weight, targets)
    loss.backward()
    found = (loss.detach(), hidden.grad, weight.grad)
    assert not all(
        torch.allclose(ours, theirs, rtol=1e-5, atol=1e-5)
        for ours, theirs in zip(found, wanted, strict=True)
        if ours is not None
    )
