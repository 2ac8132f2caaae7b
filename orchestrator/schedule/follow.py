"""Intents to the cluster, and its answers to the ledger."""

from collections.abc import Callable
from dataclasses import replace

from orchestrator.errors import SpecError
from orchestrator.runs.reconcile import TIMEOUT, TryState, look_at, settle
from orchestrator.runs.states import TickState
from orchestrator.schedule.job_folder import load_stored, load_terms
from orchestrator.schedule.leadership import Leadership
from orchestrator.schedule.ledger import RunRow
from orchestrator.schedule.policy import describe

_AT_WORK = (TickState.PENDING, TickState.RUNNING)


class Follower:
    """Submits what is intended and follows what is submitted."""

    def __init__(self, leadership: Leadership) -> None:
        self._leadership = leadership

    def follow(self, *, everything: bool = False) -> None:
        """Looks at the runs that the cluster has, those looked at longest ago first.

        Args:
            everything: without the limit of time, so that no decision of the first step rests on
                what a scheduler before this one last saw.
        """
        at_work = [run for run in self._leadership.ledger.open_runs() if run.state in _AT_WORK]
        limit = self._deadline()
        for run in at_work:
            key = ("look", run.submission_id or "")
            if not self._leadership.ready(key):
                continue
            if not everything and limit():
                return
            self._leadership.hold()
            self._leadership.wait(key, self._leadership.settings.poll_s)
            finding = self._find(run)
            if finding is None:
                return  # the cluster or the disk does not answer: no use in asking for the others
            self._record(run, finding)
            if finding.state in _AT_WORK:
                self._limit_time(run)

    def submit(self) -> bool:
        """Submits the intended tries, oldest tick first.

        Returns:
            True where time ran out before all were.
        """
        limit = self._deadline()
        for run in self._leadership.ledger.open_runs():
            if run.state is not TickState.SUBMITTING:
                continue
            if not self._leadership.ready(("submit", run.submission_id or "")):
                continue
            if limit():
                return True
            self._leadership.hold()
            self._submit(run)
        return False

    def _deadline(self) -> Callable[[], bool]:
        clock = self._leadership.clock.monotonic
        end = clock() + self._leadership.settings.budget_s
        return lambda: clock() > end

    def _submit(self, run: RunRow) -> None:
        found, leadership = run.submission_id or "", self._leadership
        if found in leadership.fresh:
            leadership.fresh.discard(found)
        else:
            # A scheduler before this one, or this one, may have asked already.
            finding = self._find(run)
            if finding is None:
                self._postpone(run, "the cluster does not answer", known_absent=False)
                return
            if finding.state is not TickState.SUBMITTING:
                self._record(run, finding)
                return
            if self._is_too_late(run):
                self._give_up(run, "the cluster did not answer")
                return
        if run.stop_reason is not None:
            self._record(run, TryState(TickState.STOPPED, run.stop_reason))
            return
        try:
            leadership.backend.submit(found, load_stored(run.spec), run.folder)
        except Exception as error:  # a submit that raises may have been taken nevertheless
            self._resolve(run, error)
            return
        self._record(run, TryState(TickState.PENDING))

    def _resolve(self, run: RunRow, error: Exception) -> None:
        """Finds out what a submit that raised has done."""
        line = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        finding = self._find(run)
        if finding is not None and finding.state is not TickState.SUBMITTING:
            self._record(run, finding)
        elif finding is not None and isinstance(error, SpecError):
            self._record(run, TryState(TickState.FAILED, f"cannot be submitted: {line}"))
        else:
            self._postpone(run, line, known_absent=finding is not None)

    def _postpone(self, run: RunRow, line: str, *, known_absent: bool) -> None:
        """Lets an intent wait, and gives it up when its window has passed.

        Given up only where the cluster says that it does not have it; otherwise it may run yet,
        and somebody is told in the meantime.
        """
        leadership, found = self._leadership, run.submission_id or ""
        leadership.wait(("submit", found), leadership.settings.resubmit_wait_s)
        leadership.say_change(f"submit {run.job}", f"{run.job}: not submitted yet: {line}")
        if not self._is_too_late(run):
            return
        if known_absent:
            self._give_up(run, line)
        elif run.notice is None and load_terms(run.spec).on_failure is not None:
            with leadership.writing() as write:
                write.notice(run.job, run.tick, "pending")

    def _is_too_late(self, run: RunRow) -> bool:
        key, since = ("intent", run.submission_id or ""), run.intent_at
        window = load_terms(run.spec).schedule.window
        return since is not None and self._leadership.elapsed(key, since) > window

    def _give_up(self, run: RunRow, line: str) -> None:
        window = describe(load_terms(run.spec).schedule.window)
        reason = f"could not be submitted within {window}: {line}"
        self._record(run, TryState(TickState.FAILED, reason))

    def _find(self, run: RunRow) -> TryState | None:
        """Returns what a try has come to; None where the cluster or its folder does not answer."""
        try:
            seen = self._leadership.backend.look_up(run.submission_id or "")
            evidence = look_at(run.folder)
        except Exception as error:  # whatever the cluster's client raises: nothing is known
            line = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
            self._leadership.say_change("cluster", f"cannot look up runs: {line}")
            return None
        self._leadership.say_change("cluster", "")
        return settle(seen, evidence, state=run.state, mark=run.mark, stop_reason=run.stop_reason)

    def _record(self, run: RunRow, finding: TryState) -> None:
        """Writes a finding where it is news."""
        if finding.state in _AT_WORK:
            if finding.state is not run.state:
                with self._leadership.writing() as write:
                    write.observe(run.job, run.tick, run.attempt, finding.state)
            return
        terms = load_terms(run.spec)
        again = finding.retry and run.attempt <= terms.retries
        failed = finding.state is TickState.FAILED and not again
        with self._leadership.writing() as write:
            write.end(
                run.job,
                run.tick,
                run.attempt,
                finding.state,
                finding.reason,
                run_state=TickState.RETRYING if again else None,
                notice=failed and terms.on_failure is not None,
            )
        found = run.submission_id or ""
        self._leadership.forget(found)
        if again:
            self._leadership.wait(("retry", found), self._leadership.settings.retry_wait_s)
        more = "; tried again" if again else ""
        self._leadership.say(
            f"{found}: {finding.state}{f': {finding.reason}' if finding.reason else ''}{more}"
        )

    def _limit_time(self, run: RunRow) -> None:
        """Stops a run that is over its time, and one that the ledger has said is to stop."""
        leadership, found = self._leadership, run.submission_id or ""
        timeout, since = load_terms(run.spec).timeout, run.submitted_at
        late = timeout and since and leadership.elapsed(("run", found), since) > timeout
        if late and run.stop_reason is None:
            with leadership.writing() as write:
                write.stop(run.job, run.tick, TIMEOUT)
            run = replace(run, stop_reason=TIMEOUT)
        if run.stop_reason is not None and leadership.ready(("stop", found)):
            leadership.wait(("stop", found), leadership.settings.resubmit_wait_s)
            try:
                leadership.backend.stop(found)
            except Exception as error:  # asked again after a while
                leadership.say(f"{found}: not stopped yet: {str(error)[:300]}")
