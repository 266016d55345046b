"""Reports of `train`, `eval` and `bench`: what they say, and how they become HTML, Markdown or LaTeX."""
