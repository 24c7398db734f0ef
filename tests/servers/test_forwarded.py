"""What is believed of proxies' headers: what the trusted ones wrote, and nothing of a client's."""

from __future__ import annotations

import ipaddress
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sitebus.errors import EX_CONFIG, BadNetwork
from sitebus.servers import trusting
from sitebus.servers.forwarded import Answer, read
from sitebus.servers.trusting import FOR, FORWARDED, HOST, PORT, PREFIX, PROTO
from sitebus.sockets.networks import Networks

PROXY = "10.0.0.1"
OUTER = "10.0.0.2"
CLIENT = "203.0.113.7"
VICTIM = "198.51.100.9"
TRUSTED = Networks(["10.0.0.0/8", "fd00::/8"])


def believed(peer: str = PROXY, **headers: str) -> Answer:
    """Answer what is believed of headers whose names are written with underscores."""
    told = {name.lower().replace("_", "-"): value for name, value in headers.items()}
    assert told.keys() <= set(trusting.HEADERS)
    return read(peer, told, TRUSTED) or Answer()


def client_of(peer: str = PROXY, **headers: str) -> str:
    client = believed(peer, **headers).client
    return client[0] if client else peer


# Whom to trust.


@pytest.mark.parametrize("peer", ["10.0.0.1", "::ffff:10.0.0.1", "fd00::1", "fd00::1%eth0"])
def test_an_address_is_trusted_however_a_socket_shows_it(peer: str) -> None:
    """An IPv6 socket shows IPv4 clients as IPv6, and link-local ones with their interface."""
    assert peer in TRUSTED


@pytest.mark.parametrize("peer", ["11.0.0.1", "::ffff:11.0.0.1", "::1", "", "proxy", "1" * 500])
def test_nobody_else_is_trusted(peer: str) -> None:
    """Neither who has no address."""
    assert peer not in TRUSTED
    assert believed(peer, x_forwarded_for=VICTIM, x_forwarded_proto="https") == Answer()


def test_unix_sockets_and_anybody_are_trusted_when_they_are_named() -> None:
    """They have no address that could be listed; anybody includes them."""
    assert "" in Networks(["unix"])
    assert "10.0.0.1" not in Networks(["unix"])
    assert all(peer in Networks(["*"]) for peer in ("", "10.0.0.1", "::1", "x" * 500))
    assert not Networks()


def test_networks_may_be_one_text() -> None:
    """As in a file; otherwise each of its characters would be a network."""
    assert Networks("10.0.0.0/8, unix").parts == ("10.0.0.0/8", "unix")
    assert Networks("127.0.0.1").parts == ("127.0.0.1",)


def test_networks_are_written_in_one_form() -> None:
    """For messages, and for --print-config."""
    assert str(Networks(["::ffff:10.0.0.0/104", " ::1/128 ", "UNIX"])) == "10.0.0.0/8, ::1, unix"


@pytest.mark.parametrize(
    "text", ["", "localhost", "10.0.0.1/8", "10.0.0", "1.2.3.4:80", "fe80::1%a"]
)
def test_a_wrong_network_is_one_sentence(text: str) -> None:
    """A name could be anybody's tomorrow."""
    with pytest.raises(BadNetwork) as caught:
        Networks([text])
    assert caught.value.status == EX_CONFIG
    assert "; write " in str(caught.value)


# The walk from the right.


@pytest.mark.parametrize(
    ("hops", "client"),
    [
        (CLIENT, CLIENT),
        (f"{CLIENT}, {OUTER}", CLIENT),
        (f"{CLIENT},{OUTER},10.9.9.9", CLIENT),
        (f"{VICTIM}, {CLIENT}", CLIENT),
        (f"{VICTIM}, {CLIENT}, {OUTER}", CLIENT),
        (f"10.0.0.3, {CLIENT}", CLIENT),
        (f"{OUTER}, 10.0.0.3", OUTER),
        (f" ,, {CLIENT},", CLIENT),
        (f"{CLIENT}:4711", CLIENT),
        ("2001:DB8::7", "2001:db8::7"),
        ("[2001:db8::7]", "2001:db8::7"),
        ("[2001:db8::7]:4711", "2001:db8::7"),
        (f"::ffff:{CLIENT}", CLIENT),
        (f"{VICTIM}, fd00::2, {OUTER}", VICTIM),
    ],
)
def test_the_client_is_the_first_from_the_right_that_is_no_proxy(hops: str, client: str) -> None:
    """What is further left was written by it, or for it."""
    assert client_of(x_forwarded_for=hops) == client


@pytest.mark.parametrize(
    "forged",
    [
        "",
        VICTIM,
        "127.0.0.1",
        PROXY,
        f"{VICTIM}, {PROXY}",
        "unknown",
        "_hidden",
        "garbage; \x00 \xff",
        '"',
        "[",
        "," * 5000,
        f"{VICTIM}, " * 3000,
        f"{PROXY}, " * 3000,
        "x" * 60000,
    ],
)
def test_what_a_client_adds_changes_nothing(forged: str) -> None:
    """Least of all can it have us give up: it would pass for the proxy."""
    assert client_of(x_forwarded_for=f"{forged}, {CLIENT}") == CLIENT
    assert client_of(x_forwarded_for=f"{forged}, {CLIENT}, {OUTER}") == CLIENT


@pytest.mark.parametrize(
    "forged",
    [
        f"for={VICTIM}",
        f"for={VICTIM};proto=https;host=evil",
        f'for="{VICTIM}',
        '"',
        '\\"',
        f'for={VICTIM};host="',
        f'for={VICTIM};host="\\',
        "for=unknown",
        ";;;===,,,",
        '",' * 4000,
        f"for={PROXY}, " * 3000,
        "x" * 60000,
    ],
)
def test_what_a_client_adds_to_forwarded_changes_nothing(forged: str) -> None:
    """A quote that it opens does not swallow what the proxy adds."""
    ours = f'{forged}, for="{CLIENT}:4711";proto=http;host="shop.example.org"'
    found = believed(forwarded=ours)
    assert found == Answer((CLIENT, 4711), "http", "shop.example.org")
    assert client_of(forwarded=f"{ours}, for={OUTER}") == CLIENT


def test_a_quoted_host_with_commas_is_one_value() -> None:
    """A proxy may write what the client calls the site, which is anything at all."""
    evil = f'a, for={VICTIM};x=\\"'
    assert client_of(forwarded=f'for={CLIENT};host="{evil}"') == CLIENT
    assert client_of(forwarded=f'for={CLIENT};host="a, for={VICTIM};x=";by="_me"') == CLIENT


@pytest.mark.parametrize(
    "hops",
    [
        "unknown",
        "_hidden",
        f"{CLIENT}, unknown",
        f"{CLIENT}, _hidden",
        f"{CLIENT}, garbage",
        "1.2.3",
        "1.2.3.400",
        "01.2.3.4",
        "1.2.3.4:99999",
        "[1.2.3.4]",
        "[::1",
        "::1%eth0",
        "1.2.3.4.5",
        "\uff11.2.3.4",
        ", ".join([OUTER] * 65),
    ],
)
def test_where_a_proxy_tells_no_address_its_own_is_used(hops: str) -> None:
    """Nothing left of it can be told from an invention."""
    assert client_of(x_forwarded_for=hops) == PROXY


def test_a_hidden_client_is_behind_the_last_proxy_that_is_known() -> None:
    """Which vouches for what else it says of the request."""
    found = believed(forwarded=f"for={VICTIM}, for=_a;proto=https, for={OUTER}")
    assert found == Answer((OUTER, 0), "https")


@pytest.mark.parametrize(
    "value",
    [
        f"for={CLIENT}",
        f"For={CLIENT}; proto=http",
        f'for="{CLIENT}:_port"',
        f"by=_proxy;for={CLIENT}:80",
        f"\tfor={CLIENT} ",
        f"for={CLIENT};",
        f";by=_proxy;; for={CLIENT} ; ;",
    ],
)
def test_forwarded_is_read_as_its_definition_has_it(value: str) -> None:
    """And a colon without quotes, for which proxies forget them, is forgiven."""
    assert client_of(forwarded=value) == CLIENT


@pytest.mark.parametrize(
    "value",
    [
        f"for={VICTIM};for={CLIENT}",
        f"for={CLIENT};proto",
        f"for={CLIENT};=",
        f"for={CLIENT} proto=http",
        f"for= {CLIENT}",
        f"{CLIENT}",
        f'for="{CLIENT}',
        f'for="{CLIENT}"x',
        f"for={CLIENT};host={'x' * 2000}",
        "proto=https;host=a",
    ],
)
def test_a_forwarded_that_is_not_as_defined_tells_no_address(value: str) -> None:
    """It is the trusted proxy's own, and cannot be relied on."""
    assert client_of(forwarded=value) == PROXY
    assert client_of(forwarded=value, x_forwarded_for=CLIENT) in (PROXY, CLIENT)


# One kind and the other.


def test_forwarded_goes_first_where_both_agree() -> None:
    """It alone knows which scheme belongs to which hop."""
    both = believed(forwarded=f'for="{CLIENT}:5";proto=https', x_forwarded_for=CLIENT)
    assert both == Answer((CLIENT, 5), "https")


@pytest.mark.parametrize(
    "headers",
    [
        {FORWARDED: f"for={VICTIM};proto=https;host=evil", FOR: CLIENT},
        {FORWARDED: f"for={CLIENT}", FOR: VICTIM, PREFIX: "/evil"},
        {FORWARDED: "for=unknown;proto=https", FOR: CLIENT},
        {FORWARDED: f"for={VICTIM}, for={OUTER}", FOR: f"{CLIENT}, {OUTER}"},
    ],
)
def test_where_they_contradict_each_other_neither_is_believed(headers: dict[str, str]) -> None:
    """One was written by the proxy and one by the client, and who knows which."""
    assert read(PROXY, headers, TRUSTED) is None


def test_a_malformed_forwarded_leaves_the_usual_ones() -> None:
    """A client cannot make it so: that would have to be in what the proxy itself has written."""
    assert client_of(forwarded="?", x_forwarded_for=CLIENT) == CLIENT
    assert client_of(forwarded=f"for={CLIENT}", x_forwarded_for="?") == CLIENT


def test_schemes_and_hosts_that_differ_are_not_believed() -> None:
    """The rest still is."""
    found = believed(
        forwarded=f"for={CLIENT};proto=http;host=a.example",
        x_forwarded_proto="https",
        x_forwarded_host="b.example",
        x_forwarded_prefix="/shop",
    )
    assert found == Answer((CLIENT, 0), prefix="/shop")


# What else proxies say.


@pytest.mark.parametrize(
    ("value", "scheme"),
    [("https", "https"), ("HTTP", "http"), ("wss", "https"), ("ws", "http"), ("ftp", ""),
     ("https\r\nx", ""), ("https;", ""), ("", "")],
)  # fmt: skip
def test_a_scheme_is_one_of_two(value: str, scheme: str) -> None:
    """Links are made of it."""
    assert believed(x_forwarded_proto=value).scheme == scheme


@pytest.mark.parametrize(
    ("value", "hops", "scheme"),
    [
        ("https", CLIENT, "https"),
        ("https", f"{CLIENT}, {OUTER}", "https"),
        ("https, http", CLIENT, "http"),
        ("https, http", f"{CLIENT}, {OUTER}", "https"),
        ("http, https, http", f"{VICTIM}, {CLIENT}, {OUTER}", "https"),
        ("https, http", f"{CLIENT}, {OUTER}, 10.0.0.3", ""),
        ("https, http", "", "http"),
    ],
)
def test_the_scheme_is_that_of_the_clients_hop(value: str, hops: str, scheme: str) -> None:
    """Proxies that append do so in step; one value alone is from one that overwrites."""
    assert believed(x_forwarded_proto=value, x_forwarded_for=hops).scheme == scheme


@pytest.mark.parametrize(
    ("value", "host", "port"),
    [
        ("Shop.Example.org", "shop.example.org", None),
        ("shop.example.org:8443", "shop.example.org", 8443),
        ("shop.example.org.", "shop.example.org.", None),
        ("192.0.2.1:80", "192.0.2.1", 80),
        ("[2001:DB8::1]:443", "[2001:db8::1]", 443),
        ("evil, shop.example.org", "shop.example.org", None),
        *(
            (bad, "", None)
            for bad in (
                "", "a b", "a/b", "a@b", "a:b", "a:0", "a:99999", ":80", "a..b", ".a", "-a", "[::1",
                "[1.2.3.4]", "[zz]", "[::1]x", "::1", "a\r\nSet-Cookie: b", "a\x00", "ä", "a%20",
                "a" * 300, "a\u0661", "a:\u0661", "a\n",
            )
        ),
    ],
)  # fmt: skip
def test_a_host_has_the_form_of_one(value: str, host: str, port: int | None) -> None:
    """It ends in links, in redirects and in mails."""
    found = believed(x_forwarded_host=value, x_forwarded_for=CLIENT)
    assert (found.host, found.port) == (host, port)


@pytest.mark.parametrize(
    ("value", "port"),
    [("443", 443), ("80, 8443", 8443), ("0", None), ("65536", None), ("x", None), ("-1", None),
     ("\u0663", None), ("1" * 5000, None)],
)  # fmt: skip
def test_a_port_is_a_port(value: str, port: int | None) -> None:
    """In digits that everybody reads alike."""
    assert believed(x_forwarded_port=value, x_forwarded_for=CLIENT).port == port


def test_the_port_of_the_host_goes_before_the_other() -> None:
    """It is what the client has typed; the other is where the proxy listens."""
    assert believed(x_forwarded_host="a:8443", x_forwarded_port="443").port == 8443
    assert believed(x_forwarded_host="a", x_forwarded_port="443").port == 443


@pytest.mark.parametrize(
    ("value", "prefix"),
    [
        ("/shop", "/shop"),
        ("/shop/", "/shop"),
        ("/a/b-c/d.e", "/a/b-c/d.e"),
        ("/evil, /shop", "/shop"),
        *(
            (bad, "")
            for bad in (
                "", "/", "//", "shop", "//evil.example", "/a//b", "/a/../b", "/.", "/a b", "/a?b",
                "/a#b", "/a%2fb", "/a\\b", "/a\nb", "/ä", "/a/b\r\n", "http://evil", "/a" * 600,
                "/a\n",
            )
        ),
    ],
)  # fmt: skip
def test_a_prefix_is_a_plain_path(value: str, prefix: str) -> None:
    """``//evil.example`` in front of a path is another site to a browser."""
    assert believed(x_forwarded_prefix=value, x_forwarded_for=CLIENT).prefix == prefix


# Whatever comes.

#: Headers come as bytes, each of which is a character.
LATIN = st.characters(max_codepoint=255)
ADDRESSES = st.ip_addresses().map(str) | st.sampled_from([PROXY, OUTER, CLIENT, "fd00::7"])
NODES = (
    ADDRESSES
    | ADDRESSES.map(lambda text: f"[{text}]:80" if ":" in text else f"{text}:80")
    | st.sampled_from(
        ["unknown", "_x", "", " ", '"', "\\", "\\,", ",", "a=b", "for=", ";", "1.2.3"]
    )
    | st.text(LATIN, max_size=8)
)
ELEMENTS = (
    NODES
    | NODES.map("for={}".format)
    | NODES.map('for="{}";proto=https'.format)
    | NODES.map('host="{}";for=10.0.0.3'.format)
)
VALUES = st.lists(ELEMENTS, max_size=8).map(",".join) | st.text(LATIN)
HEADERS = st.dictionaries(st.sampled_from(trusting.HEADERS), VALUES)


def written(text: str) -> set[str]:
    """Answer every address that somebody could see in *text*, in its one form."""
    found = set()
    for start in re.finditer(r"(?=[0-9A-Fa-f:.])", text):
        match = re.match(r"[0-9A-Fa-f:.]{2,45}", text[start.start() :])
        for end in range(2, len(match[0]) + 1) if match else ():
            try:
                address = ipaddress.ip_address(text[start.start() : start.start() + end])
            except ValueError:
                continue
            found.add(str(getattr(address, "ipv4_mapped", None) or address))
    return found


@settings(deadline=None)  # the machine may be busy
@given(st.sampled_from([PROXY, CLIENT, "", "fd00::1", "nobody"]), HEADERS)
def test_no_header_has_it_raise_or_invent(peer: str, headers: dict[str, str]) -> None:
    """Whatever it answers was written, and is in form."""
    found = read(peer, headers, TRUSTED)
    if found is None:
        return
    assert peer in TRUSTED
    assert found.scheme in ("", "http", "https")
    assert found.port is None or 0 < found.port < 65536
    assert found.host.isascii()
    assert found.host.isprintable()
    assert found.prefix == "" or re.fullmatch(r"(/[!-~]+)+", found.prefix)
    if found.client:
        address, port = found.client
        assert 0 <= port < 65536
        # What a backslash hides in quotes is written as well.
        text = " ".join(headers.get(name, "") for name in (FOR, FORWARDED))
        assert address in written(text) | written(text.replace("\\", ""))


@settings(deadline=None)  # the machine may be busy
@given(VALUES, st.sampled_from(["", f", {OUTER}", f", fd00::2,{OUTER}"]))
def test_nothing_left_of_the_client_matters(forged: str, hops: str) -> None:
    """The same, for anything that a client could think of."""
    assert client_of(x_forwarded_for=f"{forged},{CLIENT}{hops}") == CLIENT
    standard = "".join(f', for="[{hop}]"' if ":" in hop else f",for={hop}" for hop in
                       hops.replace(" ", "").split(",")[1:])  # fmt: skip
    found = believed(forwarded=f'{forged},for={CLIENT};host="a.b";proto=https{standard}')
    assert found == Answer((CLIENT, 0), "https", "a.b")


@settings(deadline=None)  # the machine may be busy
@given(VALUES)
def test_what_only_a_client_writes_never_makes_it_somebody_else(forged: str) -> None:
    """A proxy that appends to one kind, and passes on the other as it came."""
    assert client_of(forwarded=forged, x_forwarded_for=CLIENT) in (CLIENT, PROXY)
    assert client_of(forwarded=f"for={CLIENT}", x_forwarded_for=forged) in (CLIENT, PROXY)


def test_names_are_those_of_headers() -> None:
    """Lower case, as ASGI has them."""
    assert {FORWARDED, FOR, PROTO, HOST, PORT, PREFIX} == set(trusting.HEADERS)
    assert all(name == name.lower() for name in trusting.HEADERS)
