"""``python -m memwarden``."""

import sys

from memwarden.faces.cli import main

sys.exit(main())
