"""Build the documentation site with `make docs`.

The source is the root of the repository, so that a relative link works on GitHub and on the site alike. A
link to any other file than a page becomes a download.
"""

from __future__ import annotations

from docutils.nodes import document
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx

from explora import __version__ as release

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
    """Handle what only GitHub shows."""
    app.connect("doctree-read", unlink_folders)


def unlink_folders(app: Sphinx, page: document) -> None:
    """Replace links to folders, which have no page, by their text."""
    here = app.env.doc2path(app.env.docname).parent
    for link in list(page.findall(pending_xref)):
        if (here / link["reftarget"]).is_dir():
            link.replace_self(link.children)
