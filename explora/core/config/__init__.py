"""Configuration of a run: models, methods and tasks by name, settings, and their order of precedence.

Importing this package does not load torch.
"""
