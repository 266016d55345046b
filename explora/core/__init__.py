"""The core: everything that computes. It never prints, exits or parses arguments."""
