"""The listening socket that clients of a site come by: made, left to the next image, removed.

It follows the rules of the engine's sockets, and is none of them: nobody is served there, so it is
not among the site's addresses, and goes on listening when these are closed.
"""

from __future__ import annotations

import atexit
import os
import socket
import stat
from contextlib import suppress

from sitebus.control import places
from sitebus.errors import (
    BadAddress,
    BindError,
    BindNotPermitted,
    CannotControl,
    ControlSocketInUse,
    MayNotControl,
)
from sitebus.process import Engine
from sitebus.sockets import Address, Listener, Sockets
from sitebus.sockets.files import SocketFile
from sitebus.sockets.handdown import OWN, Origin

#: The names under which the socket, and what is known of it, are left to the next image.
_SOCKET, _KNOWN = "control.socket", "control"
_ELSEWHERE = "set another path with [control] socket"


class Door:
    """One unix socket.

    Args:
        path: Where it is; by the site's name in the user's runtime directory if left out.
        name: What the site is called.
        mode: Of its file.
        group: Of its file, by name or number.

    Attributes:
        listener: What listens, while it is open.
    """

    def __init__(self, path: str | None, name: str, mode: int, group: str | None) -> None:
        self._path = path
        self._mode = mode
        self._group = group
        self._name = name
        self._sockets = Sockets({})
        self.listener: Listener | None = None

    def open(self, engine: Engine) -> None:
        """Listen, by the socket that the image before this one has left if it suits.

        Raises:
            CannotControl: It cannot be made.
        """
        if self.listener is None:
            left = self._take(engine)
            self.listener = self._bind_at(left) if left else self._bind(engine)
            atexit.register(self.close)

    def settle(self) -> None:
        """Answer for the file from here on: this process may be a child of who made it."""
        self._sockets.take_over_files()

    def leave(self, engine: Engine) -> None:
        """Leave it to the next image of this process."""
        from sitebus import legacy

        if self.listener is None or self.listener.file is None:
            return
        file = self.listener.file
        engine.legacies[_SOCKET] = self.listener.socket.fileno()
        known = {"path": file.path, "device": file.device, "inode": file.inode}
        with suppress(OSError):  # the next image makes a new one, then
            engine.legacies[_KNOWN] = legacy.write(known)

    def close(self) -> None:
        """Listen no more; the file goes, too, if it is still ours."""
        atexit.unregister(self.close)
        self._sockets.close()
        self.listener = None

    def _take(self, engine: Engine) -> str:
        """Take what the image before this one has left; answer its path, nothing if there is none.

        One that does not suit is closed: the file that is read now says something else.
        """
        from sitebus import legacy

        fd, known = engine.sockets.claim(_SOCKET), engine.sockets.claim(_KNOWN)
        if fd is None or known is None:
            return ""
        try:
            told = legacy.read(known)
            file = SocketFile(told["path"], told["device"], told["inode"], os.getpid())
        except (ValueError, KeyError):
            os.close(fd)
            return ""
        if not self._suits(file.path):
            file.remove()
            os.close(fd)
            return ""
        asked = Address.parse(f"unix:{file.path}")
        origin = Origin(asked=asked, file=(file.device, file.inode))
        self._sockets = Sockets({OWN: f"{os.getpid()}:{fd}.{origin.encode()}"})
        return file.path

    def _suits(self, path: str) -> bool:
        if self._path is not None:
            return path == self._path
        # It may have been another user then, with another directory.
        folder, name = os.path.split(path)
        usual = (*places.paths(self._name), *places.paths(self._name, os.getpid()))
        return os.path.basename(folder) == places.FOLDER and name in map(os.path.basename, usual)

    def _bind(self, engine: Engine) -> Listener:
        if self._path is not None:
            return self._bind_at(self._path)
        plain = places.paths(self._name)[0]
        places.make_folder(plain)
        try:
            return self._bind_at(plain)
        except ControlSocketInUse as taken:
            mine = places.paths(self._name, os.getpid())[0]
            listener = self._bind_at(mine)
            engine.log(f"{taken.reason}: {plain}; the control socket is {mine}")
            return listener

    def _bind_at(self, path: str) -> Listener:
        try:
            return self._sockets.bind(f"unix:{path}", mode=self._mode, owner=self._owner())
        except BindNotPermitted as error:
            remedy = error.remedy.partition(", or use another path")[0]
            raise MayNotControl(path, error.reason, f"{remedy}, or {_ELSEWHERE}") from error
        except BindError as error:
            kind = ControlSocketInUse if _is_taken(path) else CannotControl
            remedy = error.remedy.partition(", or use")[0]
            raise kind(path, error.reason, f"{remedy}, or {_ELSEWHERE}") from error
        except BadAddress as error:
            raise CannotControl(path, error.reason, _ELSEWHERE) from error

    def _owner(self) -> tuple[int, int] | None:
        if self._group is None:
            return None
        from sitebus import accounts

        return -1, accounts.gid_of(self._group)

    def check(self) -> None:
        """Make sure that there is a directory for it, if its path was said.

        Raises:
            CannotControl: There is none.
        """
        folder = os.path.dirname(self._path or "")
        if self._path is not None and not os.path.isdir(folder):
            reason = f"there is no directory {folder}"
            raise CannotControl(self._path, reason, f"make it, or {_ELSEWHERE}")


def _is_taken(path: str) -> bool:
    """Tell whether somebody listens there, or something else has the name."""
    with suppress(OSError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return True
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            probe.connect(path)
    return os.path.exists(path)
