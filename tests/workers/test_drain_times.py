"""How long a stop waits for requests, whichever section says it."""

from __future__ import annotations

import http.client
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.helpers import PATIENCE
from tests.workers.site import WorkerSite, write

#: Far above what a stop takes, and far below what it would take by default.
SOON = 12.0


def ask_for_ever(site: WorkerSite) -> threading.Thread:
    """Have a worker serve a request that does not end by itself."""
    connection = http.client.HTTPConnection(*site.address, timeout=PATIENCE * 4)
    connection.request("GET", "/slow?600")

    def wait() -> None:
        with closing(connection):
            try:
                print(f"the request was answered: {connection.getresponse().status}")
            except (OSError, http.client.HTTPException) as error:
                print(f"the request was cut off: {error!r}")

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [(), ("-w", "0", "--reload")])
def test_a_server_s_time_is_the_workers_too(arguments: tuple[str, ...], tmp_path: Path) -> None:
    """Whoever says it means it, however many processes serve."""
    write(tmp_path)
    with WorkerSite(tmp_path, *arguments, "-o", "server.drain_timeout=1s") as site:
        asking = ask_for_ever(site)
        site.signal(15)
        began = time.monotonic()
        site.wait(PATIENCE)
        assert 0.9 < time.monotonic() - began < SOON
        asking.join(PATIENCE)
        assert "has no effect" not in site.output


def test_what_the_workers_own_time_overrules_is_told_at_the_start(tmp_path: Path) -> None:
    """Two places that say different things: one line says which one counts."""
    file = write(tmp_path, drain_timeout="3s")
    file.write_text(file.read_text().replace("[server]\n", "[server]\ndrain_timeout = 2s\n"))
    with WorkerSite(tmp_path) as site:
        told = "WARNING sitebus: site.ini:4: drain_timeout = 2s has no effect: "
        assert site.output.count("has no effect") == 1
        assert f"{told}there are workers, and theirs is 3s (site.ini:" in site.output
        assert site.stop() == 0
    with WorkerSite(tmp_path, "-w", "0") as site:
        assert site.stop() == 0
        assert "has no effect" not in site.output
