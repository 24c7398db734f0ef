"""Run a shell command that ends in a site, ask the site for a page, and end it politely."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterable
from pathlib import Path

DEADLINE = 300.0


def url_in(output: list[str]) -> str | None:
    """Answer the first address printed, once there is one."""
    found = re.search(r"https?://[^\s/]+:\d+", "".join(output))
    return found.group() if found else None


def wait_for_url(shell: subprocess.Popen[str], output: list[str]) -> str:
    """Wait until the site says where it serves."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end and shell.poll() is None:
        url = url_in(output)
        if url:
            return url
        time.sleep(0.1)
    raise SystemExit(f"no address was printed; status {shell.poll()}")


def main() -> None:
    """Fail unless the site answers 200 and leaves with status 0 on SIGTERM."""
    shell = subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", sys.argv[1]],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    output: list[str] = []
    assert shell.stdout is not None
    reader = threading.Thread(target=keep, args=(shell.stdout, output))
    reader.start()
    try:
        url = wait_for_url(shell, output)
        with urllib.request.urlopen(url, timeout=10) as answer:
            print(f"{url} answers {answer.status}: {answer.read(200).decode()!r}")
        os.kill(pid_of_site(shell.pid), signal.SIGTERM)
        if shell.wait(timeout=30) != 0:
            raise SystemExit(f"the site left with status {shell.returncode}")
    finally:
        if shell.poll() is None:
            os.killpg(shell.pid, signal.SIGKILL)
        reader.join()
    print("SIGTERM ended it with status 0")


def keep(lines: Iterable[str], output: list[str]) -> None:
    """Show the command's lines as they come."""
    for line in lines:
        print(f"  {line}", end="", flush=True)
        output.append(line)


def pid_of_site(shell: int) -> int:
    """Answer the shell's child; some shells become the last command of a list themselves."""
    children = Path(f"/proc/{shell}/task/{shell}/children").read_text().split()
    return int(children[0]) if children else shell


if __name__ == "__main__":
    main()
