"""Directives that write reference pages from the tables in the code, so that they cannot drift."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any, ClassVar

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.typing import ExtensionMetadata
from state_diagram import draw, name_of

from sitebus import errors, machine
from sitebus.machine import Machine


def table(widths: str, rows: Iterable[Sequence[str]]) -> str:
    """Answer a list-table; the first row is its heading."""
    lines = [".. list-table::", "   :header-rows: 1", f"   :widths: {widths}", ""]
    for row in rows:
        for number, cell in enumerate(row):
            lines.append(f"   {' ' if number else '*'} - {cell}".rstrip())
    return "\n".join([*lines, ""])


def code(text: object) -> str:
    """Answer *text* as a literal; nothing where there is none."""
    return f"``{text}``" if str(text) else ""


class Generated(SphinxDirective):
    """A directive whose reST is computed."""

    has_content: ClassVar[bool] = False

    def text(self) -> str:
        """Answer the reST that stands for the directive."""
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        return self.parse_text_to_nodes(self.text(), allow_section_headings=True)


class OfMachine(Generated):
    """A directive about the table of states that its argument names."""

    required_arguments: ClassVar[int] = 1

    @property
    def machine(self) -> Machine:
        if self.arguments[0] == "WORKERS":
            return of_workers()
        found = getattr(machine, self.arguments[0])
        assert isinstance(found, Machine)
        return found


def of_workers() -> Machine:
    """Answer the table of a worker's states: no bus walks it, and it is drawn like those."""
    from sitebus.workers.states import WORKER_EDGES, WorkerState

    edges: Any = WORKER_EDGES
    return Machine(edges, WorkerState.BOOTING, {})


def failures() -> frozenset[object]:
    """Answer the causes that something has gone wrong."""
    from sitebus.workers.states import WorkerCause

    of_worker = {WorkerCause.UNFIT, WorkerCause.STUCK, WorkerCause.CUT_OFF}
    return frozenset({machine.Cause.FAILED, *of_worker})


class StateDiagram(OfMachine):
    """The table, drawn."""

    def run(self) -> list[nodes.Node]:
        return [nodes.raw("", draw(self.machine, failures()), format="html")]


class StateTable(OfMachine):
    """The table, row by row."""

    def text(self) -> str:
        rows = [
            (code(name_of(edge.source)), edge.cause.value, code(name_of(edge.target)))
            for edge in self.machine.edges
        ]
        return table("30 20 30", [("In", "this", "leads to"), *rows])


class ChannelTable(OfMachine):
    """What a new bus publishes by itself, and when."""

    def text(self) -> str:
        return table("20 45 35", [("Channel", "Published", "A failing listener"), *self.rows()])

    def rows(self) -> Iterator[tuple[str, str, str]]:
        for channel in self.machine.builtin_channels():
            yield (code(channel), self.occasion(channel), self.failure(channel))

    @property
    def arrivals(self) -> set[Hashable]:
        return {edge.target for edge in self.machine.edges}

    def told_by(self, channel: str) -> Hashable:
        """Answer the state whose arrival *channel* tells, if any."""
        return next((s for s, c in self.machine.channels.items() if c == channel), None)

    def occasion(self, channel: str) -> str:
        state = self.told_by(channel)
        if state is not None and state == self.machine.initial and state not in self.arrivals:
            return "never: a new bus is there already"
        if state is not None:
            return f"on arrival in {code(name_of(state))}"
        if channel == self.machine.closing:
            return "once, when everything is over"
        return EXTRA_CHANNELS[channel][0]

    def failure(self, channel: str) -> str:
        state = self.told_by(channel)
        if state is not None and state not in self.arrivals:
            return ""
        if state in self.machine.news or channel == self.machine.closing:
            return "is logged and changes nothing"
        if state is None:
            return EXTRA_CHANNELS[channel][1]
        target = self.machine.step(state, machine.Cause.FAILED)
        if target is None:
            return "is reported; the exit goes on"
        unwinds = self.machine.unwind.get(state)
        to = f", and the bus goes on to {code(name_of(unwinds))}" if unwinds is not None else ""
        return f"leads to {code(name_of(target))}{to}"


#: Channels of no state: what the code does with them cannot be read off a table.
EXTRA_CHANNELS = {
    "graceful": ("by the command ``graceful``", "makes the command raise"),
    "log": ("by ``bus.log(msg, level)``, as ``(msg, level)``", "is told to standard error"),
    "main": (
        "by ``block()`` in the main thread, every 0.1 s, while somebody listens",
        "is logged; the next round comes later",
    ),
    "execv": ("by ``block()``, just before it runs the command line again", "is logged"),
}


class PriorityTable(Generated):
    """The named priorities, in the order in which they run."""

    def text(self) -> str:
        from sitebus.process import Priority

        ordered = sorted(Priority.__members__.items(), key=lambda item: item[1])
        rows = [(code(f"Priority.{name}"), str(int(value))) for name, value in ordered]
        return table("40 20", [("Name", "Runs at"), *rows])


class ExitStatusList(Generated):
    """Each exit status, with the errors that lead to it."""

    def text(self) -> str:
        found = [(name, status) for name, status in vars(errors).items() if name.startswith("EX_")]
        return "\n".join(self.status(name, status) for name, status in found)

    def status(self, name: str, status: int) -> str:
        reasons = [f"    * {code(each.__name__)}: {first_line(each)}" for each in causes(status)]
        if status == errors.EX_OK:
            reasons = ["    The process was asked to end."]
        return "\n".join([f"{status} (``{name}``)", *reasons, ""]) if reasons else ""


def causes(status: int) -> list[type]:
    """Answer the errors whose exit status is *status*."""
    return [
        each
        for each in vars(errors).values()
        if isinstance(each, type)
        and issubclass(each, errors.SitebusError | errors.ChannelFailures)
        and each is not errors.SitebusError
        and each.status == status
    ]


def first_line(thing: object) -> str:
    """Answer the first sentence of a docstring."""
    return (thing.__doc__ or "").strip().partition("\n")[0]


class OptionList(Generated):
    """Every section of a site.ini, with its settings; with a kind, the settings of that one."""

    optional_arguments: ClassVar[int] = 1

    def text(self) -> str:
        if self.arguments:
            found, *others = (each for each in self.sections() if each.kind == self.arguments[0])
            own = "\n".join(map(self.option, found.rows))
            return "\n\n".join([own, *map(self.section, others)])
        return "\n\n".join(map(self.section, self.sections()))

    def sections(self) -> Iterator[Any]:
        """Answer every section there is, the built-in plugins after what all plugins have."""
        from sitebus.assembly import plugin_section, table
        from sitebus.plugins import BUILT_IN

        for section in table().sections:
            if section.kind != "relay":
                yield section
            if section.kind == "plugin":
                for name in BUILT_IN:
                    member = plugin_section(name)
                    assert member is not None, name
                    yield member._replace(argument=name)
            elif section.kind == "relay":
                yield section._replace(argument="")
                yield from filter(None, map(section.member, section.members))

    def section(self, section: Any) -> str:
        title = code(section.title)
        about = [section.help, "Any other key is handed on as it is." if section.free else ""]
        # What the default adapter adds; another may add other settings.
        deciding = section.row(section.brings_by)
        if deciding:
            section = section.brings(section, deciding.default)
        settings = [self.option(row) for row in section.rows]
        return "\n".join([title, "-" * len(title), "", " ".join(about), "", *settings])

    def option(self, row: Any) -> str:
        lines = [f"``{row.name} = {row.kind.metavar}``", f"    {row.help}"]
        default = row.default_text or self.written(row, row.default)
        if row.required:
            lines.append("    It has no default.")
        elif default:
            others = [
                f"; in {environment}: {code(self.written(row, value))}"
                for environment, value in row.by_environment.items()
            ]
            lines.append(f"    Default: {code(default)}{''.join(others)}")
        return "\n".join([*lines, ""])

    def written(self, row: Any, value: Any) -> str:
        """Answer a default as a file would say it."""
        return "" if value in (None, "", ()) else str(row.kind.format(value))


class FleetOptions(OptionList):
    """Every section of a fleet.ini, with its settings."""

    optional_arguments: ClassVar[int] = 0

    def text(self) -> str:
        return "\n\n".join(map(self.section, self.sections()))

    def sections(self) -> Iterator[Any]:
        from sitebus.fleet.inventory import FLEET, SITE, TABLE

        others = {row.name for row in (*FLEET.rows, *SITE.rows)}
        for section in TABLE.sections:
            if section.kind == "host":
                rows = tuple(row for row in section.rows if row.name not in others)
                also = "It takes what ``[fleet]`` and ``[site]`` take for a host, and"
                section = section._replace(rows=rows, help=f"{section.help} {also}")
            yield section


class FleetErrors(Generated):
    """What can be raised on account of a host, or of what is to be sent there."""

    def text(self) -> str:
        from sitebus.errors import fleet, releases, rolls

        rows = [("Error", "Exit status", "Means")]
        for module in (fleet, releases, rolls):
            for name, each in vars(module).items():
                if isinstance(each, type) and each.__module__ == module.__name__:
                    rows.append((code(name), str(getattr(each, "status", "")), first_line(each)))
        return table("25 12 63", rows)


class FleetCommands(Generated):
    """The commands of ``sitebus-fleet``, from their parsers; what all rolls take stands once."""

    def text(self) -> str:
        from sitebus.cli.fleet_arguments import COMMANDS, COMMON

        shared = [each for each in COMMANDS["graceful"][1] if each.names[0].startswith("--")]
        parts = [self.command(name, *told, shared) for name, told in COMMANDS.items()]
        parts += [self.group("Of all rolls", shared), self.group("Of all commands", COMMON)]
        return "\n".join(parts)

    def command(self, name: str, said: str, arguments: Sequence[Any], shared: Sequence[Any]) -> str:
        own = [each for each in arguments if each not in shared]
        is_roll = shared[0] in arguments
        names = [code(each.names[0]) for each in shared if each in arguments and not is_roll]
        more = ["It is a roll."] * is_roll + [f"It takes {each} as a roll does." for each in names]
        sentence = " ".join([f"{said[0].upper()}{said[1:]}.", *more])
        return self.group(code(name), own, sentence)

    def group(self, title: str, arguments: Iterable[Any], sentence: str = "") -> str:
        return "\n".join(
            [title, "~" * len(title), "", sentence, "", *map(self.argument, arguments)]
        )

    def argument(self, argument: Any) -> str:
        settings = argument.settings
        names = ", ".join(argument.names) if argument.names[0].startswith("-") else ""
        value = settings.get("metavar") or "|".join(settings.get("choices", ()))
        return f"``{f'{names} {value}'.strip()}``\n    {settings['help']}\n"


class AdapterTable(Generated):
    """What each adapter's library can do."""

    def text(self) -> str:
        from sitebus.servers import BUILT_IN

        heading = (
            "Adapter", "Speaks", "TLS", "HTTP/2", "WebSocket", "PROXY", "Hands over", "Needs", "",
        )  # fmt: skip
        return table("11 11 6 7 9 7 9 18 22", [heading, *map(self.row, BUILT_IN)])

    def row(self, name: str) -> Sequence[str]:
        adapter: Any = adapter_class(name)
        able = adapter.abilities
        speaks = " and ".join(each.upper() for each in able.speaks)
        known = (able.tls, able.http2, able.websocket, able.proxy_protocol, able.hand_over)
        marks = ["yes" if each else "no" for each in known]
        extra = "" if name in ("cheroot", "wsgiref") else code(f"sitebus[{name}]")
        return (code(name), speaks, *marks, extra or "nothing more", able.note)


class ReservedOptions(Generated):
    """What an adapter's library cannot be told, and what to say instead."""

    def text(self) -> str:
        from sitebus.servers import BUILT_IN

        return "\n".join(filter(None, map(self.of, BUILT_IN)))

    def of(self, name: str) -> str:
        module = sys.modules[adapter_class(name).__module__]
        reserved: dict[str, str] = getattr(module, "RESERVED", {})
        if not reserved:
            return ""
        rows = [(code(f"{name}.{option}"), instead) for option, instead in reserved.items()]
        heading = [name, "~" * len(name), ""]
        return "\n".join([*heading, table("35 65", [("Option", "Instead"), *rows])])


def adapter_class(name: str) -> type:
    """Answer an adapter's class, whether or not its library is installed."""
    from sitebus.servers import BUILT_IN

    module, _, attribute = BUILT_IN[name].partition(":")
    found: type = getattr(importlib.import_module(module), attribute)
    return found


class CommandLine(Generated):
    """The arguments of ``sitebus-serve``, from its parser."""

    def text(self) -> str:
        from sitebus.cli.flags import build_parser

        parser = build_parser()
        usage = parser.format_usage().removeprefix("usage: ").strip()
        groups = [group for group in parser._action_groups if group._group_actions]
        return "\n".join([".. code-block:: text", "", f"    {usage}", "", *map(self.group, groups)])

    def group(self, group: argparse._ArgumentGroup) -> str:
        title = (group.title or "").capitalize()
        return "\n".join([title, "-" * len(title), "", *map(self.action, group._group_actions)])

    def action(self, action: argparse.Action) -> str:
        term = ", ".join(action.option_strings) or str(action.metavar)
        if action.option_strings and action.nargs != 0:
            value = action.metavar or "|".join(map(str, action.choices or ("VALUE",)))
            term += f"{'=' if '--' in term else ' '}{value}"
        return f"``{term}``\n    {(action.help or '').replace('%%', '%')}\n"


def setup(app: Sphinx) -> ExtensionMetadata:
    """Called by Sphinx."""
    for directive in (
        StateDiagram,
        StateTable,
        ChannelTable,
        PriorityTable,
        ExitStatusList,
        OptionList,
        FleetOptions,
        FleetCommands,
        FleetErrors,
        CommandLine,
        AdapterTable,
        ReservedOptions,
    ):
        name = "".join(f"-{c.lower()}" if c.isupper() else c for c in directive.__name__)
        app.add_directive(name.lstrip("-"), directive)
    return {"parallel_read_safe": True}
