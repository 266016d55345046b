"""Score many runs of one task on the same rows, compare them in pairs, and rank them."""
