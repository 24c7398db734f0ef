"""What workers tell of what they are made of, and what their supervisor makes of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sitebus.process import Engine
from sitebus.relay import Poller, encode
from sitebus.reload.modules import Imported
from sitebus.reload.sources import Sources
from sitebus.workers.sighting import Sighting, Sightings
from tests.helpers import environment, wait_for

Message = dict[str, object]


class Ear:
    """Hears what is sent; each message has to go over a link."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def hear(self, what: str, **values: object) -> bool:
        assert what == "seen"
        encode({"is": what, **values})
        self.messages.append(values)
        return True


def test_what_is_told_is_what_the_process_sees(tmp_path: Path) -> None:
    """In a process of its own: what a test run has imported is no project."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").write_text("")
    (tmp_path / "shop" / "later.py").write_text("")
    (tmp_path / "page.html").write_text("")
    (tmp_path / "site.ini").write_text("")
    program = """
import json, sys, threading
from sitebus.process import Engine
from sitebus.relay import Poller
from sitebus.workers.sighting import Sighting, Sightings

seen, poller, engine = Sightings(), Poller(), Engine()
told = threading.Event()
def send(what, **message):
    seen.take(1, json.loads(json.dumps(message)))
    told.set()
sighting = Sighting(engine, poller, send, libraries=True)
sighting.start()
import shop
with open("page.html"):
    pass
engine.autoreload.files.add("prices.csv")
sighting.ready()
assert any(each.endswith("shop/__init__.py") for each in seen.code(".*").files), seen.code(".*")
assert any(each.endswith("/shop") for each in seen.code(".*").packages)
assert "page.html" in seen.times
assert list(seen.named) == ["prices.csv"]
size = seen.size
told.clear()
with open("site.ini"):
    pass
import shop.later
assert told.wait(10)
assert any(each.endswith("shop/later.py") for each in seen.code(".*").files)
assert "site.ini" not in seen.times, "the application's data"
assert seen.size != size
sighting.stop()
poller.stop()
print("all is well")
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "all is well\n", done.stderr


def test_any_number_of_files_can_be_told() -> None:
    """A message has its limit; a name may take more of it than it has characters."""
    engine, poller, ear = Engine(), Poller(), Ear()
    folder = "\N{SNOWMAN}" * 80
    names = {f"/srv/{folder}/{number}.html" for number in range(5000)}
    names.add("/srv/\udcff.html")
    engine.autoreload.files.update(names)
    Sighting(engine, poller, ear.hear).tell()
    assert len(ear.messages) > 1
    seen = Sightings()
    for message in ear.messages:
        seen.take(1, message)
    assert set(seen.named) == names

    engine.autoreload.files.clear()
    ear.messages.clear()
    sighting = Sighting(engine, poller, ear.hear)
    sighting.tell()
    engine.autoreload.files.add("one")
    sighting.tell()
    engine.autoreload.files.clear()
    sighting.tell()
    for message in ear.messages:
        seen.take(1, message)
    assert not seen.named


def test_all_workers_count_until_they_are_gone_and_forgotten() -> None:
    """What a candidate that failed has told says where to mend it."""
    seen = Sightings()
    seen.take(1, {"files": ["/a.py"], "times": {"/a.py": 5}})
    seen.take(2, {"files": ["/b.py"], "times": {"/a.py": 3, "/b.py": 4}, "roots": ["/"]})
    assert seen.code("") == Imported(frozenset({"/a.py", "/b.py"}), frozenset(), frozenset("/"))
    assert seen.times == {"/a.py": 3, "/b.py": 4}
    seen.gone(2)
    assert seen.times == {"/a.py": 3, "/b.py": 4}
    seen.forget()
    assert seen.code("") == Imported(frozenset({"/a.py"}), frozenset(), frozenset())
    assert seen.times == {"/a.py": 5}


def test_whoever_watches_hears_of_news(tmp_path: Path) -> None:
    """It must not have to ask: a supervisor at rest sleeps."""
    seen, rung = Sightings(), []
    sources = Sources(set, sight=seen)
    seen.connect(lambda: rung.append(1))
    path = tmp_path / "views.py"
    path.write_text("")
    assert str(path) not in sources.find().files
    assert not sources.stale
    seen.take(1, {"files": [str(path)], "roots": [str(tmp_path)]})
    assert rung
    assert sources.stale
    assert str(path) in sources.find().files
    assert not sources.stale


@pytest.mark.parametrize("message", [{"times": {"a": "soon"}}, {"files": 3}, {"named": ["a"]}])
def test_what_makes_no_sense_is_refused(message: Message) -> None:
    """The link's reader says so; the supervisor goes on."""
    with pytest.raises((TypeError, ValueError, KeyError)):
        Sightings().take(1, message)


def test_a_worker_that_boots_tells_what_it_has_come_to() -> None:
    """It may hang in the very module that is to be mended."""
    engine, poller, ear = Engine(), Poller(), Ear()
    sighting = Sighting(engine, poller, ear.hear)
    sighting.start()
    try:
        wait_for(lambda: bool(ear.messages))
    finally:
        sighting.stop()
        poller.stop()
