"""The layers of MiSS: y = x W + s D, where s (N, r) is the sum of the shards of r columns of x (N, in).

A layer has one D for its whole output, or one for each chosen part of the fused `c_attn`: (P, r, span). The
parts share s. If r does not divide `in`, the last shard is shorter, which equals peft's padding with zeros.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from explora.core.config.method import Tensors
from explora.core.estimate.parameters import block_modules
from explora.core.methods.adapted_layers import AdaptedLayer, replace_layer
from explora.core.methods.freezing import freeze
from explora.core.methods.targets import FUSED, FUSED_PARTS, Parts, span
from explora.core.model.gpt2 import GPT2, Conv1D

if TYPE_CHECKING:
    from explora.core.methods.miss import MiSS


def sum_shards(x: Tensor, rank: int) -> Tensor:
    """Return the sum, (N, rank), of the shards of `rank` columns of x (N, in)."""
    whole = x.shape[1] // rank * rank
    sums = x[:, :whole].view(len(x), whole // rank, rank).sum(dim=1)
    sums[:, : x.shape[1] - whole] += x[:, whole:]
    return sums


def tile(value: Tensor, width: int) -> Tensor:
    """Repeat the columns of (N, r) up to `width` columns: the transpose of `sum_shards`."""
    times = -(-width // value.shape[1])
    return value.repeat(1, times)[:, :width]


class _AddShards(torch.autograd.Function):
    """Add s D_p to the columns of part p of y, in place, where s is the sum of x's shards; saves s and D."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, d: Tensor, parts: tuple[int, ...]) -> Tensor:
        _, rank, span = d.shape
        sums = sum_shards(x, rank)
        for index, part in enumerate(parts):
            y[:, part * span : (part + 1) * span].addmm_(sums, d[index])
        ctx.mark_dirty(y)
        ctx.save_for_backward(sums, d)
        ctx.parts, ctx.width = parts, x.shape[1]
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        sums, d = ctx.saved_tensors
        grad_y, span = grads[0], d.shape[2]
        grad_sums, grad_d = torch.zeros_like(sums), torch.empty_like(d)
        for index, part in enumerate(ctx.parts):
            columns = grad_y[:, part * span : (part + 1) * span]
            grad_sums.addmm_(columns, d[index].t())
            torch.mm(sums.t(), columns, out=grad_d[index])
        grad_x = tile(grad_sums, ctx.width) if ctx.needs_input_grad[1] else None
        return grad_y, grad_x, grad_d, None


class MiSSLinear(AdaptedLayer):
    """A frozen Conv1D with a trained D beside it.

    `parts` are the parts of c_attn that have a D, None for one D on the whole output.
    """

    def __init__(self, base: Conv1D, parts: Parts, rank: int) -> None:
        super().__init__()
        self.base_layer = base
        self.parts = parts if parts is not None else (0,)
        size = span(base.weight.shape[1], parts)
        self.miss_D = nn.Parameter(torch.zeros(len(self.parts), rank, size, device=base.weight.device))

    def forward(self, x: Tensor) -> Tensor:
        """Compute the layer's output, (..., out), for x (..., in)."""
        rows = x.reshape(-1, x.shape[-1])
        y: Tensor = _AddShards.apply(self.base_layer(rows), rows, self.miss_D.to(x.dtype), self.parts)  # type: ignore[no-untyped-call]
        return y.view(*x.shape[:-1], -1)

    def merged(self) -> Conv1D:
        """Return the base layer with D added to each shard of its weight, in fp32 and cast last."""
        base, size = self.base_layer, self.miss_D.shape[2]
        weight = base.weight.detach().float()
        for index, part in enumerate(self.parts):
            d = self.miss_D.detach()[index]  # (r, span)
            weight[:, part * size : (part + 1) * size] += tile(d.t(), len(weight)).t()
        base.weight = nn.Parameter(weight.to(base.weight.dtype), requires_grad=False)
        return base


def add_shards(model: GPT2, method: MiSS) -> None:
    """Freeze the model, then add a D of zeros to the modules that the method adapts."""
    freeze(model)
    for layer, module, parts in method.sites(model.shape):
        replace_layer(model, layer, module, partial(MiSSLinear, parts=parts, rank=method.rank))


def to_lora(trained: Mapping[str, Tensor], modules: Mapping[str, Parts]) -> dict[str, Tensor]:
    """Return A (r, in) and B (out, r) of the equal LoRA of scale 1, by PEFT's names.

    A is the tiled identity, which sums the shards. B is D^T, and zero for parts of c_attn without a D.
    `modules` are the adapted modules of a block and their parts.
    """
    tensors: dict[str, Tensor] = {}
    for name, value in trained.items():
        module = name.removesuffix(".miss_D")
        d = _whole(module, value, modules)
        unit_in, unit_out = block_modules(1)[module.split(".", 2)[2]]
        identity = torch.eye(len(d), dtype=d.dtype, device=d.device)
        tensors[f"{module}.lora_A.weight"] = tile(identity, d.shape[1] // unit_out * unit_in).contiguous()
        tensors[f"{module}.lora_B.weight"] = d.t().contiguous()
    return tensors


def _whole(module: str, value: Tensor, modules: Mapping[str, Parts]) -> Tensor:
    """Return D of the whole module, (r, out), from those of its parts, (P, r, span)."""
    parts = modules.get(FUSED) if module.endswith(FUSED) else None
    if parts is None:
        return value[0]
    whole = value.new_zeros(FUSED_PARTS, *value.shape[1:])
    whole[list(parts)] = value
    return whole.transpose(0, 1).flatten(1)


def from_lora(
    stored: Mapping[str, Tensor], shapes: Tensors, modules: Mapping[str, Parts]
) -> dict[str, Tensor]:
    """Return D by the model's own names, with these shapes: the inverse of `to_lora`."""
    return {name: _split(name, stored, shape, modules) for name, shape in shapes.items()}


def _split(
    name: str, stored: Mapping[str, Tensor], shape: tuple[int, ...], modules: Mapping[str, Parts]
) -> Tensor:
    module = name.removesuffix(".miss_D")
    b = stored[f"{module}.lora_B.weight"]  # (out, r)
    parts = modules.get(FUSED) if module.endswith(FUSED) else None
    blocks = b.view(-1, shape[2], shape[1])[list(parts or (0,))]
    return blocks.transpose(1, 2).contiguous()
