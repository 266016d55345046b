"""Number of floating-point operations of a training step: closed forms, without torch."""

from __future__ import annotations

from math import prod

from explora.core.config.method import Method
from explora.core.config.registry import Shape
from explora.core.estimate.parameters import base_tensors


def step_flop(
    shape: Shape, method: Method, tokens: int, head_tokens: int, answers: int | None = None
) -> float:
    """Return the FLOP of the matrix products with the weights, for `tokens` real tokens.

    Per weight and token, it counts 2 for the forward pass, 2 for the gradient of the input from the lowest
    trained block up, and 2 for the weight's own gradient if it is trained (Kaplan et al. 2020, section 2.1).
    `head_tokens` of the tokens are multiplied by the tied head over the whole vocabulary. `answers` is the
    number of positions at which the last block's output is used (None: all of them): its c_attn needs every
    token, its other products only these positions. Adapters (about 1 %) and attention scores (3 % at 256
    tokens of GPT-2) are left out, so that the figure depends only on tokens.
    """
    answers = tokens if answers is None else answers
    block = 2.0 * 12 * shape.n_embd**2 * tokens  # c_attn 3, c_proj 1, c_fc 4, c_proj 4
    last_block = 2.0 * shape.n_embd**2 * (3 * tokens + 9 * answers)
    head = 2.0 * shape.vocab_size * shape.n_embd * head_tokens
    forward = (shape.n_layer - 1) * block + last_block + head
    passed = shape.n_layer - method.first_trained_block(shape)
    gradients = ((passed - 1) * block + last_block if passed else 0.0) + head
    trained = method.trained_shapes(shape)
    own = sum(
        2.0 * prod(size) * _positions(name, shape, tokens, answers)
        for name, size in base_tensors(shape).items()
        if name in trained and name.startswith("h.") and len(size) == 2
    )
    return forward + gradients + own + (head if "wte.weight" in trained else 0)


def _positions(name: str, shape: Shape, tokens: int, answers: int) -> int:
    """Return the number of positions at which a matrix of a block is needed."""
    everywhere = not name.startswith(f"h.{shape.n_layer - 1}.") or "c_attn" in name
    return tokens if everywhere else answers
