"""Heads of requests that mean one thing, and those that do not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitebus.servers.heads import MOST_FIELDS, Head, Refusal, find_end, read


def head(*fields: bytes, line: bytes = b"GET / HTTP/1.1", host: bool = True) -> Head:
    return read(b"\r\n".join([line, *([b"Host: a"] if host else []), *fields]), 1000)


def status(*fields: bytes, line: bytes = b"GET / HTTP/1.1", host: bool = True) -> int:
    with pytest.raises(Refusal) as caught:
        head(*fields, line=line, host=host)
    assert caught.value.why.isascii()
    assert caught.value.why.endswith(".")
    return caught.value.status


def test_a_request_as_browsers_send_it() -> None:
    found = head(b"Accept:  */* ", b"X-Said: caf\xe9", line=b"GET /caf%C3%A9%2fb?c=%20 HTTP/1.1")
    assert found == Head(
        method="GET",
        target="/caf%C3%A9%2fb?c=%20",
        path="/caf\xc3\xa9%2Fb",
        query="c=%20",
        version="HTTP/1.1",
        fields={"HTTP_HOST": "a", "HTTP_ACCEPT": "*/*", "HTTP_X_SAID": "caf\xe9"},
        length=0,
        keeps=True,
        waits=False,
    )


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"GET /",
        b"GET  / HTTP/1.1",
        b" GET / HTTP/1.1",
        b"GET / HTTP/1.1 ",
        b"GET / HTTP/1.1\t",
        b"GET\t/ HTTP/1.1",
        b"GET /a b HTTP/1.1",
        b"GET / HTTP/1.",
        b"GET / HTTP/11",
        b"GET / HTTP/1.10",
        b"GET / http/1.1",
        b"GET / HTTPS/1.1",
        b"GET / ICY/1.1",
        b"get / HTTP/1.1",
        b"G@T / HTTP/1.1",
        b"G(T / HTTP/1.1",
        b"GET: / HTTP/1.1",
        b"GET / HTTP/1.1\0",
        b"GET /\0 HTTP/1.1",
        b"GET /\x01 HTTP/1.1",
        b"GET /\x7f HTTP/1.1",
        b"GET /\xff HTTP/1.1",
        b"GET /a#b HTTP/1.1",
        b"GET a HTTP/1.1",
        b"GET * HTTP/1.1",
        b"GET ?a HTTP/1.1",
        b"GET http:///a HTTP/1.1",
        b"GET http://a@b/ HTTP/1.1",
        b"GET ftp://a/ HTTP/1.1",
        b"GET / HTTP/\xd9\xa1.1",
        b"\x16\x03\x01\x02",
    ],
)
def test_a_request_line_is_three_words(line: bytes) -> None:
    assert status(line=line) == 400


@pytest.mark.parametrize("version", [b"HTTP/2.0", b"HTTP/0.9", b"HTTP/1.2", b"HTTP/3.1"])
def test_other_versions_are_not_spoken(version: bytes) -> None:
    assert status(line=b"GET / " + version) == 505


def test_it_is_no_proxy() -> None:
    assert status(line=b"CONNECT example.org:443 HTTP/1.1") == 405


@pytest.mark.parametrize(
    ("line", "path", "host"),
    [
        (b"GET http://b:8080/c?d HTTP/1.1", "/c", "b:8080"),
        (b"GET HTTPS://b HTTP/1.1", "/", "b"),
        (b"GET http://b?d HTTP/1.1", "/", "b"),
        (b"GET //b/c HTTP/1.1", "//b/c", "a"),
        (b"OPTIONS * HTTP/1.1", "/*", "a"),
    ],
)
def test_a_target_may_be_a_url(line: bytes, path: str, host: str) -> None:
    """What it says counts, and not what the Host says besides (RFC 9112, section 3.2.2)."""
    found = head(line=line)
    assert (found.path, found.fields["HTTP_HOST"]) == (path, host)


@pytest.mark.parametrize(
    "field",
    [
        b"Name : value",
        b"Name\t: value",
        b" Name: value",
        b"Name",
        b": value",
        b"",
        b"Na me: value",
        b"Name:\r\n more",
        b"Name: a\r\n\tb",
        b"N\xe4me: value",
        b"Na(me: value",
        b"Name: a\rb",
        b"Name: a\nb",
        b"Name: a\0b",
        b"Name: a\x0bb",
        b"Name: a\x7fb",
        b"Na\nme: a",
        b"Name: a\n",
        b"Name: a\r",
    ],
)
def test_a_field_is_a_name_a_colon_and_a_value(field: bytes) -> None:
    """Continued lines and blanks before the colon were how requests were smuggled."""
    assert status(field) == 400
    assert status(b"A: b", field, b"C: d") == 400


def test_fields_are_counted() -> None:
    assert status(*[b"A: b"] * MOST_FIELDS) == 431


def test_fields_of_one_name_are_one_list() -> None:
    found = head(b"A: b", b"Cookie: c=d", b"a: e", b"cookie: f=g")
    assert (found.fields["HTTP_A"], found.fields["HTTP_COOKIE"]) == ("b, e", "c=d; f=g")


@pytest.mark.parametrize("name", [b"Content_Length", b"X_Said", b"Host_", b"_", b"Proxy", b"PROXY"])
def test_names_that_pass_for_others_are_dropped(name: bytes) -> None:
    """To an application, ``X_Said`` would be ``X-Said``, and ``Proxy`` a setting."""
    found = head(name + b": 5", name + b": 6")
    assert found.fields == {"HTTP_HOST": "a"}
    assert found.length == 0


@pytest.mark.parametrize(
    "host",
    [b"a b", b"a/b", b"a@b", b"a,b", b"a:b", b"a:123456", b"[a", b"a]", b"\xe4", b"a?", b"a\\b"],
)
def test_a_host_is_a_name_or_an_address(host: bytes) -> None:
    assert status(b"Host: " + host, host=False) == 400
    assert status(b"Host: " + host, host=False, line=b"GET / HTTP/1.0") == 400


@pytest.mark.parametrize("host", [b":80", b":", b"a@b", b"a b", b"[a"])
def test_a_url_has_a_host(host: bytes) -> None:
    """A proxy may have routed by the Host in its stead (RFC 9110, section 4.2.1)."""
    assert status(line=b"GET http://%b/ HTTP/1.1" % host) == 400


@pytest.mark.parametrize("host", [b"", b"a", b"a.b:80", b"a_b", b"127.0.0.1", b"[::1]:80", b"a:"])
def test_other_hosts_are_taken(host: bytes) -> None:
    assert head(b"Host: " + host, host=False).fields["HTTP_HOST"] == host.decode()


def test_one_host_is_said() -> None:
    assert status(host=False) == 400
    assert status(b"Host: a") == 400
    assert status(b"host: b") == 400
    assert "HTTP_HOST" not in head(host=False, line=b"GET / HTTP/1.0").fields
    assert status(b"Host: a", b"Host: a", line=b"GET / HTTP/1.0", host=False) == 400


@pytest.mark.parametrize(
    "length",
    [
        b"+5", b"-1", b"0x5", b"5, 5", b"5,5", b"5 5", b"5;", b"5.0", b"", b"five", b"5_0", b"1e1",
        "\u0665".encode(), b"\xb2", b"\xb95",
    ],
)  # fmt: skip
def test_a_length_is_digits(length: bytes) -> None:
    assert status(b"Content-Length: " + length) == 400


@pytest.mark.parametrize("length", [b"1001", b"9" * 18, b"9" * 19, b"9" * 5000])
def test_a_body_has_an_upper_limit(length: bytes) -> None:
    assert status(b"Content-Length: " + length) == 413


def test_one_length_is_said() -> None:
    assert head(b"Content-Length: 1000").length == 1000
    assert head(b"Content-Length:  005\t").length == 5
    assert status(b"Content-Length: 5", b"Content-Length: 6") == 400
    assert status(b"Content-Length: 5", b"content-length: 5") == 400
    assert status(b"Content-Type: a", b"Content-Type: b") == 400


@pytest.mark.parametrize(
    ("coding", "refused"),
    [
        (b"gzip", 501),
        (b"gzip, chunked", 501),
        (b"chunked, gzip", 501),
        (b"identity", 501),
        (b"xchunked", 501),
        (b"chunked, chunked", 400),
        (b"chunked,", 400),
        (b", chunked", 400),
        (b'"chunked"', 400),
        (b"chunked;q=1", 400),
        (b"chun ked", 400),
        (b"", 400),
    ],
)
def test_chunks_are_the_only_coding(coding: bytes, refused: int) -> None:
    assert status(b"Transfer-Encoding: " + coding) == refused


def test_a_coding_stands_alone() -> None:
    """Beside a length, or from those who do not know it, somebody else may not have seen it."""
    assert head(b"Transfer-Encoding: Chunked").length is None
    chunked = b"Transfer-Encoding: chunked"
    assert status(chunked, b"Content-Length: 5") == 400
    assert status(chunked, chunked) == 400
    assert status(chunked, line=b"GET / HTTP/1.0") == 400
    assert status(b"Transfer-Encoding: gzip", line=b"GET / HTTP/1.0") == 400


@pytest.mark.parametrize(
    ("line", "said", "keeps"),
    [
        (b"GET / HTTP/1.1", None, True),
        (b"GET / HTTP/1.1", b"close", False),
        (b"GET / HTTP/1.1", b"CLOSE", False),
        (b"GET / HTTP/1.1", b"x, Close", False),
        (b"GET / HTTP/1.1", b"closed", True),
        (b"GET / HTTP/1.0", None, False),
        (b"GET / HTTP/1.0", b"Keep-Alive", True),
        (b"GET / HTTP/1.0", b"keep-alive", True),
        (b"GET / HTTP/1.0", b"x,KEEP-ALIVE ,y", True),
        (b"GET / HTTP/1.0", b"keep-alive, close", False),
    ],
)
def test_a_connection_stays_as_asked(line: bytes, said: bytes | None, keeps: bool) -> None:
    fields = [b"Connection: " + said] if said is not None else []
    assert head(*fields, line=line).keeps is keeps


def test_one_expectation_is_known() -> None:
    assert head(b"Expect: 100-Continue").waits
    assert not head(b"Expect: 100-continue", line=b"GET / HTTP/1.0").waits
    assert status(b"Expect: the unexpected") == 417


@pytest.mark.parametrize(
    ("data", "end"),
    [(b"a\r\n\r\nb", 1), (b"a\r\n\r", -1), (b"a\r", -1), (b"", -1), (b"a\r\nb: c\r\n\r\n", 7)],
)
def test_a_head_ends_with_an_empty_line(data: bytes, end: int) -> None:
    assert find_end(data, 100) == end
    assert all(find_end(data, 100, start) == end for start in range(min(len(data), max(end, 0))))


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\n", b"a\r\nb\n", b"a\rb", b"a\r\nb\0", b"\n\n"])
def test_no_other_end_is_waited_for(data: bytes) -> None:
    """It would never come."""
    with pytest.raises(Refusal, match="CR and LF"):
        find_end(data, 100)


@pytest.mark.parametrize(
    ("data", "refused"),
    [
        (b"x" * 101, 414),
        (b"x" * 101 + b"\r\n\r\n", 414),
        (b"a\r\n" + b"x" * 98, 431),
        (b"a\r\n" + b"x" * 98 + b"\r\n\r\n", 431),
    ],
)
def test_a_head_has_an_upper_limit(data: bytes, refused: int) -> None:
    assert find_end(data, 0) in (-1, len(data) - 4)
    with pytest.raises(Refusal) as caught:
        find_end(data, 100)
    assert caught.value.status == refused


PIECES = st.sampled_from(
    [b"GET", b" ", b"/", b"HTTP/1.1", b"\r\n", b"Host:", b"a", b":", b"\n", b"\r", b"\0", b"\xff",
     b"Content-Length: 5", b"Transfer-Encoding: chunked", b"%", b"%2f", b"?", b"#", b"\t", b"*"]
)  # fmt: skip


@given(pieces=st.lists(PIECES, max_size=20))
def test_whatever_comes_is_understood_or_refused(pieces: list[bytes]) -> None:
    """Nothing else can be raised."""
    for block in (b"".join(pieces), b"GET / HTTP/1.1\r\nHost: a\r\n" + b"".join(pieces)):
        try:
            found = read(block)
        except Refusal:
            continue
        assert found.path.startswith("/")
        assert not any(bad in value for value in found.fields.values() for bad in "\r\n\0")
