"""Keys on disk: who may read them, who is believed, and how they are made."""

from __future__ import annotations

import json
import os
import resource
import shutil
import stat
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import zmq.auth

from sitebus.cli.console import Console
from sitebus.cli.ctl_relay import peers as shown_peers
from sitebus.errors import (
    BadName,
    BadRelayKey,
    CannotWriteKey,
    RelayKeyMissing,
    SitebusError,
    UnsafeRelayKey,
)
from sitebus.relay import keys
from tests.helpers import ROOT, SiteProcess, environment, wait_for
from tests.relay.ears import introduce, make_keys

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")


def ctl(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Type a command."""
    return subprocess.run(
        [sys.executable, "-m", "sitebus.cli.ctl", *arguments],
        cwd=cwd,
        env=environment(PYTHONWARNINGS="error"),
        capture_output=True,
        text=True,
        check=False,
    )


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_keys_that_were_made_can_be_loaded(tmp_path: Path) -> None:
    secret, public_file, public = keys.generate(tmp_path / "keys", "web1")
    found = keys.load(tmp_path / "keys", "web1")
    assert found.public == public
    assert mode(secret) == 0o600
    assert mode(public_file) == 0o644
    assert found.peers() == {}
    assert public.decode() in public_file.read_text()
    assert found.secret not in public_file.read_bytes()
    assert found.secret.decode() not in repr(found)


def test_the_files_are_certificates_of_zeromq(tmp_path: Path) -> None:
    """Whoever has tools for those may use them, either way."""
    secret, public_file, public = keys.generate(tmp_path, "web1")
    assert zmq.auth.load_certificate(public_file) == (public, None)
    assert zmq.auth.load_certificate(secret)[0] == public
    zmq.auth.create_certificates(tmp_path / "peers", "web2")
    theirs, _ = zmq.auth.load_certificate(tmp_path / "peers" / "web2.key")
    assert keys.load(tmp_path, "web1").peers() == {"web2": theirs}


def test_a_narrow_umask_changes_nothing(tmp_path: Path) -> None:
    """The public key is for others to copy."""
    before = os.umask(0o077)
    try:
        secret, public_file, _ = keys.generate(tmp_path, "web1")
    finally:
        os.umask(before)
    assert (mode(secret), mode(public_file)) == (0o600, 0o644)


@pytest.mark.parametrize("there", ["web1.key_secret", "web1.key"])
def test_keys_are_never_overwritten(tmp_path: Path, there: str) -> None:
    """Every peer that has the old one would be cut off."""
    (tmp_path / there).write_text("mine")
    with pytest.raises(CannotWriteKey, match="it is there already"):
        keys.generate(tmp_path, "web1")
    assert [each.name for each in tmp_path.iterdir() if each.is_file()] == [there]
    assert (tmp_path / there).read_text() == "mine"


def test_a_peers_name_is_its_files(tmp_path: Path) -> None:
    found = make_keys(tmp_path, "a", "b")
    assert found["a"].name_of(found["b"].public) == "b"
    assert found["a"].name_of(found["a"].public) is None


def test_files_that_come_and_go_are_noticed(tmp_path: Path) -> None:
    """A peer is let in, or out, without a restart."""
    found = make_keys(tmp_path, "a", "b", "c")["a"]
    kept = tmp_path / "a" / "peers"
    (kept / "b.key").unlink()
    assert set(found.peers()) == {"c"}
    introduce(tmp_path, "a", "b")
    assert set(found.peers()) == {"b", "c"}
    (kept / "broken.key").write_text("nothing")
    assert set(found.peers()) == {"b", "c"}
    shutil.rmtree(kept)
    assert set(found.peers()) == set()


def test_a_key_that_is_written_over_is_noticed(tmp_path: Path) -> None:
    """As an editor or ``cp`` does it: the directory stays as it was."""
    found = make_keys(tmp_path, "a", "b", "c")["a"]
    old, new = found.peers()["b"], found.peers()["c"]
    kept = tmp_path / "a" / "peers"
    (kept / "c.key").unlink()
    assert found.name_of(old) == "b"
    with (kept / "b.key").open("r+b") as file:
        file.write((tmp_path / "c" / "c.key").read_bytes())
        file.truncate()
    assert found.name_of(old) is None
    assert found.name_of(new) == "b"


DROPPED = """
import os, sys
from sitebus.relay import keys
found = keys.load(sys.argv[1], "a")
os.setgid(65534), os.setuid(65534)
for line in sys.stdin:
    print(*sorted(found.peers()), flush=True)
"""


@needs_root
def test_keys_that_root_has_read_count_until_they_change(tmp_path: Path) -> None:
    """A site that has dropped its privileges can read none of them again."""
    make_keys(tmp_path, "a", "b", "c", "d")
    for each in (*tmp_path.parents, tmp_path, tmp_path / "a"):
        if each.stat().st_uid == os.geteuid() and not each.stat().st_mode & 0o001:
            each.chmod(0o711)
    peers = tmp_path / "a" / "peers"
    (peers / "d.key").unlink()
    (peers / "b.key").chmod(0o600)
    (peers / "c.key").chmod(0o600)
    with subprocess.Popen(
        [sys.executable, "-c", DROPPED, tmp_path / "a"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(),
        cwd=ROOT,
        text=True,
    ) as child:
        asked, answers = child.stdin, child.stdout
        assert asked is not None
        assert answers is not None

        def told() -> str:
            asked.write("peers?\n")
            asked.flush()
            return answers.readline().strip()

        assert told() == "b c"
        introduce(tmp_path, "a", "d")
        assert told() == "b c d"
        (peers / "b.key").unlink()
        assert told() == "c d"
        (peers / "c.key").write_bytes((peers / "d.key").read_bytes())
        assert told() == "d"


def test_a_key_that_others_may_write_lets_nobody_in(tmp_path: Path) -> None:
    """They would be whoever they like; while a site runs nobody is there who could be told."""
    found = make_keys(tmp_path, "a", "b", "c")["a"]
    path = tmp_path / "a" / "peers" / "b.key"
    path.chmod(0o664)
    assert set(found.peers()) == {"c"}
    error = refusal(tmp_path / "a")
    assert isinstance(error, UnsafeRelayKey)
    assert str(error).endswith(f"its mode is 0664; chmod go-w {path}")


def test_keys_for_which_there_is_no_room(tmp_path: Path) -> None:
    """No empty file is left, which would be in the way of the next try."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with pytest.raises(CannotWriteKey, match="file too large"):
            keys.generate(tmp_path, "web1")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [each.name for each in tmp_path.iterdir()] == ["peers"]


def test_other_files_are_no_peers(tmp_path: Path) -> None:
    """Editors leave theirs."""
    make_keys(tmp_path, "a", "b")
    for name in ("b.key~", ".b.key.swp", "README", ".hidden.key"):
        (tmp_path / "a" / "peers" / name).write_text("x")
    assert set(keys.load(tmp_path / "a", "a").peers()) == {"b"}


# What is refused, in one sentence.


def refusal(directory: Path, node: str = "a") -> SitebusError:
    with pytest.raises(SitebusError) as caught:
        keys.load(directory, node)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The keys of node a, which knows b."""
    make_keys(tmp_path, "a", "b")
    return tmp_path / "a"


def test_keys_that_are_not_there(tmp_path: Path) -> None:
    error = refusal(tmp_path / "none")
    assert isinstance(error, RelayKeyMissing)
    assert error.status == 66
    assert f"sitebus-ctl relay keygen a --dir {tmp_path / 'none'}" in str(error)


@pytest.mark.parametrize("wrong", [0o640, 0o604, 0o660, 0o610])
def test_a_secret_that_others_can_read(folder: Path, wrong: int) -> None:
    path = folder / "a.key_secret"
    path.chmod(wrong)
    error = refusal(folder)
    assert isinstance(error, UnsafeRelayKey)
    assert error.status == 78
    assert str(error).endswith(f"its mode is {wrong:04o}; chmod 600 {path}")


@pytest.mark.parametrize("which", ["", "peers"])
@pytest.mark.parametrize("wrong", [0o775, 0o757, 0o1777])
def test_a_directory_in_which_others_can_write(folder: Path, which: str, wrong: int) -> None:
    """They would add a key of their own."""
    (folder / which).chmod(wrong)
    assert isinstance(refusal(folder), UnsafeRelayKey)


@needs_root
def test_a_secret_of_somebody_else(folder: Path) -> None:
    os.chown(folder / "a.key_secret", 65534, 65534)
    assert "it belongs to user 65534" in str(refusal(folder))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "curve\n",
        'public-key = "short"\nsecret-key = "short"\n',
        'public-key = "' + "\x7f" * 40 + '"\n',
        "\0" * 20_000,
    ],
)
def test_a_file_without_a_key(folder: Path, text: str) -> None:
    for name in ("a.key_secret", "peers/b.key"):
        path = folder / name
        said = path.read_bytes()
        path.write_text(text)
        assert isinstance(refusal(folder), BadRelayKey)
        path.write_bytes(said)
    keys.load(folder, "a")


def test_a_public_key_is_no_secret(folder: Path) -> None:
    path = folder / "a.key_secret"
    path.write_bytes((folder / "a.key").read_bytes())
    assert "no secret key" in str(refusal(folder))


def test_two_names_with_one_key(folder: Path) -> None:
    """Nobody could tell them apart."""
    shutil.copy(folder / "peers" / "b.key", folder / "peers" / "c.key")
    assert str(refusal(folder)).startswith(
        f"cannot use the key in {folder / 'peers' / 'c.key'}: b has the same key"
    )


def test_what_is_no_file_is_not_waited_for(folder: Path) -> None:
    path = folder / "peers" / "c.key"
    os.mkfifo(path)
    assert "it is no file" in str(refusal(folder))


@pytest.mark.parametrize("name", ["", "../a", "a/b", "a\nb", ".a", "-a", "é", "x" * 101])
def test_a_node_that_no_file_can_be_named_after(tmp_path: Path, name: str) -> None:
    for use in (keys.load, keys.generate):
        with pytest.raises(BadName):
            use(tmp_path, name)
    assert list(tmp_path.iterdir()) == []


# As it is typed.


def test_keygen_writes_keys_and_says_what_to_do(tmp_path: Path) -> None:
    done = ctl(tmp_path, "relay", "keygen", "web1")
    assert (done.returncode, done.stderr) == (0, "")
    found = keys.load(tmp_path / "conf" / "relay", "web1")
    assert done.stdout.splitlines() == [
        f"public key of web1: {found.public.decode()}",
        "conf/relay/web1.key_secret is for this node alone: keep it here",
        "conf/relay/web1.key is for its peers: copy it into the folder peers of each",
    ]
    assert found.secret.decode() not in done.stdout


def test_keygen_names_the_node_after_the_host(tmp_path: Path) -> None:
    done = ctl(tmp_path, "relay", "keygen", "--dir", "keys", "-j")
    told = json.loads(done.stdout)
    assert told["node"] == os.uname().nodename.partition(".")[0]
    assert keys.load(tmp_path / "keys", told["node"]).public.decode() == told["public_key"]
    assert told["secret_file"] == f"keys/{told['node']}.key_secret"


def test_keygen_does_nothing_twice(tmp_path: Path) -> None:
    ctl(tmp_path, "relay", "keygen", "web1")
    said = (tmp_path / "conf/relay/web1.key_secret").read_bytes()
    done = ctl(tmp_path, "relay", "keygen", "web1")
    assert done.returncode == 1
    assert done.stderr.startswith("sitebus-ctl: cannot write conf/relay/web1.key")
    assert (tmp_path / "conf/relay/web1.key_secret").read_bytes() == said


@pytest.mark.parametrize("what", [("keygne",), ("keygen", "a", "b"), ()])
def test_keygen_that_makes_no_sense(tmp_path: Path, what: tuple[str, ...]) -> None:
    done = ctl(tmp_path, "relay", *what)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


def test_two_sites_meet_by_the_keys_that_were_made(tmp_path: Path) -> None:
    """From nothing to a relay, as an operator does it."""
    (tmp_path / "app.py").write_text("def application(environ, start_response): ...\n")
    for name in "ab":
        ctl(tmp_path, "relay", "keygen", name, "--dir", f"keys-{name}")
    introduced = (("a", "b"), ("b", "a"))
    for name, other in introduced:
        shutil.copy(tmp_path / f"keys-{name}" / f"{name}.key", tmp_path / f"keys-{other}" / "peers")
    with ExitStack() as sites:
        there = "bind = tcp://127.0.0.1:0"
        for name in "ab":
            site = tmp_path / f"{name}.ini"
            site.write_text(SITE.format(name=name, there=there))
            sites.enter_context(SiteProcess(site, cwd=tmp_path)).wait_ready()
            told = json.loads(ctl(tmp_path, f"{name}.ini", "-j", "relay", "peers").stdout)
            there = f"peers = {name}={told['addresses'][0]}" if told["addresses"] else ""

        def lines() -> list[str]:
            return ctl(tmp_path, "b.ini", "relay", "peers").stdout.splitlines()

        wait_for(lambda: lines()[-1].split()[:2] == ["a", "up"], 20, what=str(lines()))


SITE = """\
[site]
name = relay-{name}
[server]
bind = 127.0.0.1:0
[mount /]
app = app:application
[relay]
node = {name}
keys = keys-{name}
{there}
"""


def test_peers_are_shown() -> None:
    """A line for each, and what was counted altogether."""
    counts = {"tx": 5, "rx": 4, "gap": 3, "drop": 2, "bad": 1}
    peer = {"node": "web2", "state": "up", "address": "tcp://10.0.0.2:5555", "hub": True}
    peer |= {"sent": 7, "received": 6, "lost": 3, "dropped": 2, "bad": 1}
    console = Console(sys.stdout, colour=False)
    head, titles, row = shown_peers(console, {"node": "web1", "counts": counts, "peers": [peer]})
    assert head == "web1  sent 5, received 4, missed 3, dropped 2, bad 1"
    assert titles.split()[:2] == ["PEER", "STATE"]
    assert row.split() == ["web2", "(hub)", "up", "7", "6", "3", "2", "1", "tcp://10.0.0.2:5555"]
    empty = list(shown_peers(console, {"node": "web1", "counts": counts, "peers": []}))
    assert empty[1:] == ["no peer has been met"]
