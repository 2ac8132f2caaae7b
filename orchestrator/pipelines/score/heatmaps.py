"""Heat maps of files: decoded, explained by every model, and drawn over the X-ray.

The models' OpenVINO graphs are run here, in the process of the command, whichever engine scored.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from orchestrator.config.specs import ScoreSpec
from orchestrator.data.limits import Limits
from orchestrator.data.manifest import Manifest, load_shard
from orchestrator.data.parquet import open_parquet
from orchestrator.data.shard_files import table_images
from orchestrator.data.some_files import decode_files
from orchestrator.data.source import IngestedSource, Row, Source
from orchestrator.errors import counted
from orchestrator.evaluation.calibration import call_labels
from orchestrator.evaluation.report.heat_picture import draw_heatmap, embed
from orchestrator.evaluation.tally import UNLABELLED, Tally
from orchestrator.model.heatmap import load_heat_model
from orchestrator.pipelines.prepare.ingest import decode_limits
from orchestrator.pipelines.score.ensemble import Members
from orchestrator.pipelines.score.incremental import Work
from orchestrator.progress import Reporter
from orchestrator.runs.atomic import atomic_path
from orchestrator.runs.run_dir import RunDir

# Height and width to which files are decoded for the picture, px: longer sides are shortened.
_PICTURE_PX = 2048
THUMBNAIL_PX = 200
# Of the heat maps of a run.
_SHARE_WRONG, _SHARE_RANDOM = 1 / 3, 1 / 5

Uint8 = npt.NDArray[np.uint8]
Heatmaps = tuple[list[dict[str, Any]], list[str]]  # entries of the report, and their thumbnails


@dataclass(frozen=True)
class Explained:
    """An image with its heat map.

    Attributes:
        row: of the manifest, with what decoding found.
        xray: uint8 [H, W], in its own proportions, the longer side at most 2,048 px.
        heat: float32 [h, w], 0..1, as `HeatModel.explain` gives it; of several models the mean.
        probability: of PNEUMONIA, calibrated; of several models the mean.
    """

    row: Row
    xray: Uint8
    heat: npt.NDArray[np.float32]
    probability: float


def load_explainer(
    members: Members,
) -> Callable[[Uint8], tuple[npt.NDArray[np.float32], float]]:
    """Returns what gives the heat map and the probability of an image.

    Args:
        members: the models.

    Returns:
        A function of an image, uint8 [size_px, size_px].

    Raises:
        BundleError: a network that no heat map can be drawn of.
    """
    models = [load_heat_model(bundle) for bundle in members.bundles]

    def explain(image: Uint8) -> tuple[npt.NDArray[np.float32], float]:
        found = [model.explain(image) for model in models]
        probability = np.mean(
            [c.apply([logit])[0] for c, (logit, _) in zip(members.calibrations, found, strict=True)]
        )
        finest = max((heat for _, heat in found), key=np.size)
        size = finest.shape[::-1]
        alike = [Image.fromarray(heat).resize(size, Image.Resampling.BICUBIC) for _, heat in found]
        return np.mean([np.asarray(heat) for heat in alike], axis=0), float(probability)

    return explain


def explain_files(files: Manifest, members: Members, limits: Limits) -> Iterator[Explained | Row]:
    """Yields an explained image for each file, or its row with `code` where it is rejected.

    Args:
        files: rows of any manifest, with its roots.
        members: the models.
        limits: on one file.

    Raises:
        BundleError: as `load_explainer`.
    """
    explain = load_explainer(members)
    for (row, image), (again, large) in decode_files(files, (members.size_px, _PICTURE_PX), limits):
        if image is None or large is None:
            yield row if image is None else again
            continue
        yield Explained(row, in_proportion(large, row), *explain(image))


def draw_heatmaps(
    spec: ScoreSpec,
    run: RunDir,
    tally: Tally,
    work: Work,
    source: Source,
    members: Members,
    reporter: Reporter,
) -> Heatmaps:
    """Writes heat maps of some images of a run whose tables are written.

    Args:
        spec: the run's spec; `heatmaps` is how many.
        run: the run; a picture is named by its row of the predictions.
        tally: of all its rows.
        work: every file found.
        source: where the run's pixels came from.
        members: the models.
        reporter: receives every picture.

    Returns:
        For each picture `row` and `path` as in the predictions, `why` it was chosen, `label`,
        `probability` and `file`, its path in the run; and small pictures, as `embed` gives them.
        The wrong ones first.
    """
    chosen = _load_chosen(run, work, choose_images(tally, spec.heatmaps, spec.seed))
    shutil.rmtree(run.heatmaps, ignore_errors=True)
    entries, thumbnails = [], []
    reporter.begin("heat maps", len(chosen), "images")
    for found in _explain(chosen, work, source, members, decode_limits(spec.limits)):
        reporter.advance(1)
        if not isinstance(found, Explained):
            continue
        row = chosen[found.row["row"]]
        if found.row["sha256"] != row["sha256"]:
            continue  # it has changed since: the run's probability is of another image
        entry = row["entry"]
        path = run.heatmaps / f"{entry['row']:08d}.png"
        picture = draw_heatmap(
            found.xray, found.heat, entry["probability"], tally.threshold, entry["label"]
        )
        write_picture(picture, path)
        entries.append(entry | {"file": str(path.relative_to(run.path))})
        alone = picture.crop((0, 0, *found.xray.shape[::-1]))
        thumbnails.append(embed(alone, THUMBNAIL_PX))
    reporter.end()
    if missing := len(chosen) - len(entries):
        reporter.say(
            f"no heat map of {counted(missing, 'file')} that have changed or can no longer be read"
        )
    whys = list(dict.fromkeys(row["entry"]["why"] for row in chosen.values()))
    order = sorted(range(len(entries)), key=lambda place: whys.index(entries[place]["why"]))
    return [entries[place] for place in order], [thumbnails[place] for place in order]


def write_picture(picture: Image.Image, path: Path) -> None:
    """Writes a PNG file, whole or not at all."""
    with atomic_path(path) as temporary:
        picture.save(temporary, "PNG", compress_level=1)  # the default takes five times as long


def choose_images(tally: Tally, count: int, seed: int) -> dict[int, str]:
    """Returns which images of a run to show, and why each.

    Args:
        tally: of all its rows.
        count: most of them.
        seed: of the random ones.

    Returns:
        Place among the scored images -> `wrong` (up to a third, the most wrong first), `uncertain`
        (nearest to the threshold), or `random` (a fifth), in this order.
    """
    distance = np.abs(tally.probabilities.astype(np.float64) - tally.threshold)
    labels = tally.labels
    called = call_labels(tally.probabilities, tally.threshold)
    wrong = np.flatnonzero((labels != UNLABELLED) & (labels != called))
    chosen: dict[int, str] = {}
    for why, order, upto in (
        ("wrong", wrong[np.argsort(-distance[wrong], kind="stable")], int(count * _SHARE_WRONG)),
        ("uncertain", np.argsort(distance, kind="stable"), count - int(count * _SHARE_RANDOM)),
        ("random", np.random.default_rng(seed).permutation(labels.size), count),
    ):
        for place in order:
            if len(chosen) >= upto:
                break
            chosen.setdefault(int(place), why)
    return chosen


def _load_chosen(run: RunDir, work: Work, whys: Mapping[int, str]) -> dict[int, dict[str, Any]]:
    """Returns by row, in the order of the choice, the entry of each image and its manifest row."""
    found: dict[int, dict[str, Any]] = {}
    columns = ["row", "path", "label", "probability", "sha256"]
    first = before = 0
    for shard, num_rows in enumerate(work.manifest.shard_rows):
        part = open_parquet(run.predictions / f"part-{shard:05d}.parquet")
        places = [p - before for p in whys if 0 <= p - before < part.metadata.num_rows]
        if places:
            predictions = part.read(columns).take(places).to_pylist()
            rows = load_shard(work.manifest.path, shard)
            for place, entry in zip(places, predictions, strict=True):
                sha256 = entry.pop("sha256")
                entry |= {"why": whys[before + place]}
                place_there = entry["row"] - first
                found[before + place] = {
                    "entry": entry,
                    "sha256": sha256,
                    "listed": rows.slice(place_there, 1),
                    "at": (shard, place_there),
                }
        before += part.metadata.num_rows
        first += num_rows
    return {found[place]["entry"]["row"]: found[place] for place in whys}


def _explain(
    chosen: Mapping[int, Mapping[str, Any]],
    work: Work,
    source: Source,
    members: Members,
    limits: Limits,
) -> Iterator[Explained | Row]:
    """Yields the chosen images explained, from their files or from the ingested data set."""
    if not isinstance(source, IngestedSource):
        if chosen:
            table = pa.concat_tables(row["listed"] for row in chosen.values())
            yield from explain_files(Manifest(table, work.manifest.roots), members, limits)
        return
    explain = load_explainer(members)
    for shard, place in (row["at"] for row in chosen.values()):
        table = source.load_table(shard).slice(place, 1)
        image = table_images(table)[0]
        (row,) = table.drop_columns(["image"]).to_pylist()
        yield Explained(row, in_proportion(image, row), *explain(image))


def in_proportion(square: Uint8, row: Mapping[str, Any], most_px: int = _PICTURE_PX) -> Uint8:
    """Returns an image that was stretched to a square in its own proportions again.

    Args:
        square: uint8 [S, S].
        row: its `width_px` and `height_px`.
        most_px: longest side of the result.
    """
    size = shown_size(row, most_px)
    return np.asarray(Image.fromarray(square).resize(size, Image.Resampling.BILINEAR))


def shown_size(row: Mapping[str, Any], most_px: int = _PICTURE_PX) -> tuple[int, int]:
    """Returns width and height of an image in its own proportions, px; see `in_proportion`."""
    width, height = row["width_px"], row["height_px"]
    scale = min(1.0, most_px / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))
