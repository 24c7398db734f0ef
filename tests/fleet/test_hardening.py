"""Hosts that are not to be trusted: what they may ask of this machine, and of each other.

The functions here run on hosts that do what they like; mitogen itself is used as they would.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import mitogen.core  # type: ignore[import-untyped]
import pytest

from sitebus import fleet
from sitebus.errors import NotPlain, RemoteError
from sitebus.fleet import Fleet, Pending
from sitebus.fleet._mitogen import Feed
from tests.fleet import inis
from tests.helpers import PATIENCE

HOSTILE = r'''
import os
import sys
import threading


def econtext(function):
    function.mitogen_takes_econtext = True
    return function


def fetch_module(name):
    """Ask for a module as an import does."""
    return __import__(name).__name__


@econtext
def fetch_raw(name, econtext):
    """Ask for a module past the importer, which would refuse by itself."""
    core = sys.modules["mitogen.core"]
    econtext.importer.policy.overrides.clear()
    heard = []
    done = threading.Event()

    def hear(message):
        heard.append(message.unpickle())
        done.set()

    econtext.router.add_handler(hear, handle=core.LOAD_MODULE, overwrite=True)
    econtext.parent.send(core.Message(data=name.encode(), handle=core.GET_MODULE))
    done.wait(10)
    return [heard[0][0], heard[0][3] is not None]


@econtext
def fetch_resource(package, resource, econtext):
    found = econtext.importer._resource_requester._get_resource(package, resource)
    return None if found is None else len(found)


@econtext
def listen(handle, econtext):
    """Hear whatever anybody sends."""
    econtext.router.add_handler(HEARD.append, handle=handle)
    return sys.modules["mitogen"].context_id


HEARD = []


def heard():
    return len(HEARD)


@econtext
def send_to(context_id, handle, econtext):
    """Send to another host, and answer what came of it."""
    core = sys.modules["mitogen.core"]
    other = core.Context(econtext.router, context_id)
    reply = core.Receiver(econtext.router)
    other.send(core.Message.pickled("hi", handle=handle, reply_to=reply.handle))
    try:
        return str(reply.get(timeout=10).unpickle())
    except core.ChannelError as error:
        return str(error)


@econtext
def call_function(context_id, econtext):
    """Have another process run something."""
    core = sys.modules["mitogen.core"]
    other = core.Context(econtext.router, context_id)
    reply = core.Receiver(econtext.router)
    call = (None, "os", None, "getpid", (), core.Kwargs({}))
    message = core.Message.pickled(call, handle=core.CALL_FUNCTION, reply_to=reply.handle)
    other.send(message)
    try:
        return str(reply.get(timeout=10).unpickle())
    except core.ChannelError as error:
        return str(error)


@econtext
def claim(first, last, econtext):
    """Claim the numbers of processes that others are about to have."""
    core = sys.modules["mitogen.core"]
    for number in range(first, last):
        # What this process says is passed on by its parent, which says it itself.
        data = ("%d:claimed" % number).encode()
        econtext.parent.send(core.Message(data=data, handle=core.ADD_ROUTE))


@econtext
def shout(econtext):
    core = sys.modules["mitogen.core"]
    data = b"sitebus\0" + b"50\0false alarm"
    econtext.master.send(core.Message(data=data, handle=core.FORWARD_LOG))


@econtext
def babble(up, kind, econtext):
    """Answer what makes no sense."""
    core = sys.modules["mitogen.core"]
    said = {"json": "{", "list": "[]", "failed": '{"failed": 3}', "deep": "[" * 100000}
    if kind == "pickle":
        data = b"\x80\x02cos\nsystem\n."
        econtext.master.send(core.Message(data=data, enc=core.Message.ENC_PKL, handle=up))
    else:
        core.Sender(econtext.master, up).send(said[kind])


def long(size):
    return "x" * size


class Trap:
    def __reduce__(self):
        return os.system, ("touch " + os.environ.get("TRAP", "/tmp/trap"),)


@econtext
def send_object(handle, econtext):
    """Answer an object that runs something where it is read."""
    import pickle

    core = sys.modules["mitogen.core"]
    data = pickle.dumps(Trap(), 2)
    econtext.master.send(core.Message(data=data, enc=core.Message.ENC_PKL, handle=handle))
'''


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("hostile")
    path = inis.write(folder / "fleet.ini", hosts=("a", "b"))
    with (
        inis.module(folder, "hostile_ops", HOSTILE),
        inis.module(folder, "hostile_more", "given = True\n"),
        fleet.open(path, allow=("hostile_ops", "hostile_more")) as two,
    ):
        yield two


@pytest.fixture
def ops(two: Fleet) -> ModuleType:
    return sys.modules["hostile_ops"]


@pytest.mark.parametrize("name", ["sitebus", "cheroot", "tests.helpers", "_pytest"])
def test_a_host_gets_no_module_that_it_is_not_given(two: Fleet, ops: ModuleType, name: str) -> None:
    """Neither by importing it, nor by asking for it past its own importer."""
    asked = two["a"].call(ops.fetch_raw, name, timeout=PATIENCE)
    assert asked == [name, False]


def test_an_import_of_it_is_an_error_there(two: Fleet, ops: ModuleType) -> None:
    """Also where Python finds nothing of that name on the host."""
    with pytest.raises(RemoteError, match="hostile_never_there"):
        two["b"].call(ops.fetch_module, "hostile_never_there")


def test_a_host_gets_what_it_is_given(two: Fleet, ops: ModuleType) -> None:
    asked = two["b"].call(ops.fetch_raw, "hostile_more", timeout=PATIENCE)
    assert asked == ["hostile_more", True]


@pytest.mark.parametrize(
    ("package", "resource"), [("sitebus", "py.typed"), ("hostile_ops", "x"), ("no.such", "y")]
)
def test_a_host_gets_no_file(two: Fleet, ops: ModuleType, package: str, resource: str) -> None:
    """Mitogen would import the package here, and send the file."""
    assert two["a"].call(ops.fetch_resource, package, resource, timeout=PATIENCE) is None


def test_hosts_cannot_send_to_each_other(two: Fleet, ops: ModuleType) -> None:
    other = two["b"].call(ops.listen, 4444)
    answer = two["a"].call(ops.send_to, other, 4444, timeout=PATIENCE)
    assert "routing mode prevents forward" in answer.lower()
    assert two["b"].call(ops.heard) == 0


def test_hosts_cannot_call_each_other_nor_this_machine(two: Fleet, ops: ModuleType) -> None:
    other = two["b"].call(ops.listen, 4445)
    assert "routing mode" in two["a"].call(ops.call_function, other, timeout=PATIENCE).lower()
    here = two["a"].call(ops.call_function, 0, timeout=PATIENCE)
    assert not here.isdigit()


def test_no_object_is_made_of_what_a_host_says(
    two: Fleet, ops: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = two["a"]
    trunk = host.lanes.trunk()
    lane = host.lanes.lane()
    receiver = mitogen.core.Receiver(trunk.trust.router, respondent=lane.context)
    feed = lane.ask("alone", "hostile_ops", "send_object", f"[[{receiver.handle}], {{}}]")
    message = receiver.get(timeout=PATIENCE, throw_dead=False)
    with pytest.raises(mitogen.core.StreamError, match="cannot unpickle"):
        message.unpickle()
    receiver.close()
    feed.close()
    lane.shut()


def test_a_host_cannot_take_the_place_of_another(tmp_path: Path) -> None:
    """Whoever has the number of a process is sent what that is asked; numbers can be guessed."""
    path = inis.write(tmp_path / "fleet.ini", hosts=("evil", "good"))
    with (
        inis.module(tmp_path, "hostile_three", HOSTILE) as ops,
        fleet.open(path, allow=("hostile_three",)) as two,
    ):
        assert two.connect() == {"evil": None, "good": None}
        assert two["evil"].call(ops.heard) == 0  # for which it was given the first thousand
        two["evil"].call(ops.claim, 1003, 2100)
        two["evil"].call(ops.heard)
        assert two["good"].call(os.getppid, timeout=PATIENCE) == two["good"].connect()["pid"]
        trunk = two["good"].lanes.trunk()
        router = trunk.trust.router
        evil = two["evil"].lanes.trunk().context.context_id
        ways = router.route_monitor.get_routes(router.stream_by_id(evil))
        assert len(ways) == 2


def test_what_a_host_logs_is_not_heard(
    two: Fleet, ops: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    two["a"].call(ops.shout)
    two["a"].call(ops.heard)
    assert "false alarm" not in caplog.text


@pytest.mark.parametrize("kind", ["json", "list", "failed", "deep", "pickle"])
def test_an_answer_that_makes_no_sense_is_an_error(two: Fleet, ops: ModuleType, kind: str) -> None:
    host = two["a"]
    lane = host.lanes.lane()
    feed = lane.ask("ping")
    assert feed.get(PATIENCE) is None
    feed = Feed(lane)
    other = lane.ask("alone", "hostile_ops", "babble", f'[[{feed.handle}, "{kind}"], {{}}]')
    pending = Pending("a", "babble", feed, lambda how: None)
    with pytest.raises(RemoteError, match=r"^a: what it answers makes no sense"):
        pending.result(PATIENCE)
    other.close()
    lane.shut()


def test_an_answer_that_is_too_long_is_an_error_there(two: Fleet, ops: ModuleType) -> None:
    with pytest.raises(RemoteError, match=r"the answer is 31 MB long, and 30 MB"):
        two["a"].call(ops.long, 31 << 20)
    with pytest.raises(NotPlain, match="it is 31 MB long"):
        two["a"].call(ops.long, "x" * (31 << 20))


def test_two_fleets_do_not_share_anything(tmp_path: Path) -> None:
    """Each file is a domain of its own: what one allows, the other does not."""
    path = inis.write(tmp_path / "fleet.ini")
    with (
        inis.module(tmp_path, "hostile_two", HOSTILE) as ops,
        fleet.open(path, allow=("hostile_two",)) as one,
        fleet.open(path) as other,
    ):
        assert one["web1"].call(ops.heard) == 0
        trusts = {each["web1"].lanes.trunk().trust.router for each in (one, other)}
        assert len(trusts) == 2
        policy = other["web1"].lanes.trunk().trust.router.responder.policy
        assert policy.denied("hostile_two")


def test_nothing_is_ever_forked(two: Fleet) -> None:
    """A fork of a process with threads takes their locks along, held by nobody."""
    sources = Path(fleet.__file__ or "").parent.glob("*.py")
    assert not [path.name for path in sources if ".fork(" in path.read_text()]
