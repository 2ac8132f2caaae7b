"""Intents to the cluster, and its answers to the ledger."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from orchestrator.errors import SpecError
from orchestrator.runs.reconcile import AT_WORK, TIMEOUT, Evidence, TryState, settle
from orchestrator.runs.states import TickState
from orchestrator.schedule.job_folder import load_stored, load_terms
from orchestrator.schedule.leadership import Leadership, Submit, one_line, storage_of
from orchestrator.schedule.outcomes import fail
from orchestrator.schedule.policy import describe
from orchestrator.schedule.rows import Notice, RunRow

_AT_WORK = (TickState.PENDING, TickState.RUNNING)
_BATCH = 20  # runs prepared at once


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
        leadership = self._leadership
        at_work = [run for run in leadership.ledger.open_runs() if run.state in _AT_WORK]
        due = [run for run in at_work if leadership.ready(("look", run.submission_id or ""))]
        limit = self._deadline()

        def is_next(run: RunRow) -> bool:
            if not everything and limit():
                return False
            leadership.wait(("look", run.submission_id or ""), leadership.settings.poll_s)
            return True

        for run, finding in self._find(due, is_next).items():
            leadership.attempt(run.job, "run", partial(self._follow, run, finding))

    def submit(self) -> bool:
        """Submits the intended tries, oldest tick first.

        Returns:
            True where time ran out before all were.
        """
        leadership = self._leadership
        due = [
            run
            for run in leadership.ledger.open_runs()
            if run.state is TickState.SUBMITTING
            and leadership.ready(("submit", run.submission_id or ""))
        ]
        limit = self._deadline()
        for at in range(0, len(due), _BATCH):
            if limit():
                return True
            self._submit(due[at : at + _BATCH])
        return False

    def _deadline(self) -> Callable[[], bool]:
        clock = self._leadership.clock.monotonic
        end = clock() + self._leadership.settings.budget_s
        return lambda: clock() > end

    def _find(
        self, runs: list[RunRow], is_next: Callable[[RunRow], bool]
    ) -> dict[RunRow, TryState]:
        """Returns what tries have come to; those without an answer are left out.

        Once the cluster does not answer it is not asked for the others.

        Args:
            runs: in the order in which they are looked up.
            is_next: called before each; False ends it.
        """
        leadership = self._leadership
        seen = {}
        for run in runs:
            if not is_next(run):
                break
            leadership.hold()
            try:
                seen[run] = leadership.backend.look_up(run.submission_id or "")
            except Exception as error:  # whatever the cluster's client raises: nothing is known
                leadership.say_change("cluster", f"cannot look up runs: {one_line(error)}")
                break
            leadership.say_change("cluster", "")
        # The folders after the cluster: a run that has just ended has written its end before.
        evidence = {
            run: Evidence() for run, found in seen.items() if found and found.status in AT_WORK
        }
        evidence |= leadership.look_into(run for run in seen if run not in evidence)
        return {
            run: settle(
                seen[run], shown, state=run.state, mark=run.mark, stop_reason=run.stop_reason
            )
            for run, shown in evidence.items()
        }

    def _follow(self, run: RunRow, finding: TryState) -> None:
        self._record(run, finding)
        if finding.state in _AT_WORK:
            self._limit_time(run)

    def _submit(self, runs: list[RunRow]) -> None:
        """Submits some tries; what needs their storage is done for all of them at once."""
        leadership = self._leadership
        fresh = {run for run in runs if run.submission_id in leadership.fresh}
        leadership.fresh.difference_update(run.submission_id or "" for run in fresh)
        # A scheduler before this one, or this one, may have asked for the others already.
        known = self._find([run for run in runs if run not in fresh], lambda _: True)
        wanted = []
        for run in runs:
            found = TryState(TickState.SUBMITTING) if run in fresh else known.get(run)
            is_wanted = partial(self._is_wanted, run, found, run in fresh)
            if leadership.attempt(run.job, "run", is_wanted):
                wanted.append(run)
        prepared = leadership.looks.ask_all(
            {run: (storage_of(run), partial(self._prepare, run)) for run in wanted}
        )
        for run in wanted:
            leadership.attempt(run.job, "run", partial(self._start, run, prepared[run]))

    def _is_wanted(self, run: RunRow, finding: TryState | None, is_fresh: bool) -> bool:
        """Whether the cluster is to be asked for a try; otherwise records what happened to it."""
        if finding is None:
            line = "the cluster or the run folder does not answer"
            self._postpone(run, line, known_absent=False)
        elif finding.state is not TickState.SUBMITTING:
            self._record(run, finding)
        elif not is_fresh and self._is_too_late(run):
            self._give_up(run, "the cluster did not answer")
        elif run.stop_reason is not None:
            self._record(run, TryState(TickState.STOPPED, run.stop_reason))
        else:
            return True
        return False

    def _prepare(self, run: RunRow) -> Submit:
        found, job = run.submission_id or "", load_stored(run.spec)
        return self._leadership.backend.prepare(found, job, run.folder)

    def _start(self, run: RunRow, prepared: Submit | Exception) -> None:
        if isinstance(prepared, SpecError):
            self._record(run, _impossible(prepared))
        elif isinstance(prepared, Exception):
            self._postpone(run, one_line(prepared), known_absent=True)
        else:
            self._leadership.hold()
            try:
                prepared()
            except Exception as error:  # a submit that raises may have been taken nevertheless
                self._resolve(run, error)
                return
            self._record(run, TryState(TickState.PENDING))

    def _resolve(self, run: RunRow, error: Exception) -> None:
        """Finds out what a submit that raised has done."""
        finding = self._find([run], lambda _: True).get(run)
        if finding is not None and finding.state is not TickState.SUBMITTING:
            self._record(run, finding)
        elif finding is not None and isinstance(error, SpecError):
            self._record(run, _impossible(error))
        else:
            self._postpone(run, one_line(error), known_absent=finding is not None)

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
        elif run.notice is None:
            reason = f"not started within its window: {line}"
            on_failure = load_terms(run.spec).on_failure
            if on_failure is not None:
                target, state = on_failure.model_dump_json(), TickState.SUBMITTING
                with leadership.writing() as write:
                    write.notify(
                        Notice(
                            run.job, run.tick, "failure", state, reason, run.attempt, found, target
                        )
                    )

    def _is_too_late(self, run: RunRow) -> bool:
        key, since = ("intent", run.submission_id or ""), run.intent_at
        window = load_terms(run.spec).schedule.window
        return since is not None and self._leadership.elapsed(key, since) > window

    def _give_up(self, run: RunRow, line: str) -> None:
        window = describe(load_terms(run.spec).schedule.window)
        reason = f"could not be submitted within {window}: {line}"
        self._record(run, TryState(TickState.FAILED, reason))

    def _record(self, run: RunRow, finding: TryState) -> None:
        """Writes a finding where it is news."""
        if finding.state in _AT_WORK:
            if finding.state is not run.state:
                with self._leadership.writing() as write:
                    write.observe(run.job, run.tick, run.attempt, finding.state)
            return
        terms, found = load_terms(run.spec), run.submission_id or ""
        again, reason = finding.retry and run.attempt <= terms.retries, finding.reason
        with self._leadership.writing() as write:
            if finding.state is TickState.FAILED and not again:
                reason = fail(write, terms, run.job, run.tick, reason or "", run.attempt, found)
            else:
                write.end(
                    run.job,
                    run.tick,
                    run.attempt,
                    finding.state,
                    reason,
                    run_state=TickState.RETRYING if again else None,
                )
        self._leadership.forget(found)
        if again:
            self._leadership.wait(("retry", found), self._leadership.settings.retry_wait_s)
        more = "; tried again" if again else ""
        self._leadership.say(f"{found}: {finding.state}{f': {reason}' if reason else ''}{more}")

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
                leadership.say(f"{found}: not stopped yet: {one_line(error)}")


def _impossible(error: SpecError) -> TryState:
    return TryState(TickState.FAILED, f"cannot be submitted: {one_line(error)}")
