"""Build the documentation site with `make docs`.

The source is the root of the repository, so that a relative link works on GitHub and on the site alike. Links
to other files than pages become downloads.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

from explora import __version__ as release

ROOT = Path(__file__).parents[1]

project = "explora"
extensions = ["myst_parser"]
root_doc = "docs/index"
include_patterns = [
    "*.md",
    "docs/**.md",
    "benchmarks/**.md",
    "explora/assets/**.md",
    "tests/fixtures/*/README.md",
]
exclude_patterns = [".*", "build", "dist", "runs", "merged"]
myst_heading_anchors = 4  # the anchors of headings, as on GitHub

html_theme = "furo"
html_title = f"explora {release}"
html_copy_source = False
html_extra_path = ["site"]  # index.html at the top, which leads to docs/


def setup(app: Sphinx) -> None:
    """Let Sphinx ask `show_folder` about links without a page."""
    app.connect("missing-reference", show_folder)


def show_folder(app: Sphinx, env: Any, node: Any, content: nodes.Element) -> nodes.Element | None:
    """Return the bare text of a link to a folder, which has no page; None for any other link."""
    folder = (ROOT / node["refdoc"]).parent / node["reftarget"]
    return content if folder.is_dir() else None
