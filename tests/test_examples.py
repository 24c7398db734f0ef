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

from tests.helpers import ROOT, Child, SiteProcess, environment

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
