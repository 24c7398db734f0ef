"""``python -m sitebus.workers``: a process of a site, as its supervisor starts it."""

import sys

from sitebus import engine, site
from sitebus.workers.entry import main

sys.exit(main(sys.argv[1:], engine, site))
