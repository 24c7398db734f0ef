"""What the bus says reaches the log, whole and in order, and the log follows its file."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from sitebus.errors import BadLogConfig, CannotWriteLog, CannotWritePidFile, ChannelFailures
from sitebus.plugins import logs
from sitebus.plugins.logs import JsonFormatter, LogBridge, LogFileHandler
from sitebus.plugins.pidfile import PIDFile
from sitebus.process import Engine


@pytest.fixture(autouse=True)
def _usual_logging() -> Iterator[None]:
    yield
    logs.unconfigure()


def test_messages_of_the_bus_reach_the_logger(
    bus: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """With their level, and with percent signs that mean nothing."""
    caplog.set_level(logging.DEBUG, "sitebus")
    bridge = LogBridge(bus)
    bridge.subscribe()
    bus.log("100% of %s", level=30)
    bus.log("fine")
    bridge.unsubscribe()
    bus.log("nobody hears this")
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (30, "100% of %s"),
        (20, "fine"),
    ]


def test_a_patient_bridge_waits_for_the_start(bus: Engine) -> None:
    """A start that fails should say why, and nothing else; one that works loses nothing."""
    stream = io.StringIO()
    logs.configure(stream=stream)
    LogBridge(bus, patient=True).subscribe()
    bus.log("small talk")
    bus.log("look out", level=30)
    assert stream.getvalue().splitlines()[0].endswith("WARNING sitebus: look out")
    assert "small talk" not in stream.getvalue()
    bus.start()
    lines = stream.getvalue().splitlines()
    assert lines[1].endswith("INFO sitebus: small talk")
    bus.log("later")
    assert stream.getvalue().splitlines()[-1].endswith("INFO sitebus: later")


@pytest.mark.parametrize("destination", ["-", "log"])
def test_a_refused_start_is_said_once(destination: str, bus: Engine, tmp_path: Path) -> None:
    """By who asked for it, on standard error; a file has to say it, too."""
    place, stream = tmp_path / destination, io.StringIO()
    logs.configure(destination=str(place) if destination == "log" else "-", stream=stream)
    LogBridge(bus, patient=True).subscribe()
    PIDFile(bus, tmp_path / "no" / "site.pid").subscribe()
    with pytest.raises(CannotWritePidFile):
        bus.start()
    said = place.read_text() if destination == "log" else stream.getvalue()
    assert said.count("cannot write the pid file") == (1 if destination == "log" else 0)
    assert said.count("Shutting down") == (1 if destination == "log" else 0)
    logs.unconfigure()


def test_a_strangers_failure_is_said_with_its_traceback(bus: Engine) -> None:
    """Who asked for the start has only a sentence."""
    stream = io.StringIO()
    logs.configure(stream=stream)
    LogBridge(bus, patient=True).subscribe()
    bus.subscribe("start", lambda: [][0])
    with pytest.raises(IndexError):
        bus.start()
    assert "Traceback" in stream.getvalue()
    assert "Shutting down" in stream.getvalue()


def test_a_file_is_followed_when_it_is_moved(bus: Engine, tmp_path: Path) -> None:
    """Log rotation moves the file; some say ``graceful`` then, and some say nothing."""
    path, old = tmp_path / "log", tmp_path / "log.1"
    logs.configure("info", "text", str(path))
    LogBridge(bus).subscribe()
    bus.log("before")
    path.rename(old)
    bus.log("after")
    assert old.read_text().endswith("before\n")
    assert path.read_text().endswith("after\n")
    path.unlink()
    bus.publish("graceful")
    assert path.read_text() == ""
    logs.unconfigure()


def test_a_rotation_into_nowhere_is_one_sentence(bus: Engine, tmp_path: Path) -> None:
    """And the lines go where they went before."""
    folder = tmp_path / "logs"
    folder.mkdir()
    logs.configure("info", "text", str(folder / "log"))
    LogBridge(bus).subscribe()
    folder.rename(tmp_path / "old")
    with pytest.raises(ChannelFailures):
        bus.publish("graceful")
    (line,) = (tmp_path / "old" / "log").read_text().splitlines()
    assert line.endswith(f"cannot write the log '{folder}/log': no such file or directory")
    logs.unconfigure()


def test_json_lines_carry_what_was_said_and_the_extra(tmp_path: Path) -> None:
    """Whoever collects logs should not have to take sentences apart."""
    stream = io.StringIO()
    logs.configure("debug", "json", stream=stream)
    logger = logging.getLogger("sitebus.mount./blog")
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logger.exception("failed: %s", "ü\n", extra={"path": tmp_path})
    (line,) = stream.getvalue().splitlines()
    record = json.loads(line)
    assert record["message"] == "failed: ü\n"
    assert record["level"] == "error"
    assert record["logger"] == "sitebus.mount./blog"
    assert record["traceback"].endswith("ValueError: two\nlines")
    assert record["path"] == str(tmp_path)
    assert record["time"].endswith("Z")


def test_configuring_twice_writes_once(tmp_path: Path) -> None:
    """A second site in the process, or a test, must not double every line."""
    first, second = io.StringIO(), io.StringIO()
    logs.configure(stream=first)
    logs.configure("warning", stream=second)
    logging.getLogger("sitebus").info("too quiet")
    logging.getLogger("sitebus").warning("heard")
    assert first.getvalue() == ""
    assert len(second.getvalue().splitlines()) == 1
    handler = logs.configure("info", "text", "off")
    assert isinstance(handler, logging.NullHandler)


def test_what_configure_gave_is_taken_back() -> None:
    """A library that was used and left behind leaves logging as it was."""
    logs.configure()
    logs.unconfigure()
    logger = logging.getLogger("sitebus")
    assert (logger.handlers, logger.propagate, logger.level) == ([], True, logging.NOTSET)


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """Status 73, before anything is served."""
    with pytest.raises(CannotWriteLog) as caught:
        LogFileHandler(tmp_path / "gone" / "log")
    assert caught.value.status == 73
    path = tmp_path / "log"
    handler = LogFileHandler(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(CannotWriteLog, match="directory"):
        handler.file.reopen()
    assert handler.file.fileno() >= 0
    handler.close()
    assert handler.file.fileno() < 0


def test_a_file_of_the_logging_module_is_used(tmp_path: Path) -> None:
    """Sites have these files already; loggers made before stay enabled."""
    early = logging.getLogger("early.bird")
    out = tmp_path / "out"
    json_file = tmp_path / "logging.json"
    handler = {"class": "logging.FileHandler", "filename": str(out)}
    told = {
        "version": 1,
        "handlers": {"file": handler},
        "loggers": {"early": {"handlers": ["file"], "level": "INFO"}},
    }
    json_file.write_text(json.dumps(told))
    logs.configure_by_file(json_file)
    early.info("hello")
    assert out.read_text() == "hello\n"
    for each in list(logging.getLogger("early").handlers):
        each.close()
        logging.getLogger("early").removeHandler(each)


@pytest.mark.parametrize("text", ["", "[loggers]\nkeys = root\n", "{"])
def test_a_file_that_is_none_is_one_sentence(text: str, tmp_path: Path) -> None:
    """The logging module itself raises whatever comes first."""
    for name in ("logging.ini", "logging.json"):
        path = tmp_path / name
        path.write_text(text)
        with pytest.raises(BadLogConfig) as caught:
            logs.configure_by_file(path)
        assert caught.value.status == 78
        assert "\n" not in str(caught.value)


def test_a_formatter_bears_any_extra() -> None:
    """What cannot be written as JSON is written as text."""
    record = logging.makeLogRecord({"msg": "x", "odd": {1, 2}, "nan": float("nan")})
    assert "{1, 2}" in JsonFormatter().format(record)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full device")
def test_a_full_disk_is_told_once(capfd: pytest.CaptureFixture[str]) -> None:
    """A traceback for each line would fill the next disk."""
    handler = logs.configure(destination="/dev/full")
    logger = logging.getLogger("sitebus")
    for number in range(3):
        logger.info("line %s", number)
    assert isinstance(handler, LogFileHandler)
    assert handler.lost == 3
    logs.unconfigure()
    assert capfd.readouterr().err == (
        "sitebus: cannot write the log '/dev/full': [Errno 28] No space left on device\n"
    )


def test_a_program_without_a_terminal_logs_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows programs and some daemons have no standard error at all."""
    monkeypatch.setattr("sys.stderr", None)
    logs.configure()
    logging.getLogger("sitebus").error("nobody hears this")


def test_json_lines_name_the_site() -> None:
    """The lines of several sites are often collected in one place."""
    stream = io.StringIO()
    logs.configure("info", "json", stream=stream, site="shop")
    logging.getLogger("sitebus").info("hello")
    assert json.loads(stream.getvalue())["site"] == "shop"


def test_a_file_that_cannot_be_opened_leaves_no_handler(tmp_path: Path) -> None:
    """Logging closes every handler it knows of, half made ones too, when it is set up anew."""

    def known() -> set[int]:
        alive = (each() for each in logging._handlerList)  # type: ignore[attr-defined]
        return {id(each) for each in alive if each is not None}

    before = known()
    with pytest.raises(CannotWriteLog):
        logs.LogFileHandler(tmp_path / "gone" / "site.log")
    assert known() <= before
