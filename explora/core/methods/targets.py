"""Where adapters sit in a block, for the methods that let the user choose: `targets` and `layers`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from explora.core.config import values
from explora.core.config.method import Method
from explora.core.config.registry import TARGETS, Shape
from explora.core.config.setting import setting
from explora.core.config.values import Blocks
from explora.errors import UsageError, did_you_mean

FUSED = "attn.c_attn"  # holds query, key and value side by side
FUSED_PARTS = 3
MODULES = tuple(dict.fromkeys(module for module, _ in TARGETS.values()))
Parts = tuple[int, ...] | None  # parts of c_attn with adapters of their own; None: one on the whole module


def targets_setting(default: tuple[str, ...]) -> Any:
    """Declare the setting `targets`."""
    return setting(
        default,
        f"Where adapters sit: {', '.join(TARGETS)}; c_attn is one adapter on query, key and value together.",
        metavar="NAME,...",
        default="by task",
        parse=values.parse_targets,
    )


def layers_setting() -> Any:
    """Declare the setting `layers`."""
    return setting(
        None,
        "Blocks that get adapters, from 0: 6-11, or 0,2,11.",
        metavar="A-B,...",
        default="all",
        parse=Blocks.parse,
        show=str,
    )


class TargetedMethod(Method):
    """A method with the settings `targets` and `layers`."""

    targets: tuple[str, ...]
    layers: Blocks | None

    def validate(self) -> None:
        """Raise UsageError for targets that do not exist, stand twice or overlap, and for no block at all."""
        for target in self.targets:
            if target not in TARGETS:
                known = ", ".join(TARGETS)
                raise UsageError(
                    f"--targets: no target {target!r}{did_you_mean(target, TARGETS)} (targets: {known})"
                )
        if not self.targets or len(set(self.targets)) != len(self.targets):
            raise UsageError(f"--targets must be distinct and at least one: {','.join(self.targets)!r}")
        if "c_attn" in self.targets and {"query", "key", "value"} & set(self.targets):
            raise UsageError(
                "--targets: c_attn is one adapter on query, key and value together; name it or them, not both"
            )
        if self.layers is not None and (not self.layers or self.layers[0] < 0):
            raise UsageError(f"layers {self.layers} is not a list of blocks", "--layers 6-11")

    def check_fit(self, shape: Shape) -> None:
        """Raise UsageError for blocks that a base of this shape does not have."""
        if self.layers and self.layers[-1] >= shape.n_layer:
            raise UsageError(
                f"--layers {self.layers}: the base has only blocks 0-{shape.n_layer - 1}",
                f"choose among them, for example --layers 0-{shape.n_layer - 1}",
            )

    def blocks(self, shape: Shape) -> Blocks:
        """Return the blocks with adapters. Raises UsageError for one that the base lacks."""
        TargetedMethod.check_fit(self, shape)
        return Blocks(range(shape.n_layer)) if self.layers is None else self.layers

    def first_trained_block(self, shape: Shape) -> int:
        """Return the lowest block with adapters."""
        return self.layers[0] if self.layers else 0

    def adapts(self, layer: int) -> bool:
        """Return whether a block has adapters."""
        return self.layers is None or layer in self.layers

    def modules(self) -> dict[str, Parts]:
        """Return each adapted module of a block, with the parts of it that have adapters of their own."""
        found: dict[str, Parts] = {}
        for path in MODULES:
            chosen = [
                part for name, (module, part) in TARGETS.items() if module == path and name in self.targets
            ]
            if chosen:
                found[path] = None if None in chosen else tuple(part for part in chosen if part is not None)
        return found

    def sites(self, shape: Shape) -> Iterator[tuple[int, str, Parts]]:
        """Yield block, module and parts of every adapted module of a base."""
        for layer in self.blocks(shape):
            for module, parts in self.modules().items():
                yield layer, module, parts

    @property
    def place(self) -> str:
        """Where the adapters sit, in one phrase: `on key, value, blocks 6-11`."""
        blocks = f", blocks {self.layers}" if self.layers else ""
        return f"on {', '.join(self.targets)}{blocks}"


def span(fan_out: int, parts: Parts) -> int:
    """Return how many columns an adapter covers: all, or one part of c_attn."""
    return fan_out if parts is None else fan_out // FUSED_PARTS
