"""Decodes files in processes of their own, so that a file can harm nothing but its own row.

A decoder written in C may crash on a damaged file, or never return, and nothing inside its process
can stop it. Here each process has one file in work at a time and answers in order: the first file
without an answer is the one that ended or hung it. That file is given up after a bounded number of
attempts, the others go on in a new process. The program of the processes is `decoder_process.py`.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from multiprocessing import Pipe
from queue import Empty, SimpleQueue
from typing import Any

from orchestrator.data.decode import decoder_process
from orchestrator.data.limits import rejection
from orchestrator.errors import ClusterError

# A process may have ended for lack of memory or by an operator's hand, so its file is tried again;
# a hang is not repeated, since each costs the whole wait.
_MAX_ATTEMPTS = 3
# Files that a process has been sent and has not answered: one in work, one waiting in the socket.
_IN_HAND = 2
_STEP_S = 1.0
_EXIT_S = 5.0


Decode = Callable[[Any], Any]


class _ProcessLost(Exception):
    """A process ended, or was ended, before it answered; `code` says which."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass
class _Task:
    file: Any
    future: Future[Any] = field(default_factory=Future)
    num_attempts: int = 0


class DecoderPool:
    """Processes that decode what is submitted, first come, first served.

    Args:
        decode: picklable; called with each submitted file, returns its image or raises
            `ImageError`.
        num_processes: most processes, >= 1; each is started when it is first needed.
        patience_s: wall-clock time after which a file is given up, s.
    """

    def __init__(self, decode: Decode, num_processes: int, patience_s: float) -> None:
        self._decode = decode
        self._num_processes = num_processes
        self._patience_s = patience_s
        self._tasks: SimpleQueue[_Task | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    def submit(self, file: Any) -> Future[Any]:
        """Queues a file, from one thread at a time.

        Args:
            file: what `decode` takes.

        Returns:
            The image to come, or `ImageError`, or `ClusterError` where no process can be started.
        """
        task = _Task(file)
        self._tasks.put(task)
        if len(self._threads) < self._num_processes:
            # A thread for each process: the kernel ends a process with the thread that started it.
            thread = threading.Thread(target=self._drive, name="decoder", daemon=True)
            self._threads.append(thread)
            thread.start()
        return task.future

    def close(self) -> None:
        """Ends the processes once what is queued is decoded."""
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join()

    def _drive(self) -> None:
        """Keeps one process supplied with files, and replaces it when it is lost."""
        process: _Process | None = None
        hand: deque[_Task] = deque()
        while self._take(hand, process):
            try:
                process = process or _start(self._decode, hand, self._patience_s)
                answer = process.receive(self._patience_s)
            except _ProcessLost as lost:
                process = None
                _blame(hand, lost)
            except Exception as error:  # whoever waits for these files must not wait for ever
                if process is not None:
                    process.end()
                    process = None
                while hand:
                    hand.popleft().future.set_exception(error)
            else:
                _settle(hand.popleft(), answer)
        if process is not None:
            process.end()

    def _take(self, hand: deque[_Task], process: "_Process | None") -> bool:
        """Fills the hand, waiting only where it is empty; returns whether there is work."""
        while len(hand) < _IN_HAND:
            try:
                task = self._tasks.get(block=not hand)
            except Empty:
                break
            if task is None:
                self._tasks.put(None)  # for the other threads, and for this one's next look
                break
            hand.append(task)
            if process is not None:
                process.send(task.file)
        return bool(hand)


class _Process:
    """One decoding process and the socket to it."""

    def __init__(self) -> None:
        self._connection, theirs = Pipe()
        command = [sys.executable, "-m", decoder_process.__name__]
        with theirs:
            self._process = subprocess.Popen(
                [*command, str(theirs.fileno()), str(os.getpid())],
                pass_fds=[theirs.fileno()],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                # C libraries print what they find in a damaged file, which may be patient data.
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )

    def send(self, message: Any) -> None:
        """Sends a message; one that is not delivered is never answered."""
        with contextlib.suppress(OSError):
            self._connection.send(message)

    def receive(self, patience_s: float) -> Any:
        """Returns the next answer.

        Raises:
            _ProcessLost: it ended, or gave no answer in this time and was ended.
        """
        # In steps, each counted as one: while the whole machine is suspended nothing counts.
        waited_s = 0.0
        while not self._connection.poll(_STEP_S):
            waited_s += _STEP_S
            if waited_s >= patience_s:
                self._process.kill()
                self.end()
                raise _ProcessLost("decoder_hung", f"Decoding gave no result in {patience_s:g} s")
        try:
            return self._connection.recv()
        except (EOFError, OSError):
            status = self.end()
            how = f"signal {-status}" if status < 0 else f"exit status {status}"
            raise _ProcessLost("decoder_crashed", f"Decoding ended its process ({how})") from None

    def end(self) -> int:
        """Ends the process and returns its exit status, negative for a signal's number."""
        self._connection.close()
        try:
            return self._process.wait(_EXIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
        try:
            return self._process.wait(_EXIT_S)
        except subprocess.TimeoutExpired:
            return -signal.SIGKILL  # it waits inside the kernel, for a device: left behind


def _start(decode: Decode, hand: deque[_Task], patience_s: float) -> _Process:
    """Returns a process that has been sent the files in hand.

    Raises:
        ClusterError: none can be started.
    """
    reason = ""
    for _ in range(_MAX_ATTEMPTS):
        try:
            process = _Process()
            process.send(decode)
            process.receive(patience_s)
        except (OSError, _ProcessLost) as error:
            reason = str(error)
            continue
        for task in hand:
            process.send(task.file)
        return process
    raise ClusterError(
        f"no decoding process could be started ({reason}); free memory or processes on the worker, "
        "then run the same command again to continue"
    )


def _blame(hand: deque[_Task], lost: _ProcessLost) -> None:
    """Gives up the first file in hand, unless another attempt may clear it."""
    suspect = hand[0]
    suspect.num_attempts += 1
    if lost.code == "decoder_hung" or suspect.num_attempts >= _MAX_ATTEMPTS:
        hand.popleft().future.set_exception(rejection(lost.code, str(lost)))


def _settle(task: _Task, answer: Any) -> None:
    if isinstance(answer, Exception):
        task.future.set_exception(answer)
    else:
        task.future.set_result(answer)
