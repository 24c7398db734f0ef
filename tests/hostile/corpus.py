"""The corpus: everything that is sent to every server, by category."""

from __future__ import annotations

from tests.hostile import bodies, delivery, foreign, heads, lines, smuggling
from tests.hostile.entries import Entry, unique

#: The entries of each category.
CORPUS: dict[str, tuple[Entry, ...]] = unique({
    "lengths": smuggling.lengths(),
    "codings": smuggling.codings(),
    "both": smuggling.both(),
    "chunks": smuggling.chunks(),
    "lines": lines.request_lines(),
    "paths": lines.paths(),
    "fields": heads.fields(),
    "amounts": heads.amounts(),
    "hosts": heads.hosts(),
    "connections": heads.connections(),
    "bodies": bodies.bodies(),
    "expectations": bodies.expectations(),
    "pipelines": bodies.pipelines(),
    "upgrades": foreign.upgrades(),
    "foreign": foreign.foreign(),
    "tls": foreign.on_tls(),
    "pieces": delivery.pieces(),
    "departures": delivery.departures(),
    "drips": delivery.drips(),
})  # fmt: skip
