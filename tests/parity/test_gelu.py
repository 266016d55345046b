"""GELU by a sigmoid against torch's by a tanh, both ways. GPT-2's is the tanh approximation."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from explora.core.model.gelu import ELEMENTS_AT_ONCE, FEWEST_ELEMENTS, gelu

ROUNDING = 2.0**-8  # of bf16: half a unit in the last place, relative
SIZE = ELEMENTS_AT_ONCE + FEWEST_ELEMENTS + 3  # more than one portion, the last an odd one


def numbers(size: int = SIZE) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (3 * torch.randn(size, generator=generator)).bfloat16()


def is_rounded_once(function: Callable[[Tensor], Tensor]) -> bool:
    """Whether the results are those of 64 bits, rounded to bf16."""
    x = numbers()
    true = F.gelu(x.double(), approximate="tanh")
    return bool(((function(x).double() - true).abs() <= ROUNDING * true.abs() + 1e-6).all())


def test_it_is_rounded_once() -> None:
    assert is_rounded_once(gelu)
    assert is_rounded_once(lambda x: F.gelu(x, approximate="tanh"))


def test_the_exact_gelu_is_another() -> None:
    assert not is_rounded_once(F.gelu)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("size", [5, SIZE])
def test_the_gradient_is_torchs(dtype: torch.dtype, size: int) -> None:
    ours, theirs = (numbers(size).to(dtype).requires_grad_() for _ in range(2))
    up = numbers(size).to(dtype).flip(0)
    gelu(ours).backward(up)
    F.gelu(theirs, approximate="tanh").backward(up)
    assert ours.grad is not None and theirs.grad is not None
    assert torch.equal(ours.grad, theirs.grad)


def test_fp32_and_few_numbers_are_torchs_own() -> None:
    for x in (numbers().float(), numbers(7)):
        assert torch.equal(gelu(x), F.gelu(x, approximate="tanh"))
