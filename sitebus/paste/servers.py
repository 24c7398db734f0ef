"""Which settings of a site the options of other servers are.

A table for each family of servers, of what they call things; the rest is ignored, and said so. What
would make a site less safe if it were ignored, such as whom to ask for a certificate, is a row.
Whether a value makes sense is for the reader of the settings.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

#: Where a server listens that is not told; what waitress and others call everywhere is said.
HOST, PORT = "127.0.0.1", "8080"


class Said(NamedTuple):
    """A setting of a site, and the option that it comes from."""

    section: str
    key: str
    text: str
    option: str


class Note(NamedTuple):
    """What becomes of an option that is no setting of a site."""

    option: str
    message: str


class Rule(NamedTuple):
    """Where an option goes, and how its text is said there; None says nothing."""

    section: str
    key: str
    reads: Callable[[str], str | None] = str


def _yes(text: str) -> str | None:
    return "yes" if text.strip().lower() in ("true", "yes", "on", "y", "t", "1") else None


def _spaced(text: str) -> str:
    return ", ".join(text.replace(",", " ").split())


def _headers(text: str) -> str:
    return _spaced(text).replace("_", "-").lower()


def _peer(text: str) -> str:
    # Who comes by a unix socket has that name with waitress.
    return "unix" if text.strip() == "localhost" else text


def _all(text: str) -> str | None:
    return None if _yes(text) is None else "all"


def _if_any(text: str) -> str | None:
    return None if text.strip() in ("", "0", "None") else text


def _certificates(text: str) -> str | None:
    return {"1": "optional", "2": "required"}.get(text.strip())


_COMMON = {
    "threads": Rule("server", "threads"),
    "workers": Rule("workers", "count"),
    "backlog": Rule("server", "backlog"),
}
_FAMILIES: Mapping[str, Mapping[str, Rule]] = {
    "waitress": {
        "channel_timeout": Rule("server", "timeout"),
        "connection_limit": Rule("server", "max_connections"),
        "ident": Rule("server", "server_header"),
        "max_request_body_size": Rule("server", "max_body"),
        "max_request_header_size": Rule("server", "max_header"),
        "trusted_proxy": Rule("server", "trusted_proxies", _peer),
        "trusted_proxy_headers": Rule("server", "trusted_headers", _headers),
    },
    "gunicorn": {
        "accesslog": Rule("logging", "access", _if_any),
        "ca_certs": Rule("server", "tls_client_ca", _if_any),
        "cert_reqs": Rule("server", "tls_client", _certificates),
        "certfile": Rule("server", "tls_cert", _if_any),
        "chdir": Rule("site", "working_dir"),
        "daemon": Rule("plugin daemon", "enabled", _yes),
        "errorlog": Rule("logging", "error", _if_any),
        "forwarded_allow_ips": Rule("server", "trusted_proxies", _spaced),
        "graceful_timeout": Rule("server", "drain_timeout"),
        "group": Rule("plugin drop_privileges", "group"),
        "keyfile": Rule("server", "tls_key", _if_any),
        "loglevel": Rule("logging", "level", str.lower),
        "max_requests": Rule("workers", "max_requests"),
        "pidfile": Rule("plugin pidfile", "path", _if_any),
        "preload_app": Rule("workers", "preload", _yes),
        "proc_name": Rule("site", "name"),
        "proxy_protocol": Rule("server", "proxy_protocol", _all),
        "reload": Rule("reload", "enabled", _yes),
        "umask": Rule("plugin drop_privileges", "umask"),
        "user": Rule("plugin drop_privileges", "user"),
    },
    "paste": {
        "request_queue_size": Rule("server", "backlog"),
        "socket_timeout": Rule("server", "timeout", _if_any),
        "ssl_pem": Rule("server", "tls_cert", _if_any),
        "threadpool_workers": Rule("server", "threads"),
    },
    "cherrypy": {
        "numthreads": Rule("server", "threads"),
        "request_queue_size": Rule("server", "backlog"),
        "shutdown_timeout": Rule("server", "drain_timeout"),
        "ssl_pem": Rule("server", "tls_cert", _if_any),
        "timeout": Rule("server", "timeout"),
    },
    "sitebus": {},
}
#: What an egg is, where its name does not say it.
_EGGS = {"pastescript": "paste", "plone.recipe.zope2instance": "waitress", "zope": "waitress"}
_PLACES = ("host", "port", "listen", "fast-listen", "unix_socket")
#: Why one is ignored, where that is not plain.
_REASONS = {
    "ca_certs": "cert_reqs does not ask for certificates",
    "url_scheme": "what a proxy tells is believed with trusted_proxies",
    "url_prefix": "mount the application at the prefix",
    "worker_class": "requests are served by threads, in as many workers as there are",
    "timeout": "it is about gunicorn's workers; see request_timeout of [workers]",
}


def family(use: str) -> str:
    """Answer the family of what ``use`` names; empty if it is a stranger."""
    egg, _, name = use.removeprefix("egg:").lower().partition("#")
    if name in ("cherrypy", "gunicorn", "waitress"):
        return name
    egg = _EGGS.get(egg, egg)
    return egg if egg in _FAMILIES else ""


def translate(use: str, options: Mapping[str, str]) -> Iterator[Said | Note]:
    """Answer what the options of a server are in a site."""
    kind = family(use)
    rules = {**_COMMON, **_FAMILIES.get(kind, {})}
    yield from _addresses(kind, options)
    if _certificates(options.get("cert_reqs", "")) is None:
        rules.pop("ca_certs", None)
    for option, text in options.items():
        rule = rules.get(option)
        if rule is not None:
            yield from _said(rule, text, option)
        elif option in _PLACES or (option == "bind" and kind != "sitebus"):
            continue
        elif kind == "sitebus":
            section, dot, key = option.rpartition(".")
            yield Said(section if dot else "server", key, text, option)
        else:
            yield Note(option, f"{option} is ignored{_reason(option)}")


def _said(rule: Rule, text: str, option: str) -> Iterator[Said]:
    said = rule.reads(text)
    if said is not None:
        yield Said(rule.section, rule.key, said, option)


def _reason(option: str) -> str:
    return f": {_REASONS[option]}" if option in _REASONS else ""


def _addresses(kind: str, options: Mapping[str, str]) -> Iterator[Said | Note]:
    """Answer where to listen, if anything says so."""
    if path := options.get("unix_socket", "").strip():
        yield Said("server", "bind", f"unix:{path}", "unix_socket")
        return
    for option in ("listen", "fast-listen", *(["bind"] if kind != "sitebus" else [])):
        if listed := options.get(option, "").replace(",", " ").split():
            yield Said("server", "bind", ", ".join(map(address, listed)), option)
            return
    if "host" in options or "port" in options:
        yield Said("server", "bind", _joined(options), "host" if "host" in options else "port")
        if "host" not in options:
            yield Note("port", f"no host is said, so it is {HOST}; host = 0.0.0.0 is everywhere")


def _joined(options: Mapping[str, str]) -> str:
    host, port = options.get("host", "").strip(), options.get("port", "").strip()
    if re.fullmatch(r"[^:]*:\d+", host) and not port:
        host, _, port = host.partition(":")
    host = {"": HOST, "*": "0.0.0.0"}.get(host, host)
    bracketed = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return f"{bracketed}:{port or PORT}"


def address(text: str) -> str:
    """Say a place to listen as a site.ini does."""
    if text.startswith("fd://"):
        return f"fd:{text[5:]}"
    if text.startswith("unix:") or "/" in text:
        return text
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        return _joined({"host": text})
    return _joined({"host": host.strip("[]"), "port": port})
