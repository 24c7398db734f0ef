"""What a ``fleet.ini`` may say, and what is told of one that says something else."""

from __future__ import annotations

from pathlib import Path

import pytest

from sitebus.config import Override
from sitebus.errors import CannotRead, ConfigErrors, UnknownHost
from sitebus.fleet import ways
from sitebus.fleet.inventory import Inventory, read

HOSTS = "[hosts]\nweb1 = 10.0.0.1\nweb2 = 10.0.0.2\ndb = db.example.org\n"


def inventory(folder: Path, text: str, environ: dict[str, str] | None = None) -> Inventory:
    path = folder / "fleet.ini"
    path.write_text(text)
    return read(path, environ=environ or {})


def problems(folder: Path, text: str) -> list[str]:
    with pytest.raises(ConfigErrors) as caught:
        inventory(folder, text)
    return [str(each).removeprefix(f"{folder}/fleet.ini") for each in caught.value.problems]


def test_hosts_stand_in_the_order_of_the_file(tmp_path: Path) -> None:
    found = inventory(tmp_path, HOSTS)
    assert list(found.entries) == ["web1", "web2", "db"]
    assert found.entries["db"].address == "db.example.org"
    assert found.entries["web1"].method == "ssh"
    assert found.entries["web1"].connect_timeout == 10.0
    assert found.name == "fleet"


def test_a_host_says_what_is_different_about_it(tmp_path: Path) -> None:
    text = f"""{HOSTS}
[fleet]
user = deploy
port = 22
[site]
root = /srv/shop
[host web2]
user = root
root = /srv/other
"""
    found = inventory(tmp_path, text)
    one, two = found.entries["web1"], found.entries["web2"]
    assert (one.user, one.port, one.root) == ("deploy", 22, "/srv/shop")
    assert (two.user, two.port, two.root) == ("root", 22, "/srv/other")
    assert one.where == {"ini": "/srv/shop/current/site.ini"}


def test_a_site_is_meant_by_its_socket_before_its_file(tmp_path: Path) -> None:
    found = inventory(tmp_path, f"{HOSTS}[site]\nsocket = shop\nroot = /srv/shop\n")
    assert found.entries["web1"].where == {"socket": "shop"}
    assert inventory(tmp_path, HOSTS).entries["web1"].where == {}


def test_groups_hold_hosts_and_groups(tmp_path: Path) -> None:
    text = f"{HOSTS}[group web]\nhosts = web2, web1\n[group every]\nhosts = web every db\n"
    found = inventory(tmp_path, text)
    assert found.groups == {"web": ("web1", "web2"), "every": ("web1", "web2", "db")}
    assert found.select(["db", "web"]) == ("web1", "web2", "db")
    assert found.select(["web2,db"]) == ("web2", "db")
    assert found.select([]) == found.select(["all"]) == ("web1", "web2", "db")


def test_a_host_that_serves_nothing_is_named_or_left_alone(tmp_path: Path) -> None:
    """A bastion is on the way to others, and no part of a deploy."""
    text = f"{HOSTS}[fleet]\nvia = db\n[host db]\nserves = no\n"
    found = inventory(tmp_path, text)
    assert found.select([]) == ("web1", "web2")
    assert found.select(["db"]) == ("db",)
    assert found.entries["web1"].via == "db"
    assert found.entries["db"].via is None


def test_an_unknown_host_is_told_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UnknownHost, match=r"no host or group 'wbe1'; did you mean 'web1'\?"):
        inventory(tmp_path, HOSTS).select(["wbe1"])


def test_canaries_are_a_group(tmp_path: Path) -> None:
    text = f"{HOSTS}[fleet]\ncanaries = first\n[group first]\nhosts = web2\n"
    assert inventory(tmp_path, text).canaries == ("web2",)
    assert inventory(tmp_path, HOSTS).canaries == ()


def test_placeholders_and_variables_work_as_in_a_site(tmp_path: Path) -> None:
    text = f"{HOSTS}[fleet]\nuser = ${{env:WHO}}\njournal = ${{here}}/rolls\n"
    environ = {
        "WHO": "deploy",
        "SITEBUS_FLEET__PORT": "2222",
        # Meant for a site.ini.
        "SITEBUS_SERVER__THREADS": "3",
        "SITEBUS_SITE__NAME": "shop",
    }
    found = inventory(tmp_path, text, environ)
    assert found.entries["web1"].user == "deploy"
    assert found.entries["web1"].port == 2222
    assert found.journal == tmp_path / "rolls"


def test_the_command_line_beats_the_file(tmp_path: Path) -> None:
    path = tmp_path / "fleet.ini"
    path.write_text(f"{HOSTS}[fleet]\nuser = deploy\n")
    found = read(path, overrides=[Override("fleet", "user", "root", "-o")], environ={})
    assert found.entries["web1"].user == "root"


def test_every_value_is_explained_with_its_origin(tmp_path: Path) -> None:
    told = inventory(tmp_path, f"{HOSTS}[fleet]\nuser = deploy\n").explain()
    assert "user = deploy" in told
    assert "fleet.ini:6" in told
    assert "web1 = 10.0.0.1" in told
    assert "keepalive = 5s" in told


def test_a_host_may_have_any_name(tmp_path: Path) -> None:
    """Names that would promise a secret elsewhere are names here."""
    told = inventory(tmp_path, "[hosts]\nkeys-1 = 10.0.0.9\nWeb1 = a\nweb1 = b\n")
    assert told.entries["keys-1"].address == "10.0.0.9"
    assert list(told.entries) == ["keys-1", "Web1", "web1"]
    assert "10.0.0.9" in told.explain()


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    text = """[fleet]
usr = deploy
keepalive = 1s
canaries = frist
via = web3
[site]
root = srv/shop
keep = none
[hosts]
web1 = 10.0.0.1
web2 = -oProxyCommand=evil
[host web9]
method = telnet
[group first]
hosts = web1 wbe1
"""
    assert problems(tmp_path, text) == [
        ":2: [fleet] has no setting 'usr' - did you mean 'user'?",
        ":3: keepalive = '1s': expected a duration such as 10s, 500ms, 5m or 1h, at least 2s and "
        "at most 10m",
        ":4: canaries: there is no [group frist] - did you mean 'first'?",
        ":5: via: [hosts] has no 'web3' - did you mean 'web1'?",
        ":7: root = 'srv/shop': expected the whole path of a directory on the host, such as "
        "/srv/shop",
        ":8: keep = 'none': expected a whole number from 1 to 1000",
        ":11: web2 = '-oProxyCommand=evil': expected the address or the name of a host, or of a "
        "container",
        ":12: [hosts] has no 'web9' - did you mean 'web1'?",
        ":13: method = 'telnet': expected ssh, local, docker, podman, buildah, kubectl, lxc, lxd, "
        "incus, jail or setns",
        ":15: hosts: there is no host or group 'wbe1' - did you mean 'web1'?",
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[fleet]\nuser = x\n", "[hosts] names no host"),
        (f"{HOSTS}[group web1]\nhosts = db\n", "'web1' is the name of a host"),
        ("[hosts]\nall = 10.0.0.1\n", "'all' cannot name a host"),
        (f"{HOSTS}[host web1]\nvia = web2\n[host web2]\nvia = web1\n", "reached through itself"),
        (f"{HOSTS}[fleet]\nidentity = nowhere\n", "there is no file"),
        (f"{HOSTS}[site]\nhealth = healthz\n", "expected a path such as /healthz, or a URL"),
        (f"{HOSTS}[hsot web1]\n", "there is no section [hsot] - did you mean [host]?"),
        (f"{HOSTS}web1 = 10.0.0.9\n", "'web1' is said twice in [hosts]"),
    ],
)
def test_a_mistake_is_told_in_one_sentence(tmp_path: Path, text: str, told: str) -> None:
    found = problems(tmp_path, text)
    assert any(told in each for each in found), found


def test_a_file_without_headings_is_told_what_it_begins_with(tmp_path: Path) -> None:
    path = tmp_path / "fleet.ini"
    path.write_text("web1 = 10.0.0.1\n")
    with pytest.raises(
        ConfigErrors, match=r"no \[section\]; it begins with one, such as \[fleet\]"
    ):
        read(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CannotRead, match="no such file"):
        read(tmp_path / "fleet.ini")


# The way to a host.


def way(folder: Path, text: str, name: str = "web1") -> list[ways.Step]:
    found = inventory(folder, text).entries
    return ways.steps(found[name], found, "one", "two")


def test_ssh_trusts_no_key_but_those_it_knows(tmp_path: Path) -> None:
    (tmp_path / "known").touch()
    (step,) = way(tmp_path, f"{HOSTS}[fleet]\nknown_hosts = known\n")
    assert step.options["check_host_keys"] == "enforce"
    args = step.options["ssh_args"]
    assert "StrictHostKeyChecking=yes" in args
    assert f"UserKnownHostsFile={tmp_path}/known" in args
    assert "GlobalKnownHostsFile=/dev/null" in args
    assert step.options["keepalive_interval"] * (step.options["keepalive_count"] + 0.5) <= 5


def test_a_jump_host_passes_on_what_it_cannot_read(tmp_path: Path) -> None:
    text = f"{HOSTS}[fleet]\nuser = x\n[host web1]\nvia = web2\n[host web2]\nvia = db\nport = 7\n"
    (step,) = way(tmp_path, text)
    command = step.options["ssh_args"][step.options["ssh_args"].index("-o", -3) + 1]
    assert command.startswith("ProxyCommand=ssh -o BatchMode=yes")
    assert "StrictHostKeyChecking=yes" in command
    assert "-l x -p 7" in command
    assert "'ProxyCommand=ssh" in command
    assert command.endswith("10.0.0.2 -W [%h]:%p")
    assert "db.example.org -W [%%h]:%%p" in command


def test_becoming_another_is_a_step_of_its_own(tmp_path: Path) -> None:
    text = f"{HOSTS}[fleet]\nbecome = root\nbecome_method = doas\n"
    first, second = way(tmp_path, text)
    assert first.options["password"] == "one"
    assert second.method == "doas"
    assert second.options["username"] == "root"
    assert second.options["password"] == "two"


@pytest.mark.parametrize(
    ("rows", "method", "options"),
    [
        ("method = docker\ncontainer = shop\nuser = app", "docker", {"container": "shop"}),
        ("method = docker\nimage = python:3.13", "docker", {"image": "python:3.13"}),
        ("method = podman", "podman", {"container": "10.0.0.1"}),
        ("method = kubectl\npod = shop-1", "kubectl", {"pod": "shop-1"}),
        ("method = lxc\ncontainer = c1", "lxc", {"container": "c1"}),
        ("method = incus\ncontainer = c1", "incus", {"container": "c1"}),
        ("method = setns\nkind = docker", "setns", {"container": "10.0.0.1", "kind": "docker"}),
    ],
)
def test_containers_are_handed_on_to_mitogen(
    tmp_path: Path, rows: str, method: str, options: dict[str, str]
) -> None:
    """Mitogen must take every option that is handed on, or refuse it here and not at the host."""
    import mitogen.parent  # type: ignore[import-untyped]

    (step,) = way(tmp_path, f"{HOSTS}[host web1]\n{rows}\n")
    assert step.method == method
    assert step.options.items() >= options.items()
    kind = mitogen.parent.get_connection_class(method).options_class
    assert kind(max_message_size=1, **step.options).connect_timeout == 10.0


def test_a_container_on_another_host_is_reached_from_there(tmp_path: Path) -> None:
    found = inventory(tmp_path, f"{HOSTS}[host web1]\nmethod = docker\nvia = db\n").entries
    assert ways.goes_inside(found["web1"])
    assert not ways.goes_inside(found["db"])
