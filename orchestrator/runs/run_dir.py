"""RunDir: every file name of a run, and its status.

What is of no use once a run is finished starts with `_`; its life cycle removes it then. Readers of
Arrow data sets pass over such names.

Over 300 lines, one property a file.
"""

import json
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from orchestrator.errors import NewerRunError, SpecError, describe_newer
from orchestrator.runs.atomic import digest, write_json
from orchestrator.runs.states import Status

# Of a run's folder. Version 1 has no number, and its `spec_digest` covers every field of the spec.
# A changed default of a field raises it, since a digest leaves out what is at its default.
SCHEMA_VERSION = 3


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
class DatasetFiles:
    """Files of an ingested data set.

    Args:
        images: folder of the decoded images, one Arrow file a shard.
        described: its size and counts, JSON; written when it is whole.
        manifest: one row per file found, Parquet.
        rejected: one row per rejected file, Parquet.
    """

    images: Path
    described: Path
    manifest: Path
    rejected: Path


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
    def dataset(self) -> "DatasetFiles":
        """The ingested data set that is the run's result."""
        return DatasetFiles(
            self.path / "images", self.path / "dataset.json", self.manifest, self.rejected
        )

    @property
    def own_dataset(self) -> "DatasetFiles":
        """The data set that a training makes for itself, until the run is finished."""
        return DatasetFiles(
            self.path / "_images", self.path / "_dataset.json", self.manifest, self.rejected
        )

    @property
    def features(self) -> Path:
        """The exported backbone and its features, packed."""
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
    def listed_manifest(self) -> Path:
        """The manifest of a run that hashes paths, with the paths."""
        return self.listing / "manifest.parquet"

    @property
    def listed_known(self) -> Path:
        """One row per file that the listing left out and that is back in an earlier state."""
        return self.listing / "known.parquet"

    @property
    def listed_counts(self) -> Path:
        """How many files the listing left out, JSON."""
        return self.listing / "known.json"

    @property
    def listed_index(self) -> Path:
        """Where the index of what earlier runs have processed is, and which of them count, JSON."""
        return self.listing / "index.json"

    @property
    def known(self) -> Path:
        """One row per file of which an earlier run has scored the bytes in another place or time.

        Parquet. In runs of earlier versions one row per file that any earlier run had processed.
        """
        return self.path / "known.parquet"

    @property
    def predictions(self) -> Path:
        """One row per scored image, Parquet, one file a shard."""
        return self.path / "predictions"

    def prediction_parts(self) -> list[Path]:
        """Returns the files of the predictions, without those that are being written."""
        return sorted(self.predictions.glob("part-*.parquet"))

    @property
    def shadow(self) -> Path:
        """One row per image that the shadow has scored, Parquet."""
        return self.path / "shadow.parquet"

    @property
    def shadow_attempts(self) -> Path:
        """Shards that workers have begun with the shadow, until the run is finished."""
        return self.path / "_shadow"

    @property
    def heatmaps(self) -> Path:
        """Pictures of heat maps of scoring, PNG, one file an image."""
        return self.path / "heatmaps"

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
    def costs(self) -> Path:
        """What the features of each compared backbone cost, JSON."""
        return self.path / "costs.json"

    @property
    def feature_store(self) -> Path:
        """Where a search keeps its features, JSON."""
        return self.path / "store.json"

    @property
    def trials(self) -> Path:
        """Trials of a search, one JSON file each."""
        return self.path / "trials"

    @property
    def trials_table(self) -> Path:
        """One row per trial of a search, Parquet."""
        return self.path / "trials.parquet"

    @property
    def live_trials(self) -> Path:
        """Run folders of trials that train on images."""
        return self.path / "_live"

    @property
    def ray_results(self) -> Path:
        """Ray Tune's own files."""
        return self.path / "_ray"

    @property
    def held_out_json(self) -> Path:
        """The winner of a search against the default configuration, JSON."""
        return self.path / "held_out.json"

    @property
    def held_out_table(self) -> Path:
        """One row per held-out image with its probabilities, Parquet."""
        return self.path / "held_out.parquet"

    @property
    def best_spec(self) -> Path:
        """The winner's training, YAML."""
        return self.path / "best.yaml"

    @property
    def refit(self) -> "RunDir":
        """The training of a search's winner."""
        return RunDir(self.path / "refit")

    @property
    def scored(self) -> "RunDir":
        """The scoring run of a recalibration."""
        return RunDir(self.path / "scored")

    @property
    def bundle(self) -> Path:
        """The bundle that a search releases."""
        return self.path / "model"

    def case(self, name: str) -> "RunDir":
        """Returns the training of one model of a comparison."""
        return RunDir(self.path / "runs" / name)

    def case_bundle(self, name: str) -> Path:
        """Returns the bundle of one model of a comparison."""
        return self.path / "models" / name

    @property
    def report_json(self) -> Path:
        """Counts and metrics."""
        return self.path / "report.json"

    @property
    def report_html(self) -> Path:
        """The report a person reads, self-contained."""
        return self.path / "report.html"

    @property
    def worklist(self) -> Path:
        """The page on which a person reads the least certain images."""
        return self.path / "worklist.html"

    @property
    def corrections(self) -> Path:
        """One row per image that a person has read, Parquet."""
        return self.path / "corrections.parquet"

    @property
    def corrections_json(self) -> Path:
        """Agreement with the reader, and the metrics by the corrected labels."""
        return self.path / "corrections.json"

    @property
    def corrected(self) -> Path:
        """A table of the images with their corrected labels, Parquet, that a training takes."""
        return self.path / "corrected.parquet"

    @property
    def stored(self) -> Path:
        """When each archive has taken which result, by address and UID, JSON."""
        return self.path / "stored.json"

    @property
    def forgotten(self) -> Path:
        """How many rows were removed with patients, when and why, and what is at work, JSON."""
        return self.path / "forgotten.json"

    @property
    def success(self) -> Path:
        """Written last; a run without it is not finished."""
        return self.path / "_SUCCESS"

    def load_status(self) -> dict[str, Any]:
        """Returns the stored status, or an empty dict where there is none.

        Raises:
            SpecError: it is not JSON.
            NewerRunError: a newer version of the program has written it.
        """
        try:
            loaded = json.loads(self.status.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise SpecError(
                f"{self.status} is not JSON; remove it or choose another --out"
            ) from error
        status = loaded if isinstance(loaded, dict) else {}
        version = status.get("schema_version", 1)
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise NewerRunError(describe_newer(self.path, version, SCHEMA_VERSION))
        return status

    def load_uuid(self) -> str:
        """Returns the id that a run keeps from its claim to its end, empty for an older one."""
        return str(self.load_status().get("run_uuid", ""))

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
        # Runs of a folder are in the order of their ends, and small ones end within one second.
        unit = "milliseconds" if status == Status.SUCCEEDED else "seconds"
        now = datetime.now(UTC).isoformat(timespec=unit)
        stored = self.load_status() | {"status": str(status), f"{status.lower()}_at": now}
        write_json(self.status, stored | fields)
