"""How weights are trained: a light file for each method, and one for its layers where it has some."""
