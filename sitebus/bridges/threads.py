"""A bounded pool of threads, made when they are first needed.

Decides which thread does the next job. The one that was idle last is asked first, and only one is
being woken at a time: it wakes the next if there is more to do by then. Waking one for each job
would make all of them fight over the interpreter for jobs that the first can do as fast.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

Job = tuple[Callable[..., object], tuple[Any, ...]]


class Threads:
    """Up to *most* daemon threads that do what they are given, in the order it was given.

    Safe to use from every thread and every event loop. After a `stop` it can be used again.
    """

    def __init__(self, most: int, name: str = "sitebus") -> None:
        #: How many threads there may be; may be raised at any time.
        self.most = most
        self.name = name
        self._lock = threading.Lock()
        self._jobs: deque[Job] = deque()
        self._workers: set[_Worker] = set()
        self._idle: list[_Worker] = []
        #: Whether a thread is on its way to the jobs.
        self._waking = False
        self._made = 0

    @property
    def alive(self) -> int:
        """How many threads there are."""
        return len(self._workers)

    @property
    def busy(self) -> int:
        """How many threads have something to do."""
        with self._lock:
            return len(self._workers) - len(self._idle)

    @property
    def full(self) -> bool:
        """Whether what is submitted now has to wait for a thread."""
        return not self._idle and len(self._workers) >= self.most

    @property
    def waiting(self) -> int:
        """How many jobs no thread has begun."""
        return len(self._jobs)

    def submit(self, call: Callable[..., object], *arguments: Any) -> None:
        """Have ``call(*arguments)`` done by a thread; what it answers or raises is not kept.

        Raises:
            RuntimeError: There is no thread, and the system gives none.
        """
        job = (call, arguments)
        with self._lock:
            self._jobs.append(job)
            new = None if self._waking else self._wake()
        if new is not None:
            self._start(new, job)

    def stop(self, timeout: float | None = None) -> bool:
        """Let the threads finish what was submitted, and end; answer whether all did in time."""
        with self._lock:
            workers = list(self._workers)
            for worker in workers:
                worker.leaving = True
            for worker in self._idle:
                worker.gate.release()
            self._idle.clear()
        deadline = None if timeout is None else time.monotonic() + timeout
        while workers:
            ended = [worker.ended(deadline) for worker in workers]
            if not all(ended):
                return False
            with self._lock:
                # Those that were started meanwhile for what had been submitted.
                workers = [worker for worker in self._workers if worker.leaving]
        return True

    def _wake(self) -> _Worker | None:
        """Wake an idle thread, or answer one to start, if there may be one; under the lock."""
        if self._idle:
            self._waking = True
            self._idle.pop().gate.release()
        elif len(self._workers) < self.most:
            self._waking = True
            self._made += 1
            worker = _Worker(self._work, f"{self.name} {self._made}")
            self._workers.add(worker)
            return worker
        return None

    def _start(self, worker: _Worker, job: Job) -> None:
        try:
            worker.thread.start()
        except RuntimeError:
            with self._lock:
                self._waking = False
                self._workers.discard(worker)
                if self._workers or job not in self._jobs:
                    return  # it is done, or one of these does it later
                self._jobs.remove(job)
            raise

    def _work(self, worker: _Worker) -> None:
        job = self._arrive(worker)
        while job is not None or not worker.left:
            if job is None:
                worker.gate.acquire()
                job = self._arrive(worker)
            else:
                _do(*job)
                del job  # it would keep the request alive
                with self._lock:
                    job = self._take(worker)

    def _arrive(self, worker: _Worker) -> Job | None:
        """Take a job as the thread that was woken for it."""
        with self._lock:
            self._waking = False
            job = self._take(worker)
            new = self._wake() if self._jobs else None
            if new is not None:
                new.leaving = worker.leaving
            next_job = self._jobs[0] if new is not None else None
        if new is not None and next_job is not None:
            self._start(new, next_job)
        return job

    def _take(self, worker: _Worker) -> Job | None:
        """Answer a job; without one the thread is idle, or has left; under the lock."""
        if self._jobs:
            return self._jobs.popleft()
        if worker.leaving:
            worker.left = True
            self._workers.discard(worker)
        else:
            self._idle.append(worker)
        return None


class _Worker:
    """One thread, and what wakes it."""

    __slots__ = ("gate", "leaving", "left", "thread")

    def __init__(self, work: Callable[[_Worker], object], name: str) -> None:
        self.gate = threading.Lock()
        self.gate.acquire()
        #: Whether it shall end once there is nothing to do.
        self.leaving = False
        #: Whether it has nothing to do with the others any more.
        self.left = False
        self.thread = threading.Thread(target=work, args=(self,), name=name, daemon=True)

    def ended(self, deadline: float | None) -> bool:
        """Wait for the thread to end; a thread does not wait for itself."""
        if self.thread is threading.current_thread():
            return False
        if self.thread.ident is not None:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            self.thread.join(left)
        return not self.thread.is_alive()


def _do(call: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    try:
        call(*arguments)
    except BaseException:
        # It is a stranger's, and the thread has other jobs to do.
        import logging

        logging.getLogger("sitebus.bridges").exception("a job in a thread failed")
