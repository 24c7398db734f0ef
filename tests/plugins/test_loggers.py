"""A line of the bus reaches its stream or file, and one that cannot breaks nothing."""

from __future__ import annotations

import contextlib
import gzip
import io
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sitebus.errors import BadLogFormat, CannotWriteLog, NoLogFile, SitebusError
from sitebus.logfile import LogFile, last_resort
from sitebus.plugins.loggers import FileLogger, StderrLogger, StdoutLogger, StreamLogger
from sitebus.process import Engine, ProcessBus
from tests.helpers import Child, nothing_left

PLAIN = "%(message)s\n"
DEFAULT = re.compile(r"\[(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6})\] \(Bus (\w+)\) (.*)\n")

root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")
full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full device")


class TestStreams:
    """Whatever can be written to."""

    @pytest.mark.parametrize("stream", [io.StringIO(), io.BytesIO()], ids=["text", "bytes"])
    def test_text_and_bytes_both_work(self, bus: Engine, stream: Any) -> None:
        """On Python 3 magicbus' loggers for the terminal have never written a line."""
        StreamLogger(bus, stream).subscribe()
        bus.log("grüße")
        written = stream.getvalue()
        line = written if isinstance(written, str) else written.decode()
        found = DEFAULT.fullmatch(line)
        assert found
        assert found.group(2, 3) == (bus.id, "grüße")

    def test_a_compressed_file_works_too(self, bus: Engine, tmp_path: Path) -> None:
        """Its type says nothing about what it takes."""
        with gzip.open(tmp_path / "log.gz", "wb") as stream:
            StreamLogger(bus, stream, format=PLAIN).subscribe()
            bus.log("packed")
        assert gzip.decompress((tmp_path / "log.gz").read_bytes()) == b"packed\n"

    def test_anything_with_write_works(self, bus: Engine) -> None:
        """It need not be a stream of Python's."""
        lines: list[str] = []

        class Memory:
            write = staticmethod(lines.append)

        StreamLogger(bus, Memory(), format=PLAIN).subscribe()
        bus.log("kept")
        assert lines == ["kept\n"]

    def test_bytes_have_the_encoding_asked_for(self, bus: Engine) -> None:
        """What it cannot write is spelled out, not lost."""
        stream = io.BytesIO()
        StreamLogger(bus, stream, format=PLAIN, encoding="latin-1").subscribe()
        bus.log("grüße 雪 \udcff")
        assert stream.getvalue() == b"gr\xfc\xdfe \\u96ea \\udcff\n"

    @pytest.mark.parametrize("encoding", ["utf-8", None])
    def test_an_old_terminal_gets_what_it_can_show(self, bus: Engine, encoding: str | None) -> None:
        """A line in another script must not be an error there."""
        raw = io.BytesIO()
        stream = io.TextIOWrapper(raw, encoding="ascii")
        StreamLogger(bus, stream, format=PLAIN, encoding=encoding).subscribe()
        bus.log("snow: 雪")
        assert raw.getvalue() == b"snow: \\u96ea\n"

    def test_what_is_below_the_level_is_left_out(self, bus: Engine) -> None:
        """And the format may show the level."""
        stream = io.StringIO()
        StreamLogger(bus, stream, level=30, format="%(level)s %(message)s\n").subscribe()
        bus.log("small talk")
        bus.log("look out", level=logging.WARNING)
        bus.log("broken", level=logging.ERROR)
        assert stream.getvalue() == "30 look out\n40 broken\n"

    def test_percent_signs_in_a_message_mean_nothing(self, bus: Engine) -> None:
        """Only those of the format do."""
        stream = io.StringIO()
        StreamLogger(bus, stream, format=PLAIN).subscribe()
        bus.log("100% of %(message)s")
        assert stream.getvalue() == "100% of %(message)s\n"

    @pytest.mark.parametrize("format", ["%(mesage)s", "%d", "%(message)", "%(message)d"])
    def test_a_format_that_cannot_work_is_refused(self, bus: Engine, format: str) -> None:
        """At once, and not with every line that is lost."""
        with pytest.raises(BadLogFormat) as caught:
            StreamLogger(bus, io.StringIO(), format=format)
        assert caught.value.status == 78
        assert repr(format) in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_nobody_writes_after_unsubscribe(self, bus: Engine) -> None:
        """A stream is the caller's again then."""
        stream = io.StringIO()
        logger = StreamLogger(bus, stream)
        logger.subscribe()
        logger.unsubscribe()
        bus.log("unheard")
        assert stream.getvalue() == ""

    def test_the_terminal_of_magicbus_works(self, capsys: pytest.CaptureFixture[str]) -> None:
        """In its states as well: the whole life of a bus, line by line."""
        bus = ProcessBus("deadbeef")
        StdoutLogger(bus, format=PLAIN).subscribe()
        StderrLogger(bus, level=40).subscribe()
        bus.transition("RUN")
        bus.log("trouble", level=40)
        bus.transition("EXITED")
        said = capsys.readouterr()
        assert said.out.splitlines()[:2] == ["Bus state: ENTER", "Bus state: IDLE"]
        assert said.out.splitlines()[-1] == "Bus state: EXITED"
        found = DEFAULT.fullmatch(said.err)
        assert found
        assert found.group(2, 3) == ("deadbeef", "trouble")

    def test_a_program_without_a_terminal_logs_nowhere(
        self, bus: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Windows programs and some daemons have no standard streams at all."""
        monkeypatch.setattr("sys.stdout", None)
        StdoutLogger(bus).subscribe()
        bus.log("nobody hears this")

    def test_a_bus_of_cherrypys_own_has_a_name_made_up(self) -> None:
        """It has no id."""
        wspbus = pytest.importorskip("cherrypy.process.wspbus")
        bus, stream = wspbus.Bus(), io.StringIO()
        StreamLogger(bus, stream).subscribe()
        bus.log("hello")
        assert DEFAULT.fullmatch(stream.getvalue())


class TestTrouble:
    """A full disk, a closed pipe."""

    def test_a_broken_stream_is_told_once(
        self, bus: Engine, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """And the bus starts and stops all the same."""
        stream = io.StringIO()
        stream.close()
        logger = StreamLogger(bus, stream)
        logger.subscribe()
        bus.start()
        bus.stop()
        assert logger.lost == 4
        said = capfd.readouterr().err
        assert said.count("\n") == 1
        assert said.startswith("sitebus: cannot write the log to <_io.StringIO")

    def test_it_goes_on_when_it_can(self, bus: Engine, capfd: pytest.CaptureFixture[str]) -> None:
        """With a word on what is missing, and another warning the next time."""

        class Pipe(io.StringIO):
            name, broken = "pipe", False

            def write(self, text: str) -> int:
                if self.broken:
                    raise BrokenPipeError(32, "Broken pipe")
                return super().write(text)

        pipe = Pipe()
        StreamLogger(bus, pipe, format=PLAIN).subscribe()
        for pipe.broken in (False, True, True, False, True):
            bus.log("a line")
        assert pipe.getvalue().splitlines() == [
            "a line",
            "2 lines could not be written here",
            "a line",
        ]
        warning = "sitebus: cannot write the log to 'pipe': [Errno 32] Broken pipe\n"
        assert capfd.readouterr().err == 2 * warning

    @full
    def test_a_full_device_breaks_nothing(
        self, bus: Engine, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """With wspbus the rest of the listeners did not run."""
        logger = FileLogger(bus, "/dev/full")
        logger.subscribe()
        ran: list[str] = []
        bus.subscribe("start", lambda: ran.append("start"), 99)
        bus.subscribe("exit", lambda: ran.append("exit"), 99)
        bus.start()
        bus.exit()
        logger.unsubscribe()
        assert ran == ["start", "exit"]
        assert bus.exit_code == 0
        assert capfd.readouterr().err == (
            "sitebus: cannot write the log to '/dev/full': [Errno 28] No space left on device\n"
        )

    @full
    def test_a_full_disk_under_a_text_stream_breaks_nothing(
        self, bus: Engine, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """Where Python itself buffers and tries again later."""
        with contextlib.suppress(OSError), open("/dev/full", "w") as stream:
            StreamLogger(bus, stream).subscribe()
            for _ in range(300):
                bus.log("x" * 100)
        assert capfd.readouterr().err.count("\n") == 1

    @root
    def test_a_disk_that_fills_up_and_is_cleared(
        self, bus: Engine, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """The lines of later are whole, and on lines of their own."""
        with tiny_disk(tmp_path / "disk") as disk:
            ballast, path = disk / "ballast", disk / "log"
            logger = FileLogger(bus, path, format="%(message)s|\n")
            logger.subscribe()
            bus.log("first")
            fill(ballast)
            for _ in range(200):
                bus.log("y" * 1000)
            assert logger.lost > 0
            lost = logger.lost
            ballast.unlink()
            bus.log("room again")
            bus.log("last")
            logger.unsubscribe()
            lines = path.read_text().splitlines()
        assert lines[0] == "first|"
        assert lines[-3:] == [f"{lost} lines could not be written here|", "room again|", "last|"]
        torn = [line for line in lines if not line.endswith("|")]
        assert len(torn) <= 1
        assert all(set(line) == {"y"} for line in torn)
        assert capfd.readouterr().err.count("cannot write the log") == 1

    def test_nobody_is_left_to_tell(self, bus: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        """A daemon may have closed its standard error."""
        closed = io.StringIO()
        closed.close()
        for last in (closed, None):
            monkeypatch.setattr(sys, "__stderr__", last)
            last_resort("hello\n")
            StreamLogger(bus, closed).subscribe()
            bus.log("lost")


@contextlib.contextmanager
def tiny_disk(folder: Path) -> Iterator[Path]:
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(path: Path) -> None:
    with open(path, "wb", buffering=0) as ballast, contextlib.suppress(OSError):
        while True:
            ballast.write(bytes(4096))


class TestFiles:
    """By their name, wherever it leads."""

    def test_lines_are_appended(self, bus: Engine, tmp_path: Path) -> None:
        """What an earlier process wrote stays, and nobody else may read it."""
        path = tmp_path / "log"
        with nothing_left():
            for line in ("first", "second"):
                logger = FileLogger(bus, path, format=PLAIN)
                logger.subscribe()
                bus.log(line)
                logger.unsubscribe()
        assert path.read_text() == "first\nsecond\n"
        assert path.stat().st_mode & 0o007 == 0

    def test_nothing_is_touched_before_subscribe(self, bus: Engine, tmp_path: Path) -> None:
        """A plugin that is only made is nothing yet."""
        FileLogger(bus, tmp_path / "log")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("move", [Path.unlink, lambda path: path.rename(f"{path}.1")])
    def test_a_rotation_is_noticed_by_itself(
        self, bus: Engine, tmp_path: Path, move: Callable[[Path], object]
    ) -> None:
        """Nobody has to be told: the next line goes to a new file."""
        path = tmp_path / "log"
        logger = FileLogger(bus, path, format=PLAIN)
        logger.subscribe()
        bus.log("before")
        move(path)
        bus.log("after")
        logger.unsubscribe()
        assert path.read_text() == "after\n"

    def test_another_file_under_the_name_is_followed(self, bus: Engine, tmp_path: Path) -> None:
        """Some rotations make the new file themselves; a link may point to another."""
        first, second, link = tmp_path / "1", tmp_path / "2", tmp_path / "log"
        link.symlink_to(first)
        logger = FileLogger(bus, link, format=PLAIN)
        logger.subscribe()
        bus.log("one")
        second.touch()
        link.unlink()
        link.symlink_to(second)
        bus.log("two")
        second.write_text("")
        bus.log("three")
        logger.unsubscribe()
        assert (first.read_text(), second.read_text()) == ("one\n", "three\n")

    def test_graceful_opens_it_anew(self, bus: Engine, tmp_path: Path) -> None:
        """Even if no line is written for a while: the old file is free at once."""
        path = tmp_path / "log"
        logger = FileLogger(bus, path, format=PLAIN)
        logger.subscribe()
        path.rename(tmp_path / "old")
        bus.publish("graceful")
        assert path.exists()
        logger.unsubscribe()

    def test_a_rotation_into_nowhere_goes_on_with_the_old_file(
        self, bus: Engine, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """A line in the wrong file is better than none; it is told once."""
        folder = tmp_path / "logs"
        folder.mkdir()
        path = folder / "log"
        logger = FileLogger(bus, path, format=PLAIN)
        logger.subscribe()
        folder.rename(tmp_path / "moved")
        bus.log("one")
        bus.log("two")
        with pytest.raises(CannotWriteLog):
            logger.graceful()
        assert (tmp_path / "moved" / "log").read_text() == "one\ntwo\n"
        assert capfd.readouterr().err == (
            f"sitebus: cannot write the log {str(path)!r}: no such file or directory; "
            "going on with the file that was moved away\n"
        )
        folder.mkdir()
        bus.log("three")
        logger.unsubscribe()
        assert path.read_text() == "three\n"

    @root
    def test_dropped_privileges_do_not_stop_the_log(self, tmp_path: Path) -> None:
        """Its directory is often one that only root may look into."""
        folder = tmp_path / "secret"
        folder.mkdir(mode=0o700)
        program = f"""
            import os
            from sitebus.plugins.loggers import FileLogger
            from sitebus.process import Engine
            bus = Engine()
            FileLogger(bus, {str(folder / "log")!r}, format="%(message)s\\n").subscribe()
            bus.log("as root")
            os.setuid(65534)
            bus.log("as nobody")
        """
        with Child([sys.executable, "-c", "if True:" + program]) as child:
            assert child.wait() == 0
            assert child.output == ""
        assert (folder / "log").read_text() == "as root\nas nobody\n"

    def test_the_directory_may_change(
        self, bus: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What a relative name meant at first, it means for good."""
        monkeypatch.chdir(tmp_path)
        logger = FileLogger(bus, "log", format=PLAIN)
        logger.subscribe()
        monkeypatch.chdir("/")
        (tmp_path / "log").unlink()
        bus.log("here")
        logger.unsubscribe()
        assert (tmp_path / "log").read_text() == "here\n"

    def test_a_file_that_cannot_be_made_is_one_sentence(self, bus: Engine, tmp_path: Path) -> None:
        """With status 73, before anything starts, and nothing listens."""
        logger = FileLogger(bus, tmp_path / "gone" / "log")
        with pytest.raises(CannotWriteLog) as caught:
            logger.subscribe()
        assert caught.value.status == 73
        assert "no such file or directory" in str(caught.value)
        assert bus.describe().channels["log"] == ()

    def test_a_file_that_is_open_is_used(self, bus: Engine, tmp_path: Path) -> None:
        """And stays open: it is the caller's."""
        with open(tmp_path / "log", "ab") as file:
            logger = FileLogger(bus, file=file, format=PLAIN)
            logger.subscribe()
            bus.log("hello")
            bus.graceful()
            logger.unsubscribe()
            assert not file.closed
        assert (tmp_path / "log").read_bytes() == b"hello\nBus graceful\n"

    def test_neither_a_file_nor_a_name_is_an_error(self, bus: Engine) -> None:
        """Of the kind that magicbus raises, too."""
        with pytest.raises(NoLogFile) as caught:
            FileLogger(bus)
        assert isinstance(caught.value, (SitebusError, ValueError))
        assert caught.value.status == 64

    def test_lines_of_many_threads_do_not_mix(self, bus: Engine, tmp_path: Path) -> None:
        """While the file is moved away again and again, none is lost."""
        path = tmp_path / "log"
        logger = FileLogger(bus, path, format=PLAIN)
        logger.subscribe()

        def write(name: str) -> None:
            for _ in range(200):
                bus.log(name * 50)

        threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        moved = 0
        while any(thread.is_alive() for thread in threads):
            with contextlib.suppress(FileNotFoundError):
                path.rename(tmp_path / f"log.{moved}")
                moved += 1
        logger.unsubscribe()
        lines = [line for file in tmp_path.iterdir() for line in file.read_text().splitlines()]
        assert sorted(lines) == sorted([name * 50 for name in "abcd"] * 200)

    def test_a_file_that_is_forgotten_is_closed(self, tmp_path: Path) -> None:
        """A bus may be thrown away with all that listens to it."""
        with nothing_left():
            file = LogFile(tmp_path / "log").open()
            file.write(b"hello\n")
            assert repr(file) == f"<LogFile {str(tmp_path / 'log')!r}>"
            del file
