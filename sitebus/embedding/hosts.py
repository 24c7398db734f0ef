"""Whose process this is, when a lodger of that host may begin, and how it hears of the end.

A host is known by what it has imported or built in. Of one that is not known nothing is expected
but that it imports the application, and ends as Python does.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from typing import Any

Call = Callable[[], object]


class Host:
    """Somebody else's program, in whose process the site is.

    Attributes:
        name: What it is called in messages.
        patience: Seconds that an end of the site may take before the host would lose patience.
        reloads_by: How a change of the code gets into its processes.
        forks_later: Whether this process will not serve, but those that are forked from it.
        recycles: Whether `recycle` has this process replaced.
        outlives_main: Whether it may go on serving when the main thread has ended.
    """

    name = "another program"
    patience = 20.0
    reloads_by = "have that restart its processes"
    forks_later = False
    recycles = False
    outlives_main = True

    def when_forked(self, begin: Call) -> None:
        """Have *begin* called in each process that is to serve, if the host tells of them."""

    def at_end(self, end: Call, made: Collection[threading.Thread]) -> None:
        """Have *end* called, once or more, when this process ends.

        Args:
            end: Ends the site.
            made: The threads that its start has made. Python would wait for them before it calls
                what is registered with atexit, and for ever if it is for *end* to end them.
        """
        atexit.register(end)

        def main_thread_ended() -> None:
            if not (self.outlives_main and _goes_on(made)):
                end()

        _before_threads_are_joined(main_thread_ended)
        if (processes := sys.modules.get("multiprocessing.process")) is None:
            return
        if processes.parent_process() is not None:
            # Its children end without what is registered with atexit.
            from multiprocessing.util import Finalize

            Finalize(None, end, exitpriority=100)

    def recycle(self) -> None:
        """Have this process replaced by a new one, without a request being lost."""

    def warnings(self) -> Iterator[str]:
        """Answer what its operator should change."""
        yield from ()


def _before_threads_are_joined(call: Call) -> None:
    """Have *call* called before Python waits for threads that are no daemons, and so before atexit.

    There is no public way: https://github.com/python/cpython/issues/86128.
    """
    # The last to be registered is the first to be called: after this one's, no executor takes work,
    # and the end of an application may be to give it some.
    import concurrent.futures.thread  # noqa: F401

    register = getattr(threading, "_register_atexit", None)
    if register is not None:
        with suppress(RuntimeError):  # they are being waited for already
            register(call)


def _goes_on(made: Collection[threading.Thread]) -> bool:
    """Tell whether a thread keeps the process up that is neither of those nor an executor's."""
    from concurrent.futures import thread as executors

    known = {threading.main_thread(), threading.current_thread(), *made}
    known.update(getattr(executors, "_threads_queues", ()))
    return any(not each.daemon for each in threading.enumerate() if each not in known)


class ModWsgi(Host):
    """Apache: a daemon process that runs Python alone, or one of Apache's own."""

    name = "mod_wsgi"
    outlives_main = False
    #: A daemon process is killed after its shutdown-timeout, which is 5 s if nobody says.
    patience = 3.0

    def __init__(self, module: Any) -> None:
        self._module = module
        self.recycles = bool(module.process_group)
        if not self.recycles:
            self.reloads_by = "restart Apache; a WSGIDaemonProcess could be reloaded"

    def at_end(self, end: Call, made: Collection[threading.Thread]) -> None:
        """Be told by mod_wsgi itself as well: it says so first of all."""
        subscribe = getattr(self._module, "subscribe_shutdown", None)
        if subscribe is not None:
            subscribe(lambda event, **told: end())
        super().at_end(end, made)

    def recycle(self) -> None:
        """Do what a touch of the script does: what is in flight is finished first."""
        os.kill(os.getpid(), signal.SIGUSR1)

    def warnings(self) -> Iterator[str]:
        """A sub-interpreter with a thread, or C code that knows of one alone, may never end."""
        if group := self._module.application_group:
            yield (
                f"mod_wsgi runs this site in the sub-interpreter {group!r}, where a process may "
                "hang when it ends, and many C extensions fail; say WSGIApplicationGroup %{GLOBAL}"
                ", or application-group=%{GLOBAL} with WSGIScriptAlias"
            )


class Uwsgi(Host):
    """uWSGI: it loads the application, then forks, unless lazy-apps is on or there is no master."""

    name = "uWSGI"
    outlives_main = False
    reloads_by = "say py-autoreload or touch-reload to uWSGI"

    def __init__(self, module: Any) -> None:
        self._module = module

    @property
    def forks_later(self) -> bool:  # type: ignore[override]
        # Without a master there may be nobody to fork, though the worker has no number yet.
        forks = self._module.masterpid() or self._module.numproc > 1
        return bool(forks and self._module.worker_id() == 0)

    def when_forked(self, begin: Call) -> None:
        """Follow whoever hears of it already; mules and spoolers are not to serve."""
        before = getattr(self._module, "post_fork_hook", None)

        def forked() -> None:
            if before is not None:
                before()
            if self._module.worker_id() > 0:
                begin()

        self._module.post_fork_hook = forked

    def at_end(self, end: Call, made: Collection[threading.Thread]) -> None:
        """Be told by uWSGI itself as well: skip-atexit leaves only that, or neither."""
        before = getattr(self._module, "atexit", None)

        def ended() -> None:
            end()
            if before is not None:
                before()

        self._module.atexit = ended
        super().at_end(end, made)


class Gunicorn(Host):
    """gunicorn: its arbiter forks workers, which load the application, or find it with preload."""

    name = "gunicorn"
    outlives_main = False
    reloads_by = "say --reload to gunicorn"

    @property
    def forks_later(self) -> bool:  # type: ignore[override]
        # Both have imported the same; only who loads the application tells a worker.
        frame = sys._getframe()
        while frame is not None:
            if str(frame.f_globals.get("__name__")).startswith("gunicorn.workers."):
                return False
            frame = frame.f_back  # type: ignore[assignment]
        return True


def find() -> Host:
    """Answer whose process this is."""
    apache = sys.modules.get("mod_wsgi")
    if hasattr(apache, "process_group"):  # the package of that name is only its installer
        return ModWsgi(apache)
    if hasattr(uwsgi := sys.modules.get("uwsgi"), "worker_id"):
        return Uwsgi(uwsgi)
    return Gunicorn() if "gunicorn.arbiter" in sys.modules else Host()
