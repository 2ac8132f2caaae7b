"""Score a folder: manifest -> shards -> predictions, rejected rows, accounting, report."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from orchestrator.cluster.ingest import (
    decode_limits,
    file_source,
    forget_hashed_patients,
    load_patient_key,
)
from orchestrator.cluster.score_stage import ScoreStage, hash_names
from orchestrator.cluster.session import Session, open_session
from orchestrator.cluster.shards import Stage, run_shards
from orchestrator.data import schema
from orchestrator.data.manifest import Manifest, write_manifest
from orchestrator.data.parts import part_path, read_part
from orchestrator.data.source import IngestedSource, Source, open_manifest
from orchestrator.errors import ClusterError, DataError
from orchestrator.evaluation.calibration import Calibration, Threshold
from orchestrator.evaluation.report import build_report, render_html
from orchestrator.model.bundle import BundleInfo, load_info, newest_bundle
from orchestrator.progress import Reporter
from orchestrator.run_dir import (
    RunDir,
    atomic_path,
    digest,
    new_run_id,
    write_json,
    write_text,
)
from orchestrator.spec import Resources, ScoreSpec, dump_yaml


@dataclass(frozen=True)
class ScoreResult:
    """What a scoring run made.

    Args:
        run: folder of the run.
        report: as in `report.json`.
    """

    run: Path
    report: dict[str, Any]


def score(spec: ScoreSpec, resources: Resources, reporter: Reporter) -> ScoreResult:
    """Scores every image of an input and accounts for every file found.

    Args:
        spec: what to score, with what.
        resources: what to use of the cluster.
        reporter: told of every shard.

    Returns:
        The run's folder and its report.

    Raises:
        SpecError: the spec cannot be met, or the output folder is taken.
        DataError: nothing to score, or more files rejected than allowed.
        BundleError: the model cannot be used.
        ClusterError: a worker or the disk failed; the same command with `--out` goes on later.
    """
    bundle = Path(spec.model).absolute() if spec.model else newest_bundle(Path("models"))
    info = load_info(bundle)
    manifest, ingested = open_manifest(Path(spec.input), spec.shard_rows)
    if ingested is not None and ingested.size_px != info.size_px:
        raise DataError(
            f"{spec.input} holds images of {ingested.size_px} px and the model takes "
            f"{info.size_px} px; ingest with --image-size {info.size_px}"
        )
    run = RunDir(Path(spec.out or f"runs/{new_run_id('score')}").absolute())
    spec = spec.model_copy(update={"model": str(bundle), "out": str(run.path)})
    identity = spec.model_dump(exclude={"overwrite", "max_rejected_fraction"})
    run.start(digest([identity, info.sha256]), overwrite=spec.overwrite)
    write_text(run.spec, dump_yaml("score", run.path.name, spec, resources))
    with run.recording_failure():
        report = _score_run(spec, resources, run, manifest, ingested, info, reporter)
    run.finish()
    shutil.rmtree(run.shards, ignore_errors=True)  # the tables hold all of it
    return ScoreResult(run.path, report)


def _score_run(
    spec: ScoreSpec,
    resources: Resources,
    run: RunDir,
    manifest: Manifest,
    ingested: IngestedSource | None,
    info: BundleInfo,
    reporter: Reporter,
) -> dict[str, Any]:
    """Scores, accounts and reports inside a started run."""
    write_manifest(manifest, run.manifest)
    key = load_patient_key(spec.patient_key_file)
    source: Source = ingested or file_source(
        manifest, run.manifest, info.size_px, decode_limits(spec.limits), key
    )
    if spec.patient_key_file is None and spec.hash_paths:
        shutil.rmtree(run.shards, ignore_errors=True)  # hashed under a key that is gone
    elif spec.patient_key_file is None:
        forget_hashed_patients(run.shards, source.num_shards)
    path_key = key if spec.hash_paths else None
    reads = [Path(spec.input), Path(str(spec.model))]
    with open_session(resources, reads=reads, writes=[run.path]) as session:
        _score_shards(spec, run, source, info, session, path_key, reporter)
    report = finish_tables(spec, run, manifest, source.num_shards, info)
    if path_key is not None:
        rows = [hash_names(row, path_key) for row in manifest.table.to_pylist()]
        hashed = pa.Table.from_pylist(rows, schema.MANIFEST)
        write_manifest(Manifest(hashed, manifest.roots), run.manifest)
    return report


def _score_shards(
    spec: ScoreSpec,
    run: RunDir,
    source: Source,
    info: BundleInfo,
    session: Session,
    path_key: bytes | None,
    reporter: Reporter,
) -> None:
    engine = spec.engine
    if engine == "auto":
        engine = "keras" if session.gpus_per_worker else "openvino"
    bundle = Path(str(spec.model))
    calibration = Calibration(info.calibration.slope, info.calibration.intercept)

    def make_stage() -> Stage:
        return ScoreStage(
            source,
            bundle,
            engine,
            spec.precision,
            spec.batch_size,
            calibration,
            info.threshold.value,
            session.threads_per_worker,
            path_key,
        )

    reporter.begin("scoring", pq.read_metadata(run.manifest).num_rows, "images")
    for shard in range(source.num_shards):
        if part_path(run.shards, shard).exists():
            reporter.advance(read_part(part_path(run.shards, shard)).num_rows)
    run_shards(
        make_stage,
        range(source.num_shards),
        run.shards,
        session,
        lambda done: reporter.advance(done.num_rows),
    )
    reporter.end()


def finish_tables(
    spec: ScoreSpec, run: RunDir, manifest: Manifest, num_shards: int, info: BundleInfo
) -> dict[str, Any]:
    """Turns committed shards into the run's tables and report, one shard in memory at a time.

    Args:
        spec: the run's spec.
        run: the run, all its shards committed.
        manifest: every file found.
        num_shards: shards of the manifest.
        info: the model.

    Returns:
        The report.

    Raises:
        ClusterError: the rows of the shards are not those of the manifest, one for one.
        DataError: more rows rejected than the spec allows; the tables are written all the same.
    """
    rejected: list[pa.Table] = []
    kept: list[pa.Table] = []
    num_rows = 0
    for shard in range(num_shards):
        table = read_part(part_path(run.shards, shard))
        found = manifest.table.slice(num_rows, table.num_rows).column("row")
        if not table.column("row").equals(found):
            raise ClusterError(
                f"shard {shard} of {run.path} does not hold the rows of its manifest; remove "
                f"{part_path(run.shards, shard)} and run the same command again"
            )
        num_rows += table.num_rows
        bad = pc.is_valid(table.column("code"))
        rejected.append(table.filter(bad).select(schema.REJECTED.names))
        scored = table.filter(pc.invert(bad)).select(schema.PREDICTIONS.names)
        with atomic_path(run.predictions / f"part-{shard:05d}.parquet") as temporary:
            pq.write_table(scored, temporary)
        kept.append(scored.select(["label", "probability", "patient_id", "path"]))
    if num_rows != manifest.table.num_rows:
        raise ClusterError(
            f"{num_rows} rows for {manifest.table.num_rows} files found in {run.path}; run the "
            "same command again"
        )
    rejections = pa.concat_tables(rejected)
    with atomic_path(run.rejected) as temporary:
        pq.write_table(rejections, temporary)
    report = _write_report(spec, run, pa.concat_tables(kept), rejections, info)
    fraction = rejections.num_rows / max(num_rows, 1)
    if fraction > spec.max_rejected_fraction:
        raise DataError(
            f"{rejections.num_rows} of {num_rows} files were rejected, over the allowed fraction "
            f"{spec.max_rejected_fraction:g}; {run.rejected} lists them with reasons"
        )
    return report


def _write_report(
    spec: ScoreSpec,
    run: RunDir,
    predictions: pa.Table,
    rejected: pa.Table,
    info: BundleInfo,
) -> dict[str, Any]:
    """Writes and returns the report of a finished set of tables."""
    report = build_report(
        predictions,
        rejected,
        found=predictions.num_rows + rejected.num_rows,
        threshold=Threshold(info.threshold.value, info.threshold.rule),
        model={
            "backbone": info.backbone,
            "sha256": info.sha256,
            "image_size": info.size_px,
            "weights": info.weights,
        },
        run={"run_id": run.path.name, "started_at": run.load_status().get("running_at")},
        seed=spec.seed,
    )
    write_json(run.report_json, report)
    write_text(run.report_html, render_html(report, predictions, rejected))
    return report
