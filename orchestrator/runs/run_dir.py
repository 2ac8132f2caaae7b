"""RunDir: every file name of a run, its status, and the writes that are whole or absent.

A file appears under its final name by a rename of a finished, flushed temporary file in the same
folder, so a reader never sees half of one. Temporary names start with `.tmp-`, working folders
with `_`: readers of Arrow data sets pass over both.
"""

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from orchestrator.errors import ClusterError, OrchestratorError, SpecError
from orchestrator.runs.atomic import digest, write_json, write_text
from orchestrator.runs.states import Status


def new_run_id(kind: str) -> str:
    """Returns a fresh run id, such as `score-20260131-020000-1a2b3c`, sortable by time."""
    return f"{kind}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def work_folder(address: str, root: Path) -> Path:
    """Returns the local folder in which a run with such an output works, the same every time.

    Args:
        address: of the output.
        root: folder of runs.
    """
    name = address.partition("?")[0].rstrip("/").rpartition("/")[2]
    return root / f"{name or 'score'}-{digest(address)[:8]}"


@dataclass(frozen=True)
class RunDir:
    """One run's folder.

    Args:
        path: the folder, absolute.
    """

    path: Path

    @property
    def spec(self) -> Path:
        """The resolved spec, YAML."""
        return self.path / "spec.yaml"

    @property
    def job(self) -> Path:
        """The job as it was submitted, YAML; there before the run starts."""
        return self.path / "job.yaml"

    @property
    def status(self) -> Path:
        """Status, times and error of the run, JSON."""
        return self.path / "status.json"

    @property
    def manifest(self) -> Path:
        """One row per file found, Parquet, one row group a shard."""
        return self.path / "manifest.parquet"

    @property
    def splits(self) -> Path:
        """Row, patient and split of every training image, Parquet."""
        return self.path / "splits.parquet"

    @property
    def audit(self) -> Path:
        """Class-by-split table and leakage audit, JSON."""
        return self.path / "audit.json"

    @property
    def images(self) -> Path:
        """Decoded images of an ingested data set, one Arrow file a shard."""
        return self.path / "images"

    @property
    def ingested(self) -> Path:
        """The data set that training made for itself, a run folder of its own."""
        return self.path / "_ingested"

    @property
    def features(self) -> Path:
        """Backbone features, one Arrow file a shard."""
        return self.path / "_features"

    @property
    def backbone(self) -> Path:
        """The backbone as training starts from it, beside its features where they are cached."""
        return self.features / "backbone" / "backbone.keras"

    @property
    def head(self) -> Path:
        """Weights and history of a head that fine-tuning starts from, NumPy."""
        return self.path / "_head.npz"

    @property
    def checkpoints(self) -> Path:
        """Training state, one folder an epoch, kept by Ray Train."""
        return self.path / "_checkpoints"

    @property
    def shards(self) -> Path:
        """Committed results of scoring, one Arrow file a shard, until the run is finished."""
        return self.path / "_shards"

    @property
    def listing(self) -> Path:
        """What the listing of a scoring run leaves for its workers, until the run is finished."""
        return self.path / "_listing"

    @property
    def known(self) -> Path:
        """One row per file that an earlier run has dealt with, and which run, Parquet."""
        return self.path / "known.parquet"

    @property
    def predictions(self) -> Path:
        """One row per scored image, Parquet, one file a shard."""
        return self.path / "predictions"

    @property
    def rejected(self) -> Path:
        """One row per rejected file with its code and message, Parquet."""
        return self.path / "rejected.parquet"

    @property
    def history(self) -> Path:
        """One row per epoch of training, JSON."""
        return self.path / "history.json"

    @property
    def evaluating(self) -> Path:
        """The epoch that a training releases, JSON, while it is being evaluated."""
        return self.path / "_evaluating.json"

    @property
    def evaluated(self) -> Path:
        """One row per validation and test image of training with its probability, Parquet."""
        return self.path / "evaluated.parquet"

    @property
    def rate(self) -> Path:
        """The learning rate search, JSON."""
        return self.path / "lr.json"

    @property
    def tensorboard(self) -> Path:
        """Event files of training, for TensorBoard."""
        return self.path / "tensorboard"

    @property
    def report_json(self) -> Path:
        """Counts and metrics."""
        return self.path / "report.json"

    @property
    def report_html(self) -> Path:
        """The report a person reads, self-contained."""
        return self.path / "report.html"

    @property
    def success(self) -> Path:
        """Written last; a run without it is not finished."""
        return self.path / "_SUCCESS"

    def load_status(self) -> dict[str, Any]:
        """Returns the stored status, or an empty dict where there is none."""
        try:
            loaded = json.loads(self.status.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise SpecError(
                f"{self.status} is not JSON; remove it or choose another --out"
            ) from error
        return loaded if isinstance(loaded, dict) else {}

    def unfinished_spec(self) -> Path:
        """Returns the stored spec of a run that has not ended well, to run it again with.

        Raises:
            SpecError: no run there, or a finished one.
        """
        if not self.spec.is_file() or not self.load_status():
            raise SpecError(f"{self.path} holds no run; name a folder such as runs/train-...")
        if self.success.exists():
            raise SpecError(f"the run {self.path} is finished; there is nothing to resume")
        return self.spec

    def write_status(self, status: Status, **fields: Any) -> None:
        """Stores a status; fields stay from one status to the next unless given again.

        Args:
            status: the new state.
            **fields: JSON-able additions, such as `error` or `spec_digest`.
        """
        stored = self.load_status() | fields
        stored["status"] = str(status)
        stored[f"{status.lower()}_at"] = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(self.status, stored)

    def holds_unfinished(self, spec_digest: str) -> bool:
        """Returns whether an unfinished run of this spec is in the folder."""
        return self.load_status().get("spec_digest") == spec_digest and not self.success.exists()

    def start(self, spec_digest: str, *, overwrite: bool) -> bool:
        """Claims the folder for a run of this spec.

        Args:
            spec_digest: digest of the resolved spec; an unfinished run of the same one resumes.
            overwrite: remove a finished or different run that is in the way. A folder that is not
                a run's is never removed.

        Returns:
            True where an unfinished run of the same spec is taken up again.

        Raises:
            SpecError: the folder holds something else.
        """
        resumed = False
        if self.path.exists() and not self.path.is_dir():
            raise SpecError(f"--out {self.path} is a file; name a folder")
        if self.path.is_dir() and any(found != self.job for found in self.path.iterdir()):
            known = self.load_status()
            if not known:
                raise SpecError(
                    f"--out {self.path} is not empty and holds no run; name a new or empty folder"
                )
            resumed = self.holds_unfinished(spec_digest)
            if not resumed and not overwrite:
                state = "a finished run" if self.success.exists() else "a run of another spec"
                raise SpecError(
                    f"--out {self.path} holds {state}; name another folder or add --overwrite"
                )
            if not resumed:
                shutil.rmtree(self.path)
        self.write_status(Status.RUNNING, spec_digest=spec_digest, pid=os.getpid(), error=None)
        return resumed

    @contextlib.contextmanager
    def recording_failure(self, flag: str = "--out") -> Iterator[None]:
        """Stores FAILED, or STOPPED on Ctrl-C and SIGTERM, where the block ends by an exception.

        Args:
            flag: of the command, by which this folder's run goes on.
        """
        try:
            yield
        except BaseException as error:
            # Ray's own handler of SIGTERM, by which a job is stopped, raises SystemExit.
            stopped = isinstance(error, KeyboardInterrupt | SystemExit)
            text = str(error) if isinstance(error, OrchestratorError) else repr(error)
            # A full or read-only disk must not hide the error that is on its way.
            with contextlib.suppress(OrchestratorError):
                self.write_status(
                    Status.STOPPED if stopped else Status.FAILED,
                    error="stopped by a signal" if stopped else text,
                )
            if stopped or isinstance(error, ClusterError):
                # In place of a note of a run within this one: the user asked for this one.
                error.__notes__ = [
                    f"what is done is kept in {self.path}: {flag} {self.path} goes on"
                ]
            raise

    def finish(self) -> None:
        """Removes what killed writers left, then writes the status and last of all `_SUCCESS`."""
        for left in list(self.path.rglob(".tmp-*")):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)
        self.write_status(Status.SUCCEEDED)
        write_text(self.success, "")
