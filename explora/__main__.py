"""The console script and `python -m explora`: loads the command line, which Ctrl-C may interrupt."""

from __future__ import annotations

import sys
from typing import NoReturn

INTERRUPTED = 130


def entry() -> NoReturn:
    """Run the process's own command and exit."""
    try:
        from explora.commands._environment import restart_for_training

        restart_for_training(sys.argv[1:])
        from explora.cli import main
    except KeyboardInterrupt:  # from here on main says what it was told
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    sys.exit(main())


if __name__ == "__main__":
    entry()
