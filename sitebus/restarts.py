"""An engine's restarts until they are granted: tried one at a time, before anything is stopped.

How a command line is tried is `sitebus.trial`'s business; what is done when it has proved good, and
how the process runs itself again, is the engine's.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from sitebus import reexec, trial
from sitebus.errors import CannotRestart, ChannelFailures, SitebusError, TrialFailed, Unreachable
from sitebus.listeners import ERROR

if TYPE_CHECKING:
    from sitebus.process import Engine


class Restarts:
    """What asks for the restarts of *engine*, and what keeps it from them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._trial: trial.Trial | None = None
        self._trying = threading.Lock()
        #: One may wait: what it is about can be younger than the trial that runs.
        self._asked = threading.BoundedSemaphore(2)

    def grant(self, force: bool) -> reexec.Command:
        """Answer what to run instead of this process, tried unless that is to be skipped.

        Raises:
            CannotRestart: The command line could not be run again.
            TrialFailed: The program could not start.
            Unreachable: The engine is exiting already, or began to meanwhile.
        """
        engine = self._engine
        successor = reexec.Command.of_this_process()
        if engine.sockets.fixed:
            reason = "a worker cannot restart the site; its supervisor can, by sitebus-ctl restart"
            raise CannotRestart(successor.argv, reason)
        with self._trying:
            engine._check_staying()
            successor.check()
            if not force:
                listeners = engine.sockets.listeners
                held = {str(a) for each in listeners for a in (each.asked, each.address)}
                self._try(trial.Trial(successor, engine.try_timeout, held))
        return successor

    def _try(self, attempt: trial.Trial) -> None:
        self._trial = attempt
        try:
            # An exit that begins from here on calls the trial off.
            self._engine._check_staying()
            attempt.run()
        except CannotRestart:
            if attempt.cancelled:
                machine = self._engine.machine
                raise Unreachable(machine.running, self._engine.state, ()) from None
            raise
        finally:
            self._trial = None

    def call_off(self) -> None:
        """End the trial that runs, if one does; safe in a signal handler."""
        if (running := self._trial) is not None:
            running.cancel()

    def ask(self, force: bool) -> None:
        """Restart the engine in a thread of its own; a refusal is logged."""
        threading.Thread(
            target=self._restart, args=(force,), name="sitebus restart", daemon=True
        ).start()

    def _restart(self, force: bool) -> None:
        engine = self._engine
        if not self._asked.acquire(blocking=False):
            engine.log("A restart is on its way already")
            return
        try:
            engine.restart(force)
        except TrialFailed as error:
            engine.log(f"{error}\n{error.text}".rstrip(), ERROR)
        except Unreachable:
            pass  # the process ends anyway
        except SitebusError as error:
            engine.log(str(error), ERROR)
        finally:
            self._asked.release()

    def prove(self) -> None:
        """In the child: load what a start would load, tell how that went, and end the process.

        Nothing is done for another bus than the first, which is the one on trial.
        """
        if not trial.begin():
            return
        error: BaseException | None = None
        try:
            self._engine.publish("trial")
        except ChannelFailures as failures:
            error = failures.exceptions[0]
        except (SystemExit, KeyboardInterrupt) as leaving:
            error = leaving
        self._engine.sockets.close()
        if error is not None:
            trial.fail(error)
        trial.succeed()
