"""Training methods: a file for each, which does not load torch, and one for its layers if it has any."""
