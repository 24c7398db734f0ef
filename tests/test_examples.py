"""Each example is run as its README says, and used as its visitor would."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.fleet.folders import kill, started_below
from tests.helpers import PATIENCE, ROOT, Child, SiteProcess, environment, wait_for
from tests.plugins.launching import finished, launching, public_folder, python_for_everyone

EXAMPLES = ROOT / "examples"
ALL = sorted(path.parent for path in EXAMPLES.glob("*/README.rst"))


def command_of(example: Path) -> list[str]:
    """Answer the command in the second line of an example's README."""
    _, second = (example / "README.rst").read_text().splitlines()
    return shlex.split(second.strip("`"))


def start(example: str, directory: Path) -> Child:
    """Run an example's command in a copy of the tree, on a port that is free."""
    shutil.copytree(EXAMPLES, directory / "examples")
    program, *arguments = command_of(EXAMPLES / example)
    if program == "python":
        return Child([sys.executable, *arguments, "127.0.0.1:0"], directory)
    assert program == "sitebus-serve"
    return SiteProcess(*arguments, "--bind", "127.0.0.1:0", cwd=directory)


def url_of(child: Child) -> str:
    return child.wait_for_output(r"https?://127\.0\.0\.1:\d+").group()


@pytest.mark.parametrize("example", ALL, ids=lambda path: path.name)
def test_every_readme_is_two_lines(example: Path) -> None:
    """What it is, and how to run it."""
    assert command_of(example)


def test_every_example_has_a_readme() -> None:
    """And by that a test."""
    assert [path.name for path in ALL] == sorted(path.name for path in EXAMPLES.iterdir())


def test_hello_greets_and_leaves(tmp_path: Path) -> None:
    """The first thing that anybody sees of sitebus."""
    with start("hello", tmp_path) as site:
        answer = requests.get(f"{url_of(site)}/world", timeout=10)

        assert answer.text == "Hello from sitebus: you asked for /world\n"
        assert site.stop() == 0


def test_quickstart_serves_until_ctrl_c(tmp_path: Path) -> None:
    """Ctrl-C is how a tutorial ends: quietly, without a traceback, with status 0."""
    with start("quickstart", tmp_path) as site:
        answer = requests.get(url_of(site), timeout=10)
        assert answer.text == "This site is states.STARTED.\n"

        site.signal(signal.SIGINT)

        assert site.wait() == 0
        assert "Traceback" not in site.output


def test_tls_serves_the_certificate_that_was_made(tmp_path: Path) -> None:
    """The visitor trusts exactly that certificate, and reaches the site by its name."""
    if not shutil.which("openssl") and "CI" not in os.environ:
        pytest.skip("needs the openssl command")
    shutil.copytree(EXAMPLES, tmp_path / "made" / "examples")
    script = tmp_path / "made" / "examples/tls/certificate.sh"
    subprocess.run(["sh", script], check=True, capture_output=True, env=environment(), timeout=30)
    with SiteProcess("examples/tls/site.ini", "-b", "127.0.0.1:0", cwd=tmp_path / "made") as site:
        answer = requests.get(url_of(site), verify=str(script.with_name("certificate.pem")))

        assert answer.text == "Hello from sitebus: you asked for /\n"
        assert site.stop() == 0


@pytest.fixture(scope="module")
def intranet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of the intranet, served for all the tests below."""
    with start("intranet", tmp_path_factory.mktemp("intranet")) as site:
        yield url_of(site)
        assert site.stop() == 0


def get(url: str) -> requests.Response:
    """Follow redirects; whatever is asked for must be there."""
    answer = requests.get(url, timeout=10)
    assert answer.status_code == 200, url
    return answer


def test_the_landing_page_links_to_every_application(intranet: str) -> None:
    """Whoever follows a link from the front page arrives."""
    links = re.findall(r'href="([^"]+)"', get(intranet).text)

    assert len(links) == 4
    for link in links:
        get(intranet + link)


def test_flask_makes_links_and_redirects_below_its_mount(intranet: str) -> None:
    """Nothing in the application says where it is mounted."""
    posted = requests.post(f"{intranet}/news/", data={"headline": "Rain"}, timeout=10)

    assert posted.url.startswith(f"{intranet}/news/")
    assert "<h1>Rain</h1>" in posted.text
    assert f'href="/news/{posted.url.rpartition("/")[2]}"' in get(f"{intranet}/news/").text


def test_flask_below_its_bare_prefix_finds_the_slash(intranet: str) -> None:
    """Links in the page are relative to it."""
    assert get(f"{intranet}/news").url == f"{intranet}/news/"


def test_django_makes_links_redirects_and_static_addresses(intranet: str) -> None:
    """Its STATIC_URL is relative, and a mount of its own answers there."""
    page = get(f"{intranet}/people/")
    style = re.search(r'href="([^"]+\.css)"', page.text)

    assert 'href="/people/ada"' in page.text
    assert get(f"{intranet}/people/boss").url == f"{intranet}/people/grace"
    assert style
    assert get(intranet + style[1]).headers["Content-Type"].startswith("text/css")


def test_webob_books_a_room_and_redirects_to_it(intranet: str) -> None:
    """A POST, a redirect below the prefix, and the new state."""
    booked = requests.post(f"{intranet}/rooms/attic", data={"who": "ada"}, timeout=10)

    assert booked.url == f"{intranet}/rooms/attic"
    assert booked.json() == {"room": "attic", "booked by": "ada"}


def test_the_folder_serves_ranges_and_no_more_than_itself(intranet: str) -> None:
    """A download can be resumed, and no path leads out."""
    handbook = f"{intranet}/files/handbook.txt"
    part = requests.get(handbook, headers={"Range": "bytes=4-11"}, timeout=10)

    assert (part.status_code, part.text) == (206, "handbook")
    outside = requests.get(f"{intranet}/files/..%2fhome.py", timeout=10)
    assert outside.status_code in (403, 404)


def test_an_old_address_still_leads_somewhere(intranet: str) -> None:
    """A redirect is a mount like any other."""
    assert get(f"{intranet}/blog").url == f"{intranet}/news/"


def test_an_unknown_page_is_the_landing_applications_to_refuse(intranet: str) -> None:
    """It is mounted at the root: everything that nobody else has is its own."""
    answer = requests.get(f"{intranet}/newspaper", timeout=10)

    assert (answer.status_code, answer.text) == (404, "There is no such page.\n")


@pytest.fixture
def cafe(tmp_path: Path) -> Iterator[Child]:
    """The site of the small framework."""
    with start("framework-start", tmp_path) as site:
        yield site


def started(site: Child) -> int:
    """Answer how often it has started, in one process."""
    return site.output.count("Bus STARTED\n")


def replace(path: Path, old: str, new: str) -> None:
    """Save a change as an editor does."""
    draft = path.with_name(f".{path.name}.new")
    draft.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    draft.replace(path)


def shown(url: str, text: str) -> bool:
    return text in requests.get(url, timeout=10).text


def test_a_template_is_refreshed_without_a_restart(cafe: Child, tmp_path: Path) -> None:
    """Its framework has only to forget the old one."""
    url = url_of(cafe)
    assert shown(url, "<h1>Today</h1>")
    cafe.wait_for_output("Bus STARTED")

    replace(tmp_path / "examples/framework-start/templates/menu.html", "Today", "Tonight")

    wait_for(lambda: shown(url, "<h1>Tonight</h1>"), PATIENCE)
    assert started(cafe) == 1


def test_code_is_run_again_in_the_same_process(cafe: Child, tmp_path: Path) -> None:
    """On the same port; a broken save in between costs nothing."""
    url, code = url_of(cafe), tmp_path / "examples/framework-start/cafe.py"
    cafe.wait_for_output("Bus STARTED")

    replace(code, '"Rhubarb"', "Apple")
    cafe.wait_for_output("^NameError")
    assert shown(url, "Rhubarb")
    replace(code, "Apple", '"Apple"')

    wait_for(lambda: shown(url, "Apple"), PATIENCE)
    wait_for(lambda: started(cafe) == 2, PATIENCE)
    cafe.signal(signal.SIGINT)
    assert cafe.wait() == 0


def test_an_address_that_is_taken_is_said_in_a_sentence(cafe: Child, tmp_path: Path) -> None:
    """The framework's start passes on what sitebus says, and its exit status."""
    taken = url_of(cafe).rpartition("/")[2]
    script = tmp_path / "examples/framework-start/cafe.py"
    with Child([sys.executable, script, taken]) as second:
        assert second.wait() == 69
        assert f"does not start: cannot listen on {taken}" in second.output
        assert "Traceback" not in second.output


def test_cherrypy_sells_on_this_engine(tmp_path: Path) -> None:
    """Its plugin is called on the engine's start and by its page; Ctrl-C ends it all."""
    with start("cherrypy-on-sitebus", tmp_path) as site:
        site.wait_for_output("The shop is open")
        answer = requests.get(url_of(site), timeout=10)
        assert answer.text == "Sold. 99 left.\n"

        site.signal(signal.SIGINT)

        assert site.wait() == 0
        assert "The shop is closed." in site.output


def test_cherrypys_shop_is_a_mount_like_others(tmp_path: Path) -> None:
    """The same module, in a site of sitebus's own."""
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    ini = "examples/cherrypy-on-sitebus/site.ini"
    with SiteProcess(ini, "-b", "127.0.0.1:0", cwd=tmp_path) as site:
        assert requests.get(url_of(site), timeout=10).text == "Sold. 99 left.\n"
        assert site.stop() == 0


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="begins as root")
def test_the_daemon_serves_as_nobody_when_the_command_returns() -> None:
    """And takes its pid file with it when it is told to end."""
    python = python_for_everyone()
    with public_folder() as folder, launching(folder) as launcher:
        shutil.copytree(EXAMPLES, folder / "examples")
        home = folder / "examples/daemon"
        subprocess.run(["sh", home / "prepare.sh"], check=True, timeout=30)
        launcher.pidfile = home / "run/site.pid"
        program, *arguments = command_of(home)
        assert program == "sitebus-serve"

        command = ["-m", "sitebus", *arguments, "--bind", "127.0.0.1:0"]
        done = finished(launcher.spawn(command, python=python))

        assert done.status == 0, done.err
        assert get(done.url).text == "Hello from sitebus: you asked for /\n"
        import pwd

        owner = os.stat(f"/proc/{launcher.pid}").st_uid
        assert owner == pwd.getpwnam("nobody").pw_uid
        launcher.end()
        assert not launcher.pidfile.exists()


@pytest.mark.timeout(150)
def test_the_tour_of_a_fleet_fails_no_visitor(tmp_path: Path) -> None:
    """Not even where a release is broken; and its sites end with it."""
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    program, *arguments = command_of(EXAMPLES / "fleet-deploy")
    assert program == "python"
    with Child([sys.executable, *arguments], tmp_path, {"TOUR": f"{tmp_path}/"}) as tour:
        try:
            assert tour.wait(120) == 0, tour
        finally:
            left = started_below(tmp_path, "TOUR") - {tour.pid}
            kill(left)
        assert not left, "it ends what it has started"

        told = tour.wait_for_output(
            r"^(\d+) requests, 0 failed: \{'release one': \d+, 'release two'"
        )
    assert int(told[1]) > 100
    assert "the probe of / failed: 500" in tour.output
    assert "Traceback" not in tour.output
