"""Activations and temporaries of a training step in bytes: closed forms, without torch.

A block has two halves, attention and feed-forward. Each line stands for a tensor of `model.py`,
`attention.py`, `onednn.py` or a method's layers; if one of them changes, its line must change with it. A test
compares them with the tensors that autograd keeps.

Shapes: B rows, T tokens, N = B T, C = n_embd, H = n_head, r an adapter's rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod

from explora.core.config.method import Method, Product
from explora.core.config.registry import Shape
from explora.core.estimate.parameters import FLOAT32_BYTES, block_modules

# attention.py: longest row, by bytes of a number, for which plain products replace torch's fused kernel; and
# longest row for which plain attention keeps its probabilities.
PLAIN_UP_TO = {2: 512, 4: 128}
KEPT_UP_TO = 128
# gelu.py: in bf16, this many numbers at a time have fp32 copies; tensors below the second value have none.
GELU_AT_ONCE, GELU_FEWEST = 1 << 19, 1 << 16
MAPPED_FROM = 32 << 20  # the threshold in malloc.py


@dataclass(frozen=True, kw_only=True)
class Half:
    """Bytes of one half of a block: tensors that autograd keeps, by name, and the peak of the backward pass.

    `passes` means that a gradient continues to the blocks below, so that these may keep tensors, too.
    """

    kept: dict[str, int]
    backward: int
    passes: bool

    @property
    def size(self) -> int:
        """All bytes that autograd keeps."""
        return sum(self.kept.values())

    @property
    def in_heap(self) -> int:
        """The part of them in glibc's heap; larger tensors are memory-mapped one by one."""
        return sum(size for size in self.kept.values() if size < MAPPED_FROM)


@dataclass(frozen=True, kw_only=True)
class Work:
    """A micro-batch on a model, with everything that determines the size of activations.

    `number` is the size in bytes of a number in the compute dtype. `one_position`: the task needs one
    position per row, so the last block computes nothing else. `checkpointed`: everything inside blocks is
    recomputed, so nothing else is recomputed to save memory. `plain_up_to`: the runtime's setting. `on_gpu`:
    torch's fused kernels compute attention, also with dropout, and GELU.
    """

    shape: Shape
    method: Method
    batch_size: int
    length: int
    number: int
    dropout: float
    one_position: bool
    checkpointed: bool = False
    plain_up_to: int | None = None
    on_gpu: bool = False

    @property
    def tokens(self) -> int:
        """The number of tokens, N."""
        return self.batch_size * self.length

    @property
    def states(self) -> int:
        """Size in bytes of hidden states, (B, T, C)."""
        return self.tokens * self.shape.n_embd * self.number

    @property
    def scores(self) -> int:
        """Size in bytes of attention scores, (B, H, T, T)."""
        return self.tokens * self.length * self.shape.n_head * self.number

    @property
    def is_plain(self) -> bool:
        """Whether attention is computed by plain products."""
        limit = PLAIN_UP_TO[self.number] if self.plain_up_to is None else self.plain_up_to
        return self.length <= limit and not self.on_gpu

    @property
    def drops_scores(self) -> bool:
        """Whether attention keeps its probabilities because of dropout."""
        return self.dropout > 0 and not self.on_gpu

    @property
    def is_full(self) -> bool:
        """Whether every weight of the base is trained."""
        return self.method.trains_base

    @cached_property
    def trained(self) -> frozenset[str]:
        """The names of the tensors that the method trains, including the base's own tensors."""
        return frozenset(self.method.trained_shapes(self.shape))

    def is_asked_once(self, layer: int) -> bool:
        """Return whether a block computes only one position per row after its keys and values."""
        return self.one_position and layer == self.shape.n_layer - 1


def attention(work: Work, layer: int, passes: bool) -> Half:
    """Return the first half of a block; `passes`: its input needs a gradient."""
    once = work.is_asked_once(layer)
    rows = work.batch_size if once else work.tokens
    is_fused = not (once or work.is_plain or work.drops_scores)
    # Plain attention keeps copies of queries, keys and values; otherwise they are views of the projection.
    is_viewed = is_fused or (once and not _copies_keys(work))
    c_attn = _product(
        work,
        layer,
        "attn.c_attn",
        work.tokens,
        input_is_kept=work.checkpointed,
        output_is_kept=is_viewed,
    )
    kept = _norm(work, layer, "ln_1", work.tokens, passes or _makes_again(work, c_attn))
    kept |= _kept_for(work, c_attn)
    if passes or kept:
        kept |= _attended(work, once)
    c_proj = _product(work, layer, "attn.c_proj", rows, input_is_kept=not (is_fused and kept))
    kept |= _kept_for(work, c_proj)
    if passes or kept:
        kept |= _dropped(work, rows)
    # The recomputed output of the norm exists at the same time as an adapter's gradients.
    again = work.states if _makes_again(work, c_attn) and not _trains_weight(work, c_attn) else 0
    adds = bool(work.method.kept_bytes(c_attn))
    backward = _attention_backward(work, once, adds) + again + work.method.backward_bytes(c_attn)
    return Half(kept=kept, backward=backward, passes=passes or bool(kept))


def feed_forward(work: Work, layer: int, passes: bool) -> Half:
    """Return the second half of a block; `passes`: its input needs a gradient."""
    rows = work.batch_size if work.is_asked_once(layer) else work.tokens
    states = rows * work.shape.n_embd * work.number
    c_fc = _product(work, layer, "mlp.c_fc", rows, input_is_kept=work.checkpointed, output_is_kept=True)
    c_proj = _product(work, layer, "mlp.c_proj", rows, input_is_kept=work.checkpointed)
    down = _kept_for(work, c_proj)
    kept = _norm(work, layer, "ln_2", rows, passes or _makes_again(work, c_fc)) | _kept_for(work, c_fc)
    if passes or kept or down:
        kept |= {"gelu's input": 4 * states} | down | _dropped(work, rows)
    # The gradients of the output, of GELU's output and of its input, or the recomputed output for the last.
    backward = (1 + 4 + 4) * states + max(map(work.method.backward_bytes, (c_fc, c_proj)))
    if _trains_weight(work, c_proj):
        half = work.number if work.number < FLOAT32_BYTES else 0
        gradient = prod(block_modules(work.shape.n_embd)["mlp.c_proj"]) * (half + FLOAT32_BYTES)
        backward = (1 + 4 + (0 if work.checkpointed else 4)) * states + gradient
    # Before that, GELU's output is recomputed, beside gradients of the output, the residual and their sum.
    again = (3 + 4) * states + _gelu_copies(work, rows)
    return Half(kept=kept, backward=max(backward, again), passes=passes or bool(kept))


def frozen_forward(work: Work) -> int:
    """Return the peak in bytes of a block's forward pass if autograd keeps nothing.

    At the first moment it has embedded tokens, the block's input, its norm and the projection, copied, with
    two sets of scores. At the second it has the first two, attention's output, their sum, its norm, and
    GELU's input and output.
    """
    feeding = (5 + 4 + 4) * work.states + _gelu_copies(work, work.tokens)
    if work.is_plain:
        return max((3 + 3 + 3) * work.states + 2 * work.scores + _mask(work), feeding)
    return feeding


def _gelu_copies(work: Work, rows: int) -> int:
    """Return the bytes of the two fp32 copies that GELU makes of a part of its input in bf16."""
    numbers = 4 * rows * work.shape.n_embd
    if work.number == FLOAT32_BYTES or numbers < GELU_FEWEST or work.on_gpu:
        return 0
    return 2 * FLOAT32_BYTES * min(numbers, GELU_AT_ONCE)


def _trains_weight(work: Work, product: Product) -> bool:
    """Return whether the base's own weight is trained."""
    return f"h.{product.layer}.{product.module}.weight" in work.trained


def _kept_for(work: Work, product: Product) -> dict[str, int]:
    """Return the tensors kept for a product's own gradients; empty if none of its parameters is trained.

    The gradient of the weight needs the input, that of the bias needs nothing; the method may add more.
    """
    kept = dict(work.method.kept_bytes(product))
    if _trains_weight(work, product):
        kept[f"{product.module}'s input"] = product.input_bytes if product.input_is_kept else 0
    if f"h.{product.layer}.{product.module}.bias" in work.trained:
        kept[f"{product.module}'s bias"] = 0
    return kept


def _makes_again(work: Work, product: Product) -> bool:
    """Return whether gradients need a product's input, the norm's output, which is then recomputed."""
    if work.checkpointed:
        return False
    reads = work.method.reads_norms and bool(work.method.kept_bytes(product))
    return reads or _trains_weight(work, product)


def _norm(work: Work, layer: int, norm: str, rows: int, is_needed: bool) -> dict[str, int]:
    """Return the tensors that a norm keeps: input, mean, deviation, and casts of trained parameters."""
    own = sum(f"h.{layer}.{norm}.{name}" in work.trained for name in ("weight", "bias"))
    if not is_needed and not own:
        return {}
    width = work.shape.n_embd
    casts = own * width if work.number < FLOAT32_BYTES else 0
    return {"norm": (rows * (width + 2) + casts) * work.number}


def _product(
    work: Work,
    layer: int,
    module: str,
    rows: int,
    *,
    input_is_kept: bool,
    output_is_kept: bool = False,
) -> Product:
    fan_in, fan_out = block_modules(work.shape.n_embd)[module]
    return Product(
        layer=layer,
        module=module,
        rows=rows,
        fan_in=fan_in,
        fan_out=fan_out,
        number_bytes=work.number,
        input_is_kept=input_is_kept,
        output_is_kept=output_is_kept,
    )


def _attended(work: Work, once: bool) -> dict[str, int]:
    """Return the tensors that softmax(Q K^T) V keeps, depending on how it is computed."""
    if once:  # keys and values are copied, or kept together with the queries
        return {"query, key, value": (2 if _copies_keys(work) else 3) * work.states}
    if work.drops_scores:  # probabilities, dropped ones, remaining ones; long rows are computed in fp32
        wide = 1 if work.is_plain else FLOAT32_BYTES // work.number
        return {"query, key, value": 3 * wide * work.states, "probabilities": 3 * wide * work.scores}
    if work.is_plain:
        kept = work.length <= KEPT_UP_TO
        return {"query, key, value": 3 * work.states, "probabilities": work.scores if kept else 0}
    normalisers = work.tokens * work.shape.n_head * FLOAT32_BYTES
    return {"query, key, value": 3 * work.states, "attended": work.states + normalisers}


def _copies_keys(work: Work) -> bool:
    """Return whether attention for one position per row copies keys and values, as in half precision."""
    return work.number < FLOAT32_BYTES and work.is_plain


def _dropped(work: Work, rows: int) -> dict[str, int]:
    return {"dropout": rows * work.shape.n_embd * work.number} if work.dropout else {}


def _attention_backward(work: Work, once: bool, adds: bool) -> int:
    """Return the bytes for gradients of residual, output and its copy; of queries, keys, values; and scores.

    With one position per row, the peak is at c_attn's gradients; `adds`: the method adds gradients there.
    """
    if once:
        return (8 if adds else 5) * work.states
    if not work.is_plain or work.drops_scores:
        return 9 * work.states + (2 * work.scores if work.drops_scores else 0)
    again = 0 if work.length <= KEPT_UP_TO else work.scores + _mask(work)
    return max(6 * work.states + 2 * work.scores + again, 9 * work.states + work.scores)


def _mask(work: Work) -> int:
    return work.length * work.length * work.number
