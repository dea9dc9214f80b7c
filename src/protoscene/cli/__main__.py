"""``python -m protoscene.cli``."""

import sys

from protoscene.cli import main

sys.exit(main())
