"""Decodes files in processes of their own, so that a file can harm nothing but its own row.

A decoder written in C may crash on a damaged file, take all memory or never return, and nothing
inside its process can stop it. Here each process has one file in work at a time and answers in
order: the first file without an answer is the one that ended or hung it. That file is given up
after a bounded number of attempts, the others go on in a new process.

The program of the processes is `decoder_process.py`. It is trusted with nothing but files: its
memory is limited, its environment holds no secrets, and its answers are checked (`answers.py`).

Over 300 lines: a pool, its processes and the blame for a lost one are one protocol.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from multiprocessing import Pipe
from queue import Empty, SimpleQueue
from typing import Any

from orchestrator.data.decode import decoder_process
from orchestrator.data.decode.answers import Answer, MalformedAnswer, max_bytes, unpack
from orchestrator.data.limits import Limits, rejection
from orchestrator.errors import ClusterError, ImageError

# A process may have ended for lack of memory or by an operator's hand, so its file is tried again;
# a hang is not repeated, since each costs the whole wait.
_MAX_ATTEMPTS = 3
# Files that a process has been sent and has not answered: one in work, one waiting in the socket.
_IN_HAND = 2
_STEP_S = 1.0
_EXIT_S = 5.0
_OVERDUE_S = 5.0  # after which a process may be waiting for its file
# What a decoding process is told of this one's environment: how to run, where libraries and scratch
# space are. Everything else may be a secret.
_KEPT_VARIABLES = frozenset(
    ["PATH", "HOME", "LANG", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "VIRTUAL_ENV"]
)
_KEPT_PREFIXES = ("LC_", "PYTHON", "OMP_", "OPENBLAS_", "MKL_")

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
    message: Any = None  # what the process is sent: the file's name, or all of it
    is_sent: bool = False


class DecoderPool:
    """Processes that decode what is submitted, first come, first served.

    Args:
        decode: picklable; called with each submitted file, returns its image or raises
            `ImageError`.
        num_processes: most processes, >= 1; each is started when it is first needed.
        patience_s: wall-clock time after which a file is given up, s.
        size_px: height and width of the images that `decode` returns, px.
        max_memory: most memory that decoding may take in a process, bytes.
        fetch: called in this process with each submitted file, returns what `decode` is called with
            in its place: the content of what needs a secret to be read.
        read: called in this process with a file, not fetched, whose answer takes long; what it
            takes is no time of the decoder's: a share that stalls is waited for.
    """

    def __init__(
        self,
        decode: Decode,
        num_processes: int,
        patience_s: float,
        size_px: int,
        max_memory: int = Limits.max_memory,
        fetch: Callable[[Any], Any] = lambda file: file,
        read: Callable[[Any], Any] | None = None,
    ) -> None:
        self._decode = decode
        self._num_processes = num_processes
        self._patience_s = patience_s
        self._size_px = size_px
        self._max_memory = max_memory
        self._fetch = fetch
        self._read = read
        self._tasks: SimpleQueue[_Task | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._closed = False

    def submit(self, file: Any) -> Future[Any]:
        """Queues a file, from one thread at a time.

        Args:
            file: what `decode` takes.

        Returns:
            The image to come, or `ImageError`, or `ClusterError` where no process can be started;
            cancelled where the pool was closed before its turn came.
        """
        task = _Task(file)
        if self._closed:
            task.future.cancel()
            return task.future
        self._tasks.put(task)
        if len(self._threads) < self._num_processes:
            # A thread for each process: the kernel ends a process with the thread that started it.
            thread = threading.Thread(target=self._drive, name="decoder", daemon=True)
            self._threads.append(thread)
            thread.start()
        return task.future

    def close(self) -> None:
        """Ends the processes once what they have in hand is decoded, and cancels what is queued.

        One that takes long for its file is left behind, and ends with this process. May be called
        from any thread.
        """
        self._closed = True
        with contextlib.suppress(Empty):
            while task := self._tasks.get_nowait():
                task.future.cancel()
        self._tasks.put(None)  # for all threads
        until = time.monotonic() + _EXIT_S
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _drive(self) -> None:
        """Keeps one process supplied with files, and replaces it when it is lost."""
        process: _Process | None = None
        hand: deque[_Task] = deque()
        while self._take(hand, process):
            try:
                process = process or self._start(hand)
                answer = process.receive(self._patience_s, overdue=self._reading(hand[0]))
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
                if isinstance(answer, ImageError) and answer.code == "out_of_memory":
                    process.end()  # by itself: what it took counts against no other file
                    process = None
        if process is not None:
            process.end()

    def _take(self, hand: deque[_Task], process: "_Process | None") -> bool:
        """Fills the hand, waiting only where it is empty; returns whether there is work."""
        if process is not None:
            _send(hand, process)  # it decodes while the next file is fetched
        while len(hand) < _IN_HAND:
            try:
                task = self._tasks.get(block=not hand)
            except Empty:
                break
            if task is None:
                self._tasks.put(None)  # for the other threads, and for this one's next look
                break
            try:
                task.message = self._fetch(task.file)
            except Exception as error:
                task.future.set_exception(error)
                if hand:  # it has waited long enough where a store is asked again and again
                    break
            else:
                hand.append(task)
        if process is not None:
            _send(hand, process)
        return bool(hand)

    def _reading(self, task: _Task) -> Callable[[], None] | None:
        """Returns what reads a file here, None where its process is not to read it."""
        read = self._read
        if read is None or task.message is not task.file:
            return None

        def wait() -> None:
            with contextlib.suppress(ImageError):
                read(task.file)

        return wait

    def _start(self, hand: deque[_Task]) -> "_Process":
        """Returns a process that has been sent the files in hand.

        Raises:
            ClusterError: none can be started.
        """
        reason = ""
        for _ in range(_MAX_ATTEMPTS):
            try:
                process = _Process(self._size_px, self._max_memory)
                process.send(self._decode)
                process.receive(self._patience_s, is_first=True)
            except (OSError, _ProcessLost) as error:
                reason = str(error)
                continue
            for task in hand:
                task.is_sent = False
            _send(hand, process)
            return process
        raise ClusterError(
            f"no decoding process could be started ({reason}); free memory or processes on the "
            "worker, then run the same command again to continue"
        )


class _Process:
    """One decoding process and the socket to it."""

    def __init__(self, size_px: int, max_memory: int) -> None:
        self._size_px = size_px
        self._connection, theirs = Pipe()
        command = [sys.executable, "-m", decoder_process.__name__]
        with theirs:
            self._process = subprocess.Popen(
                [*command, str(theirs.fileno()), str(os.getpid()), str(max_memory)],
                pass_fds=[theirs.fileno()],
                env=_plain_environment(),
                # C libraries print what they find in a damaged file, which may be patient data.
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )

    def send(self, message: Any) -> None:
        """Sends a message; one that is not delivered is never answered."""
        with contextlib.suppress(OSError):
            self._connection.send(message)

    def receive(
        self,
        patience_s: float,
        *,
        is_first: bool = False,
        overdue: Callable[[], None] | None = None,
    ) -> Answer:
        """Returns the next answer; the first one is None, and no other.

        Args:
            patience_s: wall-clock time for it, s.
            is_first: whether it is the first one.
            overdue: called once where the answer takes long, to wait for what the process may be
                waiting for; that time does not count.

        Raises:
            _ProcessLost: it ended, gave no answer in this time, or one that it cannot give; it was
                ended then.
        """
        # In steps, each counted as one: while the whole machine is suspended nothing counts, nor
        # does the call of `overdue`.
        waited_s = 0.0
        while not self._connection.poll(_STEP_S):
            waited_s += _STEP_S
            if overdue is not None and waited_s >= min(_OVERDUE_S, patience_s):
                overdue()
                overdue = None
            elif waited_s >= patience_s:
                self._process.kill()
                self.end()
                raise _ProcessLost("decoder_hung", f"Decoding gave no result in {patience_s:g} s")
        try:
            raw = self._connection.recv_bytes(max_bytes(self._size_px))
            answer = unpack(raw, self._size_px)
            if (answer is None) != is_first:
                raise MalformedAnswer
            return answer
        except (EOFError, ConnectionError):
            raise _lost(self.end()) from None
        except (MalformedAnswer, OSError):  # OSError: it is longer than any answer
            self._process.kill()
            self.end()
            raise _ProcessLost("decoder_crashed", "Decoding gave an answer out of form") from None

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


def _plain_environment() -> dict[str, str]:
    """Returns the environment of a decoding process."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT_VARIABLES or name.startswith(_KEPT_PREFIXES)
    }
    return kept | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def _send(hand: deque[_Task], process: _Process) -> None:
    """Sends what is due: the first file in hand, and names of those behind it.

    A whole file is not sent to a process that may be at its answer: both would wait for the other.
    """
    for place, task in enumerate(hand):
        if not task.is_sent and (place == 0 or task.message is task.file):
            process.send(task.message)
            task.is_sent = True


def _lost(status: int) -> _ProcessLost:
    """Returns what the end of a process means for its file."""
    if status == -signal.SIGKILL:
        found = "The system ended its decoding process, as it does for want of memory (signal 9)"
        return _ProcessLost("out_of_memory", found)
    how = f"signal {-status}" if status < 0 else f"exit status {status}"
    return _ProcessLost("decoder_crashed", f"Decoding ended its process ({how})")


def _blame(hand: deque[_Task], lost: _ProcessLost) -> None:
    """Gives up the first file in hand, unless another attempt may clear it."""
    suspect = hand[0]
    suspect.num_attempts += 1
    if lost.code == "decoder_hung" or suspect.num_attempts >= _MAX_ATTEMPTS:
        hand.popleft().future.set_exception(rejection(lost.code, str(lost)))


def _settle(task: _Task, answer: Answer) -> None:
    if isinstance(answer, Exception):
        task.future.set_exception(answer)
    else:
        task.future.set_result(answer)
