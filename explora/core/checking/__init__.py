"""Check that this installation computes what it should on this machine: every method, every shortcut."""
