"""The tables and the report of a scoring run, made of its committed shards one at a time."""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.config.specs import ScoreSpec
from orchestrator.data import schema
from orchestrator.data.known.known_files import iter_known, known_writer
from orchestrator.data.listing.notes import Notes
from orchestrator.data.manifest import StoredManifest, rewrite_manifest
from orchestrator.data.parquet import open_writer, write_parquet
from orchestrator.data.pseudonym import FileNaming
from orchestrator.data.rejections import Rejections, check_rejected
from orchestrator.data.shard_files import check_parts, part_path, read_part
from orchestrator.data.source import Source
from orchestrator.errors import ClusterError, DataError
from orchestrator.evaluation.groups import GroupCodes
from orchestrator.evaluation.report.report import build_report, render_html
from orchestrator.evaluation.report.scope import ScopeCounts
from orchestrator.evaluation.tally import Tally
from orchestrator.pipelines.score.drift import RunDrift
from orchestrator.pipelines.score.ensemble import Members
from orchestrator.pipelines.score.heatmaps import Heatmaps, draw_heatmaps
from orchestrator.pipelines.score.incremental import Work
from orchestrator.pipelines.score.shadow import RunShadow, Shadow
from orchestrator.pipelines.score.stage import shard_schema
from orchestrator.progress import Reporter
from orchestrator.runs.atomic import write_json, write_text
from orchestrator.runs.run_dir import RunDir
from orchestrator.runs.runs_root import FORGOTTEN


def finish_tables(
    spec: ScoreSpec,
    run: RunDir,
    work: Work,
    source: Source,
    members: Members,
    shadow: Shadow | None,
    naming: FileNaming,
    reporter: Reporter,
) -> dict[str, Any]:
    """Turns committed shards into the run's tables and report, one shard in memory at a time.

    Args:
        spec: the run's spec.
        run: the run, all its shards committed.
        work: every file found.
        source: where the pixels came from.
        members: the models.
        shadow: the model that scored the images besides, if any.
        naming: how the tables name files; the shards do so already.
        reporter: receives every heat map.

    Returns:
        The report.

    Raises:
        ClusterError: the shards are not the run's, or their rows not those of the manifest, one for
            one.
        DataError: no image could be scored, now or before, or more rows are rejected than the
            spec allows; the tables are written all the same.
    """
    predictions = schema.predictions_schema(len(members.bundles), spec.kept_columns)
    shards = shard_schema(len(members.bundles), spec.kept_columns)
    rejected_rows = pa.schema([*schema.REJECTED, *schema.dicom_fields(spec.kept_columns)])
    roots = [] if naming.hashes else [schema.escape_path(root) for root in work.manifest.roots]
    tally = Tally(members.threshold.value, GroupCodes(roots))
    scopes, drift = ScopeCounts(), RunDrift(members)
    shadowed = RunShadow(shadow, run, members.threshold.value)
    before: Counter[tuple[int, str, str | None]] = Counter()  # root, how it matched, code there
    rejections = Rejections()
    known_table = known_writer(run.known) if spec.only_new else nullcontext(lambda row: None)
    writer = open_writer(run.rejected, rejected_rows)
    with writer as add_rejected, known_table as add_known, shadowed.open_table() as add_shadow:
        for left_out in work.left_out:
            before[left_out["root"], "file", left_out["code"]] += left_out["files"]
            if left_out["code"] is not None:
                first = {"root": left_out["first_root"], "path": left_out["first"]}
                path = naming.apply(first)["path"]
                rejections.add_counted(left_out["code"], left_out["files"], path)
        for row in iter_known(work.restored):
            add_known(naming.apply(row))
        for shard, table in enumerate(_checked_shards(run, work.manifest, shards)):
            rejected = pc.is_valid(table.column("code"))
            known = pc.is_valid(table.column("known_run"))
            scored = table.filter(pc.invert(pc.or_(rejected, known)))
            part = run.predictions / f"part-{shard:05d}.parquet"
            write_parquet(part, scored.select(predictions.names))
            bad = table.filter(rejected).select(rejected_rows.names)
            if bad.num_rows:
                add_rejected.write_table(bad)
                rejections.add(bad.select(["code", "path", "message"]).to_pylist())
            for row in table.filter(known).to_pylist():
                before[row["root"], "content", None] += 1
                if row["known_run"] != FORGOTTEN:
                    add_known(_known_by_content(row))
            tally.add(scored, bad)
            add_shadow(scored)
            scopes.add(scored, table.filter(rejected))
            drift.add(table.filter(pc.invert(known)))
        if not work.manifest.num_shards:  # readers of a data set want one file at least
            write_parquet(run.predictions / "part-00000.parquet", predictions.empty_table())
    found = work.manifest.num_rows + work.num_known
    heatmaps: Heatmaps = ([], [])
    if spec.heatmaps:
        heatmaps = draw_heatmaps(spec, run, tally, work, source, members, reporter)
    gate = {
        "scope": scopes.as_report(members.populations, roots),
        "drift": drift.as_report(roots),
        **shadowed.as_report(spec.seed),
    }
    report = _write_report(
        spec, run, tally, found, before, work.manifest.notes, members, heatmaps, gate
    )
    if found and not report["counts"]["scored"] + report["counts"]["scored_before"]:
        where = f"{run.rejected} lists them" if tally.num_rejected else "earlier runs rejected them"
        raise DataError(
            f"none of the {found:,} files found could be scored ({where}); "
            f"{rejections.describe(found)}"
        )
    check_rejected(tally.num_rejected, found, spec.max_rejected_fraction, run.rejected)
    return report


def write_final_manifest(
    stored: StoredManifest, run: RunDir, naming: FileNaming, dicom: Sequence[str]
) -> None:
    """Writes a run's manifest as its files may be named, with what is kept of DICOM headers.

    Args:
        stored: the manifest, with the files' paths.
        run: the run, all its shards committed.
        naming: how the tables name files.
        dicom: the columns kept of DICOM headers.
    """
    shards = itertools.count()

    def finished(table: pa.Table) -> pa.Table:
        if naming.hashes:
            rows = [naming.apply(row) for row in table.to_pylist()]
            table = pa.Table.from_pylist(rows, schema.MANIFEST)
        if dicom:
            found = read_part(part_path(run.shards, next(shards)))
            for field in schema.dicom_fields(dicom):
                table = table.append_column(field, found.column(field.name))
        return table

    rewrite_manifest(stored, run.manifest, finished, names=not naming.hashes, dicom=dicom)


def _checked_shards(run: RunDir, manifest: StoredManifest, schema: pa.Schema) -> Iterator[pa.Table]:
    """Yields each committed shard once its rows are the manifest's, one for one."""
    check_parts(run.shards, manifest.num_shards, run.load_uuid())
    first, expected = 0, schema.empty_table()
    for shard, num_rows in enumerate(manifest.shard_rows):
        table = read_part(part_path(run.shards, shard))
        # One that an earlier version has committed lacks the newest columns.
        table = pa.concat_tables([table, expected], promote_options="default")
        rows = table.column("row").to_numpy()
        # As numbers, a row's fates add up to one: scored, rejected, or known from an earlier run.
        fates = sum(
            pc.is_valid(table.column(name)).to_numpy().astype(int)
            for name in ("probability", "code", "known_run")
        )
        if not np.array_equal(rows, np.arange(first, first + num_rows)) or (fates != 1).any():
            raise ClusterError(
                f"shard {shard} of {run.path} does not hold the rows of its manifest; remove "
                f"{part_path(run.shards, shard)} and run the same command again"
            )
        first += num_rows
        yield table


def _known_by_content(row: dict[str, Any]) -> dict[str, Any]:
    kept = ("root", "path", "size_bytes", "mtime_ns", "sha256")
    found = {"matched": "content", "run": row["known_run"], "run_row": row["known_row"]}
    return {name: row[name] for name in kept} | found | {"code": None}


def _write_report(
    spec: ScoreSpec,
    run: RunDir,
    tally: Tally,
    found: int,
    before: Mapping[tuple[int, str, str | None], int],
    notes: Notes,
    members: Members,
    heatmaps: Heatmaps,
    gate: Mapping[str, Any],
) -> dict[str, Any]:
    """Writes and returns the report of a finished set of tables."""
    report = build_report(
        tally,
        found=found,
        threshold_rule=members.threshold.rule,
        overridden=None if members.given is None else asdict(members.own_threshold),
        model=members.facts(),
        run={"run_id": run.path.name, "started_at": run.load_status().get("running_at")},
        review_rules=[reviewer.rule for reviewer in members.reviewers],
        seed=spec.seed,
        ignored=notes.num_ignored,
        listing={} if spec.hash_paths else notes.as_dict(),
        known=[
            {"root": root, "matched": matched, "code": code, "files": files}
            for (root, matched, code), files in before.items()
        ],
    )
    report |= gate
    entries, thumbnails = heatmaps
    if entries:
        report["heatmaps"] = entries
    write_json(run.report_json, report)
    write_text(run.report_html, render_html(report, tally, thumbnails))
    return report
