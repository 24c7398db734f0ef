"""``python -m sitebus`` is ``sitebus-serve``."""

import sys

from sitebus.cli.serve import main

sys.exit(main())
