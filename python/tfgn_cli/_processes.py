"""Processes that answer requests: one per contender of a benchmark.

A request is the name of a method and its arguments; an answer is `(True, value)` or
`(False, message)`. Both go through a socket that only the two processes know.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any


class WorkerError(Exception):
    """A request failed."""

    @property
    def sentence(self) -> str:
        """Why, in one line, without the traceback."""
        return str(self).strip().splitlines()[-1]


class WorkerDiedError(WorkerError):
    """The process has ended. `exit_code` is negative after a signal."""

    def __init__(self, message: str, exit_code: int):
        """See the class."""
        super().__init__(message)
        self.exit_code = exit_code

    @property
    def sentence(self) -> str:
        """Why, in one line, without the output of the process."""
        if self.exit_code == -signal.SIGKILL:
            return "a process was killed, as the kernel does when memory runs out"
        return super().sentence


class NotStartedError(WorkerError):
    """A package that the process needs cannot be imported."""


class WorkerProcess:
    """A process that runs a module with `serve`. As a context manager, it ends with the block.

    Attributes:
        facts: what the worker says of itself.

    Args:
        module: the name of the module, whose last argument is the descriptor for `serve`.
        *arguments: the arguments before that.
        environment: variables that are added to those of this process.
        folder: the working directory; by default that of this process.

    Raises:
        NotStartedError: if the worker cannot be made because of an ImportError.
        WorkerError: if the process ends before.
    """

    def __init__(
        self,
        module: str,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ):
        """See the class."""
        self._module = module
        self._log = tempfile.TemporaryFile()  # Its output, shown only if the process dies.
        ours, theirs = socket.socketpair()
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env=os.environ | (environment or {}),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            # In a session of its own: Ctrl-C interrupts this process, which then ends the worker.
            start_new_session=True,
        )
        theirs.close()
        self._connection: Connection[Any, Any] = Connection(ours.detach())
        try:
            self.facts = self.result()
        except BaseException as error:  # Also on Ctrl-C: no one else can close the process yet.
            self.close()
            if isinstance(error, WorkerError) and not isinstance(error, WorkerDiedError):
                raise NotStartedError(str(error)) from None
            raise

    def __enter__(self) -> WorkerProcess:
        """Returns the process."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the process."""
        self.close()

    def ask(self, method: str, *arguments: Any) -> None:
        """Sends a request, whose answer `result` returns."""
        with contextlib.suppress(BrokenPipeError):  # `result` raises the error.
            self._connection.send((method, *arguments))

    def result(self) -> Any:
        """Returns the answer to the oldest request.

        Raises:
            WorkerDiedError: if the process has ended.
            WorkerError: if the request failed.
        """
        try:
            succeeded, value = self._connection.recv()
        except (EOFError, ConnectionError):
            code = self._process.wait()
            self._log.seek(0)
            log = self._log.read().decode(errors="replace")
            raise WorkerDiedError(f"{log}{self._module} has ended with {code}", code) from None
        if not succeeded:
            raise WorkerError(value)
        return value

    def call(self, method: str, *arguments: Any) -> Any:
        """Sends a request and returns its answer."""
        self.ask(method, *arguments)
        return self.result()

    def close(self) -> None:
        """Kills the process."""
        self._connection.close()
        self._process.kill()
        self._process.wait()
        self._log.close()


def serve(descriptor: str, create: Callable[[], tuple[Any, Any]]) -> None:
    """Serves requests until the parent closes the connection.

    Args:
        descriptor: the number of the open socket, the last argument of the process.
        create: returns the object whose methods are asked for, and what it says of itself.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The parent handles Ctrl-C.
    connection: Connection[Any, Any] = Connection(int(descriptor))
    try:
        worker, facts = create()
    except ImportError as error:
        connection.send((False, str(error)))
        return
    # The parent may close the connection at any time.
    with contextlib.suppress(EOFError, ConnectionError):
        connection.send((True, facts))
        while True:
            method, *arguments = connection.recv()
            try:
                answer = (True, getattr(worker, method)(*arguments))
            except Exception:
                answer = (False, traceback.format_exc())
            connection.send(answer)
