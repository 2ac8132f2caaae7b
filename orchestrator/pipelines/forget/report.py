"""The report of a run from which rows were removed, made anew from the tables that remain.

Counts, metrics, groups and the review are of the remaining rows. Scope, drift and the shadow's
figures need the model and the images: they stay as they were when the run ended, without the images
that were removed; the page says so.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from PIL import Image

from orchestrator.data import schema
from orchestrator.data.manifest import open_manifest_file
from orchestrator.data.parquet import open_parquet
from orchestrator.data.predictions import load_report
from orchestrator.evaluation.groups import GroupCodes
from orchestrator.evaluation.report.heat_picture import embed
from orchestrator.evaluation.report.report import build_report, render_html
from orchestrator.evaluation.review_rule import ReviewRule
from orchestrator.evaluation.tally import Tally
from orchestrator.pipelines.forget.find import load_args
from orchestrator.pipelines.score.heatmaps import THUMBNAIL_PX, shown_size
from orchestrator.runs.atomic import write_json, write_text
from orchestrator.runs.run_dir import RunDir


def rebuild_report(run: RunDir, removed: Sequence[Mapping[str, Any]]) -> None:
    """Writes report.json and report.html of the tables as they are now.

    Args:
        run: the run.
        removed: what was removed so far: rows by table, when and why.

    Raises:
        DataError: report.json is damaged.
        ClusterError: the file system refused a write.
    """
    old = load_report(run)
    args = load_args(run)
    roots = [schema.escape_path(root) for root in open_manifest_file(run.manifest).roots]
    tally = Tally(old["threshold"], GroupCodes([] if args.get("hash_paths") else roots))
    none = schema.REJECTED.empty_table()
    sizes = {}
    drawn = {entry["row"] for entry in old.get("heatmaps", ())}
    for part in run.prediction_parts():
        table = open_parquet(part).read()
        # A run of an earlier version lacks the newest columns.
        table = pa.concat_tables(
            [table, schema.PREDICTIONS.empty_table()], promote_options="default"
        )
        tally.add(table, none)
        for row in table.select(["row", "width_px", "height_px"]).to_pylist():
            if row["row"] in drawn:
                sizes[row["row"]] = shown_size(row)
    tally.add(schema.PREDICTIONS.empty_table(), open_parquet(run.rejected).read())
    known = _count_known(run, old)
    before = sum(entry["files"] for entry in known)
    review = old.get("review")
    report = build_report(
        tally,
        found=tally.probabilities.size + tally.num_rejected + before,
        threshold_rule=old["threshold_rule"],
        overridden=old.get("overridden_threshold"),
        model=old["model"],
        run=old["run"],
        known=known,
        ignored=old["counts"].get("ignored", 0),
        listing=old.get("listing"),
        review_rules=[ReviewRule(**rule, curve=()) for rule in review["rules"]] if review else (),
        seed=args.get("seed", 0),
    )
    report = old | report | {"forgotten": list(removed)}
    entries = [entry for entry in old.get("heatmaps", ()) if entry["row"] in sizes]
    if entries:
        report["heatmaps"] = entries
    else:
        report.pop("heatmaps", None)
    if shadow := old.get("shadow"):
        stay = _rows_of(run)
        images = [image for image in shadow["images"] if image["row"] in stay]
        report["shadow"] = shadow | {"images": images}
    thumbnails = []
    for entry in entries:
        with Image.open(run.path / entry["file"]) as picture:
            alone = picture.convert("RGB").crop((0, 0, *sizes[entry["row"]]))
        thumbnails.append(embed(alone, THUMBNAIL_PX))
    write_json(run.report_json, report)
    write_text(run.report_html, render_html(report, tally, thumbnails))


def _count_known(run: RunDir, old: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The report's counts of known files; those with rows of their own are counted again."""
    kept = [entry for entry in old.get("known", ()) if entry["matched"] == "file"]
    if not run.known.exists():
        return [*old.get("known", ())]
    rows = open_parquet(run.known).read(columns=["root", "matched"]).to_pylist()
    counts = Counter((row["root"], row["matched"]) for row in rows if row["matched"] != "file")
    return kept + [
        {"root": root, "matched": matched, "code": None, "files": files}
        for (root, matched), files in counts.items()
    ]


def _rows_of(run: RunDir) -> set[int]:
    parts = run.prediction_parts()
    return {row for part in parts for row in open_parquet(part).read(["row"])["row"].to_pylist()}
