"""Heat maps of single images: `orchestrator explain`."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.data.limits import Limits
from orchestrator.data.listing.inputs import list_inputs
from orchestrator.data.manifest import load_manifest, write_listed
from orchestrator.errors import DataError, SpecError
from orchestrator.evaluation.calibration import call_labels
from orchestrator.evaluation.report.heat_picture import draw_heatmap
from orchestrator.pipelines.score.ensemble import load_members
from orchestrator.pipelines.score.heatmaps import Explained, explain_files, write_picture
from orchestrator.progress import Reporter


@dataclass(frozen=True)
class ExplainResult:
    """What was explained.

    Attributes:
        threshold: PNEUMONIA is called where probability >= threshold.
        images: for each its `path`, `probability`, `called` and `picture`, the file written.
        rejected: for each file that could not be used its `path`, `code` and `message`.
    """

    threshold: float
    images: list[dict[str, Any]]
    rejected: list[dict[str, Any]]


def explain(
    inputs: Sequence[str], models: Sequence[str] | None, out: Path, reporter: Reporter
) -> ExplainResult:
    """Writes a picture with the heat map of each image into a folder.

    Args:
        inputs: files, folders or addresses, or one table, as `score` takes them.
        models: bundle folders; the newest bundle under `models/` if None.
        out: folder for the PNG files, named after the images; new or empty.
        reporter: receives every image.

    Returns:
        What was written.

    Raises:
        SpecError: `out` is not empty, or the models do not fit together.
        DataError: no such image, or none that could be used.
        BundleError: a model cannot be used.
        ClusterError: the file system refused a write.
    """
    members = load_members(models)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SpecError(f"--out {out} is not an empty folder; name a new one")
    listed = list_inputs(inputs)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "manifest.parquet"
        write_listed(listed.rows(), listed.roots, listed.metadata, path, listed.num_rows)
        files = load_manifest(path)
    threshold = members.threshold.value
    images: list[dict[str, Any]] = []
    rejected: list[dict[str, Any]] = []
    taken: set[str] = set()
    reporter.begin("heat maps", files.table.num_rows, "images")
    for found in explain_files(files, members, Limits()):
        reporter.advance(1)
        if not isinstance(found, Explained):
            rejected.append({name: found[name] for name in ("path", "code", "message")})
            continue
        picture = out / _free_name(found.row["path"], taken)
        write_picture(
            draw_heatmap(found.xray, found.heat, found.probability, threshold, found.row["label"]),
            picture,
        )
        images.append(
            {
                "path": found.row["path"],
                "probability": found.probability,
                "called": int(call_labels([found.probability], threshold)[0]),
                "picture": str(picture),
            }
        )
    reporter.end()
    if not images:
        first = rejected[0]
        raise DataError(f"no image could be used: {first['path']}: {first['message']}")
    return ExplainResult(threshold, images, rejected)


def _free_name(path: str, taken: set[str]) -> str:
    """Returns the name of the picture of an image that no other one has, and takes it."""
    stem, number = Path(path).stem, 1
    name = f"{stem}.png"
    while name in taken:
        number += 1
        name = f"{stem}-{number}.png"
    taken.add(name)
    return name
