"""``python -m sitebus`` is ``sitebus-serve``, and ``python -m sitebus init`` begins a site."""

import sys

if sys.argv[1:2] == ["init"]:
    from sitebus.cli.init import main as init

    sys.exit(init(sys.argv[2:]))

from sitebus.cli.serve import main

sys.exit(main())
