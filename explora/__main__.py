"""`python -m explora`."""

from explora.cli import entry

if __name__ == "__main__":
    entry()
