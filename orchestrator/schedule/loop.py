"""The scheduler: ticks into ledger rows, ledger rows into submitted runs, results back.

One step does, in this order: hold the lead; follow what is open; decide the ticks that are due;
commit the intents of what can start; decide what was requested; submit; send notices; read the job
files again. So a tick that was due before an edit was seen still belongs to the old schedule, and
nothing is submitted that is not on disk before.

The order makes it safe to kill at any point: an intent without a confirmed submit is looked up by
its id, derived from job and tick, and asked for again only where the cluster does not have it and
the run folder shows no beginning. The cluster takes an id once, so two schedulers that both ask
start one run.

Job files and run folders may lie on a share that hangs. They are looked at outside of transactions
and for a limited time (`looks.py`), and what does not answer is left as it is until it does; what
is wrong with one job is recorded as its fault, and the others go on.

Waits are measured on the monotonic clock, ticks on the wall clock. A clock that jumps forward
leaves missed ticks, for the catch-up policy; one that goes back repeats no run, since rows are
unique.
"""

import os
import secrets
import socket
import threading
from collections.abc import Callable

from orchestrator.runs.placement import place_run
from orchestrator.schedule.decide import Decider
from orchestrator.schedule.declared import DeclaredJobs, LoadJobs
from orchestrator.schedule.follow import Follower
from orchestrator.schedule.leadership import Clock, Leadership, SchedulerBackend, Settings
from orchestrator.schedule.ledger import Ledger, Superseded
from orchestrator.schedule.notify import Notifier
from orchestrator.schedule.placing import Placer, PlaceRun
from orchestrator.schedule.requests import Requests
from orchestrator.schedule.service import notify_service
from orchestrator.schedule.watch import Watch


class Scheduler:
    """One scheduler process; any number may run, one leads and the others wait.

    Args:
        ledger: opened by this thread.
        load_jobs: what the job files say, such as `JobFolder(folder).load`; called once a step,
            in a thread of its own.
        backend: the cluster's functions.
        say: receives one line of what happens.
        clock: both clocks.
        settings: times.
        place: the job as one run of it, and the run folder that is looked into.
    """

    def __init__(
        self,
        ledger: Ledger,
        load_jobs: LoadJobs,
        backend: SchedulerBackend,
        say: Callable[[str], None],
        *,
        clock: Clock | None = None,
        settings: Settings | None = None,
        place: PlaceRun = place_run,
    ) -> None:
        holder = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._leadership = Leadership(
            ledger, backend, clock or Clock(), settings or Settings(), holder, say
        )
        self._declared = DeclaredJobs(self._leadership, load_jobs)
        placer = Placer(self._leadership, place)
        self._decider = Decider(self._leadership, self._declared, placer)
        self._requests = Requests(self._leadership, self._declared, placer)
        self._follower = Follower(self._leadership)
        self._watch = Watch(self._leadership, self._declared)
        self._notifier = Notifier(self._leadership)

    def step(self) -> bool:
        """Does all that is due now.

        Returns:
            True where more is due at once; a scheduler that does not lead returns False.

        Raises:
            ClusterError: the ledger's disk refuses; nothing is submitted that is not recorded.
        """
        try:
            taken = self._leadership.acquire_lease()
            if taken is None:
                return False
            if taken:
                self._leadership.say("this scheduler is the leader")
                self._declared.begin()
                self._decider.begin()
            self._follower.follow(everything=taken)
            more = self._decider.decide()
            more = self._requests.decide() or more
            more = self._follower.submit() or more
            self._watch.step()
            self._notifier.step()
            self._declared.reload()
        except Superseded as error:
            self._leadership.forget_lease()
            self._leadership.say(f"this scheduler is on standby: {error}")
            return False
        return more

    def run(self, stopping: threading.Event, interval_s: float = 1.0) -> None:
        """Steps until `stopping` is set, then gives the lead up.

        Tells systemd that it is ready, and with every step that it is alive.

        Args:
            stopping: set by a signal handler.
            interval_s: between two steps, s.
        """
        try:
            notify_service("READY=1")
            while not stopping.is_set():
                notify_service("WATCHDOG=1")
                if not self.step():
                    stopping.wait(interval_s)
        finally:
            notify_service("STOPPING=1")
            self.close()

    def close(self) -> None:
        """Gives the lead up; runs go on and are found again by the next leader."""
        self._notifier.close()
        self._leadership.release()
