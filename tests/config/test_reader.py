"""Reading a site.ini: who wins, where values come from, and all that can be wrong with one."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sitebus.config import DEFAULT, Configuration, Option, Override, Table, masked, read
from sitebus.config.core import TABLE
from sitebus.config.kinds import Integer
from sitebus.config.options import Section
from sitebus.errors import CannotRead, ConfigErrors, ForeignFile, UnknownServer
from sitebus.mounts.routing import Place

Reader = Callable[..., Configuration]
EMPTY: Mapping[str, str] = {}


@pytest.fixture
def ini(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reader:
    """Answer a function that reads a text as ``site.ini`` in a directory of its own."""
    monkeypatch.chdir(tmp_path)

    def read_text(
        text: str, *overrides: Override, environ: Mapping[str, str] = EMPTY, table: Table = TABLE
    ) -> Configuration:
        Path("site.ini").write_text(text, encoding="utf-8")
        return read("site.ini", table, overrides=overrides, environ=environ)

    return read_text


def problems(ini: Reader, text: str, *overrides: Override, **environ: str) -> list[str]:
    with pytest.raises(ConfigErrors) as caught:
        ini(text, *overrides, environ=environ)
    return str(caught.value).splitlines()


def test_a_site_is_read(ini: Reader, tmp_path: Path) -> None:
    """The example of the design, as far as one process goes."""
    configuration = ini(
        "[site]\nname = shop\n\n"
        "[server]\nbind = 127.0.0.1:8080, unix:shop.sock\nDrain-Timeout: 5m\n"
        "[server admin]\nbind =\n  [::1]:9000\n  # the old one\n\n  [::1]:9001\n"
        "[mount /]\napp = shop.wsgi:application\n"
        "[mount api.example.org:8443/v1/]\napp = app:api\nfilters = zip tools:wrap\n"
        "[app api]\nuse = api:make\nDebug = yes\n  and more\nstatic-dir = ${here}/s\n"
        "[filter zip]\nuse = zipper:Zip\n"
        "[plugin cache]\nuse = shop.cache:Invalidator\nenabled = no\n"
        "[env]\nDJANGO_SETTINGS_MODULE = shop.settings\n"
    )
    assert configuration.site["name"] == "shop"
    assert configuration.site["python_path"] == (tmp_path,)
    main, admin = configuration.servers
    assert (main.name, admin.name) == ("main", "admin")
    assert [str(address) for address in main["bind"]] == [
        "127.0.0.1:8080",
        f"unix:{tmp_path}/shop.sock",
    ]
    assert main["drain_timeout"] == 300.0
    assert [str(address) for address in admin["bind"]] == ["[::1]:9000", "[::1]:9001"]
    root, api = configuration.mounts
    assert root.place == Place("")
    assert api.place == Place("/v1", "api.example.org", 8443)
    assert api["filters"] == ("zip", "tools:wrap")
    assert dict(configuration.apps["api"].extras) == {
        "Debug": "yes\nand more",
        "static_dir": f"{tmp_path}/s",
    }
    assert list(configuration.filters) == ["zip"]
    assert not configuration.plugins[0]["enabled"]
    assert dict(configuration.env) == {"DJANGO_SETTINGS_MODULE": "shop.settings"}


def test_nothing_at_all_is_a_configuration() -> None:
    """A single application on the command line needs no file."""
    configuration = read(None, environ={})
    assert [str(address) for address in configuration.servers[0]["bind"]] == ["127.0.0.1:8080"]
    assert configuration.site["python_path"] == (Path.cwd(),)
    assert configuration.path is None
    assert not configuration.mounts


def test_the_environment_sets_the_defaults_of_the_rest(ini: Reader) -> None:
    """One word turns a workshop into a shop."""
    assert not ini("[site]\n").site["development_pages"]
    developed = ini("[site]\nenvironment = ${env:STAGE:-development}\n")
    assert developed.site["development_pages"]
    assert developed.site.value("development_pages").origin.source == "default"
    assert not ini("[site]\nenvironment = development\ndevelopment_pages = off\n").site[
        "development_pages"
    ]


def test_command_line_beats_environment_beats_file_beats_default(ini: Reader) -> None:
    """And each value says who won."""
    text = "[server]\nthreads = 2\n"
    flag = Override("server", "threads", "4", "--threads")
    variables = {"SITEBUS_SERVER__THREADS": "3"}

    def threads(configuration: Configuration) -> tuple[int, str]:
        value = configuration.servers[0].value("threads")
        return value.value, str(value.origin)

    assert threads(ini("")) == (10, "default")
    assert threads(ini(text)) == (2, "site.ini:2")
    assert threads(ini(text, environ=variables)) == (3, "environment SITEBUS_SERVER__THREADS")
    assert threads(ini(text, flag, environ=variables)) == (4, "command line --threads")


def test_named_sections_can_be_overridden(ini: Reader) -> None:
    """Their names are found however a shell has to spell them."""
    text = (
        "[server Front-1]\nbind = 127.0.0.1:1\n[server b]\nbind = 127.0.0.1:2\n"
        "[app x]\nuse = a:b\nDebug = no\n"
    )
    configuration = ini(
        text,
        Override("server.b", "threads", "7", "-o"),
        Override("mount docs.example.org/x", "app", "a:b", "-o"),
        environ={
            "SITEBUS_SERVER_FRONT_1__THREADS": "5",
            "SITEBUS_APP_X__DEBUG": "yes",
            "SITEBUS_ENV__MixedCase": "kept",
            "SITEBUS_BENCH": "not a setting",
        },
    )
    assert [server["threads"] for server in configuration.servers] == [5, 7]
    assert configuration.apps["x"].extras == {"Debug": "yes"}
    assert configuration.env == {"MixedCase": "kept"}
    assert str(configuration.mounts[0].place) == "docs.example.org/x"


def test_the_only_server_is_meant_by_a_server_alone(ini: Reader) -> None:
    """``--bind`` needs no name where there is one server; where there are two it does."""
    one = ini("[server front]\n", Override("server", "threads", "3", "-t"))
    assert [(server.name, server["threads"]) for server in one.servers] == [("front", 3)]
    assert problems(
        ini,
        "[server a]\nbind = :1\n[server b]\nbind = :2\n",
        Override("server", "threads", "3", "--threads"),
    ) == ["command line --threads: which server is meant? there are [server a] and [server b]"]


def test_settings_can_name_each_other(ini: Reader) -> None:
    """What is said once cannot differ."""
    configuration = ini(
        "[site]\nname = shop\n[env]\nNAME = ${site:name}-${server:threads}-${app a:x}\n"
        "COPY = ${env:NAME}\nSECRET_COPY = ${app a:password}\nPLAIN = ${env:SECRET_COPY}\n"
        "[app a]\nuse = m:a\nx = ${mount example.org:80/a:slash}\npassword = hush\n"
        "[mount example.org:80/a]\napp = app:a\n"
    )
    assert configuration.env["COPY"] == "shop-10-pass"
    assert configuration.one("env").value("PLAIN").secret
    assert "hush" not in configuration.explain()


def test_includes_keep_their_own_lines_and_directories(ini: Reader, tmp_path: Path) -> None:
    """A value must be found where it was written, and its paths with it."""
    conf = tmp_path / "conf.d"
    conf.mkdir()
    (conf / "b.ini").write_text("[mount /b]\napp = b:app\n")
    (conf / "a.ini").write_text("[mount /a]\n\napp = a:app\n[app a]\nuse = x:y\nhome = ${here}\n")
    configuration = ini("[site]\ninclude = conf.d/*.ini, none/*.ini\n[mount /]\napp = c:app\n")
    assert [str(mount.place) for mount in configuration.mounts] == ["/", "/a", "/b"]
    assert str(configuration.mounts[1].value("app").origin) == "conf.d/a.ini:3"
    assert configuration.apps["a"]["home"] == str(conf)


def test_a_circle_of_includes_is_told(ini: Reader, tmp_path: Path) -> None:
    """It must end, and somebody should know."""
    (tmp_path / "b.ini").write_text("[site]\ninclude = site.ini\n")
    told = problems(ini, "[site]\ninclude = b.ini\n")
    assert "b.ini:2: include: site.ini would include itself; name the other files alone" in told
    (tmp_path / "b.ini").write_text("[mount /]\napp = a:b\n")
    assert problems(ini, "[site]\ninclude = b.ini\n  ./b.ini\n") == [
        "site.ini:2: include: b.ini is included already, by site.ini:2"
    ]
    assert problems(ini, "[site]\ninclude = gone.ini ${site:name}\n") == [
        "site.ini:2: include: ${site:name} has no value yet where files are included"
    ]


def test_everything_that_is_wrong_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody wants to start a server twenty times to find twenty typing errors."""
    monkeypatch.chdir(Path(__file__).parent)
    environ = {"SITEBUS_SERVR__X": "1", "SITEBUS_SERVER__THREADS": "many"}
    with pytest.raises(ConfigErrors) as caught:
        read("bad.ini", environ=environ)
    assert caught.value.status == 78
    told = str(caught.value).replace(str(Path.cwd()), "$PWD")
    assert told.splitlines() == Path("bad.txt").read_text().splitlines()
    assert len(caught.value.problems) > 20


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"[site]\nname = caf\xe9\n", "site.ini:2: the file is not UTF-8 text (byte 0xe9)"),
        (b"\xff\xfe[\0s\0", "site.ini:1: the file is not UTF-8 text (byte 0xff)"),
        (b"[site]\nname = a\0b\n", "site.ini:2: the line has a control character, '\\x00'"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n", "site.ini:1: the file has no [section]"),
        (b"[]\nx = 1\n", "site.ini:1: heading [] names no section"),
        (b"[site]\n  name = x\n", "site.ini:2: 'name = x' is indented"),
        (b"[site x]\n", "site.ini:1: [site] takes no name, so 'x' means nothing"),
        (b"[app]\n", "site.ini:1: [app] needs a name: [app NAME]"),
        (b"[app a b]\nuse = a:b\n", "site.ini:1: 'a b' cannot name a section"),
        (b"[server]\ntls_key = site.ini\n", "site.ini:2: tls_key is of no use without tls_cert"),
        (
            b"[server]\ntls_client = required\n",
            "site.ini:2: tls_client is of no use without tls_client_ca",
        ),
        (
            b"[server a]\nbind = :80\n[server b]\nbind = :80\n",
            "site.ini:4: bind: 0.0.0.0:80 is [server a] at site.ini:2 already",
        ),
        (
            b"[server a]\nbind = 127.0.0.1:0\n[server b]\nbind = 127.0.0.1:0\n",
            "site.ini:4: bind: 127.0.0.1:0 is [server a] at site.ini:2 already",
        ),
        (b"[server]\nbind =\n", "site.ini:2: bind = '': expected one or more addresses"),
    ],
)
def test_one_mistake_is_one_line(
    data: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """File, line, what is wrong: nothing else is on the way to the editor."""
    monkeypatch.chdir(tmp_path)
    Path("site.ini").write_bytes(data)
    with pytest.raises(ConfigErrors) as caught:
        read("site.ini", environ={})
    (told,) = str(caught.value).splitlines()
    assert told.startswith(message)


def test_windows_files_and_byte_order_marks_are_read(tmp_path: Path) -> None:
    """An editor's habits are not the author's mistakes."""
    path = tmp_path / "site.ini"
    path.write_bytes(
        b"\xef\xbb\xbf[site]\r\nname = caf\xc3\xa9 \xe2\x80\xa8x\r\n[mount /]\r\napp = a:b"
    )
    configuration = read(path, environ={})
    assert configuration.site["name"] == "café \u2028x"
    assert configuration.mounts[0].value("app").origin.line == 4


def test_secrets_are_told_to_nobody(ini: Reader, tmp_path: Path) -> None:
    """Neither where the configuration is printed nor where it is wrong."""
    (tmp_path / "pw").write_text("hunter2\n")
    text = (
        "[app a]\nuse = a:b\nApi-Key = hunter2\ndsn = pg://me:hunter2@db/x\n"
        "x = ${file:pw}\ntls_key = k\n"
    )
    printed = ini(text).explain()
    assert "hunter2" not in printed
    assert "dsn = pg://me:********@db/x" in printed
    told = problems(ini, "[server]\nthreads = ${file:pw}\n")
    assert told == ["site.ini:2: threads = '********': expected a whole number from 1 to 4096"]


def test_a_file_that_is_not_there_is_another_status(tmp_path: Path) -> None:
    """A service manager should not retry either, but for another reason."""
    with pytest.raises(CannotRead, match="there is no such file") as caught:
        read(tmp_path / "site.ini")
    assert caught.value.status == 66
    with pytest.raises(CannotRead, match="it is a directory"):
        read(tmp_path)
    with pytest.raises(CannotRead, match="there is no such file"):
        read("a\0b")


def test_a_paste_file_is_no_part_of_a_site(ini: Reader, tmp_path: Path) -> None:
    """Its sections would be told one by one that there are no such ones."""
    (tmp_path / "old.ini").write_text("# pyramid\n\n[app:main]\nuse = egg:x\n")
    with pytest.raises(ForeignFile, match=r"old.ini:3: \[app:main\] .* cannot be included") as e:
        ini("[site]\ninclude = old.ini\n")
    assert e.value.status == 78


def test_rooms_bring_rows(ini: Reader) -> None:
    """An adapter's own settings are checked like the core's, and the core's table stays."""
    server = TABLE.find("server")
    assert server is not None
    row = Option("shards", Integer(1, 8), 2, "How many shards.")
    table = TABLE.with_section(server.with_rows([row]))
    assert ini("[server]\nshards = 3\n", table=table).servers[0]["shards"] == 3
    assert problems(ini, "[server]\nshards = 3\n") == [
        "site.ini:2: [server] has no setting 'shards' - did you mean 'threads'?"
    ]


def test_a_setting_can_bring_rows(ini: Reader) -> None:
    """Each adapter has settings of its own, and one that is not there is told on its line."""

    def brings(section: Section, name: str) -> Section:
        if name == "cheroot":
            return section
        if name != "sharded":
            raise UnknownServer(name, ["cheroot", "sharded"])
        return section.with_rows([Option("shards", Integer(1, 8), 2, "How many shards.")])

    server = TABLE.find("server")
    assert server is not None
    table = TABLE.with_section(server._replace(brings_by="adapter", brings=brings))
    assert ini("[server]\nshards = 3\nadapter = sharded\n", table=table).servers[0]["shards"] == 3
    assert "shards" not in ini("", table=table).servers[0]
    with pytest.raises(ConfigErrors) as caught:
        ini("[server]\nadapter = shardy\nshards = 3\n", table=table)
    (told,) = str(caught.value).splitlines()  # it might have known about shards
    assert told.startswith("site.ini:2: adapter: ")
    assert "did you mean 'sharded'" in told


def test_every_row_of_the_table_is_whole() -> None:
    """The docs and the command line are made from it."""
    for section in TABLE.sections:
        assert section.help.endswith(".")
        for row in section.rows:
            assert row.help
            assert row.name == row.name.lower()
            for default in (row.default, *row.by_environment.values()):
                if default not in (None, "", ()):
                    text = row.kind.format(default)
                    from sitebus.config.kinds import Context

                    assert row.kind.parse(text, Context(Path.cwd())) == default


def test_a_configuration_is_frozen() -> None:
    """Whoever was handed it can rely on it."""
    configuration = read(None, environ={})
    with pytest.raises(AttributeError, match="frozen"):
        configuration.path = Path("x")
    with pytest.raises(KeyError):
        configuration.site["nope"]


def test_reading_is_quick(ini: Reader) -> None:
    """It stands between a crash and the next answer."""
    text = "[server]\n" + "".join(f"[mount /{n}]\napp = a{n}:app\n" for n in range(10))
    ini(text)
    best = min(_timed(lambda: read("site.ini", environ={})) for _ in range(5))
    assert best < 0.02


def _timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


@pytest.mark.parametrize(
    "text",
    [
        "[site]\nname = " + "x" * 5_000_000,
        "[" + "x" * 1_000_000 + "]",
        "y" * 1_000_000 + " = 1",
        "[app x]\nuse = a:b\n" + "".join(f"k{n} = 1\n" for n in range(50_000)),
        "[app x]\nuse = a:b\nk = 1\n" + "  more\n" * 200_000,
        "[app x]\nuse = a:b\nk = " + "${here}" * 20_000,
        "[site]\n" + "no sense\n" * 20_000,
        "[env]\n" + "".join(f"V{n} = ${{env:V{n + 1}}}\n" for n in range(2000)) + "V2000 = x",
    ],
)
def test_hostile_sizes_end_soon(ini: Reader, text: str) -> None:
    """The wrong file named by mistake is a sentence, not a hung deployment."""
    start = time.perf_counter()
    said = ""
    try:
        ini(text)
    except ConfigErrors as error:
        said = str(error)
    assert len(said) < 100_000
    assert time.perf_counter() - start < 40


HEADINGS = st.sampled_from(
    ["[site]", "[server]", "[server a]", "[mount /]", "[mount /a]", "[app a]", "[env]", "[x]", "["]
)
LINES = st.one_of(
    st.text(max_size=30),
    HEADINGS,
    st.builds(
        "{}{}{}".format,
        st.sampled_from(
            ["name", "bind", "threads", "app", "use", "include", "A", "B", " x", "k-Y"]
        ),
        st.sampled_from(["=", " = ", ":", " "]),
        st.one_of(
            st.text(max_size=20),
            st.sampled_from(
                ["1", ":0", "a:b", "${env:A}", "${env:B}", "${app a:k_y}", "${mount /:app}", "${"]
            ),
        ),
    ),
)


@settings(max_examples=300)
@example("[site]\ninclude=*\n")
@example("[mount /]\napp=${mount /:app}\n")
@given(st.one_of(st.text(), st.lists(LINES, max_size=12).map("\n".join)))
def test_any_text_is_a_configuration_or_a_list_of_sentences(text: str) -> None:
    """Nothing else may come out of a file."""
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "site.ini")
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        try:
            said = read(path, environ={}).explain()
        except (ConfigErrors, ForeignFile) as error:
            said = str(error)
    assert said


@settings(max_examples=100)
@given(
    st.dictionaries(st.text(max_size=8).map("SITEBUS_{}".format), st.text(max_size=8)), st.text()
)
def test_any_environment_and_flag_too(environ: dict[str, str], text: str) -> None:
    """They come from strangers just as well."""
    section, _, key = text.rpartition(".")
    try:
        said = read(None, environ=environ, overrides=[Override(section, key, text, "-o")]).explain()
    except ConfigErrors as error:
        said = str(error)
    assert said


def test_app_is_a_module_where_no_section_has_the_name(ini: Reader, tmp_path: Path) -> None:
    """``app:app`` is what half of all applications are called."""
    (tmp_path / "app.py").touch()
    assert ini("[mount /]\napp = app:app\n").mounts[0]["app"] == "app:app"
    both = ini("[mount /]\napp = app:app\n[app app]\nuse = a:b\n")
    assert both.app_of(both.mounts[0]) is both.apps["app"]
    assert problems(ini, "[mount /]\napp = app:blog\n[app blogs]\nuse = a:b\n") == [
        "site.ini:2: app: there is no section [app blog] - did you mean 'blogs'?"
    ]
    (tmp_path / "app.py").unlink()
    assert problems(ini, "[mount /]\napp = app:app\n") == [
        "site.ini:2: app: there is no section [app app]"
    ]


def test_what_is_made_by_a_section_is_no_factory(ini: Reader) -> None:
    """It would be called twice, the second time as if it were one."""
    text = "[mount /]\napp = app:a\nfactory = yes\n[app a]\nuse = x:y\n"
    assert problems(ini, text) == ["site.ini:3: factory: [app a] is called already; leave it out"]


def test_what_others_depend_on_is_told_once_and_where_it_stands(ini: Reader) -> None:
    """A broken setting that another one looks at first is broken all the same."""
    unset = "environment variable 'NOPE' is not set (${env:NAME:-default} has a default)"
    text = (
        "[site]\nenvironment = ${env:NOPE}\ndevelopment_pages = ${site:environment}\n"
        "name = ${server:adapter}\n[server]\nadapter = ${env:NOPE}\n"
    )
    assert problems(ini, text) == [
        f"site.ini:2: environment: {unset}",
        f"site.ini:6: adapter: {unset}",
    ]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("", 30.0),
        ("[server]\ndrain_timeout = 2s\n", 2.0),
        ("[server a]\nbind = :1\ndrain_timeout = 2s\n[server b]\nbind = :2\n", 30.0),
        ("[server a]\nbind = :1\ndrain_timeout = 2s\n"
         "[server b]\nbind = :2\ndrain_timeout = 5s\n", 5.0),
        ("[server]\ndrain_timeout = 2s\n[workers]\ndrain_timeout = 7s\n", 7.0),
        ("[server]\ndrain_timeout = ${workers:boot_timeout}\n", 60.0),
    ],
)  # fmt: skip
def test_workers_drain_as_long_as_the_most_patient_server(
    ini: Reader, text: str, seconds: float
) -> None:
    """Unless their own section says it; and none of it counts as said by somebody."""
    told = ini(text).one("workers").value("drain_timeout")
    assert told.value == seconds
    assert told.origin == DEFAULT or "[workers]" in text


def test_a_default_that_follows_a_mistake_adds_none(ini: Reader) -> None:
    """The one that was made is told once."""
    (told,) = problems(ini, "[server]\ndrain_timeout = soon\n")
    assert told.startswith("site.ini:2: drain_timeout = 'soon'")


def test_a_default_that_follows_itself_is_a_circle(ini: Reader) -> None:
    """Not an endless search."""
    problems(ini, "[server]\ndrain_timeout = ${workers:drain_timeout}\n")


@pytest.mark.parametrize("key", ["timeout", "drain_timeout"])
def test_a_wait_has_an_end(ini: Reader, key: str) -> None:
    """Operating systems count such times in few bits."""
    assert "at most 1d" in problems(ini, f"[server]\n{key} = 30d\n")[0]


def test_a_misspelled_section_of_an_override_is_no_new_one(ini: Reader) -> None:
    """It would open a second door, and nobody would know."""
    text = "[server admin]\nbind = :1\n[mount /wiki]\napp = a:b\n"
    assert problems(
        ini,
        text,
        Override("server.admn", "threads", "3", "-o"),
        Override("mount /wikki", "slash", "strict", "-o"),
        Override("server.", "threads", "3", "-o"),
        SITEBUS_SERVER_ZZZ__THREADS="3",
    ) == [
        "command line -o: nothing follows the dot of 'server.'",
        "environment SITEBUS_SERVER_ZZZ__THREADS: the file has no section [server zzz]; "
        "a new one needs 'bind'",
        "command line -o: the file has no section [server admn] - did you mean [server admin]?",
        "command line -o: the file has no section [mount /wikki] - did you mean [mount /wiki]?",
    ]
    two = ini(text, Override("server.more", "bind", ":2", "-o"))
    assert [server.name for server in two.servers] == ["admin", "more"]


def test_messages_and_origins_keep_secrets_too(ini: Reader, tmp_path: Path) -> None:
    """A log is read by more people than the file that the secret is in."""
    (tmp_path / "pw").write_text("hunter2")
    said = ini(
        "[server]\nbind = unix:/run/${file:pw}\n[logging]\naccess = /var/${file:pw}\n"
        "[mount /]\napp = redirect:https://u:${file:pw}@h/\n",
        Override(
            "mount /b", "app", "redirect:https://u:hun/t@er2@h/", "/b=redirect:https://u:hunter2@h/"
        ),
    )
    assert "hunter2" not in said.explain()
    assert "hun/t@er2" not in said.explain()
    assert said.hushed("no /var/hunter2, nor unix:/run/hunter2") == "no ********, nor ********"
    assert problems(ini, "[server]\ntls_cert = ${file:pw}\n") == [
        "site.ini:2: tls_cert = '********': expected the path of a file that is there"
    ]
    assert "hunter2" not in problems(ini, "[mount /]\napp = app:${file:pw}\n")[0]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("pg://me:pw@db/x", "pg://me:********@db/x"),
        ("pg://me:p/w@x@db/x y@z", "pg://me:********@db/x y@z"),
        ("a://:p@h,b://u:q@i c://h/", "a://:********@h,b://u:********@i c://h/"),
        ("a://u:x://y@h", "a://u:********@h"),
        ("me@example.org http://h/", "me@example.org http://h/"),
    ],
)
def test_the_passwords_of_urls_are_masked(text: str, shown: str) -> None:
    """Whatever characters are in them, and no more than they."""
    assert masked(text) == shown


def test_masking_does_not_take_long() -> None:
    """A line may be a megabyte."""
    for text in ("@" + "://a:" * 200_000, "a,b://" * 200_000 + "@", "://u:p@" * 100_000):
        assert _timed(lambda text=text: masked(text)) < 10  # type: ignore[misc]
