"""The options of the control socket."""

from __future__ import annotations

from sitebus.config.kinds import BOOLEAN, NAMES, PATH
from sitebus.config.options import Option, Section
from sitebus.config.people import FILE_MODE, GROUP, PEOPLE

CONTROL = Section(
    "control",
    (
        Option(
            "enabled",
            BOOLEAN,
            True,
            "Answer on a unix socket, for sitebus-ctl; where no file is served, only if this, or "
            "the socket, is said.",
        ),
        Option(
            "socket",
            PATH,
            None,
            "Where that is; sitebus/NAME.sock in the user's runtime directory if not said.",
        ),
        Option(
            "mode",
            FILE_MODE,
            None,
            "The permissions of the socket's file; 0600, or 0660 with a group, or 0666 where "
            "operators or viewers are named.",
        ),
        Option("group", GROUP, None, "The group of the socket's file."),
        Option(
            "operators",
            PEOPLE,
            (),
            "Who may change something, besides root and the site's own user.",
        ),
        Option("viewers", PEOPLE, (), "Who may look, and change nothing."),
        Option("publish", NAMES, (), "The channels that operators may publish on."),
    ),
    "What a running site answers to its operators.",
)
