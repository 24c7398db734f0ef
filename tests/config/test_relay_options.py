"""What ``[relay]`` and ``[relay command]`` may say."""

from __future__ import annotations

from pathlib import Path

import pytest

from sitebus import assembly
from sitebus.config import Configuration
from sitebus.config.relay import PeerEntry, commands_of, is_on_this_machine, settings_of, shared
from sitebus.errors import ConfigErrors


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "keys").mkdir()
    return tmp_path / "site.ini"


def read(file: Path, text: str) -> Configuration:
    file.write_text(text)
    return assembly.read(file, environ={})


def wrong(file: Path, text: str) -> str:
    """Answer all that is wrong with a file."""
    with pytest.raises(ConfigErrors) as caught:
        read(file, text)
    assert caught.value.status == 78
    return str(caught.value)


def test_there_is_no_relay_unless_it_is_said(file: Path) -> None:
    """Nothing is opened for those who never heard of it."""
    configuration = read(file, "[workers]\nexport = shop.news\n")
    assert settings_of(configuration) is None
    assert shared(configuration) == ()


def test_everything_is_read(file: Path) -> None:
    """Paths are relative to the file, and addresses come in one form."""
    told = settings_of(
        read(
            file,
            "[relay]\nnode = web1\nbind = tcp://10.0.0.1:5555, unix:run/relay.sock, unix:@x\n"
            "peers = web2=tcp://[::1]:5555 web-3.example=tcp://h:1\n  unix:/run/other.sock\n"
            "keys = keys\nexport = cache.*, a\nimport = cache.*\nhub = yes\nhubs = web2\n"
            "retain = config.*\nhigh-water = 5\nheartbeat = 500ms\n",
        )
    )
    assert told is not None
    assert told["bind"] == ("tcp://10.0.0.1:5555", f"unix:{file.parent}/run/relay.sock", "unix:@x")
    assert told["peers"] == (
        PeerEntry("web2", "tcp://[::1]:5555"),
        PeerEntry("web-3.example", "tcp://h:1"),
        PeerEntry(None, "unix:/run/other.sock"),
    )
    assert (told["node"], told["keys"]) == ("web1", file.parent / "keys")
    assert (told["export"], told["import"], told["retain"]) == (
        ("cache.*", "a"),
        ("cache.*",),
        ("config.*",),
    )
    assert (told["hub"], told["hubs"]) == (True, ("web2",))
    assert (told["high_water"], told["heartbeat"]) == (5, 0.5)


def test_it_is_printed_as_it_is_read(file: Path) -> None:
    """What ``--print-config`` shows can be pasted."""
    text = "[relay]\npeers = web2=tcp://127.0.0.1:5555, unix:/run/x\n"
    printed = read(file, text).explain()
    assert "peers = web2=tcp://127.0.0.1:5555, unix:/run/x" in printed
    again = "\n".join(
        line.partition("  #")[0] for line in printed.splitlines() if not line.endswith("default")
    )
    assert settings_of(read(file, f"[relay]\n{again.partition('[relay]')[2]}"))


def test_rules_say_who_may_send_what(file: Path) -> None:
    """There may be several, and one channel may be in more than one."""
    configuration = read(
        file,
        "[relay command]\nchannels = graceful, shop.close\nfrom = boss\n"
        "[relay]\nbind = unix:x\nexport = a\nimport = b\n"
        "[relay command deploy]\nchannels = graceful restart\nfrom = ci, boss\n",
    )
    assert commands_of(configuration) == {
        "graceful": ("boss", "ci", "boss"),
        "shop.close": ("boss",),
        "restart": ("ci", "boss"),
    }
    # A command is for the supervisor; what else a rule lets in is for every process.
    assert shared(configuration) == ("a", "b", "shop.close")


def test_commands_need_to_know_who_gives_them(file: Path) -> None:
    """On a port of this machine any program could say that it is the boss."""
    rule = "[relay command]\nchannels = exit\nfrom = boss\n"
    said = wrong(file, f"[relay]\nbind = tcp://127.0.0.1:0, tcp://127.0.0.1:5555\n{rule}")
    assert said.count("[relay command]: tcp://127.0.0.1:0 has no keys") == 1
    assert "keygen" in said
    for told in ("bind = unix:x\n", "bind = tcp://127.0.0.1:0\nkeys = keys\n"):
        assert commands_of(read(file, f"[relay]\n{told}{rule}"))


def test_the_command_line_means_the_relay_and_not_its_only_rule(file: Path) -> None:
    """Where the file has nothing but a rule, it may be said from outside where the relay is."""
    from sitebus.config import Override

    file.write_text("[relay command]\nchannels = exit\nfrom = boss\n")
    said = [Override("relay", "bind", "unix:/run/x", "-o")]
    told = settings_of(assembly.read(file, overrides=said, environ={}))
    assert told is not None
    assert told["bind"] == ("unix:/run/x",)


def test_the_command_line_and_the_environment_may_say_it(file: Path) -> None:
    """As of any other section."""
    from sitebus.config import Override

    file.write_text("[relay command]\nchannels = stop\nfrom = boss\n[relay]\nbind = unix:/x\n")
    configuration = assembly.read(
        file,
        overrides=[
            Override("relay", "node", "n", "-o"),
            Override("relay.command", "from", "b", "-o"),
        ],
        environ={"SITEBUS_RELAY__HEARTBEAT": "2s"},
    )
    told = settings_of(configuration)
    assert told is not None
    assert (told["node"], told["heartbeat"]) == ("n", 2.0)
    assert commands_of(configuration) == {"stop": ("b",)}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[relay]\nbind = http://x", "expected an address such as tcp://127.0.0.1:5555 or unix:"),
        ("[relay]\nbind = tcp://x", "write tcp://127.0.0.1:5555 or unix:"),
        ("[relay]\nbind = tcp://:5555", "an address such as tcp://"),
        ("[relay]\nbind = tcp://[::1:5555", "write tcp://"),
        ("[relay]\npeers = tcp://127.0.0.1:0", "a peer such as web2=tcp://"),
        ("[relay]\npeers = we b=tcp://127.0.0.1:1", "a peer such as web2=tcp://"),
        ("[relay]\npeers = we/b=tcp://127.0.0.1:1", "a peer such as web2=tcp://"),
        ("[relay]\nbind = unix:x\nnode = a/b", "expected a name of letters"),
        ("[relay]\nbind = unix:x\nkeys = nowhere", "there is no directory"),
        ("[relay]\nbind = unix:x\nexprt = a", "did you mean 'export'?"),
        ("[relay]\nbind = tcp://0.0.0.0:5555", "is beyond this machine, and without keys"),
        ("[relay]\npeers = web2=tcp://example.org:5555", "is beyond this machine"),
        ("[relay]\npeers = tcp://127.0.0.1:1\nkeys = keys", "write NAME=tcp://127.0.0.1:1"),
        ("[relay]\nbind = unix:x\nexport = stop", "stop is each site's own; who may send it is"),
        ("[relay]\nbind = unix:x\nimport = log", "by channels and from in [relay command]"),
        ("[relay]\nbind = unix:x\nimport = worker.lost", "worker.lost is each site's own; name"),
        ("[relay]\nbind = unix:x\nretain = relay.*", "relay.* is each site's own"),
        ("[relay]\nexport = cache.*", "export is of no use without bind or peers"),
        ("[relay]\nhub = yes\npeers = unix:x", "hub is of no use without bind"),
        ("[relay command]\nchannels = stop\nfrom = a", "is of no use without bind or peers in"),
        ("[relay]\nbind=unix:x\n[relay command]\nfrom = a", "needs 'channels'"),
        ("[relay]\nbind=unix:x\n[relay command]\nchannels = stop", "needs 'from'"),
        ("[relay]\nbind=unix:x\n[relay command]\nchannels = started\nfrom = a", "is no command"),
        ("[relay]\nbind=unix:x\n[relay command]\nchannels = s*\nfrom = a", "would be any command"),
        ("[relay]\nbind=unix:x\n[relay comand]\nchannels = x", "did you mean [relay command]?"),
        ("[relay]\nbind=unix:x\n[relay x]\nfrom = x", "there is no section [relay x]"),
        ("[relay]\nbind=unix:x\n[relay command]\nchanels = x", "did you mean 'channels'?"),
        ("[relay]\nbind=unix:x\n[relay]\nbind=unix:y", "stands twice"),
        ("[rely]\nbind=unix:x", "did you mean [relay]?"),
        ("[workers]\nexport = relay.gap", "relay.gap is each process's own"),
    ],
)
def test_a_mistake_is_told_with_its_line(file: Path, text: str, said: str) -> None:
    """And with what would be right."""
    found = wrong(file, text)
    assert said in found
    assert f"{file}:" in found


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("tcp://127.0.0.1:1", True),
        ("tcp://127.8.9.1:1", True),
        ("tcp://[::1]:1", True),
        ("tcp://localhost:1", True),
        ("unix:/run/x", True),
        ("tcp://0.0.0.0:1", False),
        ("tcp://[::]:1", False),
        ("tcp://10.0.0.1:1", False),
        ("tcp://localhost.example.org:1", False),
    ],
)
def test_what_is_on_this_machine(address: str, local: bool) -> None:
    """A name may lead anywhere."""
    assert is_on_this_machine(address) is local
