"""The how-to of the relay is followed word for word: keys, two sites at a time, a command."""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path

from tests.helpers import ROOT, Child
from tests.relay.test_relay_examples import free_ports
from tests.test_docs import SERVING, Block, Story, blocks_of

PAGE = ROOT / "docs/howto/relay.rst"


class TwoSites(Story):
    """A story in which sites go on while others begin, each on ports that are free."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.stack = ExitStack()
        self.ports = dict(zip(("8080", "8081", "5555"), map(str, free_ports(3)), strict=True))

    def told(self, text: str) -> str:
        """Answer a text with the ports that are free."""
        return re.sub("|".join(self.ports), lambda match: self.ports[match[0]], text)

    def follow(self, blocks: list[Block]) -> None:
        with self.stack:
            for block in blocks:
                block = block._replace(text=self.told(block.text))
                if block.language == "shell-session":
                    self.type_in(block)
                elif block.caption:
                    self.write(self.directory / block.caption, block.text)

    def run(self, command: str) -> str:
        # It is installed where this runs.
        return "" if command.startswith("pip ") else super().run(command)

    def serve(self, argv: list[str], sign: str = SERVING) -> str:
        child = self.stack.enter_context(Child(argv, cwd=self.directory))
        child.wait_for_output(sign)
        if "web2" in argv[-1]:
            child.wait_for_output("relay: web1 is up")
        return child.output


def test_the_page_does_what_it_says(tmp_path: Path) -> None:
    """From nothing to two nodes that know each other by their keys."""
    TwoSites(tmp_path).follow(list(blocks_of(PAGE)))


def test_the_calls_of_the_page_are_answered(tmp_path: Path) -> None:
    """A rule lets one node have the other reload, and not the other way round."""
    blocks = [block for block in blocks_of(PAGE) if block.language != "python" or block.caption]
    story = TwoSites(tmp_path)
    served = [block for block in blocks if "curl" not in block.text]
    ask = (
        "import sitebus\n\n\n"
        "def application(environ, start_response):\n"
        "    found = sitebus.engine.relay.call('graceful')\n"
        "    start_response('200 OK', [])\n"
        "    return [repr(found).encode()]\n"
    )
    with story.stack:
        for block in served:
            block = block._replace(text=story.told(block.text))
            if block.language == "shell-session":
                story.type_in(block)
            elif block.caption:
                story.write(story.directory / block.caption, block.text)
                if block.caption == "shop.py":
                    story.write(story.directory / block.caption, ask)
        assert story.run(f"curl http://127.0.0.1:{story.ports['8080']}/") == "{'web2': []}"
        found = story.run(f"curl http://127.0.0.1:{story.ports['8081']}/")
        assert found == "{}"
