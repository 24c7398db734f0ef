"""``site.ini``: read, check, explain.

`read` answers a `Configuration`, whose values know where they come from; `Option`, `Section` and
`Table` declare what can be said.
How a configuration becomes a running site is for `sitebus.assembly`.
"""

from sitebus.config.configuration import (
    DEFAULT,
    Configuration,
    Origin,
    Problem,
    Settings,
    Value,
)
from sitebus.config.core import TABLE
from sitebus.config.drafts import VARIABLES, Override
from sitebus.config.headings import parse_place
from sitebus.config.options import Option, Section, Table
from sitebus.config.reader import read
from sitebus.config.texts import masked

__all__ = [
    "DEFAULT",
    "TABLE",
    "VARIABLES",
    "Configuration",
    "Option",
    "Origin",
    "Override",
    "Problem",
    "Section",
    "Settings",
    "Table",
    "Value",
    "masked",
    "parse_place",
    "read",
]
