"""The training loop, its optimizers, its resume state and the cache of frozen features."""
