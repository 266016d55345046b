"""Reports of `train`, `eval` and `bench`: their content, and rendering as HTML, Markdown or LaTeX."""
