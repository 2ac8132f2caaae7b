"""A cluster in a folder: a separate, durable store that takes an id once, as Ray Jobs does.

`accepted/ID.json` appears by a hard link, so it is whole and exists once, whoever asks and whoever
is killed while asking. What really ran is appended to `journal` by the side that runs, never by
the scheduler.
"""

import json
import os
import secrets
import shutil
import threading
import time
from pathlib import Path

from orchestrator.config.job import Job
from orchestrator.runs.reconcile import ClusterAnswer
from orchestrator.runs.run_dir import RunDir
from orchestrator.runs.states import Status
from orchestrator.schedule.leadership import Submit
from tests.runs.finished import finish


class FileStore:
    """The cluster's job table: what a scheduler sees."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("accepted", "ended", "started", "stopped"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def submit(self, submission_id: str, job: Job, folder: Path | None) -> None:
        temporary = self.folder / f".{submission_id}-{secrets.token_hex(4)}"
        temporary.write_text(job.model_dump_json())
        try:
            os.link(temporary, self.folder / "accepted" / f"{submission_id}.json")
        except FileExistsError:
            raise RuntimeError(f"Job with submission_id {submission_id} already exists") from None
        finally:
            temporary.unlink()

    def prepare(self, submission_id: str, job: Job, folder: Path | None) -> Submit:
        return lambda: self.submit(submission_id, job, folder)

    def look_up(self, submission_id: str) -> ClusterAnswer | None:
        if not (self.folder / "accepted" / f"{submission_id}.json").exists():
            return None
        ended = self.folder / "ended" / submission_id
        if ended.exists():
            status, _, code = ended.read_text().partition(" ")
            return ClusterAnswer(Status(status), int(code) if code else None)
        started = (self.folder / "started" / submission_id).exists()
        return ClusterAnswer(Status.RUNNING if started else Status.PENDING)

    def stop(self, submission_id: str) -> None:
        (self.folder / "stopped" / submission_id).touch()

    # --- the cluster's own side ---------------------------------------------------------------

    def ids(self) -> list[str]:
        return sorted(path.stem for path in (self.folder / "accepted").iterdir())

    def job(self, submission_id: str) -> Job:
        path = self.folder / "accepted" / f"{submission_id}.json"
        return Job.model_validate_json(path.read_text())

    def run_dir(self, submission_id: str) -> RunDir:
        return RunDir(Path(self.job(submission_id).args["out"]))

    def begin(self, submission_id: str) -> None:
        """The driver starts: it is in the journal from now on."""
        with (self.folder / "journal").open("a") as journal:
            journal.write(submission_id + "\n")
        (self.folder / "started" / submission_id).touch()
        self.run_dir(submission_id).write_status(Status.RUNNING)

    def end(self, submission_id: str, status: Status, exit_code: int | None = None) -> None:
        """The driver ends and leaves in its run folder what a real run leaves."""
        run = self.run_dir(submission_id)
        if status is Status.SUCCEEDED:
            finish(run)
        else:
            run.write_status(status)
        self.report(submission_id, status, exit_code)

    def report(self, submission_id: str, status: Status, exit_code: int | None = None) -> None:
        """The cluster's own record of an end, whatever the run folder says."""
        temporary = self.folder / f".{submission_id}-{secrets.token_hex(4)}"
        temporary.write_text(status if exit_code is None else f"{status} {exit_code}")
        temporary.rename(self.folder / "ended" / submission_id)

    def forget(self) -> None:
        """The head restarts with its default store: every id is gone, run folders are not."""
        for name in ("accepted", "ended", "started", "stopped"):
            shutil.rmtree(self.folder / name)
            (self.folder / name).mkdir()

    def journal(self) -> list[str]:
        path = self.folder / "journal"
        return path.read_text().split() if path.exists() else []


class Runner(threading.Thread):
    """Runs what the store has accepted, whatever becomes of the schedulers.

    Every fifth run or so fails at its first try, told by its id alone.
    """

    def __init__(self, store: FileStore) -> None:
        super().__init__(daemon=True)
        self._store = store
        self._stopping = threading.Event()
        self._done: set[str] = set()

    def run(self) -> None:
        while not self._stopping.is_set():
            for found in self._store.ids():
                if found not in self._done:
                    self._done.add(found)
                    self._store.begin(found)
                    self._store.end(found, Status.FAILED if fails(found) else Status.SUCCEEDED)
            time.sleep(0.004)

    def finish(self) -> None:
        self._stopping.set()
        self.join()


def fails(submission_id: str) -> bool:
    """Whether a try fails: some first tries, no later ones."""
    tick, attempt = submission_id.split("-")[-2:]
    return attempt == "1" and sum(map(ord, tick)) % 5 == 0


def dump_job(folder: Path, name: str, **keys: object) -> Path:
    """Writes a job file, whole or not at all."""
    body = {"name": name, "kind": "score", "args": {"input": "/data/xrays"}}
    body |= keys
    if body["kind"] == "score":  # a scheduled one names its model
        body["args"] = {"model": "/m"} | body["args"]
    temporary = folder / f".{name}.tmp"
    temporary.write_text(json.dumps(body))
    return temporary.rename(folder / f"{name}.yaml")
