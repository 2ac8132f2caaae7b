"""The results of a scoring run study by study, each with what its original objects say."""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.config.forms import DecodeLimits
from orchestrator.data.decode.dicom_header import is_dicom
from orchestrator.data.limits import Limits
from orchestrator.data.manifest import open_manifest_file
from orchestrator.data.predictions import ended_at
from orchestrator.data.pseudonym import HASHED
from orchestrator.data.schema import unescape_path
from orchestrator.errors import DataError
from orchestrator.evaluation.review_rule import REVIEW
from orchestrator.hospital.originals import Original, Originals, derive_uid, read_original
from orchestrator.pipelines.prepare.ingest import decode_limits
from orchestrator.pipelines.review.scored_run import ScoredRun
from orchestrator.progress import Reporter

# Why a scored image is in no result; all but the first are faults.
LEFT_OUT = {
    "not_dicom": "no DICOM object",
    "gone": "gone, or can no longer be read",
    "changed": "changed since it was scored",
    "unusable": "its header lacks a valid id of the study, the object or the patient",
    "two_patients": "of a study whose objects name different patients",
    "late": "found after the report of its study was made, and a run makes one; score it anew",
}


@dataclass(frozen=True)
class ScoredImage:
    """A scored DICOM object.

    Attributes:
        rows: of the run that hold it: several where files are of one object.
        original: what it says of itself.
        probability: of PNEUMONIA, calibrated.
        predicted: 0 NORMAL, 1 PNEUMONIA.
        decision: "accept" or "review" by the review rule; None without one.
        heatmap: the picture of its heat map; None where there is none.
    """

    rows: tuple[int, ...]
    original: Original
    probability: float
    predicted: int
    decision: str | None
    heatmap: Path | None


@dataclass
class Study:
    """The scored images of one study, each object once.

    Attributes:
        images: in the order of the run's rows.
        is_of_one: whether all name the same patient.
    """

    images: list[ScoredImage] = field(default_factory=list)
    is_of_one: bool = True

    @property
    def highest(self) -> ScoredImage:
        """The image with the highest probability, whose result is the study's."""
        return max(self.images, key=lambda image: image.probability)

    @property
    def needs_review(self) -> bool | None:
        """Whether a person should look at any image; None without a review rule."""
        decisions = [image.decision for image in self.images if image.decision is not None]
        return REVIEW in decisions if decisions else None

    def add(self, image: ScoredImage) -> None:
        """Adds an image; of two files of one object the one with the higher probability stays."""
        self.is_of_one &= not self.images or self.images[0].original.patient == (
            image.original.patient
        )
        for place, other in enumerate(self.images):
            if other.original.sop_uid == image.original.sop_uid:
                highest = max(other, image, key=lambda each: each.probability)
                self.images[place] = replace(highest, rows=other.rows + image.rows)
                return
        self.images.append(image)


@dataclass(frozen=True)
class RunFacts:
    """What every result says of the run.

    Attributes:
        uuid: of the run.
        ended: when it ended, in the local time of this machine, as DICOM dates are.
        threshold: PNEUMONIA is called where probability >= threshold.
        threshold_rule: by which it was chosen.
        backbone: of the model, or of several joined by " + ".
        hashes: SHA-256 of each bundle.
        intended_use: what the results may be used for.
    """

    uuid: str
    ended: datetime
    threshold: float
    threshold_rule: str
    backbone: str
    hashes: tuple[str, ...]
    intended_use: str

    @classmethod
    def of(cls, scored: ScoredRun) -> "RunFacts":
        """Returns the facts of a run."""
        report, model = scored.report, scored.report["model"]
        hashes = model["sha256"]
        return cls(
            scored.run.load_uuid() or report["run"]["run_id"],  # an older run has no uuid
            datetime.fromisoformat(ended_at(scored.run)).astimezone().replace(tzinfo=None),
            scored.threshold,
            report["threshold_rule"],
            model["backbone"],
            (hashes,) if isinstance(hashes, str) else tuple(hashes),
            report["intended_use"],
        )

    def uid(self, kind: str, *of: str) -> str:
        """Returns the UID of something that this run makes of some objects."""
        return derive_uid(self.uuid, kind, *of)


def find_studies(
    scored: ScoredRun, reporter: Reporter, done: Collection[int] = ()
) -> tuple[list[Study], Counter[str]]:
    """Returns the results of a run by study, and how many images are in none, by `LEFT_OUT`.

    Args:
        scored: the run.
        reporter: receives every file that is read again.
        done: rows that are left out, and not read.

    Raises:
        DataError: the paths of the run were hashed, so that no file can be found.
        ClusterError: the storage of the files is gone, or does not answer.
    """
    left_out: Counter[str] = Counter()
    studies: dict[str, Study] = {}
    is_done = pc.is_in(scored.table["row"], pa.array(sorted(done), pa.int64()))
    table = scored.table.filter(pc.invert(is_done))
    reporter.begin("reading originals", table.num_rows, "files")
    for found in _read_images(scored, table):
        reporter.advance(1)
        if isinstance(found, str):
            left_out[found] += 1
        else:
            studies.setdefault(found.original.study_uid, Study()).add(found)
    reporter.end()
    good = [study for study in studies.values() if study.is_of_one]
    mixed = sum(len(study.images) for study in studies.values() if not study.is_of_one)
    return good, left_out + Counter({"two_patients": mixed})


def _read_images(scored: ScoredRun, table: pa.Table) -> Iterator[ScoredImage | str]:
    """Yields for each row of the table its image, or why there is no result of it."""
    manifest = open_manifest_file(scored.run.manifest)
    stored = scored.run.load_status().get("limits")
    limits = decode_limits(DecodeLimits(**stored)) if stored else Limits()
    originals = Originals(manifest.roots, manifest.listed_ns, limits)
    columns = ["row", "root", "path", "sha256", "probability", "predicted", "decision"]
    for batch in table.select(columns).to_batches(max_chunksize=1024):
        for row in batch.to_pylist():
            yield _read_image(scored, row, originals)


def _read_image(scored: ScoredRun, row: dict[str, Any], originals: Originals) -> ScoredImage | str:
    if row["path"].startswith(HASHED):
        raise DataError(
            f"the paths of {scored.run.path} were hashed (--hash-paths), so its files cannot be "
            "read again for the ids of patients and studies; score them without --hash-paths"
        )
    data = originals.read(row["root"], unescape_path(row["path"]))
    if data is None:
        return "gone"
    if hashlib.sha256(data).hexdigest() != row["sha256"]:
        return "changed"
    if not is_dicom(data):
        return "not_dicom"
    original = read_original(data)
    if original is None:
        return "unusable"
    heatmap = scored.run.heatmaps / f"{row['row']:08d}.png"
    return ScoredImage(
        (row["row"],),
        original,
        row["probability"],
        row["predicted"],
        row["decision"],
        heatmap if heatmap.exists() else None,
    )
