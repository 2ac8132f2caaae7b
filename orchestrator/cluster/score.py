"""Score folders: manifest -> shards -> predictions, rejected rows, accounting, report.

What a run has to do is decided in `nightly.py`; its tables and its report are made in
`score_tables.py`.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.cluster.ingest import (
    decode_limits,
    forget_hashed_patients,
    load_patient_key,
)
from orchestrator.cluster.nightly import Work, commit_listed, place_manifest, record_terms
from orchestrator.cluster.score_stage import SHARD_SCHEMA, ScoreStage
from orchestrator.cluster.score_tables import finish_tables, write_hashed
from orchestrator.cluster.session import Session, open_session
from orchestrator.cluster.shards import Stage, run_shards
from orchestrator.data.inputs import check_inputs
from orchestrator.data.parts import part_path, read_part
from orchestrator.data.source import FileSource, IngestedSource, Source, open_ingested
from orchestrator.errors import DataError
from orchestrator.evaluation.calibration import Calibration
from orchestrator.model.bundle import BundleInfo, load_info, newest_bundle
from orchestrator.progress import Reporter
from orchestrator.run_dir import RunDir, digest, new_run_id, write_text
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
    bundle = Path(spec.model[0]).resolve() if spec.model else newest_bundle(Path("models"))
    info = load_info(bundle)
    check_inputs(spec.input)
    ingested = open_ingested_input(spec, info)
    root = Path(spec.out_root or "runs")
    run = RunDir(Path(spec.out or root / new_run_id("score")).absolute())
    spec = spec.model_copy(update={"model": (str(bundle),), "out": str(run.path)})
    identity = spec.model_dump(exclude={"overwrite", "max_rejected_fraction"})
    resumed = run.start(digest([identity, info.sha256]), overwrite=spec.overwrite)
    with run.recording_failure():
        write_text(run.spec, dump_yaml("score", run.path.name, spec, resources))
        record_terms(spec, run, [info.sha256])
        work = place_manifest(
            spec, run, [info.sha256], ingested.folder if ingested else None, reporter
        )
        if resumed:
            reporter.say(
                f"going on with {run.path}: {work.manifest.num_rows:,} files as found then"
            )
        report = _score_run(spec, resources, run, work, ingested, info, reporter)
    run.finish()
    for folder in (run.shards, run.listing):
        shutil.rmtree(folder, ignore_errors=True)  # the tables hold all of it
    return ScoreResult(run.path, report)


def open_ingested_input(spec: ScoreSpec, info: BundleInfo) -> IngestedSource | None:
    """Returns the input as an ingested data set where it is one that the model can take.

    Raises:
        DataError: a data set of another image size, or one among several inputs or with `only_new`.
    """
    found = [open_ingested(Path(name)) for name in spec.input if Path(name).is_dir()]
    ingested = next((source for source in found if source is not None), None)
    if ingested is None:
        return None
    if len(spec.input) > 1 or spec.only_new:
        raise DataError(
            f"{ingested.folder} is an ingested data set; it is scored alone and without only_new: "
            "name folders of X-rays"
        )
    if ingested.size_px != info.size_px:
        raise DataError(
            f"{ingested.folder} holds images of {ingested.size_px} px and the model takes "
            f"{info.size_px} px; ingest with --image-size {info.size_px}"
        )
    return ingested


def _score_run(
    spec: ScoreSpec,
    resources: Resources,
    run: RunDir,
    work: Work,
    ingested: IngestedSource | None,
    info: BundleInfo,
    reporter: Reporter,
) -> dict[str, Any]:
    """Scores, accounts and reports inside a started run."""
    key = load_patient_key(spec.patient_key_file)
    manifest = work.manifest
    source: Source = ingested or FileSource(
        manifest.path,
        manifest.roots,
        manifest.num_shards,
        info.size_px,
        decode_limits(spec.limits),
        key,
        work.index,
    )
    if spec.patient_key_file is None and spec.hash_paths:
        shutil.rmtree(run.shards, ignore_errors=True)  # hashed under a key that is gone
    elif spec.patient_key_file is None:
        forget_hashed_patients(run.shards, source.num_shards)
    path_key = key if spec.hash_paths else None
    if path_key is None:
        commit_listed(work, run.shards, SHARD_SCHEMA)
    if all(part_path(run.shards, shard).exists() for shard in range(source.num_shards)):
        reporter.say("no image is left to score")
    else:
        reads = [*map(Path, spec.input), *map(Path, spec.model or ())]
        with open_session(resources, reads=reads, writes=[run.path]) as session:
            _score_shards(spec, run, source, work, info, session, path_key, reporter)
    report = finish_tables(spec, run, work, info, path_key)
    if path_key is not None:
        write_hashed(manifest, run.manifest, path_key)
    return report


def _score_shards(
    spec: ScoreSpec,
    run: RunDir,
    source: Source,
    work: Work,
    info: BundleInfo,
    session: Session,
    path_key: bytes | None,
    reporter: Reporter,
) -> None:
    engine = spec.engine
    if engine == "auto":
        engine = "keras" if session.gpus_per_worker else "openvino"
    bundle = Path(str(spec.model and spec.model[0]))
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

    reporter.begin("scoring", work.manifest.num_rows, "images")
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
