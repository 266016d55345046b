"""How weights are trained, one file per method: `apply(model, config)` and, where it can, `merge(model)`."""
