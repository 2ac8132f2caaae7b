"""Writes the worklist of a run: one page on which a person reads its least certain images."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from orchestrator.config.forms import DecodeLimits
from orchestrator.data.limits import Limits
from orchestrator.data.manifest import Manifest, StoredManifest, iter_shards, open_manifest_file
from orchestrator.data.schema import CLASS_NAMES
from orchestrator.data.some_files import decode_files
from orchestrator.errors import DataError, counted
from orchestrator.evaluation.report.heat_picture import embed
from orchestrator.evaluation.report.worklist_page import render_worklist
from orchestrator.pipelines.prepare.ingest import decode_limits
from orchestrator.pipelines.review.scored_run import ScoredRun, open_scored
from orchestrator.pipelines.score.heatmaps import in_proportion
from orchestrator.progress import Reporter
from orchestrator.runs.atomic import write_text
from orchestrator.runs.lock import hold

_PICTURE_PX = 640  # longest side
_COLUMNS = ["row", "path", "sha256", "label", "probability", "predicted", "review_reason"]


@dataclass(frozen=True)
class WorklistResult:
    """A worklist that was written.

    Args:
        page: the file.
        num_images: images on it.
        num_missing: images that should be on it and whose files cannot be read any more.
    """

    page: Path
    num_images: int
    num_missing: int


def write_worklist(folder: Path, count: int, reporter: Reporter) -> WorklistResult:
    """Writes the worklist of a finished scoring run into its folder.

    Args:
        folder: of the run.
        count: most images on it.
        reporter: receives every image.

    Returns:
        What was written.

    Raises:
        DataError: no finished scoring run, or none of its images can be read any more.
        LockedError: another process works in the run.
        ClusterError: the file system refused a write.
    """
    scored = open_scored(folder)
    chosen = scored.table.take(pa.array(scored.least_clear(count)))
    listed = _list_files(open_manifest_file(scored.run.manifest), chosen["row"])
    stored = scored.run.load_status().get("limits")
    limits = decode_limits(DecodeLimits(**stored)) if stored else Limits()
    reporter.begin("pictures", chosen.num_rows, "images")
    pictures = {}
    for ((row, image),) in decode_files(listed, (_PICTURE_PX,), limits):
        reporter.advance(1)
        if image is not None:
            picture = Image.fromarray(in_proportion(image, row, _PICTURE_PX))
            pictures[row["row"]] = (row["sha256"], embed(picture, _PICTURE_PX))
    reporter.end()
    items = [
        item
        for row in chosen.select(_COLUMNS).to_pylist()
        if (item := _item(scored, row, pictures)) is not None
    ]
    if not items:
        raise DataError(
            f"none of the {counted(chosen.num_rows, 'image')} can be read any more: files have "
            "moved or changed, or their paths were hashed; score them again where they are now"
        )
    page = render_worklist(scored.report, scored.run.load_uuid() or scored.run.path.name, items)
    with hold(scored.run.path):
        write_text(scored.run.worklist, page)
    return WorklistResult(scored.run.worklist, len(items), chosen.num_rows - len(items))


def _list_files(stored: StoredManifest, rows: pa.ChunkedArray) -> Manifest:
    """The manifest's rows of some images, in its own order."""
    tables = [table.filter(pc.is_in(table["row"], rows)) for table in iter_shards(stored)]
    return Manifest(pa.concat_tables(tables), stored.roots)


def _item(
    scored: ScoredRun, row: dict[str, Any], pictures: dict[int, tuple[str, str]]
) -> dict[str, Any] | None:
    """What the page holds of an image; None where its file holds other bytes by now."""
    sha256, picture = pictures.get(row["row"], (None, ""))
    if sha256 != row["sha256"]:
        return None
    drawn = scored.run.heatmaps / f"{row['row']:08d}.png"
    return {
        "row": row["row"],
        "path": row["path"],
        "sha256": row["sha256"],
        "picture": picture,
        "heatmap": embed(Image.open(drawn).convert("RGB"), _PICTURE_PX) if drawn.exists() else None,
        "probability": row["probability"],
        "called": CLASS_NAMES[row["predicted"]],
        "label": None if row["label"] is None else CLASS_NAMES[row["label"]],
        "reasons": row["review_reason"],
    }
