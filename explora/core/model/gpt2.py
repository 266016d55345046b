"""GPT-2 in one module (Radford et al. 2019), with the names of Hugging Face's GPT-2.

The model returns hidden states. A task calls `logits` for the positions and vocabulary rows that it needs.
Shapes: B rows, T tokens, C = n_embd, H = n_head, D = C / H, V = vocab_size.

Precision: trained weights are fp32 and are cast at each use. Frozen weights are stored in `compute_dtype`, so
that they need no cast. The residual stream is in `compute_dtype`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from explora.core.config.registry import Shape
from explora.core.machine.malloc import return_freed_memory
from explora.core.model.attention import attend, causal_attention, plain_is_faster
from explora.core.model.gelu import gelu
from explora.core.model.kv_cache import KeyValueCache
from explora.core.model.onednn import affine, pack, packed_affine, packed_product, product
from explora.core.model.recompute import checkpointed, recompute_between

LAYER_NORM_EPSILON = 1e-5


@dataclass(frozen=True)
class Features:
    """The output of the first `depth` blocks, from which the model can continue instead of from token ids.

    states: (B, T, C), or (T, C) for a single row; T is 1 if each row has only one position.
    """

    states: Tensor
    depth: int


class Conv1D(nn.Module):
    """A linear layer with a weight of shape (in, out), as GPT-2 stores it."""

    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(fan_in, fan_out))
        self.bias = nn.Parameter(torch.empty(fan_out))
        self.transposed: Tensor | None = None  # the transpose of a packed weight, if x needs a gradient

    def forward(self, x: Tensor) -> Tensor:
        """Compute x weight + bias, (..., out), for x (..., in)."""
        rows = x.reshape(-1, x.shape[-1])
        if self.weight.is_mkldnn:
            y = packed_affine(rows, self.weight, self.bias, self.transposed)
        else:
            y = affine(rows, self.weight, self.bias)
        return y.view(*x.shape[:-1], -1)

    def multiply(self, x: Tensor) -> Tensor:
        """Return x (N, in) @ weight in the dtype of the weight, without bias and gradients."""
        x = x.detach().to(self.weight.dtype)
        return packed_product(x, self.weight) if self.weight.is_mkldnn else product(x, self.weight.detach())

    def pack(self, dtype: torch.dtype, *, passes_gradient: bool) -> None:
        """Store the frozen weight as `dtype` in the layout of fast products.

        It is stored twice if the input needs a gradient.
        """
        weight = self.weight.detach().to(dtype)
        packed = pack(weight)
        if packed is not None and passes_gradient:
            self.transposed = pack(weight.t())
        self.weight = nn.Parameter(weight if packed is None else packed, requires_grad=False)


class LayerNorm(nn.Module):
    """Layer normalisation with scale and shift."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(width))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x over its last dimension."""
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        return F.layer_norm(x, weight.shape, weight, bias, LAYER_NORM_EPSILON)


class Attention(nn.Module):
    """Masked multi-head self-attention with one fused projection for query, key and value."""

    def __init__(self, shape: Shape, layer: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.layer, self.dropout = shape.n_head, layer, dropout
        self.plain_up_to: int | None = None  # tokens; see attention.plain_is_faster
        self.c_attn: nn.Module = Conv1D(shape.n_embd, 3 * shape.n_embd)
        self.c_proj: nn.Module = Conv1D(shape.n_embd, shape.n_embd)

    def forward(self, x: Tensor, positions: Tensor | None, cache: KeyValueCache | None) -> Tensor:
        """Map (B, T, C) to (B, T, C), or to (B, 1, C) if `positions` gives one position per row."""
        batch, length, width = x.shape
        projected = self.c_attn(x)  # (B, T, 3 C)
        dropout = self.dropout if self.training else 0.0
        parts = projected.view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # each (B, H, T, D)
        mask = None
        if cache is not None:
            mask = cache.mask()
            key, value = cache.extend(self.layer, key, value)
        if positions is not None:
            query = query[torch.arange(batch, device=x.device), :, positions].unsqueeze(2)  # (B, H, 1, D)
            mask = (torch.arange(length, device=x.device) <= positions[:, None])[:, None, None, :]
        plain = plain_is_faster(projected, length, self.plain_up_to)
        if query.shape[2] == key.shape[2] and dropout == 0 and plain:
            return self.c_proj(causal_attention(projected, self.heads))  # type: ignore[no-any-return]
        attended = attend(query.to(key.dtype), key, value, mask, dropout, self.plain_up_to).to(x.dtype)
        return self.c_proj(attended.transpose(1, 2).reshape(batch, -1, width))  # type: ignore[no-any-return]


class MLP(nn.Module):
    """The feed-forward half of a block."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.c_fc: nn.Module = Conv1D(shape.n_embd, 4 * shape.n_embd)
        self.c_proj: nn.Module = Conv1D(4 * shape.n_embd, shape.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, C) to (B, T, C)."""
        return recompute_between(gelu, self.c_proj, self.c_fc(x))


class Block(nn.Module):
    """One pre-norm transformer block."""

    def __init__(self, shape: Shape, layer: int, dropout: float) -> None:
        super().__init__()
        self.ln_1 = LayerNorm(shape.n_embd)
        self.attn = Attention(shape, layer, dropout)
        self.ln_2 = LayerNorm(shape.n_embd)
        self.mlp = MLP(shape)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, positions: Tensor | None, cache: KeyValueCache | None) -> Tensor:
        """Map (B, T, C) to (B, T, C), or to (B, 1, C) at `positions`."""
        attended = recompute_between(self.ln_1, self.attn, x, positions, cache)
        x = _at(x, positions) + self.drop(attended)
        return x + self.drop(recompute_between(self.ln_2, self.mlp, x))  # type: ignore[no-any-return]


def _at(x: Tensor, positions: Tensor | None) -> Tensor:
    """Return one position of each row of (B, T, C), as (B, 1, C); without `positions`, all of x."""
    return x if positions is None else x[torch.arange(len(x), device=x.device), positions].unsqueeze(1)


def _embedding(rows: int, width: int) -> nn.Embedding:
    # nn.Embedding would create random weights, which takes a second even on the meta device.
    embedding: nn.Embedding = nn.Embedding.from_pretrained(torch.empty(rows, width), freeze=False)  # type: ignore[no-untyped-call]
    return embedding


class GPT2(nn.Module):
    """GPT-2 with its tied head, `logits`, and optionally a task's classification head, `score`."""

    def __init__(self, shape: Shape, dropout: float = 0.0) -> None:
        super().__init__()
        self.shape = shape
        self.compute_dtype = torch.float32
        self.grad_checkpoint = False
        self.wte = _embedding(shape.vocab_size, shape.n_embd)
        self.wpe = _embedding(shape.n_positions, shape.n_embd)
        self.drop = nn.Dropout(dropout)
        self.h = nn.ModuleList(Block(shape, layer, dropout) for layer in range(shape.n_layer))
        self.ln_f = LayerNorm(shape.n_embd)
        self.score: nn.Linear | None = None
        self.packed_head: Tensor | None = None

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.wte.weight.device

    def forward(
        self, inputs: Tensor | Features, positions: Tensor | None = None, cache: KeyValueCache | None = None
    ) -> Tensor:
        """Return the hidden states (B, T, C) of token ids (B, T), padded on the right, or of features.

        With `positions` (B,), return only one position of each row, (B, 1, C), and compute only that one in
        the last block. An empty `cache` is filled with keys and values. With a filled one, T is 1 and each
        token follows the cached ones.
        """
        if isinstance(inputs, Features):
            x, first = inputs.states, inputs.depth
        else:
            x, first = self._embed(inputs, cache), 0
        x = self._run_blocks(x, first, len(self.h), positions, cache)
        final: Tensor = self.ln_f(x)
        return final

    def features(self, input_ids: Tensor, depth: int, positions: Tensor | None = None) -> Features:
        """Run only the first `depth` blocks; `positions` apply if these are all blocks."""
        x = self._embed(input_ids, None)
        return Features(self._run_blocks(x, 0, depth, positions, None), depth)

    def _embed(self, input_ids: Tensor, cache: KeyValueCache | None) -> Tensor:
        start = cache.lengths[:, None] if cache is not None else 0
        place = start + torch.arange(input_ids.shape[1], device=input_ids.device)  # (T,) or (B, T)
        embedded: Tensor = self.drop((self.wte(input_ids) + self.wpe(place)).to(self.compute_dtype))
        return embedded

    def _run_blocks(
        self, x: Tensor, first: int, end: int, positions: Tensor | None, cache: KeyValueCache | None
    ) -> Tensor:
        """Map (B, T, C) through the blocks from `first` up to, but not including, `end`."""
        last = len(self.h) - 1
        for layer in range(first, end):
            block, asked = self.h[layer], positions if layer == last else None
            if self.grad_checkpoint and self.training:
                x = checkpointed(block, x, asked, cache)
            else:
                x = block(x, asked, cache)
        return x

    def limit_plain_attention(self, tokens: int | None) -> None:
        """Use plain attention for rows of up to `tokens` tokens; see `attention.plain_is_faster`."""
        for module in self.modules():
            if isinstance(module, Attention):
                module.plain_up_to = tokens

    def frozen_depth(self) -> int:
        """Return the number of blocks below all trained parameters; 0 if the embeddings are trained."""
        if self.wte.weight.requires_grad or self.wpe.weight.requires_grad:
            return 0
        for layer, block in enumerate(self.h):
            if any(value.requires_grad for value in block.parameters()):
                return layer
        return len(self.h)

    def pack(self, *, twice: bool) -> None:
        """Store the frozen weights of the blocks in the layout of fast products. This cannot be undone.

        In blocks through which a gradient passes, packing needs a second copy of each weight; unless `twice`,
        these blocks are not packed.
        """
        frozen = self.frozen_depth()
        for layer, block in enumerate(self.h):
            passes_gradient = layer >= frozen
            if passes_gradient and not twice:
                return
            for module in block.modules():
                if isinstance(module, Conv1D) and not module.weight.requires_grad:
                    module.pack(self.compute_dtype, passes_gradient=passes_gradient)
            return_freed_memory()  # otherwise the 340 MB of GPT-2's unpacked weights stay in the process

    def pack_head(self) -> None:
        """Store a second copy of the frozen tied head in the layout of fast products, for decoding."""
        self.packed_head = pack(self.wte.weight.t())

    def logits(self, hidden: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return fp32 logits of the tied head, (..., V), or only of the vocabulary rows (R,), (..., R)."""
        if rows is None and self.packed_head is not None:
            flat = hidden.reshape(-1, hidden.shape[-1])
            return packed_affine(flat, self.packed_head, None, None).view(*hidden.shape[:-1], -1).float()
        if rows is None:
            return F.linear(hidden, self.wte.weight.to(hidden.dtype)).float()
        # Sparse, because a dense gradient of these rows would be a second (V, C) beside the embedding's own.
        words = F.embedding(rows, self.wte.weight, sparse=True)
        return F.linear(hidden.float(), words.float())

    def classify(self, hidden: Tensor) -> Tensor:
        """Return the fp32 class logits of the `score` head, (..., classes)."""
        assert self.score is not None, "the task has not added a score head"
        return self.score(hidden.float())  # type: ignore[no-any-return]
