"""What the machine offers and what this process takes. Light: no torch."""
