"""Listening sockets: bound once, found again, handed down; and the files of unix sockets."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitebus.errors import BadAddress, BadInheritance, BindError, BindNotPermitted
from sitebus.sockets import BACKLOG, Listener, Sockets, files, holders
from sitebus.sockets.addresses import Address
from sitebus.sockets.handdown import OWN, HandDown, Origin
from tests.helpers import Child, nothing_left, open_descriptors, wait_for

LINUX = sys.platform.startswith("linux")
proc = pytest.mark.skipif(not LINUX, reason="reads /proc")
as_root = pytest.mark.skipif(os.getuid() != 0, reason="starts a child as another user")


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    with nothing_left():
        sockets = Sockets({})
        yield sockets
        sockets.close()


def connect(address: Address) -> socket.socket:
    """Connect as a client, with blocking calls that do not block for ever."""
    family, place = (
        (socket.AF_UNIX, address.path.replace("@", "\0"))
        if address.kind == "unix"
        else (
            socket.AF_INET6 if ":" in address.host else socket.AF_INET,
            (address.host, address.port),
        )
    )
    client = socket.socket(family, socket.SOCK_STREAM)
    client.settimeout(5)
    try:
        client.connect(place)
    except BaseException:
        client.close()
        raise
    return client


def is_nonblocking(fd: int) -> bool:
    return bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK)


def accepts(listener: Listener) -> bool:
    """Whether a client gets through to this very listener."""
    with connect(listener.address):
        connection = wait_for(lambda: _accept(listener.socket))
        assert connection is not None
        connection.close()
    return True


def _accept(sock: socket.socket) -> socket.socket | None:
    with suppress(BlockingIOError):
        return sock.accept()[0]
    return None


def stale_file(path: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
    return path


# Binding.


@pytest.mark.parametrize("where", ["127.0.0.1:0", "[::1]:0", "localhost:0", ":0", "unix:", "@"])
def test_every_kind_of_listener_accepts(sockets: Sockets, where: str, tmp_path: Path) -> None:
    """The same promise, whatever the address: connect and be served."""
    names = {"unix:": f"unix:{tmp_path}/s", "@": f"unix:@sitebus-test-{os.getpid()}"}
    listener = sockets.bind(names.get(where, where))
    if listener.address.kind == "tcp":
        assert listener.address.port > 0
        assert listener.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert is_nonblocking(listener.socket.fileno())
    assert not listener.socket.get_inheritable()
    assert sockets.addresses == (listener.address,)
    assert accepts(listener)


def test_a_name_is_bound_by_ipv4_first(sockets: Sockets) -> None:
    """Else ``localhost`` would mean one thing in a browser and another in a health check."""
    assert sockets.bind("localhost:0").address.host == "127.0.0.1"


def test_the_same_address_is_the_same_listener(sockets: Sockets) -> None:
    """A server that starts again gets its socket back, however the address is spelled."""
    first = sockets.bind("127.0.0.1:0")
    port = first.address.port
    assert sockets.bind("127.0.0.1:0") is first
    assert sockets.bind(f"127.0.0.1:{port}") is first
    assert sockets.bind(("127.0.0.1", port)) is first
    assert sockets.bind(f"localhost:{port}") is first
    assert sockets.bind(f"fd:{first.socket.fileno()}") is first

    every = sockets.bind(":0")
    assert sockets.bind("0.0.0.0:0") is every
    assert sockets.bind(f"*:{every.address.port}") is every
    assert sockets.listeners == (first, every)


def test_a_relative_path_is_the_same_listener_after_chdir(
    sockets: Sockets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Daemons change directory; the file must be found, and removed, all the same."""
    monkeypatch.chdir(tmp_path)
    listener = sockets.bind("unix:s.sock")
    monkeypatch.chdir("/")
    assert sockets.bind(f"unix:{tmp_path}/s.sock") is listener
    sockets.close()
    assert not (tmp_path / "s.sock").exists()


def test_a_relative_path_that_is_too_long_is_a_bad_address(
    sockets: Sockets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is the kernel's and counts the whole path."""
    deep = tmp_path / ("d" * 90)
    deep.mkdir()
    monkeypatch.chdir(deep)
    with pytest.raises(BadAddress, match="at most"):
        sockets.bind("unix:s.sock")


def test_ipv6_does_not_take_ipv4_along(sockets: Sockets) -> None:
    """``[::]:80`` and ``0.0.0.0:80`` are two lines in a file, and both must be possible."""
    for _ in range(20):
        six = sockets.bind("[::]:0")
        assert six.socket.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        with socket.socket() as probe, suppress(OSError):
            # Some client on this machine may have the same port by IPv4.
            probe.bind(("0.0.0.0", six.address.port))
            break
        sockets.close(six)
    four = sockets.bind(f"0.0.0.0:{six.address.port}")
    assert four is not six


def test_the_backlog_holds_a_burst(sockets: Sockets) -> None:
    """With cheroot's 5, clients of a restarting site wait seconds for SYN retransmissions."""
    listener = sockets.bind("127.0.0.1:0")
    with ExitStack() as clients:
        for _ in range(min(200, BACKLOG)):
            clients.enter_context(connect(listener.address))


def test_a_duplicate_never_blocks_nor_makes_the_original_block(sockets: Sockets) -> None:
    """The flag is shared: a blocking duplicate would hang another process in accept()."""
    listener = sockets.bind("127.0.0.1:0")
    with listener.dup() as copy:
        assert copy.gettimeout() == 0
        assert is_nonblocking(copy.fileno())
        assert is_nonblocking(listener.socket.fileno())
        assert not copy.get_inheritable()
    assert accepts(listener)  # the copy was closed, the listener was not


def test_a_hundred_cycles_leave_nothing(tmp_path: Path) -> None:
    """Descriptors are level after a hundred restarts."""
    before = open_descriptors()
    sockets = Sockets({})
    for _ in range(100):
        for where in ("127.0.0.1:0", "[::1]:0", f"unix:{tmp_path}/s", "unix:@sitebus-cycles"):
            sockets.bind(where).dup().close()
        with pytest.raises(BindError):
            sockets.bind("unix:/nowhere/s")
        sockets.close()
        assert sockets.listeners == ()
    assert open_descriptors() == before
    assert not list(tmp_path.iterdir())


def test_one_listener_can_be_closed_alone(sockets: Sockets) -> None:
    """A server taken out of a running site frees its port."""
    kept, closed = sockets.bind("127.0.0.1:0"), sockets.bind("[::1]:0")
    sockets.close(closed)
    sockets.close(closed)
    assert sockets.listeners == (kept,)
    with pytest.raises(ConnectionRefusedError):
        connect(closed.address)


# Refusals.


@proc
def test_an_address_in_use_names_who_uses_it(sockets: Sockets) -> None:
    """The next thing anybody types is ``ss -ltnp``: save them that."""
    code = (
        "import socket, sys; s = socket.create_server(('127.0.0.1', 0));"
        "print(s.getsockname()[1], flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, "the holder"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        port = int(other.stdout.readline())
        for where in (f"127.0.0.1:{port}", f"0.0.0.0:{port}"):
            with pytest.raises(BindError) as caught:
                sockets.bind(where)
            error = caught.value
            assert error.errno == errno.EADDRINUSE
            assert error.status == 69
            assert error.holder is not None
            assert error.holder.pid == other.pid
            assert error.holder.command.startswith(sys.executable)
            assert str(error) == (
                f"cannot listen on {where}: address already in use; stop the process that holds it "
                f"(pid {other.pid}, {error.holder.command}), "
                f"or use --bind {where.split(':')[0]}:0 for any free port"
            )
        other.communicate()


@proc
@pytest.mark.parametrize("where", ["[::1]:0", "unix:", "unix:@sitebus-held"])
def test_the_holder_is_found_for_every_kind(sockets: Sockets, where: str, tmp_path: Path) -> None:
    """Here it is this process, which is said differently: there is nobody to stop."""
    where = f"unix:{tmp_path}/s" if where == "unix:" else where
    taken = sockets.bind(where)
    other = Sockets({})
    with pytest.raises(BindError, match="by this very process") as caught:
        other.bind(taken.address)
    assert caught.value.holder is not None
    assert caught.value.holder.pid == os.getpid()
    assert other.listeners == ()


@proc
def test_an_address_beside_the_one_in_use_is_not_blamed_on_its_holder() -> None:
    """127.0.0.2:80 has nothing to do with who holds 127.0.0.1:80."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert holders.of_tcp(socket.AF_INET, "127.0.0.2", port) is None
        assert holders.of_tcp(socket.AF_INET, "127.0.0.1", port) is not None
        assert holders.of_tcp(socket.AF_INET, "no address", port) is None


def test_an_address_of_another_host_is_refused(sockets: Sockets) -> None:
    """192.0.2.0/24 is reserved for documentation: no host has it."""
    with pytest.raises(BindError, match="no interface of this host has that address") as caught:
        sockets.bind("192.0.2.1:8080")
    assert "0.0.0.0:8080 for every interface" in str(caught.value)


def test_an_unknown_host_is_refused(sockets: Sockets) -> None:
    """RFC 6761: .invalid never resolves."""
    with pytest.raises(BindError, match="no address is known for the host"):
        sockets.bind("no-such.invalid:80")


def test_a_missing_directory_is_named(sockets: Sockets, tmp_path: Path) -> None:
    """/run/site is gone after every boot, unless somebody makes it."""
    with pytest.raises(BindError, match=f"there is no directory {tmp_path}/missing; make it"):
        sockets.bind(f"unix:{tmp_path}/missing/s")


UNPRIVILEGED = """
import os, sys
from sitebus.sockets import Sockets
from sitebus.errors import BindError
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
try:
    Sockets({}).bind(sys.argv[1])
except BindError as error:
    print(error)
    sys.exit(error.status)
"""


@as_root
@pytest.mark.parametrize(
    ("where", "sentence"),
    [
        ("127.0.0.1:81", "permission denied for ports below 1024; use --bind 127.0.0.1:8080"),
        ("unix:/s.sock", "permission denied; let user 65534 write in /, or use another path"),
    ],
)
def test_without_permission_the_status_is_77(where: str, sentence: str) -> None:
    """A supervisor must not start it again and again: it will not get better."""
    with suppress(OSError):
        if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) != 1024:
            pytest.skip("this host lets everybody bind low ports")
    with Child([sys.executable, "-c", UNPRIVILEGED, where]) as child:
        assert child.wait() == BindNotPermitted.status == 77
        assert f"cannot listen on {where}: {sentence}" in child.output


# Socket files.


def test_a_socket_file_is_private_unless_told_otherwise(sockets: Sockets, tmp_path: Path) -> None:
    """Nothing is reachable by another user unless the configuration says so, whatever the umask."""
    before = os.umask(0)
    try:
        sockets.bind(f"unix:{tmp_path}/private")
        os.umask(0o777)
        sockets.bind(f"unix:{tmp_path}/shared", mode=0o666)
        assert os.umask(before) == 0o777  # nobody else's business was touched
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "private").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "shared").stat().st_mode) == 0o666
    sockets.bind(f"unix:{tmp_path}/shared", mode=0o660)
    assert stat.S_IMODE((tmp_path / "shared").stat().st_mode) == 0o660


@as_root
def test_a_socket_file_can_be_given_to_another_user(sockets: Sockets, tmp_path: Path) -> None:
    """A proxy runs as another user than the site, and both as another than root."""
    sockets.bind(f"unix:{tmp_path}/s", owner=(33, -1), mode=0o600)
    status = (tmp_path / "s").stat()
    assert (status.st_uid, status.st_gid) == (33, os.getgid())


def test_a_stale_file_is_replaced(sockets: Sockets, tmp_path: Path) -> None:
    """A killed process leaves its file; nobody should have to remove it by hand."""
    path = stale_file(tmp_path / "s")
    assert accepts(sockets.bind(f"unix:{path}"))


@pytest.mark.parametrize("backlog", [0, 100])
def test_a_live_one_is_refused_even_with_a_full_backlog(
    sockets: Sockets, tmp_path: Path, backlog: int
) -> None:
    """Busy is not dead."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as other, ExitStack() as clients:
        other.bind(str(path))
        other.listen(backlog)
        clients.enter_context(connect(Address.parse(f"unix:{path}")))
        with pytest.raises(BindError) as caught:
            sockets.bind(f"unix:{path}")
        assert caught.value.errno == errno.EADDRINUSE
    assert path.exists()


@pytest.mark.parametrize("kind", ["file", "directory", "dangling link", "link to a socket"])
def test_what_is_no_socket_is_never_removed(sockets: Sockets, tmp_path: Path, kind: str) -> None:
    """A slip in a path must not cost anybody a file."""
    path = tmp_path / "precious"
    if kind == "file":
        path.write_text("data")
    elif kind == "directory":
        path.mkdir()
    elif kind == "dangling link":
        path.symlink_to(tmp_path / "nothing")
    else:
        path.symlink_to(stale_file(tmp_path / "target"))
    before = path.lstat()
    with pytest.raises(BindError, match="a file that is no socket is there; remove it"):
        sockets.bind(f"unix:{path}")
    assert path.lstat() == before


def test_a_replaced_file_is_not_removed(sockets: Sockets, tmp_path: Path) -> None:
    """It belongs to whoever came after us."""
    path = tmp_path / "s"
    sockets.bind(f"unix:{path}")
    path.unlink()
    successor = Sockets({})
    successor.bind(f"unix:{path}")
    sockets.close()
    assert path.exists()
    successor.close()
    assert not path.exists()


def test_a_removed_file_is_made_again(sockets: Sockets, tmp_path: Path) -> None:
    """A cleaner of /tmp took it: the next start heals that."""
    path = tmp_path / "s"
    first = sockets.bind(f"unix:{path}")
    path.unlink()
    again = sockets.bind(f"unix:{path}")
    assert again is not first
    assert sockets.listeners == (again,)
    assert accepts(again)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_only_the_process_that_made_the_file_removes_it(sockets: Sockets, tmp_path: Path) -> None:
    """A worker that ends must not hide the site; a daemon takes over from its parent."""
    path = tmp_path / "s"
    sockets.bind(f"unix:{path}")

    def fork(take_over: bool) -> None:
        if child := os.fork():
            assert os.waitpid(child, 0)[1] == 0
            return
        if take_over:
            sockets.take_over_files()
        sockets.close()
        os._exit(0)

    fork(take_over=False)
    assert path.exists()
    fork(take_over=True)
    assert not path.exists()


def test_a_failure_after_binding_leaves_no_file(
    sockets: Sockets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a start leaves nothing."""

    def refuse(self: object, mode: object, owner: object) -> None:
        raise PermissionError(errno.EPERM, "not yours to give")

    monkeypatch.setattr(files.SocketFile, "permit", refuse)
    with pytest.raises(BindNotPermitted):
        sockets.bind(f"unix:{tmp_path}/s", owner=(12345, 12345))
    assert not list(tmp_path.iterdir())


def test_a_directory_locked_for_good_is_an_error(
    sockets: Sockets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start that hangs says nothing to anybody."""
    monkeypatch.setattr(files, "LOCK_PATIENCE", 0.02)
    other = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(BindError, match=f"another process keeps {tmp_path} locked"):
            sockets.bind(f"unix:{tmp_path}/s")
    finally:
        os.close(other)
    sockets.bind(f"unix:{tmp_path}/s")


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_between_bind_and_listen_nobody_else_may_look(
    sockets: Sockets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket that does not listen yet refuses connections, and would be taken for a stale one.

    A child forked in that moment must not keep the directory locked afterwards.
    """
    monkeypatch.setattr(files, "LOCK_PATIENCE", 0.02)
    path = tmp_path / "s"
    permit = files.SocketFile.permit
    reader, writer = os.pipe()
    children: list[int] = []

    def intrude(*args: object) -> None:
        with pytest.raises(BindError, match="locked"):
            Sockets({}).bind(f"unix:{path}")
        if child := os.fork():
            children.append(child)
            return
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)

    monkeypatch.setattr(files.SocketFile, "permit", intrude)
    try:
        listener = sockets.bind(f"unix:{path}")
        monkeypatch.setattr(files.SocketFile, "permit", permit)
        assert accepts(listener)
        sockets.bind(f"unix:{tmp_path}/other")
    finally:
        os.close(writer)
        os.close(reader)
        for child in children:
            os.waitpid(child, 0)


CONTENDER = """
import sys
from sitebus.errors import BindError
from sitebus.sockets import Sockets
print("ready", flush=True)
sys.stdin.readline()
sockets = Sockets({})
try:
    sockets.bind("unix:" + sys.argv[1])
except BindError as error:
    print("lost" if error.errno == 98 else error, flush=True)
else:
    print("won", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.slow
def test_of_many_that_replace_a_stale_file_at_once_one_wins(tmp_path: Path) -> None:
    """Two winners would mean one serving on a socket that nobody can reach."""
    with ExitStack() as stack:
        contenders = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", CONTENDER, str(tmp_path / "s")],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
                    text=True,
                )
            )
            for _ in range(6)
        ]
        for each in contenders:
            stack.callback(each.kill)
        stale_file(tmp_path / "s")
        for each in contenders:
            assert each.stdout
            assert each.stdout.readline() == "ready\n"
        for each in contenders:
            assert each.stdin
            each.stdin.write("go\n")
            each.stdin.flush()
        results = sorted(each.stdout.readline() for each in contenders if each.stdout)
        assert results == ["lost\n"] * 5 + ["won\n"]
        connect(Address.parse(f"unix:{tmp_path}/s")).close()


# Descriptors that are passed.


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6, socket.AF_UNIX])
def test_a_descriptor_is_taken_as_it_is(
    sockets: Sockets, family: socket.AddressFamily, tmp_path: Path
) -> None:
    """Whoever passes it decides the family; we find out, and never block on it."""
    place = {socket.AF_INET: ("127.0.0.1", 0), socket.AF_INET6: ("::1", 0)}
    with socket.socket(family) as sock:
        sock.bind(place.get(family, str(tmp_path / "s")))
        sock.listen()
        fd = os.dup(sock.fileno())
        os.set_inheritable(fd, True)
        listener = sockets.bind(f"fd:{fd}")
        assert sockets.bind(f"fd:{fd}") is listener
        assert sockets.bind(listener.address) is listener
        assert is_nonblocking(fd)
        assert not os.get_inheritable(fd)
        assert accepts(listener)
    sockets.close()
    assert family != socket.AF_UNIX or (tmp_path / "s").exists()  # the maker's to remove


def test_a_descriptor_that_is_no_listener_is_refused_and_left_open(
    sockets: Sockets, tmp_path: Path
) -> None:
    """It may be the application's own log file."""
    with (
        (tmp_path / "file").open("w") as file,
        socket.socket() as plain,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
    ):
        for fd, reason in (
            (file.fileno(), "is not a socket"),
            (plain.fileno(), "is a socket that does not listen"),
            (datagrams.fileno(), r"of another kind \(AF_INET, SOCK_DGRAM\)"),
            (987654, "descriptor 987654 is not open"),
        ):
            with pytest.raises(BindError, match=reason):
                sockets.bind(f"fd:{fd}")
        assert file.write("still here")
        assert not is_nonblocking(plain.fileno())


SHOW = """
import json, os, sys
from sitebus.sockets import Sockets
sockets = Sockets()
bound = []
for where in sys.argv[1:]:
    for address in sockets.expand(where):
        bound.append(str(sockets.bind(address).address))
print(json.dumps({
    "bound": bound,
    "unclaimed": [str(each) for each in sockets.unclaimed],
    "left": sorted(name for name in os.environ if name.startswith("LISTEN_")),
}), flush=True)
"""

#: Does as systemd: descriptors from 3 on, variables, and an exec that keeps the pid.
ACTIVATE = """
import fcntl, os, socket, sys
names, count, *argv = sys.argv[1:]
socks = [socket.create_server(("127.0.0.1", 0)) for _ in range(int(count))]
high = [fcntl.fcntl(s.fileno(), fcntl.F_DUPFD_CLOEXEC, 50) for s in socks]
print(*[f"127.0.0.1:{s.getsockname()[1]}" for s in socks], flush=True)
for target, fd in enumerate(high, 3):
    os.dup2(fd, target)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=count)
if names != "-":
    os.environ["LISTEN_FDNAMES"] = names
os.execv(sys.executable, [sys.executable, *argv])
"""


def activated(names: str, count: int, *binds: str) -> Child:
    argv = [sys.executable, "-c", ACTIVATE, names, str(count), "-c", SHOW, *binds]
    return Child(argv)


def test_systemd_sockets_are_taken_by_name_and_by_address() -> None:
    """One unit may hold several; nothing of them reaches the site's own children."""
    with activated("web:admin:web", 3, "systemd:admin", "systemd:web") as child:
        one, two, three = child.wait_for_output(r"^(\S+) (\S+) (\S+)$").groups()
        child.wait_for_output(f'"bound": \\["{two}", "{one}", "{three}"\\]')
        child.wait_for_output(r'"unclaimed": \[\], "left": \[\]')
        assert child.wait() == 0


def test_systemd_alone_means_every_socket_passed() -> None:
    """The usual unit passes one or two, and the file should not repeat their names."""
    with activated("-", 2, "systemd") as child:
        one, two = child.wait_for_output(r"^(\S+) (\S+)$").groups()
        child.wait_for_output(f'"bound": \\["{one}", "{two}"\\]')
        assert child.wait() == 0


def test_what_nobody_asked_for_is_told() -> None:
    """It would answer nobody: whoever starts the site says so in the log, and closes it."""
    with activated("web:admin", 2, "systemd:web") as child:
        child.wait_for_output(r'"unclaimed": \["fd:4 \(admin\)"\]')
        assert child.wait() == 0


@pytest.mark.skipif(not os.path.exists("/usr/bin/systemd-socket-activate"), reason="not installed")
def test_the_real_socket_activation_is_understood() -> None:
    """Our own imitation could have the same mistake on both sides."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        where = f"127.0.0.1:{free.getsockname()[1]}"
    argv = ["systemd-socket-activate", "-l", where, "--fdname=web", sys.executable, "-c", SHOW]
    with Child([*argv, where, "systemd:web"], env={}) as child:
        child.wait_for_output("Listening on")
        connect(Address.parse(where)).close()
        child.wait_for_output(f'"bound": \\["{where}", "{where}"\\]')


def passing(count: str = "0", **variables: str) -> dict[str, str]:
    return {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": count, **variables}


@pytest.mark.parametrize("pid", [None, "1", "", "x"])
def test_sockets_for_another_process_are_left_alone(pid: str | None) -> None:
    """Descriptor 3 may be anything then: LISTEN_PID alone says nothing."""
    environ = {"LISTEN_FDS": "1"} | ({} if pid is None else {"LISTEN_PID": pid})
    before = dict(environ)
    sockets = Sockets(environ)
    assert sockets.unclaimed == ()
    assert environ == before
    sockets.close()


@pytest.mark.parametrize(
    ("environ", "reason"),
    [
        (passing("x"), "it should be the number of sockets"),
        (passing("-1"), "it should be the number of sockets"),
        (passing("0", LISTEN_FDNAMES="a:b"), "there are 2 names for 0 sockets"),
        (passing("900000", LISTEN_FDNAMES="a"), "there are 1 names for 900000 sockets"),
        (passing("999999"), "is not open"),
    ],
)
def test_a_senseless_announcement_is_an_error(environ: dict[str, str], reason: str) -> None:
    """Going on without the sockets would look like a healthy start."""
    sockets = Sockets(environ)
    inheritable = [fd for fd in sorted(open_descriptors()) if os.get_inheritable(fd)]
    with pytest.raises(BadInheritance, match=reason) as caught:
        sockets.bind("127.0.0.1:0")
    assert caught.value.status == 78
    for fd in inheritable:
        os.set_inheritable(fd, True)


def test_a_systemd_address_without_systemd_says_what_to_do(sockets: Sockets) -> None:
    """Somebody starts the service's command by hand."""
    for ask in (sockets.bind, sockets.expand):
        with pytest.raises(BindError, match="no socket was passed; start it by its socket unit"):
            ask("systemd")
        with pytest.raises(BindError, match="no socket named 'web' was passed"):
            ask("systemd:web")


# Handing down.

NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
ASKED = st.sampled_from(["127.0.0.1:0", "[::1]:80", "unix:/a:b=c%/é", "systemd:a=b", "fd:7"])
FILES = st.none() | st.tuples(st.integers(0, 2**63), st.integers(0, 2**63))


@given(NAMES, st.none() | ASKED, FILES)
def test_a_name_carries_everything_and_obeys_systemds_rules(
    given_name: str, asked: str | None, file: tuple[int, int] | None
) -> None:
    """No colon, nothing but printable ASCII: else the list falls apart."""
    origin = Origin(given_name, Address.parse(asked) if asked else None, file)
    name = origin.encode()
    assert name.isascii()
    assert name.isprintable()
    assert ":" not in name
    assert Origin.decode(name) == origin


@pytest.mark.parametrize(
    "name", ["web", "sitebus=1=2", "sitebus=a=:=", "sitebus=a=fd:x=", "a=b=c=d"]
)
def test_a_strangers_name_is_kept_as_it_is(name: str) -> None:
    """Names are the administrator's."""
    assert Origin.decode(name) == Origin(name)


def test_sockets_are_handed_down_by_fresh_numbers_and_taken_back(sockets: Sockets) -> None:
    """If the exec fails the old image goes on, and nothing may have moved under it."""
    listeners = [sockets.bind(where) for where in ("127.0.0.1:0", "[::1]:0")]
    before = _table()
    with sockets.hand_down() as legacy:
        assert before.items() <= _table().items()
        assert before.keys().isdisjoint(legacy.fds)
        for fd, listener in zip(legacy.fds, listeners, strict=True):
            assert os.fstat(fd).st_ino == os.fstat(listener.socket.fileno()).st_ino
            assert os.get_inheritable(fd)
            assert is_nonblocking(fd)
        assert legacy.environ[OWN].startswith(f"{os.getpid()}:{legacy.fds[0]}.")
        assert OWN not in os.environ
    assert _table() == before
    assert all(map(accepts, listeners))


def test_a_file_replaced_during_the_exec_is_not_adopted(sockets: Sockets, tmp_path: Path) -> None:
    """The old socket would wait for clients who go to the new file."""
    kept, lost = tmp_path / "kept", tmp_path / "lost"
    ours = [sockets.bind(f"unix:{path}").socket for path in (kept, lost)]
    with sockets.hand_down() as legacy:
        lost.unlink()
        heir = Sockets(dict(legacy.environ))
        listeners = [heir.bind(f"unix:{path}") for path in (kept, lost)]
        pairs = zip(ours, (each.socket for each in listeners), strict=True)
        assert [os.path.sameopenfile(a.fileno(), b.fileno()) for a, b in pairs] == [True, False]
        assert all(map(accepts, listeners))
        assert heir.unclaimed == ()
        heir.close()
        legacy.fds.clear()  # they were the heir's, and it has closed them
    assert not kept.exists()
    assert not lost.exists()


def _table() -> dict[int, tuple[str, bool]]:
    """What each descriptor is, and whether an exec would leave it open."""
    return {
        fd: (os.readlink(f"/proc/self/fd/{fd}") if LINUX else "", os.get_inheritable(fd))
        for fd in open_descriptors()
    }


def test_whatever_is_handed_down_is_what_it_was() -> None:
    """Twice the same, or a standard stream: the next image closes each by itself."""
    with ExitStack() as stack:
        fds = [*os.pipe(), 1]
        for fd in fds[:2]:
            stack.callback(os.close, fd)
        chosen = [*fds, fds[0]]
        before = _table()
        with HandDown([(fd, Origin(str(fd))) for fd in chosen], {}) as legacy:
            assert [os.fstat(fd).st_ino for fd in legacy.fds] == [
                os.fstat(fd).st_ino for fd in chosen
            ]
            assert len(set(legacy.fds)) == 4
            assert min(legacy.fds) > 2
        assert _table() == before


def test_a_hand_down_that_fails_half_way_is_undone() -> None:
    """A limit on descriptors may be hit at the worst moment."""
    import resource

    from sitebus.errors import CannotRestart

    before = _table()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    rows = [(1, Origin("out")), (987654, Origin("gone"))]
    with pytest.raises(CannotRestart, match="cannot be passed on"), HandDown(rows, {}):
        pass
    top = max(before) + 1
    rows = [(1, Origin(str(at))) for at in range(top)]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (top + 2, limits[1]))
        with pytest.raises(CannotRestart, match="cannot be passed on"), HandDown(rows, {}):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert _table() == before


def test_nothing_to_hand_down_leaves_no_announcement() -> None:
    """A stale one in the environment would be believed."""
    environ = {"LISTEN_PID": "1", "LISTEN_FDS": "1", OWN: "1:3.x", "A": "b"}
    with Sockets(environ).hand_down() as legacy:
        assert legacy.environ == {"A": "b"}
        assert len(legacy.fds) == 0


@pytest.mark.parametrize("row", ["", "x.web", "987654.web", "-1.web"])
def test_what_was_handed_down_and_is_not_there_is_an_error(row: str) -> None:
    """Somebody has closed it before us: to bind anew might fail, or make another port."""
    sockets = Sockets({OWN: f"{os.getpid()}:{row}"})
    with pytest.raises(BadInheritance, match="is not open; unset SITEBUS_HANDED_DOWN"):
        sockets.bind("127.0.0.1:0")


def test_what_was_handed_down_to_another_process_is_left_alone() -> None:
    """Whoever is started before the sockets are asked for has word, but no descriptor."""
    environ = {OWN: "1:3.web"}
    sockets = Sockets(environ)
    assert sockets.unclaimed == ()
    assert environ == {OWN: "1:3.web"}
    sockets.close()


REEXEC = """
import json, os, signal, sys
sys.path.insert(0, {root!r})
from sitebus.sockets import Sockets
from sitebus import reexec

def kind(fd):
    try:
        return os.readlink(f"/proc/self/fd/{{fd}}").partition(":")[0]
    except OSError:
        return "the list itself"

life = int(os.environ.get("LIFE", "0"))
binds = json.loads(sys.argv[1])
sockets = Sockets()
listeners = [sockets.bind(where) for where in binds]
memo = sockets.claim("memo")
print(json.dumps({{
    "life": life,
    "pid": os.getpid(),
    "memo": os.pread(memo, 10, 0).decode() if memo else None,
    "addresses": [str(each.address) for each in listeners],
    "files": [each.file is not None for each in listeners],
    "nonblocking": [not os.get_blocking(each.socket.fileno()) for each in listeners],
    "unclaimed": len(sockets.unclaimed),
    "fds": sorted(kind(fd) for fd in os.listdir("/proc/self/fd") if int(fd) > 2),
}}), flush=True)
sys.stdin.readline()
if life == 3:
    connection = None
    for each in listeners:
        connection, _ = each.socket.accept()
        connection.sendall(b"served by life 3")
        connection.close()
    sockets.close()
    sys.exit()
os.environ["LIFE"] = str(life + 1)
os.chdir("/")
memo = memo or os.memfd_create("memo")
os.pwrite(memo, b"remember", 0)
with sockets.hand_down({{"memo": memo}}) as legacy:
    reexec.execute(reexec.Command.of_this_process(), legacy)
"""


@proc
def test_sockets_survive_an_exec_with_everybody_who_waits(tmp_path: Path) -> None:
    """Same pid, same port though any was asked for, and not one waiting client is sent away."""
    import json

    (tmp_path / "site.py").write_text(REEXEC.format(root=str(Path(__file__).parent.parent)))
    binds = ["127.0.0.1:0", "[::1]:0", "unix:s: é=%.sock", f"unix:@sitebus-{os.getpid()}"]
    with (
        subprocess.Popen(
            [sys.executable, "site.py", json.dumps(binds)],
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        ) as process,
        ExitStack() as stack,
    ):
        stack.callback(process.kill)
        assert process.stdout
        assert process.stdin
        lives = [json.loads(process.stdout.readline())]
        places = [Address.parse(text) for text in lives[0]["addresses"]]
        waiting = [stack.enter_context(connect(place)) for place in places]
        for _ in range(3):
            process.stdin.write("\n")
            lives.append(json.loads(process.stdout.readline()))
        process.stdin.write("\n")
        for client in waiting:
            assert client.recv(100) == b"served by life 3"
        assert process.wait(20) == 0
    for number, life in enumerate(lives):
        assert life == {
            "life": number,
            "pid": process.pid,
            "memo": "remember" if number else None,
            "addresses": lives[0]["addresses"],
            "files": [False, False, True, False],
            "nonblocking": [True] * 4,
            "unclaimed": 0,
            "fds": life["fds"],
        }
        assert life["fds"].count("socket") == 4
    assert lives[1]["fds"] == lives[2]["fds"] == lives[3]["fds"]
    assert not (tmp_path / "s: é=%.sock").exists()  # the last life removed what the first had made


#: Its threads hold the lowest descriptors there are, close them, write to them, and open others.
BUSY = """
import os, sys, threading
sys.path.insert(0, {root!r})
from sitebus import reexec
from sitebus.sockets import Sockets

def work(ready):
    while True:
        fds = [os.open(os.devnull, os.O_WRONLY) for _ in range(3)]
        ready.set()
        for fd in fds:
            try:
                os.write(fd, b"a line of a log")
                os.close(fd)
            except OSError as error:
                print("somebody took it:", error, flush=True)

for _ in range(3):
    ready = threading.Event()
    threading.Thread(target=work, args=(ready,), daemon=True).start()
    ready.wait()
sockets = Sockets()
life = int(os.environ.get("LIFE", "0"))
listeners = [sockets.bind(where) for where in ("127.0.0.1:0", "unix:@" + sys.argv[1])]
memo = sockets.claim("memo")
if memo is None:
    memo = os.memfd_create("memo")
    os.write(memo, b"remember")
print(life, *sockets.addresses, os.pread(memo, 99, 0).decode(), flush=True)
if life == 50:
    for each in listeners:
        each.socket.setblocking(True)
        connection, _ = each.socket.accept()
        connection.sendall(b"served by life 50")
        connection.close()
    os._exit(0)
os.environ["LIFE"] = str(life + 1)
with sockets.hand_down({{"memo": memo}}) as legacy:
    reexec.execute(reexec.Command.of_this_process(), legacy)
"""


@proc
def test_threads_that_open_and_close_hit_nothing_that_is_handed_down(tmp_path: Path) -> None:
    """A site's own daemon threads run until the very exec."""
    (tmp_path / "site.py").write_text(BUSY.format(root=str(Path(__file__).parent.parent)))
    name = f"sitebus-busy-{os.getpid()}"
    with Child([sys.executable, "site.py", name], tmp_path) as child, ExitStack() as stack:
        first = child.wait_for_output(r"^0 (\S+) (\S+) remember$").groups()
        clients = [stack.enter_context(connect(Address.parse(each))) for each in first]
        for client in clients:
            client.settimeout(60)
            assert client.recv(100) == b"served by life 50"
        assert child.wait() == 0
        lives = [f"{life} {first[0]} {first[1]} remember" for life in range(51)]
        assert child.output.splitlines() == lives
