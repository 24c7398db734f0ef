"""cheroot through re-executions of its process: what clients notice is a pause."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from pathlib import Path

import pytest

from sitebus.sockets.addresses import Address
from tests.helpers import Child, wait_for
from tests.servers.client import Client

PROGRAM = """
import os, signal, sys
from sitebus.process import Engine
from sitebus.servers.cheroot import CherootServer

def pid(environ, start_response):
    body = b"%d" % os.getpid()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]

inherited = len(os.listdir("/dev/fd"))
engine = Engine()
server = CherootServer(engine, pid, binds=["127.0.0.1:0"])
server.subscribe()
signal.signal(signal.SIGUSR2, lambda *_: engine.call_in_main(engine.restart))
signal.signal(signal.SIGTERM, lambda *_: engine.interrupt())
engine.start()
print("serving on", server.addresses[0], inherited, flush=True)
sys.exit(engine.block())
"""


class Load:
    """Clients that ask again and again, and remember what they were told and what went wrong."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.bodies: list[bytes] = []
        self.failures: list[BaseException] = []
        self.over = threading.Event()
        self.threads = [threading.Thread(target=self.run, args=(n,)) for n in (1, 1, 1, 50, 50)]
        for thread in self.threads:
            thread.start()

    def run(self, requests_each: int) -> None:
        try:
            while not self.over.is_set():
                self.visit(requests_each)
        except (OSError, ValueError, AssertionError) as error:
            self.failures.append(error)
            raise

    def visit(self, requests_each: int) -> None:
        with Client(self.address) as client:
            for _ in range(requests_each):
                answer = client.get()
                assert answer.status == 200
                self.bodies.append(answer.body)
                if answer.closes:
                    return

    def close(self) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join()


@pytest.mark.slow
def test_no_request_is_lost_through_ten_restarts(tmp_path: Path) -> None:
    """Same port, same process, nobody refused, and as many descriptors as before."""
    program = tmp_path / "serve.py"
    program.write_text(PROGRAM)
    with Child([sys.executable, program]) as child:
        line = r"^serving on (\S+) (.*)$"
        address = Address.parse(child.wait_for_output(line)[1])
        load = Load(address)
        for times in range(2, 12):
            child.signal(signal.SIGUSR2)
            child.wait_for_output(rf"(?:^serving on .*\n?){{{times}}}")
            enough = len(load.bodies) + 50
            wait_for(lambda enough=enough: load.failures or len(load.bodies) > enough)  # type: ignore[misc]
        load.close()

        assert load.failures == []
        assert set(load.bodies) == {b"%d" % child.pid}
        assert child.stop() == os.EX_OK
    lives = re.findall(line, child.output, re.MULTILINE)
    assert len(lives) == 11
    assert {address for address, _ in lives} == {str(load.address)}
    # The first life inherited nothing, each later one the same listening socket.
    assert len({inherited for _, inherited in lives[1:]}) == 1
