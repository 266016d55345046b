"""Advise which method and learning rate to use for a task, from the rows of a study and a short probe."""
