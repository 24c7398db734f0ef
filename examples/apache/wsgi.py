"""The script that the host runs."""

import sitebus

application = sitebus.embed("site.ini")
