"""``python -m memwarden`` is the ``memwarden`` command."""

import sys

from memwarden.faces.cli import main

if __name__ == "__main__":
    sys.exit(main())
