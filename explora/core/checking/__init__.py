"""Check that this installation computes correct results on this machine, for every method and shortcut."""
