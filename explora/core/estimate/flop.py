"""How many floating-point operations a training step needs: closed forms, without torch."""

from __future__ import annotations

from math import prod

from explora.core.config.method import Method
from explora.core.config.registry import Shape
from explora.core.estimate.parameters import base_tensors


def step_flop(shape: Shape, method: Method, tokens: int, head_tokens: int) -> float:
    """Return the FLOP of the matrix products with the weights, for `tokens` real tokens.

    2 for each weight and token forward, 2 for the gradient of its input from the lowest trained block up,
    2 for its own gradient where it is trained (Kaplan et al. 2020, section 2.1). `head_tokens` of
    them meet the tied head over the whole vocabulary. Adapters (about 1 %) and attention scores (3 % at 256
    tokens of GPT-2) are left out, so that the figure depends on nothing but tokens.
    """
    block = 2.0 * 12 * shape.n_embd**2 * tokens  # c_attn 3, c_proj 1, c_fc 4, c_proj 4
    head = 2.0 * shape.vocab_size * shape.n_embd * head_tokens
    forward = shape.n_layer * block + head
    gradients = (shape.n_layer - method.first_trained_block(shape)) * block + head
    trained = method.trained_shapes(shape)
    own = sum(
        2.0 * prod(size) * tokens
        for name, size in base_tensors(shape).items()
        if name in trained and name.startswith("h.") and len(size) == 2
    )
    return forward + gradients + own + (head if "wte.weight" in trained else 0)
