"""Settings for the place of adapters, `targets` and `layers`, for the methods that let the user choose."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from explora.core.config import values
from explora.core.config.method import Method
from explora.core.config.registry import TARGETS, Shape
from explora.core.config.setting import setting
from explora.core.config.values import Blocks
from explora.errors import UsageError, did_you_mean

FUSED = "attn.c_attn"  # computes query, key and value side by side
FUSED_PARTS = 3
MODULES = tuple(dict.fromkeys(module for module, _ in TARGETS.values()))
Parts = tuple[int, ...] | None  # parts of c_attn with separate adapters; None: one on the whole module


def targets_setting(default: tuple[str, ...]) -> Any:
    """Declare the setting `targets`."""
    return setting(
        default,
        f"Modules with adapters: {', '.join(TARGETS)}; c_attn is one adapter on query, key and value.",
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
    """A method whose settings `targets` and `layers` choose the adapted modules."""

    targets: tuple[str, ...]
    layers: Blocks | None

    def validate(self) -> None:
        """Raise UsageError for targets that are unknown, repeated or overlapping, and for an empty choice."""
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
        """Return the blocks with adapters. Raises UsageError for a block that the base does not have."""
        TargetedMethod.check_fit(self, shape)
        return Blocks(range(shape.n_layer)) if self.layers is None else self.layers

    def first_trained_block(self, shape: Shape) -> int:
        """Return the lowest block with adapters."""
        return self.layers[0] if self.layers else 0

    def adapts(self, layer: int) -> bool:
        """Return whether a block has adapters."""
        return self.layers is None or layer in self.layers

    def modules(self) -> dict[str, Parts]:
        """Return each adapted module of a block, with those of its parts that have separate adapters."""
        found: dict[str, Parts] = {}
        for path in MODULES:
            chosen = [
                part for name, (module, part) in TARGETS.items() if module == path and name in self.targets
            ]
            if chosen:
                found[path] = None if None in chosen else tuple(part for part in chosen if part is not None)
        return found

    def sites(self, shape: Shape) -> Iterator[tuple[int, str, Parts]]:
        """Yield block, module and parts for every adapted module of a base."""
        for layer in self.blocks(shape):
            for module, parts in self.modules().items():
                yield layer, module, parts

    @property
    def place(self) -> str:
        """One phrase with targets and blocks: `on key, value, blocks 6-11`."""
        blocks = f", blocks {self.layers}" if self.layers else ""
        return f"on {', '.join(self.targets)}{blocks}"


def span(fan_out: int, parts: Parts) -> int:
    """Return the number of columns that an adapter covers: all, or those of one part of c_attn."""
    return fan_out if parts is None else fan_out // FUSED_PARTS
