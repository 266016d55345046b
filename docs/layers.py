"""Draw the layers of the code, docs/layers.svg, to stdout: `make reference`.

The layers are those that import-linter checks (`[tool.importlinter]` in pyproject.toml). The colours suit
light and dark pages.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"

WIDTH, HEIGHT, GAP = 300, 30, 10  # of a box; between boxes
SHADE, FRAME, INK, GREY = "#dbe7f5", "#5b7fa6", "#16242f", "#808b96"
BEAM = f'fill="{FRAME}" opacity="0.25"'  # from the box of the core to its layers


def layers_of(package: str) -> list[list[str]]:
    """Return the layers of a package from the highest to the lowest; the modules of a layer are equal."""
    with PYPROJECT.open("rb") as file:
        contracts = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    layers = next(each["layers"] for each in contracts if each.get("containers") == [package])
    return [layer.split(" | ") for layer in layers]


def layers_svg() -> str:
    """Return the drawing: the layers of the package, and beside them those of its core."""
    outer, inner = layers_of("explora"), layers_of("explora.core")
    left, right, top = GAP, WIDTH + 6 * GAP, 4 * GAP
    core = top + outer.index(["core"]) * (HEIGHT + GAP) + HEIGHT / 2
    bottom = top + len(inner) * (HEIGHT + GAP)
    lines = [
        *_column("explora", left, top, outer),
        *_column("explora.core", right, top, inner),
        f'<path d="M{left + WIDTH} {core} L{right - GAP} {top} V{bottom - GAP} Z" {BEAM}/>',
    ]
    size = f'width="{right + WIDTH + GAP}" height="{bottom}"'
    title = "<title>The layers of explora: a module imports from the boxes below it</title>"
    style = 'font-family="sans-serif" font-size="14" text-anchor="middle"'
    return (
        "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>', title, *lines, "</svg>"])
        + "\n"
    )


def _column(title: str, left: float, top: float, layers: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield a column of boxes. Modules that must not import each other share a row."""
    yield f'<text x="{left + WIDTH / 2}" y="{top - GAP}" fill="{GREY}">{title}</text>'
    for row, modules in enumerate(layers):
        width = (WIDTH - GAP * (len(modules) - 1)) / len(modules)
        y = top + row * (HEIGHT + GAP)
        for place, module in enumerate(modules):
            x = left + place * (width + GAP)
            box = f'x="{x:.0f}" y="{y}" width="{width:.0f}" height="{HEIGHT}" rx="4"'
            yield f'<rect {box} fill="{SHADE}" stroke="{FRAME}"/>'
            yield f'<text x="{x + width / 2:.0f}" y="{y + HEIGHT - GAP}" fill="{INK}">{module}</text>'


if __name__ == "__main__":
    print(layers_svg(), end="")
