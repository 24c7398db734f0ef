"""systemd hears the truth about the bus, on a real notify socket."""

from __future__ import annotations

import itertools
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sitebus.plugins.systemd import Systemd, watchdog_interval
from sitebus.process import Engine
from tests.helpers import nothing_left, wait_for
from tests.plugins.notify import Manager

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="systemd is Linux'")


@pytest.fixture(params=["path", "abstract"])
def any_manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    """At both kinds of address."""
    abstract = request.param == "abstract"
    with Manager(f"@sitebus-{os.getpid()}" if abstract else str(tmp_path / "notify")) as manager:
        yield manager


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    with Manager(str(tmp_path / "notify")) as manager:
        yield manager


class TestLife:
    """What is said when."""

    def test_ready_and_stopping(self, any_manager: Manager, bus: Engine) -> None:
        """READY with the addresses once everything has started, STOPPING before anything stops."""
        order: list[str] = []
        listener = bus.sockets.bind("127.0.0.1:0")
        bus.subscribe("stop", lambda: order.append(any_manager.next().fields["STOPPING"]), -1000)
        Systemd(bus, notify_socket=any_manager.address).subscribe()
        bus.start()
        starting, ready = any_manager.next(), any_manager.next()
        assert starting.fields == {"STATUS": "Starting"}
        assert ready.fields == {"READY": "1", "STATUS": f"Serving on {listener.address}"}
        assert ready.pid == os.getpid()
        bus.stop_timeout = 20
        bus.exit()
        assert order == ["1"]
        assert int(any_manager.seen[-1].fields["EXTEND_TIMEOUT_USEC"]) == 25_000_000
        assert any_manager.rest() == []

    def test_stop_is_not_the_end(self, manager: Manager, bus: Engine) -> None:
        """The process stays, and serves again."""
        Systemd(bus, notify_socket=manager.address).subscribe()
        bus.start()
        manager.until("READY")
        bus.stop()
        assert manager.next().fields == {"STATUS": "Stopped; the next start goes on"}
        bus.start()
        manager.until("READY")
        bus.stop()
        bus.exit()
        manager.until("STOPPING")
        assert manager.said() == ["READY", "READY", "STOPPING"]

    def test_a_start_that_fails_is_never_ready(self, manager: Manager, bus: Engine) -> None:
        """Units that need the site would be started."""
        bus.subscribe("start", lambda: [][0], 99)
        Systemd(bus, notify_socket=manager.address).subscribe()
        with pytest.raises(IndexError):
            bus.start()
        manager.until("STOPPING")
        assert manager.said() == ["STOPPING"]

    def test_a_graceful_reload_is_framed(self, manager: Manager, bus: Engine) -> None:
        """RELOADING and its time in one datagram before the first, READY after the last."""
        heard: list[dict[str, str]] = []
        for priority in (-1000, 1000):
            bus.subscribe(
                "graceful", lambda: heard.extend(n.fields for n in manager.rest()), priority
            )
        plugin = Systemd(bus, notify_socket=manager.address)
        plugin.subscribe()
        bus.start()
        manager.rest()
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        bus.graceful()
        assert [fields["RELOADING"] for fields in heard] == ["1"]
        after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        assert before <= int(heard[0]["MONOTONIC_USEC"]) <= after
        assert manager.next().fields["READY"] == "1"

    def test_a_roll_is_a_reload(self, manager: Manager, bus: Engine) -> None:
        """``systemctl reload`` returns when the workers are replaced, and tells if they are not."""
        Systemd(bus, notify_socket=manager.address).subscribe()
        bus.start()
        manager.rest()
        bus.publish("rolling.begin", {"kind": "recycle"})
        assert manager.rest() == []
        bus.publish("rolling.begin", {"kind": "roll"})
        assert manager.next().fields["RELOADING"] == "1"
        bus.publish("rolling.abort", {"kind": "roll", "state": "aborted", "reason": "no table"})
        assert manager.next().fields == {
            "READY": "1",
            "STATUS": "reload failed: no table; still serving the old code",
        }

    def test_a_graceful_before_the_start_says_nothing(self, manager: Manager, bus: Engine) -> None:
        """READY would be a lie."""
        Systemd(bus, notify_socket=manager.address).subscribe()
        bus.graceful()
        bus.publish("restart_refused", ValueError("no"))
        assert manager.rest() == []

    def test_a_refused_restart_ends_the_reload(self, manager: Manager, bus: Engine) -> None:
        """``systemctl reload`` waits for READY, and ``systemctl status`` tells why in vain."""
        Systemd(bus, notify_socket=manager.address).subscribe()
        bus.start()
        manager.rest()
        bus.publish("restart_refused", ValueError("shop.py, line 3: no\nReally not"))
        assert manager.next().fields.keys() == {"RELOADING", "MONOTONIC_USEC"}
        assert manager.next().fields == {
            "READY": "1",
            "STATUS": "reload failed: shop.py, line 3: no; still serving the old code",
        }

    def test_a_restart_that_an_exit_refuses_is_no_news(self, manager: Manager, bus: Engine) -> None:
        """READY after STOPPING would be a lie, and so would be that the old code serves on."""
        Systemd(bus, notify_socket=manager.address).subscribe()
        bus.subscribe("stop", lambda: bus.publish("restart_refused", ValueError("leaving")))
        bus.start()
        bus.exit()
        manager.rest()
        assert manager.said() == ["READY", "STOPPING"]

    def test_a_graceful_while_stopped_says_nothing(self, manager: Manager, bus: Engine) -> None:
        """Nothing is served that could be ready."""
        Systemd(bus, notify_socket=manager.address).subscribe()
        bus.start()
        bus.stop()
        manager.rest()
        bus.graceful()
        assert manager.rest() == []

    def test_statuses_can_be_left_out(self, manager: Manager, bus: Engine) -> None:
        """And a message that has nothing else is not sent at all."""
        Systemd(bus, notify_socket=manager.address, status=False).subscribe()
        bus.start()
        bus.exit()
        assert [set(news.fields) for news in manager.rest()] == [
            {"READY"},
            {"STOPPING", "EXTEND_TIMEOUT_USEC"},
        ]

    def test_without_systemd_nothing_is_done(
        self, bus: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Not even listened for."""
        monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
        monkeypatch.setenv("WATCHDOG_USEC", "1000")
        before = bus.describe().channels
        Systemd(bus).subscribe()
        assert bus.describe().channels == before

    def test_the_trial_of_a_restart_says_nothing(self, manager: Manager) -> None:
        """It has the environment of the service, and ends soon."""

        class Trial(Engine):
            trying = True

        bus = Trial()
        before = bus.describe().channels
        Systemd(bus, notify_socket=manager.address).subscribe()
        assert bus.describe().channels == before

    def test_a_socket_that_is_gone_is_one_warning(self, tmp_path: Path, bus: Engine) -> None:
        """And no reason not to serve."""
        warnings: list[str] = []
        bus.subscribe("log", lambda line, level: warnings.append(line) if level > 20 else None)
        Systemd(bus, notify_socket=str(tmp_path / "gone"), fdstore=True).subscribe()
        bus.start()
        bus.graceful()
        bus.exit()
        (warning,) = warnings
        assert warning.startswith(f"cannot notify systemd at '{tmp_path}/gone': [Errno 2]")
        assert bus.exit_code == 0

    @pytest.mark.parametrize("address", ["/" + 200 * "x", "vsock:2:99", "nul\0"])
    def test_an_address_that_is_none_is_one_warning(self, address: str, bus: Engine) -> None:
        """Some managers have kinds that we do not know."""
        warnings: list[str] = []
        bus.subscribe("log", lambda line, level: warnings.append(line) if level > 20 else None)
        Systemd(bus, notify_socket=address).subscribe()
        bus.start()
        bus.exit()
        assert len(warnings) == 1

    def test_it_works_on_the_bus_of_cherrypy(self, manager: Manager) -> None:
        """As far as that bus says what it does."""
        wspbus = pytest.importorskip("cherrypy.process.wspbus")
        bus = wspbus.Bus()
        Systemd(bus, notify_socket=manager.address, fdstore=True).subscribe()
        for channel in ("start", "graceful", "stop", "exit"):
            bus.publish(channel)
        manager.until("STOPPING")
        assert manager.said() == ["READY", "RELOADING", "READY", "STOPPING"]


class TestWatchdog:
    """Signs of life, from whoever is alive."""

    def test_it_beats_at_half_the_interval(
        self, manager: Manager, bus: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """While the main loop comes round, and no longer than to the exit."""
        monkeypatch.setenv("WATCHDOG_USEC", "200000")
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
        Systemd(bus, notify_socket=manager.address).subscribe()
        times: list[float] = []

        def listen() -> None:
            manager.until("READY")
            for _ in range(6):
                manager.until("WATCHDOG")
                times.append(time.monotonic())
            bus.exit()

        bus.start()
        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        assert bus.block() == 0
        thread.join()
        manager.until("STOPPING")
        gaps = [after - before for before, after in itertools.pairwise(times[1:])]
        assert 0.05 < sum(gaps) / len(gaps) < 0.15, gaps
        assert max(gaps) < 0.2

    def test_a_main_loop_that_hangs_is_not_alive(
        self, manager: Manager, bus: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nobody is in ``block``: systemd has to know, and so has the log."""
        monkeypatch.setenv("WATCHDOG_USEC", "20000")
        monkeypatch.delenv("WATCHDOG_PID", raising=False)
        said: list[str] = []
        bus.subscribe("log", lambda line, level: said.append(line))
        Systemd(bus, notify_socket=manager.address).subscribe()
        bus.start()
        manager.until("READY")
        line = "not answering systemd's watchdog: the main loop has not come round"
        wait_for(lambda: line in said)
        assert manager.rest() == []
        # A way down has a deadline of its own, and may take longer than the interval.
        bus.subscribe("stop", lambda: manager.until("WATCHDOG"))
        bus.exit()
        assert said.count(line) == 1

    def test_a_start_may_take_longer_than_the_interval(
        self, manager: Manager, bus: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """After a re-exec systemd has never stopped to watch."""
        monkeypatch.setenv("WATCHDOG_USEC", "20000")
        bus.subscribe("start", lambda: manager.until("WATCHDOG"), 75)
        Systemd(bus, notify_socket=manager.address).subscribe()
        bus.start()

    def test_a_new_image_has_the_whole_interval(
        self, manager: Manager, bus: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Half an interval may have passed before an exec, and half passes after a start."""
        monkeypatch.setenv("WATCHDOG_USEC", "60000000")
        Systemd(bus, notify_socket=manager.address).subscribe()
        bus.start()
        assert [n.fields for n in manager.rest()].count({"WATCHDOG": "1"}) == 1
        bus.publish("execv")
        assert [n.fields for n in manager.rest()] == [{"WATCHDOG": "1"}]
        bus.publish("execv")
        assert manager.rest() == []

    def test_a_graceful_that_hangs_is_not_alive_for_ever(
        self, manager: Manager, bus: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It has no deadline of its own; a stop's is long enough for it."""
        monkeypatch.setenv("WATCHDOG_USEC", "20000")
        bus.stop_timeout = 0.2
        said: list[str] = []
        bus.subscribe("log", lambda line, level: said.append(line))
        Systemd(bus, notify_socket=manager.address).subscribe()

        def hang() -> None:
            manager.rest()
            manager.until("WATCHDOG")
            wait_for(lambda: any("the main loop has not come round" in line for line in said))

        bus.subscribe("graceful", hang)
        bus.start()

        def reload() -> None:
            bus.graceful()
            bus.exit()

        thread = threading.Thread(target=reload, daemon=True)
        bus.call_in_main(thread.start)
        bus.call_in_main(lambda: wait_for(lambda: not thread.is_alive()))
        bus.block()

    def test_a_stuck_site_is_not_alive(
        self, manager: Manager, bus: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The main loop comes round, but nobody serves."""
        said: list[str] = []
        monkeypatch.setenv("WATCHDOG_USEC", "20000")
        bus.serving.stuck = True
        bus.subscribe("log", lambda line, level: said.append(line))
        Systemd(bus, notify_socket=manager.address).subscribe()

        def listen() -> None:
            wait_for(lambda: any("every thread that serves is stuck" in line for line in said))
            manager.rest()
            bus.serving.stuck = False
            manager.until("WATCHDOG")
            bus.exit()

        bus.start()
        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        bus.block()
        thread.join()
        assert sum("every thread that serves is stuck" in line for line in said) == 1

    def test_it_can_be_left_out(
        self, manager: Manager, bus: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No thread, no wake-up; neither where systemd asks for none."""
        monkeypatch.setenv("WATCHDOG_USEC", "1000")
        Systemd(bus, notify_socket=manager.address, watchdog=False).subscribe()
        with nothing_left():
            bus.start()
        monkeypatch.delenv("WATCHDOG_USEC")
        other = Engine()
        Systemd(other, notify_socket=manager.address).subscribe()
        with nothing_left():
            other.start()
        other.exit()

    @pytest.mark.parametrize(
        ("pid", "usec", "interval"),
        [
            ("", "", None),
            ("", "30000000", 30.0),
            pytest.param(str(os.getpid()), "500000", 0.5, id="our own"),
            ("1", "500000", None),
            ("", "0", None),
            ("", "-1", None),
            ("", "soon", None),
        ],
    )
    def test_the_interval_is_ours_or_nobodys(
        self, pid: str, usec: str, interval: float | None
    ) -> None:
        """A child inherits the variables, and is not watched."""
        assert watchdog_interval({"WATCHDOG_PID": pid, "WATCHDOG_USEC": usec}) == interval
        assert watchdog_interval({}) is None


class TestStore:
    """Sockets that survive a crash."""

    def test_sockets_are_kept_and_taken_back(
        self, manager: Manager, bus: Engine, tmp_path: Path
    ) -> None:
        """The descriptors come with names by which the next start finds them again."""
        tcp = bus.sockets.bind("127.0.0.1:0")
        unix = bus.sockets.bind(f"unix:{tmp_path}/site.sock")
        Systemd(bus, notify_socket=manager.address, fdstore=True).subscribe()
        bus.start()
        manager.until("READY")
        stored = [manager.next(), manager.next()]
        assert [news.fields["FDSTORE"] for news in stored] == ["1", "1"]
        names = [news.fields["FDNAME"] for news in stored]
        assert all(name.isprintable() and ":" not in name and len(name) < 256 for name in names)
        kept = [socket.socket(fileno=os.dup(news.fds[0])) for news in stored]
        assert [each.getsockname() for each in kept] == [
            (tcp.address.host, tcp.address.port),
            unix.address.path,
        ]
        for each in kept:
            each.close()
        bus.exit()
        manager.until("STOPPING")
        removed = [manager.next().fields for _ in names]
        assert removed == [{"FDSTOREREMOVE": "1", "FDNAME": name} for name in names]
        manager.forget()

    def test_sockets_of_a_socket_unit_are_left_to_it(self, manager: Manager, bus: Engine) -> None:
        """Else they would be passed twice, and nobody could tell which is which."""
        listener = bus.sockets.bind("127.0.0.1:0")
        listener.name = "web"
        Systemd(bus, notify_socket=manager.address, fdstore=True).subscribe()
        bus.start()
        bus.exit()
        manager.rest()
        assert manager.said() == ["READY", "STOPPING"]

    def test_a_name_too_long_is_replaced(
        self, manager: Manager, bus: Engine, tmp_path: Path
    ) -> None:
        """It would be refused, and the address alone tells which socket it is."""
        listener = bus.sockets.bind("127.0.0.1:0")
        listener.asked = type(listener.asked).parse("unix:/" + "ü" * 50)
        Systemd(bus, notify_socket=manager.address, fdstore=True).subscribe()
        bus.start()
        assert manager.until("FDSTORE").fields["FDNAME"] == "sitebus"
        manager.forget()
