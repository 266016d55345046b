"""AdamW (Loshchilov and Hutter 2019) with torch's fused kernel, bit for bit torch.optim.AdamW(fused=True).

The first optimizer of torch.optim imports torch._dynamo and sympy, which takes a second and 71 MB. This
module avoids that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

EPSILON = 1e-8


class Optimizer(Protocol):
    """The methods of an optimizer that training uses; optimizers of torch.optim have them, too."""

    param_groups: list[dict[str, Any]]

    @property
    def state(self) -> Any:
        """Tensors of each parameter, by name."""

    def step(self) -> Any:
        """Update every parameter that has a gradient."""

    def zero_grad(self) -> None:
        """Set all gradients to None."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state of each parameter by its index, and the parameter groups."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the result of `state_dict`."""


class AdamW:
    """AdamW with a learning rate and a weight decay for each parameter group.

    param_groups: dicts with params (fp32, all on one device), lr, weight_decay, and any other keys of the
    caller.
    """

    def __init__(
        self, groups: Sequence[Mapping[str, Any]], *, learning_rate: float, betas: tuple[float, float]
    ) -> None:
        self.param_groups: list[dict[str, Any]] = [{"lr": learning_rate, **group} for group in groups]
        self.betas = betas
        self.state: dict[nn.Parameter, dict[str, Tensor]] = {}

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            values = [value for value in group["params"] if value.grad is not None]
            if not values:
                continue
            states = [self._state(value) for value in values]
            steps = [state["step"] for state in states]
            torch._foreach_add_(steps, 1)
            torch._fused_adamw_(
                values,
                [value.grad for value in values],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [],
                steps,
                lr=group["lr"],
                beta1=self.betas[0],
                beta2=self.betas[1],
                weight_decay=group["weight_decay"],
                eps=EPSILON,
                amsgrad=False,
                maximize=False,
            )

    def _state(self, value: nn.Parameter) -> dict[str, Tensor]:
        if value not in self.state:
            self.state[value] = {
                "step": torch.zeros((), device=value.device),
                "exp_avg": torch.zeros_like(value),
                "exp_avg_sq": torch.zeros_like(value),
            }
        return self.state[value]

    def zero_grad(self) -> None:
        """Set all gradients to None."""
        for value in self._parameters():
            value.grad = None

    def _parameters(self) -> list[nn.Parameter]:
        return [value for group in self.param_groups for value in group["params"]]

    def state_dict(self) -> dict[str, Any]:
        """Return the state of each parameter by its index."""
        numbered = enumerate(self._parameters())
        return {"state": {number: self.state[value] for number, value in numbered if value in self.state}}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore the result of `state_dict`."""
        values = self._parameters()
        self.state = {
            values[number]: {name: tensor.to(values[number].device) for name, tensor in state.items()}
            for number, state in state_dict["state"].items()
        }
