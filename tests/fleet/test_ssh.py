"""Over a real sshd: keys, passwords, sudo and hosts on the way; and each that is not as it should.

What stands in the way is told in one sentence that names the host and says what would work.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from sitebus import fleet
from sitebus.errors import (
    AccessDenied,
    ConnectFailed,
    FleetError,
    HostKeyChanged,
    HostKeyUnknown,
    HostLost,
    NoPython,
)
from sitebus.fleet import Fleet
from tests.fleet import inis
from tests.fleet.accounts import Account
from tests.fleet.rig import Loopback, make_key
from tests.helpers import PATIENCE, wait_for
from tests.plugins.launching import python_for_everyone


def write(folder: Path, loopback: Loopback, **rows: object) -> Path:
    """Write a fleet.ini of one host, on that sshd."""
    said = {
        "user": loopback.user,
        "port": loopback.port,
        "identity": loopback.identity,
        "known_hosts": loopback.known_hosts,
        "connect_timeout": "10s",
        **rows,
    }
    lines = [f"{key} = {value}" for key, value in said.items() if value is not None]
    path = folder / "fleet.ini"
    path.write_text("\n".join(["[fleet]", *lines, "[hosts]", f"web1 = {loopback.address}", ""]))
    return path


def refusal(path: Path, become_password: str | None = None) -> FleetError:
    with fleet.open(path, become_password=become_password) as one:
        with pytest.raises(FleetError) as caught:
            one["web1"].connect()
        assert one.connect()["web1"] is not None
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.fixture(scope="module")
def one(loopback: Loopback, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("ssh")
    with (
        inis.module(folder, "ssh_ops"),
        fleet.open(write(folder, loopback), allow=("ssh_ops",)) as one,
    ):
        yield one


def test_a_host_is_reached_and_asked(one: Fleet) -> None:
    host = one["web1"]
    assert host.exec(["sh", "-c", "echo $SSH_CONNECTION"]).out.startswith("127.0.0.1 ")
    assert host.facts()["user"] == one.inventory.entries["web1"].user


def test_a_session_that_is_killed_is_told_at_once(loopback: Loopback, tmp_path: Path) -> None:
    with fleet.open(write(tmp_path, loopback)) as one:
        host = one["web1"]
        stream = host.exec_stream(["sh", "-c", "echo $$; sleep 1000"])
        pid = int(next(stream)[1])
        loopback.sshd.kill_sessions()
        with pytest.raises(HostLost, match=r"^web1: the link to it broke"):
            stream.next(PATIENCE)
        wait_for(lambda: not Path(f"/proc/{pid}").exists())
        assert host.exec(["echo", "again"]).out == "again\n"


def test_nothing_is_left_behind_on_the_host(loopback: Loopback, tmp_path: Path) -> None:
    with fleet.open(write(tmp_path, loopback)) as one:
        pid = one["web1"].connect()["pid"]
        sessions = loopback.sshd.sessions()
        assert sessions
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), PATIENCE, "the agent to end")
    wait_for(lambda: not sessions & loopback.sshd.sessions(), PATIENCE, "the session to end")


# Keys.


def test_a_key_that_the_host_does_not_know(loopback: Loopback, tmp_path: Path) -> None:
    stranger = make_key(tmp_path / "stranger")
    error = refusal(write(tmp_path, loopback, identity=stranger))
    assert isinstance(error, AccessDenied)
    assert error.wants == "ssh"
    assert str(error).startswith(f"web1: it does not let user {loopback.user} in by the key")
    assert "authorized_keys" in str(error)


def test_a_host_whose_key_is_not_known(loopback: Loopback, tmp_path: Path) -> None:
    empty = tmp_path / "known"
    empty.touch()
    error = refusal(write(tmp_path, loopback, known_hosts=empty))
    assert isinstance(error, HostKeyUnknown)
    assert f"the host key of {loopback.address} is not in {empty}" in str(error)
    assert f"ssh-keyscan -p {loopback.port}" in str(error)
    assert empty.read_text() == ""


def test_a_host_whose_key_has_changed(loopback: Loopback, tmp_path: Path) -> None:
    other = make_key(tmp_path / "other").with_suffix(".pub").read_text().split()
    known = tmp_path / "known"
    known.write_text(f"[{loopback.address}]:{loopback.port} {other[0]} {other[1]}\n")
    error = refusal(write(tmp_path, loopback, known_hosts=known))
    assert isinstance(error, HostKeyChanged)
    assert f"has another host key than the one in {known}" in str(error)
    assert f"ssh-keygen -R '[{loopback.address}]:{loopback.port}' -f {known}" in str(error)


# Places that are not as they should.


def test_nobody_listens(loopback: Loopback, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        error = refusal(write(tmp_path, loopback, port=free.getsockname()[1]))
    assert type(error) is ConnectFailed
    assert "Connection refused; try ssh -p" in str(error)


def test_a_name_that_leads_nowhere(loopback: Loopback, tmp_path: Path) -> None:
    path = write(tmp_path, loopback)
    path.write_text(path.read_text().replace(f"= {loopback.address}", "= no-such-host.invalid"))
    error = refusal(path)
    assert type(error) is ConnectFailed
    assert "Could not resolve hostname no-such-host.invalid" in str(error)


def test_a_place_that_says_nothing(loopback: Loopback, tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        error = refusal(write(tmp_path, loopback, port=port, connect_timeout="500ms"))
    assert type(error) is ConnectFailed
    assert str(error) == (
        "web1: no answer from 127.0.0.1 within 0.5 s; see whether it is up, or allow more by "
        "connect_timeout"
    )


@pytest.mark.parametrize("python", ["python3.0", "/no/such/python3"])
def test_a_host_without_that_python(loopback: Loopback, tmp_path: Path, python: str) -> None:
    error = refusal(write(tmp_path, loopback, python=python))
    assert isinstance(error, NoPython)
    assert str(error).startswith(f"web1: there is no {python} on it (")
    assert str(error).endswith("say python = PATH in the file")


# Becoming another.


def write_account(folder: Path, loopback: Loopback, account: Account, **rows: object) -> Path:
    """Write a fleet.ini of one host, where that user logs in, and becomes root."""
    python = python_for_everyone().path
    told = {"user": account.name, "python": python, "become": "root", **rows}
    return write(folder, loopback, **told)


def test_root_by_sudo_with_a_password(loopback: Loopback, account: Account, tmp_path: Path) -> None:
    path = write_account(tmp_path, loopback, account)
    with fleet.open(path, become_password=account.password) as one:
        host = one["web1"]
        assert host.facts()["uid"] == 0
        assert host.exec(["id", "-u"]).out == "0\n"
        assert host.call(os.geteuid) == 0
        pid = host.connect()["pid"]
    wait_for(lambda: not Path(f"/proc/{pid}").exists())


def test_a_password_in_a_file_of_its_own(
    loopback: Loopback, account: Account, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text(f"{account.password}\n")
    secret.chmod(0o600)
    path = write_account(tmp_path, loopback, account, become_password_file=secret)
    with fleet.open(path) as one:
        assert one["web1"].facts()["uid"] == 0
    secret.chmod(0o644)
    error = refusal(path)
    assert isinstance(error, AccessDenied)
    assert str(error).endswith(f"others may read the password in {secret}; run: chmod 600 {secret}")


def test_a_password_in_the_environment(
    loopback: Loopback, account: Account, tmp_path: Path
) -> None:
    path = write_account(tmp_path, loopback, account)
    environ = {**os.environ, "SITEBUS_FLEET_BECOME_PASSWORD": account.password}
    with fleet.open(path, environ=environ) as one:
        assert one["web1"].facts()["uid"] == 0


def test_a_wrong_password_for_sudo(loopback: Loopback, account: Account, tmp_path: Path) -> None:
    path = write_account(tmp_path, loopback, account)
    error = refusal(path, become_password="wrong")
    assert isinstance(error, AccessDenied)
    assert error.wants == "become"
    assert str(error) == "web1: sudo does not take the password for root; give the right one"
    assert "wrong" not in repr(vars(error)).replace("sentence", "")


def test_no_password_for_sudo(loopback: Loopback, account: Account, tmp_path: Path) -> None:
    error = refusal(write_account(tmp_path, loopback, account))
    assert isinstance(error, AccessDenied)
    assert error.wants == "become"
    assert "sudo wants a password for root; say become_password_file" in str(error)


def test_nobody_by_sudo_without_a_password(loopback: Loopback, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root becomes others without a password")
    path = write(tmp_path, loopback, become="nobody", python=python_for_everyone().path)
    with fleet.open(path) as one:
        assert one["web1"].facts()["user"] == "nobody"


def test_another_user_by_su(loopback: Loopback, account: Account, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root becomes others without a password")
    python = python_for_everyone().path
    rows = {"become": account.name, "become_method": "su", "python": python}
    with fleet.open(write(tmp_path, loopback, **rows)) as one:
        assert one["web1"].facts()["user"] == account.name


def test_a_program_that_is_not_there(loopback: Loopback, tmp_path: Path) -> None:
    error = refusal(write(tmp_path, loopback, become="root", become_method="doas"))
    assert isinstance(error, ConnectFailed)
    assert "doas" in str(error)


# Hosts on the way.


def test_a_host_behind_another(loopback: Loopback, tmp_path: Path) -> None:
    """Both are this sshd: what counts is that the way goes through it twice."""
    path = write(tmp_path, loopback, via="bastion")
    path.write_text(
        f"{path.read_text()}bastion = {loopback.address}\n[host bastion]\nserves = no\n"
    )
    with fleet.open(path) as one:
        assert [host.name for host in one] == ["web1"]
        assert one["web1"].exec(["echo", "hi"]).out == "hi\n"
        # One for each hop: the bastion runs nothing of ours.
        assert len(loopback.sshd.sessions()) >= 2
        pid = one["web1"].connect()["pid"]
    wait_for(lambda: not Path(f"/proc/{pid}").exists())


def test_a_bastion_whose_key_is_not_known(loopback: Loopback, tmp_path: Path) -> None:
    empty = tmp_path / "known"
    empty.touch()
    path = write(tmp_path, loopback, via="bastion")
    rows = f"bastion = {loopback.address}\n[host bastion]\nknown_hosts = {empty}\n"
    path.write_text(f"{path.read_text()}{rows}")
    error = refusal(path)
    assert isinstance(error, HostKeyUnknown)
    assert f"of bastion on the way, {loopback.address}, is not in {empty}" in str(error)


def test_a_process_inside_a_host_is_reached_through_it(loopback: Loopback, tmp_path: Path) -> None:
    """As a container on it is, which nobody has here."""
    path = write(tmp_path, loopback)
    path.write_text(f"{path.read_text()}inner = x\n[host inner]\nmethod = local\nvia = web1\n")
    with fleet.open(path) as one:
        inner = one["inner"]
        assert inner.exec(["sh", "-c", "echo $SSH_CONNECTION"]).out.startswith("127.0.0.1 ")
        assert inner.connect()["pid"] != one["web1"].connect()["pid"]
        os.kill(one["web1"].connect()["pid"], signal.SIGKILL)
        with pytest.raises(HostLost):
            inner.exec_stream(["sleep", "1000"]).next(PATIENCE)
        assert inner.exec(["echo", "again"]).out == "again\n"


def test_mitogens_own_log_is_written_where_it_is_asked_for(
    loopback: Loopback, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with fleet.open(write(tmp_path, loopback), debug=True, log=log) as one:
        one["web1"].connect()
    assert "mitogen" in log.read_text()
