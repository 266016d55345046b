"""The tasks that a model can be trained for, with one file per task or family of tasks."""
