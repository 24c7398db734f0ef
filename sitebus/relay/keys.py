"""The keys by which nodes know each other: a pair for this one, a public key for each peer.

    DIRECTORY/web1.key_secret   of node web1, for its eyes only
    DIRECTORY/web1.key          its public key, to be copied to its peers, as
    DIRECTORY/peers/web1.key    there

The files are ZeroMQ's certificates, as `zmq.auth` reads and writes them. A node is called as its
file is: whoever has the secret of ``peers/web1.key`` is web1. Who has no file there is nobody.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from sitebus.errors import (
    BadName,
    BadRelayKey,
    CannotWriteKey,
    MissingExtra,
    RelayKeyMissing,
    UnsafeRelayKey,
)

PEERS = "peers"
PUBLIC, SECRET = ".key", ".key_secret"
#: Bytes that a file of keys has at most; what is larger is another kind of file.
_LARGEST = 8192

_LINE = re.compile(rb"\s*(public-key|secret-key)\s*=\s*[\"']?([^\s\"']*)[\"']?\s*\Z")
#: Z85, in which keys are written: 5 characters for 4 bytes.
_KEY = re.compile(rb"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")

_BANNER = """\
# The {what} key of sitebus node {node}.
# {hint}

metadata
    node = {node}
curve
    public-key = "{public}"
"""
_OPEN_HINT = "Give it to each peer, as peers/{node}.key of its own directory of keys."
_SECRET_HINT = "Whoever can read this file is {node}: keep it here, and its mode 0600."


class Pair(NamedTuple):
    """What a file of keys says."""

    public: bytes
    secret: bytes | None


class Keys:
    """The keys of one node and of its peers; made by `load`.

    Attributes:
        node: The name of this node.
        public: Its public key, in Z85.
        secret: Its secret key, in Z85.
    """

    def __init__(self, directory: Path, node: str, pair: Pair) -> None:
        self.node = node
        self.public = pair.public
        self.secret = pair.secret or b""
        self._directory = directory / PEERS
        self._seen = self._state()
        self._peers = dict(_peers(self._directory))
        _check_different(self._peers, self._directory)

    def __repr__(self) -> str:
        return f"<Keys of {self.node} and {', '.join(self._peers) or 'nobody else'}>"

    def peers(self) -> Mapping[str, bytes]:
        """Answer the public key of each peer, as the files say now.

        Files that cannot be read, or have no key, are left out then: only `load` complains. What
        has not changed since it could be read counts as it did, for that may have been by root; so
        does all of a directory that cannot be listed any more.
        """
        state = self._state()
        if state is not None and state != self._seen:
            with suppress(OSError):
                self._peers = self._unchanged(state) | dict(_peers(self._directory, lenient=True))
                self._seen = state
        return self._peers

    def name_of(self, public: bytes) -> str | None:
        """Answer whose key it is."""
        for name, key in self.peers().items():
            if key == public:
                return name
        return None

    def _unchanged(self, state: Mapping[str, object]) -> dict[str, bytes]:
        """Answer the keys whose files are, in this *state*, as they were seen."""
        seen = self._seen or {}
        files = {name: f"{name}{PUBLIC}" for name in self._peers}
        return {
            name: self._peers[name]
            for name, file in files.items()
            if state.get(file) is not None and state.get(file) == seen.get(file)
        }

    def _state(self) -> dict[str, object] | None:
        """Answer what changes with any of the files, also with one that is written over."""
        try:
            with os.scandir(self._directory) as entries:
                return {each.name: _version(each) for each in entries}
        except FileNotFoundError:
            return {}
        except OSError:
            return None


def load(directory: str | os.PathLike[str], node: str) -> Keys:
    """Read the keys of *node*, and of its peers.

    Raises:
        RelayKeyMissing: It has none there.
        UnsafeRelayKey: Others could read or change them.
        BadRelayKey: A file has no key, or two peers have the same.
    """
    folder = Path(directory)
    path = folder / f"{_checked(node)}{SECRET}"
    pair = _read(path, private=True)
    if pair is None:
        raise RelayKeyMissing(path, node, folder)
    if pair.secret is None:
        raise BadRelayKey(path, "it has no secret key")
    for each in (folder, folder / PEERS):
        _check_directory(each)
    return Keys(folder, node, pair)


def generate(directory: str | os.PathLike[str], node: str) -> tuple[Path, Path, bytes]:
    """Make a pair of keys for *node*, in files that were not there before.

    Returns:
        The file of the secret key, that of the public one, and the public key.

    Raises:
        MissingExtra: pyzmq is not installed.
        CannotWriteKey: There are keys already, or nothing can be written there.
    """
    folder = Path(directory)
    secret_path, public_path = (folder / f"{_checked(node)}{end}" for end in (SECRET, PUBLIC))
    public, secret = _pair()
    _make(folder / PEERS)
    hints = (_SECRET_HINT.format(node=node), _OPEN_HINT.format(node=node))
    told = {"node": node, "public": public.decode()}
    private = _BANNER.format(what="secret", hint=hints[0], **told)
    private += f'    secret-key = "{secret.decode()}"\n'
    if public_path.exists():
        raise CannotWriteKey(public_path, "it is there already, and may be in use")
    _write(secret_path, private, 0o600)
    _write(public_path, _BANNER.format(what="public", hint=hints[1], **told), 0o644)
    return secret_path, public_path, public


def _version(entry: os.DirEntry[str]) -> object:
    try:
        found = entry.stat()
    except OSError:
        return None
    return (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _checked(node: str) -> str:
    if not _NAME.fullmatch(node):
        raise BadName("node", node, "its keys are in a file of that name (letters, digits, . _ -)")
    return node


def _pair() -> tuple[bytes, bytes]:
    try:
        import zmq
    except ImportError as error:
        raise MissingExtra("pyzmq", "relay") from error
    return zmq.curve_keypair()


def _make(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise CannotWriteKey(folder, _reason(error)) from error


def _write(path: Path, text: str, mode: int) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except FileExistsError as error:
        raise CannotWriteKey(path, "it is there already, and may be in use") from error
    except OSError as error:
        raise CannotWriteKey(path, _reason(error)) from error
    try:
        with os.fdopen(fd, "w") as file:
            # A umask may have taken more from it than others may not have.
            os.fchmod(fd, mode)
            file.write(text)
    except OSError as error:
        with suppress(OSError):
            path.unlink()
        raise CannotWriteKey(path, _reason(error)) from error


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _peers(folder: Path, *, lenient: bool = False) -> Iterator[tuple[str, bytes]]:
    try:
        paths = sorted(folder.iterdir())
    except FileNotFoundError:
        return
    for path in paths:
        if path.suffix != PUBLIC or not _NAME.fullmatch(path.stem):
            continue
        try:
            pair = _read(path)
        except (BadRelayKey, UnsafeRelayKey):
            if lenient:
                continue
            raise
        if pair is not None:
            yield path.stem, pair.public


def _check_different(peers: Mapping[str, bytes], folder: Path) -> None:
    owners: dict[bytes, str] = {}
    for name, key in peers.items():
        other = owners.setdefault(key, name)
        if other != name:
            raise BadRelayKey(folder / f"{name}{PUBLIC}", f"{other} has the same key")


def _read(path: Path, *, private: bool = False) -> Pair | None:
    """Answer what a file of keys says; None if there is none."""
    try:
        # What waits there instead of a file must not make this wait.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadRelayKey(path, f"it cannot be read ({_reason(error)})") from error
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise BadRelayKey(path, "it is no file")
        if private:
            _check_owned(path, found, 0o077, f"chmod 600 {path}")
        else:
            _check_owned(path, found, 0o022, f"chmod go-w {path}")
        return _pair_in(path, file.read(_LARGEST))


def _pair_in(path: Path, data: bytes) -> Pair:
    keys: dict[bytes, bytes] = {}
    for line in data.splitlines():
        if match := _LINE.match(line):
            keys.setdefault(match[1], match[2])
    for which, key in keys.items():
        if not _KEY.fullmatch(key):
            raise BadRelayKey(path, f"its {which.decode()} is no key")
    if b"public-key" not in keys:
        raise BadRelayKey(path, "it has no public key")
    return Pair(keys[b"public-key"], keys.get(b"secret-key"))


def _check_directory(path: Path) -> None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise BadRelayKey(path, f"it cannot be read ({_reason(error)})") from error
    _check_owned(path, found, 0o022, f"chmod go-w {path}")


def _check_owned(path: Path, found: os.stat_result, denied: int, remedy: str) -> None:
    if found.st_mode & denied:
        raise UnsafeRelayKey(path, f"its mode is {found.st_mode & 0o777:04o}", remedy)
    if found.st_uid not in (0, os.geteuid()):
        owner = f"it belongs to user {found.st_uid}"
        raise UnsafeRelayKey(path, owner, f"have it belong to user {os.geteuid()}")
