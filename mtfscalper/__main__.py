"""``python -m mtfscalper`` is the ``mtfscalper`` command."""

import sys

from mtfscalper.cli import main

if __name__ == "__main__":
    sys.exit(main())
