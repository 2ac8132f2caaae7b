"""Score folders: manifest -> shards -> predictions, rejected rows, accounting, report.

What a run has to do is decided in `incremental.py`; its tables and its report are made in
`tables.py`. Over 300 lines: the whole course of a run is read in one place.
"""

import contextlib
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.cluster.session import gives_gpus, open_session, plan_this_process
from orchestrator.cluster.shards import run_shards
from orchestrator.config.addresses import is_address
from orchestrator.config.specs import Resources, ScoreSpec
from orchestrator.config.workers import Session
from orchestrator.data.decode.images import DECODER_VERSION
from orchestrator.data.listing.addresses import check_address
from orchestrator.data.listing.inputs import check_inputs
from orchestrator.data.listing.options import ListingOptions
from orchestrator.data.manifest import StoredManifest, iter_shards
from orchestrator.data.parquet import open_parquet
from orchestrator.data.pseudonym import FileNaming
from orchestrator.data.shard_files import has_part, part_path
from orchestrator.data.shards import Stage, run_shards_here, shard_limit_s
from orchestrator.data.source import FileSource, IngestedSource, Source, open_ingested
from orchestrator.errors import DataError, SpecError, counted
from orchestrator.model.engine.base import choose_engine
from orchestrator.model.engine.load import choose_precision
from orchestrator.pipelines.prepare.ingest import (
    decode_limits,
    forget_hashed_patients,
    load_patient_key,
)
from orchestrator.pipelines.score.ensemble import Members, keep_begun, load_members
from orchestrator.pipelines.score.heatmaps import load_explainer
from orchestrator.pipelines.score.incremental import (
    Work,
    commit_listed,
    place_manifest,
    record_terms,
)
from orchestrator.pipelines.score.publish import check_free, publish
from orchestrator.pipelines.score.shadow import Shadow, open_shadow, plan_shadow
from orchestrator.pipelines.score.shadow_scorer import ShadowTask
from orchestrator.pipelines.score.stage import ScoreStage, shard_schema
from orchestrator.progress import Reporter
from orchestrator.runs.identity import holds_unfinished
from orchestrator.runs.life_cycle import OpenRun, lock_wait, open_run
from orchestrator.runs.lock import hold
from orchestrator.runs.run_dir import RunDir, new_run_id, work_folder


@dataclass(frozen=True)
class ScoreResult:
    """What a scoring run made.

    Args:
        run: folder of the run.
        report: as in `report.json`.
        published: address that the run was copied to, or None.
    """

    run: Path
    report: dict[str, Any]
    published: str | None = None


def score(
    spec: ScoreSpec, resources: Resources, reporter: Reporter, *, run_folder: Path | None = None
) -> ScoreResult:
    """Scores every image of an input and accounts for every file found.

    Args:
        spec: what to score, with what.
        resources: what to use of the cluster.
        reporter: receives every shard.
        run_folder: folder of the run; the one that the spec's `out` or `out_root` gives otherwise.

    Returns:
        The run's folder and its report.

    Raises:
        SpecError: the spec cannot be met, or the output folder is taken.
        DataError: nothing to score, or more files rejected than allowed.
        BundleError: the model cannot be used.
        ClusterError: a worker or the disk failed; the same command with `--out` goes on later.
        LockedError: another process works in the run, or with `only_new` in `out_root`.
    """
    folder, target = _place_run(spec, run_folder)
    models = keep_begun(spec, RunDir(folder))
    members = load_members(models, spec.threshold, spec.review_target)
    members.at(spec.precision)  # refused at once where it cannot be
    check_inputs(spec.input)
    ingested = open_ingested_input(spec, members.size_px)
    spec = spec.model_copy(update={"model": members.names, "out": target})
    others = {"models": members.hashes, "decoder": DECODER_VERSION}
    resumes = holds_unfinished(RunDir(folder), spec, others)
    if target is not None and not spec.overwrite and not resumes:
        check_free(target)
    with contextlib.ExitStack() as held:
        if spec.only_new:
            # What one has listed and not scored yet, another one would list too.
            root = Path(str(spec.out_root)).absolute()
            held.enter_context(hold(root, lock_wait(resources, reporter)))
        opened = held.enter_context(
            open_run(
                "score", folder, spec, resources, reporter=reporter, others=others, address=target
            )
        )
        if not opened.completed:
            _score(spec, resources, opened, ingested, members, reporter)
    return ScoreResult(opened.run.path, opened.load_report(), target)


def _place_run(spec: ScoreSpec, run_folder: Path | None) -> tuple[Path, str | None]:
    """Returns the folder in which a run works, and the address that it goes to, if any.

    Raises:
        SpecError: an address that cannot be used, or as the folder of runs.
    """
    if spec.out_root is not None and is_address(spec.out_root):
        raise SpecError(
            f"out_root is the address {spec.out_root}; expected a folder: give an address as --out"
        )
    root = Path(spec.out_root or "runs")
    target = spec.out if spec.out is not None and is_address(spec.out) else None
    if target is not None:
        check_address(target)
        own = work_folder(target, root)
    else:
        own = Path(spec.out or root / new_run_id("score"))
    return (run_folder or own).absolute(), target


def _score(
    spec: ScoreSpec,
    resources: Resources,
    opened: OpenRun,
    ingested: IngestedSource | None,
    members: Members,
    reporter: Reporter,
) -> None:
    """Lists, scores, reports and publishes in a claimed run."""
    run = opened.run
    if spec.heatmaps:
        load_explainer(members)  # it may be that none can be drawn, which is told at once
    chosen = _find_arithmetic(spec, resources, opened, members)
    if spec.precision == "auto":
        reporter.say(f"scoring in {chosen['precision']}")
    spec = spec.model_copy(update=chosen)
    members = members.at(spec.precision)
    key = load_patient_key(spec.patient_key_file)
    naming = FileNaming(key if spec.hash_paths else None)
    record_terms(spec, run, members.hashes)
    shadow = open_shadow(spec, run, members, ingested)
    if shadow is not None and (shadow.fault or opened.resumed):
        state = f"scores nothing: {shadow.fault}" if shadow.fault else "goes on with the run"
        reporter.say(f"the shadow {shadow.name} {state}")
    listed = ingested.files.manifest if ingested else None
    work = place_manifest(spec, run, members.hashes, listed, naming, reporter)
    if opened.resumed:
        reporter.say(
            f"resuming {run.path}: {counted(work.manifest.num_rows, 'file')}, as listed then"
        )
    source: Source = ingested or FileSource(
        work.manifest.path,
        work.manifest.roots,
        work.manifest.num_shards,
        members.size_px,
        decode_limits(spec.limits),
        key,
        work.index,
        spec.keep_uids,
    )
    _score_run(spec, resources, run, work, source, members, shadow, naming, reporter)
    if spec.out is not None:
        publish(run, spec.out)


def _find_arithmetic(
    spec: ScoreSpec, resources: Resources, opened: OpenRun, members: Members
) -> dict[str, str]:
    """Returns engine and precision that score the whole run, one that goes on with its own."""
    begun = (opened.run.load_status().get("terms") if opened.resumed else None) or {}
    asked = {"engine": spec.engine, "precision": spec.precision}
    asked |= {name: begun.get(name, text) for name, text in asked.items() if text == "auto"}
    gpus = asked["engine"] == "auto" and gives_gpus(resources)
    engine = choose_engine(asked["engine"], asked["precision"], gpus=gpus)
    return {
        "engine": engine,
        "precision": choose_precision(asked["precision"], engine, members.infos),
    }


def open_ingested_input(spec: ScoreSpec, size_px: int) -> IngestedSource | None:
    """Returns the input as an ingested data set where it is one that the model can take.

    Raises:
        SpecError: options of a listing that the data set was not made with.
        DataError: a data set of another image size, or one among several inputs or with `only_new`.
    """
    found = [open_ingested(Path(name)) for name in spec.input if Path(name).is_dir()]
    ingested = next((source for source in found if source is not None), None)
    if ingested is None:
        return None
    folder = ingested.files.images.parent
    if len(spec.input) > 1 or spec.only_new:
        raise DataError(
            f"{folder} is an ingested data set; it is scored alone and without only_new: "
            "name folders of X-rays"
        )
    if ingested.size_px != size_px:
        raise DataError(
            f"{folder} holds images of {ingested.size_px} px and the model takes "
            f"{size_px} px; ingest with --image-size {size_px}"
        )
    metadata = open_parquet(ingested.files.manifest).schema_arrow.metadata
    ListingOptions.of(spec).check_ingested(metadata, folder)
    missing = sorted(set(spec.kept_columns) - set(ingested.dicom_columns))
    has_uids = any(name.endswith("_uid") for name in spec.kept_columns)
    if missing or (has_uids and spec.keep_uids != ingested.keep_uids):
        wanting = f"lacks {', '.join(missing)}" if missing else "was made with another --keep-uids"
        raise SpecError(
            f"{folder} is an ingested data set and {wanting}; score it without --dicom-columns, or "
            "ingest its files again with the options that the scoring has"
        )
    return ingested


def _score_run(
    spec: ScoreSpec,
    resources: Resources,
    run: RunDir,
    work: Work,
    source: Source,
    members: Members,
    shadow: Shadow | None,
    naming: FileNaming,
    reporter: Reporter,
) -> None:
    """Scores, accounts and reports inside a started run."""
    if spec.patient_key_file is None and naming.hashes:
        shutil.rmtree(run.shards, ignore_errors=True)  # hashed under a key that is gone
    elif spec.patient_key_file is None:
        forget_hashed_patients(run.shards, source.num_shards)
    commit_listed(work, run, shard_schema(len(members.bundles), spec.kept_columns), naming)
    owner = run.load_uuid()
    task = plan_shadow(shadow, source, members.size_px, run)
    if all(has_part(part_path(run.shards, shard), owner) for shard in range(source.num_shards)):
        reporter.say("no image is left to score")
    elif here := _fit_here(spec, resources, source):
        reporter.say("scoring in this process: one shard holds all; --workers starts a cluster")
        _score_shards(
            spec, run, source, work, members, task, here, run_shards_here, naming, reporter
        )
    else:
        # A death that ended the command itself was the cluster's; in this process it may be its.
        shutil.rmtree(run.shadow_attempts, ignore_errors=True)
        # What is on an address is read from everywhere; a folder must be seen by every node.
        roots = source.roots if isinstance(source, FileSource) else ()
        inputs = [os.fsdecode(root) for root in roots] or spec.input
        reads = [Path(place) for place in inputs if "://" not in place] + [*members.bundles]
        reads += [work.index.folder] if work.index else []
        with open_session(resources, reads=reads, writes=[run.path]) as session:
            _score_shards(
                spec, run, source, work, members, task, session, run_shards, naming, reporter
            )
    # Mostly imported already, by `_import_ahead`.
    from orchestrator.pipelines.score.tables import finish_tables, write_final_manifest

    finish_tables(spec, run, work, source, members, shadow, naming, reporter)
    if naming.hashes or spec.kept_columns:
        write_final_manifest(work.manifest, run, naming, spec.kept_columns)


def _fit_here(spec: ScoreSpec, resources: Resources, source: Source) -> Session | None:
    """Returns the session of a run that needs no cluster; None for any other run."""
    alone = source.num_shards == 1 and spec.engine == "openvino"  # Keras stays in workers
    return plan_this_process(resources) if alone else None


def _score_shards(
    spec: ScoreSpec,
    run: RunDir,
    source: Source,
    work: Work,
    members: Members,
    shadow: ShadowTask | None,
    session: Session,
    run_all: Callable[..., None],
    naming: FileNaming,
    reporter: Reporter,
) -> None:
    def make_stage() -> Stage:
        return ScoreStage(
            source,
            members.bundles,
            tuple(members.hashes),
            spec.engine,
            spec.precision,
            spec.batch_size,
            members.calibrations,
            members.threshold.value,
            session.threads_per_worker,
            naming,
            spec.kept_columns,
            spec.out_of_scope == "reject",
            members.reviewers,
            shadow,
        )

    sizes_px = [members.size_px] + ([shadow.size_px] if shadow else [])
    # While the workers start, imports cost no time.
    threading.Thread(target=_import_ahead, args=(work.manifest,), daemon=True).start()
    reporter.begin("scoring", work.manifest.num_rows, "images")
    run_all(
        make_stage,
        range(source.num_shards),
        run.shards,
        run.load_uuid(),
        session,
        reporter,
        sum(shard_limit_s(max(work.manifest.shard_rows), size_px) for size_px in sizes_px),
    )
    reporter.end()


def _import_ahead(manifest: StoredManifest) -> None:
    """Imports what tables and report are made with; a second more where they have labels."""
    import orchestrator.pipelines.score.tables  # noqa: F401

    if len(next(iter_shards(manifest, ["label"]))["label"].drop_null()):
        import sklearn.metrics  # noqa: F401
