"""Comparison of methods: each cell in a process of its own, contenders interleaved, a verdict in words."""
