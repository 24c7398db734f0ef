"""The program that rsync, scp and git take for ssh: it hands its streams to who has the connection.

It is run by its path, by an interpreter that has nothing of sitebus, once for each command that is
to run on the host. Whoever listens on the socket gets the words and the three descriptors, and
answers with the exit status; what flows does not come through here.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
from collections.abc import Sequence

#: The letters of ssh's options that take a value.
_WITH_VALUE = "BbcDEeFIiJLlmOopQRSWw"
#: How long the status may be awaited when nobody reads any more what the command writes.
_PATIENCE = 5000
#: What ssh answers when it is ssh that fails.
_FAILED = 255
#: Of the environment only what git needs to speak a newer protocol.
_HANDED_ON = ("GIT_PROTOCOL",)


def main(argv: Sequence[str]) -> int:
    """Have a command run on the host, and answer its exit status."""
    path, *words = argv
    subsystem, host, command = _read(words)
    told = {
        "host": host,
        "command": "" if subsystem else command,
        "subsystem": command if subsystem else "",
        "environ": {name: os.environ[name] for name in _HANDED_ON if name in os.environ},
    }
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        try:
            sock.connect(path)
            socket.send_fds(sock, [json.dumps(told).encode()], [0, 1, 2])
        except OSError as error:
            return _fail(f"nobody has a connection to {host}: {error.strerror or error}")
        return _wait(sock, host)


def _read(words: list[str]) -> tuple[bool, str, str]:
    """Answer whether a subsystem is meant, the host, and the command, of words that ssh takes."""
    subsystem, at = False, 0
    while at < len(words) and words[at].startswith("-") and words[at] != "-":
        word = words[at]
        at += 1
        if word == "--":
            break
        for place, letter in enumerate(word[1:], 2):
            subsystem |= letter == "s"
            if letter in _WITH_VALUE:
                at += place == len(word)
                break
    host = words[at] if at < len(words) else ""
    return subsystem, host.rpartition("@")[2], " ".join(words[at + 1 :])


def _wait(sock: socket.socket, host: str) -> int:
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    poll.register(1, 0)  # tells of nothing but that nobody reads there any more
    ready = dict(poll.poll())
    if sock.fileno() not in ready:
        poll.unregister(1)
        if not poll.poll(_PATIENCE):
            return _FAILED
    try:
        answer = sock.recv(1 << 16)
    except OSError:
        answer = b""
    if not answer:
        return _fail(f"the connection to {host} has ended")
    told = json.loads(answer)
    if told["said"]:
        return _fail(told["said"], told["status"])
    return int(told["status"])


def _fail(sentence: str, status: int = _FAILED) -> int:
    sys.stderr.write(f"sitebus: {sentence}\n")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
