"""What other servers' options are in a site."""

from __future__ import annotations

import pytest

from sitebus.assembly import plugin_section, table
from sitebus.paste.servers import _COMMON, _FAMILIES, Note, Said, family, translate

RULES = [
    pytest.param(rule.section, rule.key, id=f"{kind or 'any'}-{option}")
    for kind, rules in {"": _COMMON, **_FAMILIES}.items()
    for option, rule in rules.items()
]


def said(use: str, **options: str) -> dict[str, str]:
    """Answer settings by their names."""
    found = translate(use, {key.replace("__", "-"): text for key, text in options.items()})
    return {f"{each.section}.{each.key}": each.text for each in found if isinstance(each, Said)}


def notes(use: str, **options: str) -> list[str]:
    return [each.message for each in translate(use, options) if isinstance(each, Note)]


@pytest.mark.parametrize(("section", "key"), RULES)
def test_every_option_goes_where_there_is_such_a_setting(section: str, key: str) -> None:
    """One that does not would be a mistake in a file that has none."""
    kind, _, name = section.partition(" ")
    found = table().find(kind)
    assert found is not None
    if kind == "server":
        from sitebus.servers import find

        own = {row.name for row in find("cheroot").OPTIONS} | {row.name for row in found.rows}
        assert key in own
    else:
        assert (plugin_section(name) if name else found).row(key) is not None  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("use", "kind"),
    [
        ("egg:waitress#main", "waitress"),
        ("egg:waitress", "waitress"),
        ("egg:plone.recipe.zope2instance#main", "waitress"),
        ("egg:gunicorn#main", "gunicorn"),
        ("egg:Paste#http", "paste"),
        ("egg:PasteScript#wsgiutils", "paste"),
        ("egg:PasteScript#cherrypy", "cherrypy"),
        ("egg:gearbox#cherrypy", "cherrypy"),
        ("egg:pyramid#wsgiref", ""),
        ("egg:sitebus#main", "sitebus"),
        ("call:mine:server", ""),
    ],
)
def test_servers_are_known_by_their_eggs(use: str, kind: str) -> None:
    """The same word means different things to them."""
    assert family(use) == kind


@pytest.mark.parametrize(
    ("options", "bind"),
    [
        ({"host": "0.0.0.0", "port": "6543"}, "0.0.0.0:6543"),
        ({"port": "6543"}, "127.0.0.1:6543"),
        ({"host": "localhost"}, "localhost:8080"),
        ({"host": "localhost:5000"}, "localhost:5000"),
        ({"host": "::1", "port": "80"}, "[::1]:80"),
        ({"host": "*", "port": "80"}, "0.0.0.0:80"),
        ({"listen": "localhost:6543 [::1]:6543"}, "localhost:6543, [::1]:6543"),
        ({"listen": "*:6543"}, "0.0.0.0:6543"),
        ({"fast__listen": "localhost:8080"}, "localhost:8080"),
        ({"bind": "unix:/run/shop.sock"}, "unix:/run/shop.sock"),
        ({"bind": "fd://3"}, "fd:3"),
        ({"unix_socket": "/run/shop.sock"}, "unix:/run/shop.sock"),
    ],
)
def test_where_a_server_listens(options: dict[str, str], bind: str) -> None:
    """There are as many ways to say it as there are servers."""
    assert said("egg:waitress#main", **options) == {"server.bind": bind}


def test_nobody_is_let_in_from_outside_for_want_of_a_host() -> None:
    """With waitress alone the whole network would be served."""
    assert notes("egg:waitress#main", port="6543") == [
        "no host is said, so it is 127.0.0.1; host = 0.0.0.0 is everywhere"
    ]


def test_the_usual_options_of_each_family() -> None:
    """One file of each kind, as its users have it."""
    assert said("egg:waitress#main", threads="6", channel_timeout="60", trusted_proxy="*") == {
        "server.threads": "6",
        "server.timeout": "60",
        "server.trusted_proxies": "*",
    }
    assert said("egg:gunicorn#main", workers="4", graceful_timeout="5", preload_app="true") == {
        "workers.count": "4",
        "server.drain_timeout": "5",
        "workers.preload": "yes",
    }
    assert said("egg:Paste#http", threadpool_workers="3") == {"server.threads": "3"}
    assert said("egg:gearbox#cherrypy", numthreads="3", timeout="7") == {
        "server.threads": "3",
        "server.timeout": "7",
    }


def test_a_word_means_what_its_server_means_by_it() -> None:
    """The timeout of gunicorn ends a worker; as a connection's it would cut visitors off."""
    assert said("egg:gunicorn#main", timeout="30") == {}
    assert "gunicorn's workers" in notes("egg:gunicorn#main", timeout="30")[0]


def test_a_proxy_on_a_unix_socket_is_trusted_by_the_name_that_waitress_has_for_it() -> None:
    """It is no address, and a file that works would be refused."""
    asked = said("egg:waitress#main", unix_socket="/run/shop.sock", trusted_proxy="localhost")
    assert asked == {"server.bind": "unix:/run/shop.sock", "server.trusted_proxies": "unix"}


def test_who_is_asked_for_a_certificate() -> None:
    """Left out it would let anybody in, and added it would keep everybody out."""
    asked = said("egg:gunicorn#main", ca_certs="ca.pem", cert_reqs="2")
    assert asked == {"server.tls_client_ca": "ca.pem", "server.tls_client": "required"}
    assert said("egg:gunicorn#main", ca_certs="ca.pem", cert_reqs="0") == {}
    assert said("egg:gunicorn#main", ca_certs="ca.pem") == {}


def test_our_own_options_are_those_of_a_site() -> None:
    """Whoever writes egg:sitebus#main may say anything that a site.ini can."""
    own = {"drain_timeout": "5s", "workers.count": "2", "plugin pidfile.path": "x", "bind": "80"}
    assert said("egg:sitebus#main", **own) == {
        "server.drain_timeout": "5s",
        "workers.count": "2",
        "plugin pidfile.path": "x",
        "server.bind": "80",
    }
