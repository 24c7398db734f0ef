"""Addresses: what can be written, how it is read, and what is said about the rest."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sitebus.errors import BadAddress
from sitebus.sockets import addresses
from sitebus.sockets.addresses import Address

FORMS = {
    "127.0.0.1:8080": "127.0.0.1:8080",
    " 127.0.0.1:8080\n": "127.0.0.1:8080",
    ":8080": "0.0.0.0:8080",
    "*:80": "0.0.0.0:80",
    "8080": "127.0.0.1:8080",
    "localhost:0": "localhost:0",
    "Example.ORG:80": "example.org:80",
    "example.org.:80": "example.org.:80",
    "my_host-1:80": "my_host-1:80",
    "bücher.example:80": "xn--bcher-kva.example:80",
    "[::1]:80": "[::1]:80",
    "[0:0::0:1]:80": "[::1]:80",
    "[::FFFF:127.0.0.1]:80": "127.0.0.1:80",
    "[fe80::1%eth0]:80": "[fe80::1%eth0]:80",
    "unix:/run/x.sock": "unix:/run/x.sock",
    "unix:///run/x.sock": "unix:/run/x.sock",
    "/run/x.sock": "unix:/run/x.sock",
    "./x.sock": "unix:./x.sock",
    "unix:x.sock": "unix:x.sock",
    "unix:/run/a: b%.sock": "unix:/run/a: b%.sock",
    "unix:@name": "unix:@name",
    "\0name": "unix:@name",
    "fd:3": "fd:3",
    "fd:007": "fd:7",
    "systemd": "systemd",
    "systemd:web": "systemd:web",
}

BAD = {
    "": "it has no port",
    "localhost": "it has no port",
    "[::1]": "it has no port",
    "::1:8080": "brackets",
    "[127.0.0.1]:80": "brackets hold an IPv6 address",
    "[::g]:80": "no IPv6 address",
    "[fe80::1%]:80": "interface",
    "127.0.0.1:": "a port is",
    "127.0.0.1:65536": "a port is",
    "127.0.0.1:-1": "a port is",
    "127.0.0.1:+1": "a port is",
    "127.0.0.1:1_0": "a port is",
    "127.0.0.1:\u0663": "a port is",
    "99999": "a port is",
    "127.0.0.1:" + "9" * 5000: "a port is",
    "127.0.0:80": "four numbers",
    "256.0.0.1:80": "four numbers",
    "a b:80": "no host name",
    "-a:80": "no host name",
    ("a" * 64) + ":80": "no host name",
    ".".join(["a" * 60] * 5) + ":80": "no host name",
    "a..b:80": "no host name",
    "ü..b:80": "cannot be written in DNS",
    "http://127.0.0.1:8080": "it is a URL",
    "run/x.sock": "unix:",
    "unix:": "no socket file",
    "unix:@": "no socket file",
    "unix:/run/": "no socket file",
    "unix:a\0b": "control characters",
    "unix:/" + "a" * 120: "at most",
    "unix:/\ud800": "cannot be written",
    "fd:": "a number",
    "fd:-1": "a number",
    "fd:99999999999": "a number",
    "systemd:": "name",
    "systemd:a:b": "name",
}


@pytest.mark.parametrize(("text", "canonical"), FORMS.items())
def test_every_form_has_one_way_to_be_written_back(text: str, canonical: str) -> None:
    """Two spellings of one place must be one listener."""
    assert str(Address.parse(text)) == canonical
    assert Address.parse(canonical) == Address.parse(text)


@pytest.mark.parametrize(("text", "reason"), BAD.items())
def test_a_bad_address_says_what_is_wrong_and_what_would_work(text: str, reason: str) -> None:
    """It stands in a file that somebody else wrote, years ago."""
    with pytest.raises(BadAddress) as caught:
        Address.parse(text)
    assert reason in str(caught.value)
    assert "; write " in str(caught.value)
    assert caught.value.status == 78


@pytest.mark.parametrize(
    "value", [None, True, 80.0, b"127.0.0.1:80", ("a",), (1, 2), [], -1, 70000]
)
def test_other_types_are_refused_like_bad_text(value: Any) -> None:
    """A caller from code gets the same one error."""
    with pytest.raises(BadAddress):
        Address.parse(value)


def test_numbers_and_pairs_are_taken_from_code() -> None:
    """``bind_addr`` has been a pair in every server for twenty years."""
    assert Address.parse(8080) == Address.parse("127.0.0.1:8080")
    assert Address.parse(("::1", 80)) == Address.parse("[::1]:80")
    assert Address.parse(("", 80)) == Address.parse(":80")
    sockaddr: Any = ("::1", 80, 0, 0)
    assert Address.parse(sockaddr) == Address.parse("[::1]:80")
    address = Address.parse(("localhost", 80))
    assert Address.parse(address) is address


@given(st.text())
@example("[::1%\0]:80")
@example("ß:80")
@example("\uff11\uff12\uff17.0.0.1:80")
@example("unix:@\udc80")
def test_any_text_is_an_address_that_reads_back_or_a_bad_address(text: str) -> None:
    """Nothing else may come out of a line in a file."""
    try:
        address = Address.parse(text)
    except BadAddress:
        return
    assert Address.parse(str(address)) == address
    assert str(Address.parse(str(address))) == str(address)


PORTS = st.integers(0, 65535)
LIKELY = st.one_of(
    st.builds("{}:{}".format, st.ip_addresses(v=4), PORTS),
    st.builds("[{}]:{}".format, st.ip_addresses(v=6), PORTS),
    st.builds("{}:{}".format, st.from_regex(r"[a-z0-9.\-]{1,20}", fullmatch=True), PORTS),
    st.builds("unix:{}".format, st.text(max_size=40)),
    st.builds("fd:{}".format, st.integers(0, 1000)),
    st.builds("systemd:{}".format, st.text(max_size=10)),
)


@given(LIKELY)
def test_likely_addresses_read_back(text: str) -> None:
    """Plain random text is hardly ever an address; this is nearly always."""
    test_any_text_is_an_address_that_reads_back_or_a_bad_address.hypothesis.inner_test(text)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("127.0.0.1:8080", "http://127.0.0.1:8080"),
        (":8080", "http://127.0.0.1:8080"),
        ("[::]:80", "http://[::1]:80"),
        ("[fe80::1%eth0]:80", "http://[fe80::1%25eth0]:80"),
        ("unix:/run/x.sock", "http+unix://%2Frun%2Fx.sock"),
        ("fd:3", "fd:3"),
    ],
)
def test_the_url_is_what_a_client_here_would_type(text: str, url: str) -> None:
    """Nobody can open http://0.0.0.0 everywhere, and banners are clicked."""
    assert Address.parse(text).url() == url


def test_the_scheme_of_the_url_can_be_chosen() -> None:
    """A server with a certificate says https."""
    assert Address.parse("8443").url("https") == "https://127.0.0.1:8443"


def test_an_unbound_socket_of_unix_has_no_path() -> None:
    """A listener without a name can be passed to us; it has an address all the same."""
    with socket.socket(socket.AF_UNIX) as sock:
        assert addresses.of_socket(sock) == Address("unix")
