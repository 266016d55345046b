"""Matrix products and their gradients against torch's own, on the CPU's kernels and without them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from explora.core.model import onednn as products
from explora.core.model.onednn import affine, pack, packed_affine, product, uses_onednn

BOUNDS = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
DTYPES = list(BOUNDS)


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.fixture(params=["onednn", "plain"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "plain":
        monkeypatch.setattr(products, "_onednn_takes", lambda dtype: False)
    elif not uses_onednn(torch.zeros(1)):
        pytest.skip("this torch has no oneDNN products")
    return str(request.param)


def close(found: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    scale = float(expected.abs().max())
    return float((found.double() - expected).abs().max()) <= BOUNDS[dtype] * scale


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 2, 37, 300])
def test_a_product_is_that_in_fp64(kernels: str, rows: int, dtype: torch.dtype) -> None:
    x, weight, bias = drawn(rows, 48).to(dtype), drawn(48, 80).to(dtype), drawn(80).to(dtype)
    expected = x.double() @ weight.double()
    assert close(product(x, weight), expected, dtype)
    assert close(product(x, weight, bias), expected + bias.double(), dtype)
    assert not close(product(x, weight, bias), expected, dtype)  # the bias is not lost


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gradients_are_those_of_addmm(kernels: str, dtype: torch.dtype) -> None:
    x, weight, bias = drawn(37, 48).to(dtype), drawn(48, 80), drawn(80)
    found = [value.detach().requires_grad_() for value in (x, weight, bias)]
    expected = [value.detach().double().requires_grad_() for value in (x, weight.to(dtype), bias)]
    up = drawn(37, 80)
    (affine(*found).float() * up).sum().backward()
    (torch.addmm(expected[2], expected[0], expected[1]) * up.to(dtype).double()).sum().backward()
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.grad is not None and theirs.grad is not None
        assert ours.grad.dtype is ours.dtype
        assert close(ours.grad, theirs.grad, dtype)
        assert not close(1.1 * ours.grad, theirs.grad, dtype)


def test_a_gradient_that_is_one_number_expanded_is_read_right(kernels: str) -> None:
    x, weight, bias = (drawn(*shape).requires_grad_() for shape in ((37, 48), (48, 80), (80,)))
    affine(x, weight, bias).sum().backward()
    assert x.grad is not None and weight.grad is not None
    torch.testing.assert_close(x.grad, weight.detach().sum(1).expand(37, 48), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(weight.grad, x.detach().sum(0)[:, None].expand(48, 80), rtol=1e-4, atol=1e-4)


def test_a_frozen_weight_gets_no_gradient_and_the_input_is_not_kept(kernels: str) -> None:
    kept: list[Tensor] = []
    x, weight, bias = drawn(5, 8).requires_grad_(), drawn(8, 6), drawn(6)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = affine(x, weight, bias)
    assert [tuple(tensor.shape) for tensor in kept] == [(8, 6)]
    y.sum().backward()
    assert weight.grad is None and bias.grad is None and x.grad is not None


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_packed_weight_gives_the_same(dtype: torch.dtype) -> None:
    x, weight, bias = drawn(7, 48).to(dtype), drawn(48, 80).to(dtype), drawn(80).to(dtype)
    packed = pack(weight)
    if packed is None:
        pytest.skip("this torch has no oneDNN products")
    assert close(packed_affine(x, packed, bias, None), x.double() @ weight.double() + bias.double(), dtype)
    assert close(
        packed_affine(x[:1], packed, bias, None), x[:1].double() @ weight.double() + bias.double(), dtype
    )
