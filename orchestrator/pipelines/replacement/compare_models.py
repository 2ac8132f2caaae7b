"""Compare the live model with a candidate: two scoring runs of the same labelled images, a verdict.

The verdict and its rule are in `evaluation/verdict.py`; `registry/proof.py` asks for it before a
promotion.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.config.replacement import ModelsCompareSpec
from orchestrator.config.specs import Resources, scoring_of
from orchestrator.data.decode.images import DECODER_VERSION
from orchestrator.data.listing.inputs import check_inputs
from orchestrator.data.listing.options import ListingOptions
from orchestrator.data.manifest import open_manifest_file
from orchestrator.data.schema import CLASS_NAMES, escape_path
from orchestrator.data.source import open_manifest
from orchestrator.data.splits import check_classes
from orchestrator.errors import DataError
from orchestrator.evaluation.groups import GroupCodes
from orchestrator.evaluation.model_pair import MIN_PATIENTS, ModelPair, measure_pair
from orchestrator.evaluation.pair_groups import measure_groups
from orchestrator.evaluation.report.replacement import (
    build_replacement,
    render_replacement_html,
)
from orchestrator.evaluation.verdict import Grounds
from orchestrator.model.bundle import BundleInfo
from orchestrator.pipelines.prepare.ingest import fingerprint
from orchestrator.pipelines.replacement.pairing import pair_runs
from orchestrator.pipelines.score.score import open_ingested_input, score
from orchestrator.pipelines.timed import Timed, load_costs
from orchestrator.progress import Reporter
from orchestrator.registry.reference import Model, open_model
from orchestrator.runs.atomic import write_json, write_text
from orchestrator.runs.life_cycle import open_run
from orchestrator.runs.run_dir import RunDir

_ROLES = ("live", "candidate")


@dataclass(frozen=True)
class CompareModelsResult:
    """What a comparison of two models made.

    Args:
        run: its folder, with `report.html`, `report.json` and both scoring runs.
        report: as in `report.json`.
    """

    run: Path
    report: dict[str, Any]


def compare_models(
    spec: ModelsCompareSpec,
    resources: Resources,
    reporter: Reporter,
    *,
    run_folder: Path | None = None,
) -> CompareModelsResult:
    """Scores labelled images with the live model and a candidate, and says which is to be live.

    Args:
        spec: the models, the images, the rule.
        resources: what to use of the cluster.
        reporter: receives the progress of both scoring runs.
        run_folder: folder of the run; `out` of the spec, or a new one under `runs/` otherwise.

    Returns:
        Where the run is, and its report.

    Raises:
        SpecError: the spec cannot be met, or the output folder is taken.
        DataError: no labels, images of one class, or too many rejected.
        BundleError: a bundle cannot be used.
        ClusterError: a worker or the disk failed; the same command goes on later.
    """
    models = (open_model(spec.live), open_model(spec.candidate))
    check_inputs([spec.data])
    spec = spec.model_copy(update={"live": models[0].name, "candidate": models[1].name})
    for model in models:  # told before the other one has scored
        open_ingested_input(scoring_of(spec, model.name), model.info.size_px)
    folder = run_folder or (Path(spec.out) if spec.out else None)
    hashes = [model.info.sha256 for model in models]
    others = {"models": hashes, "decoder": DECODER_VERSION}
    with open_run(
        "models-compare", folder, spec, resources, reporter=reporter, others=others
    ) as opened:
        if not opened.completed:
            for role, model in zip(_ROLES, models, strict=True):
                _score(spec, role, model, resources, opened.run, reporter)
            _report(spec, models, opened.run)
    return CompareModelsResult(opened.run.path, opened.load_report())


def _score(
    spec: ModelsCompareSpec,
    role: str,
    model: Model,
    resources: Resources,
    run: RunDir,
    reporter: Reporter,
) -> None:
    """Scores the images with one model in a run of its own, unless that is done."""
    own = run.case(role)
    if own.success.exists():
        return
    scoring = scoring_of(spec, model.name)
    if role == _ROLES[0]:  # before hours are spent on images without labels
        manifest, _ = open_manifest(spec.data, scoring.shard_rows, ListingOptions.of(spec))
        usable = pc.and_(pc.is_valid(manifest.table["label"]), pc.is_null(manifest.table["code"]))
        check_classes(manifest.table, usable.to_numpy())
    reporter.say(f"{role}: {model.version or model.folder.name}")
    resumed = own.status.exists()
    timed = Timed(reporter, 0)
    # What is left of an attempt that cannot be resumed is replaced.
    given = {"out": str(own.path), "overwrite": True}
    score(scoring.model_copy(update=given), resources, timed)
    if not resumed:
        cost = {"images_per_s": timed.images_per_s, "num_images": timed.num_images}
        write_json(run.costs, load_costs(run) | {role: cost | {"seconds": timed.seconds}})


def _report(spec: ModelsCompareSpec, models: tuple[Model, Model], run: RunDir) -> None:
    """Pairs the finished runs, measures, decides, and writes the report."""
    paired = pair_runs(*(run.case(role) for role in _ROLES))
    if not paired.table.num_rows:
        raise DataError("no labelled image was scored by both models; expected images of both")
    infos = [model.info for model in models]
    pair = _make_pair(paired.table, infos)
    groups = GroupCodes(
        [escape_path(r) for r in open_manifest_file(run.case("live").manifest).roots]
    )
    groups.add(paired.table)
    measured = measure_pair(pair, seed=spec.seed)
    by_group = measure_groups(pair, groups.dimensions())
    grounds = Grounds(
        is_same=infos[0].sha256 == infos[1].sha256,
        margin=spec.margin,
        superiority=spec.superiority,
        endpoints=measured["endpoints"],
        unusable=[*_trained_on(infos, fingerprint(paired.scored)), *_too_few(pair)],
        worse_groups=by_group["worse"],
    )
    report = build_replacement(
        models=[_facts(model) for model in models],
        files=paired.files,
        measured=measured,
        groups=by_group,
        grounds=grounds,
        speed=load_costs(run),
        run={"run_id": run.path.name, "started_at": run.load_status().get("running_at")},
    )
    write_json(run.report_json, report)
    write_text(run.report_html, render_replacement_html(report, pair))


def _make_pair(table: pa.Table, infos: list[BundleInfo]) -> ModelPair:
    """The models' outputs on the paired images."""
    logits = [
        info.calibration.slope * table[name].to_numpy().astype(np.float64)
        + info.calibration.intercept
        for info, name in zip(infos, ("logit", "other_logit"), strict=True)
    ]
    return ModelPair(
        labels=table["label"].to_numpy(),
        logits=(logits[0], logits[1]),
        probabilities=(table["probability"].to_numpy(), table["other_probability"].to_numpy()),
        thresholds=(infos[0].threshold.value, infos[1].threshold.value),
        patients=np.array(table["patient_id"].to_pylist(), object),
    )


def _trained_on(infos: list[BundleInfo], found_in: str) -> list[str]:
    """Which model has seen the images, as far as the fingerprint of its bundle tells."""
    said = []
    for role, info in zip(_ROLES, infos, strict=True):
        name = "live model" if role == "live" else role
        if found_in == info.data.fingerprint:
            said.append(f"these are the images that the {name} was trained on")
        elif info.recalibration is not None and found_in == info.recalibration.fingerprint:
            said.append(f"these are the images that the {name} was recalibrated on")
    return said


def _too_few(pair: ModelPair) -> list[str]:
    if min(pair.num_patients) >= MIN_PATIENTS:
        return []
    counts = zip(pair.num_patients, CLASS_NAMES, strict=True)
    shown = " and ".join(f"{number:,} with {name} images" for number, name in counts)
    return [f"{shown} are too few patients; a verdict needs {MIN_PATIENTS} of each"]


def _facts(model: Model) -> dict[str, Any]:
    info = model.info
    return {
        "name": model.version or model.folder.name,
        "sha256": info.sha256,
        "backbone": info.backbone,
        "image_size": info.size_px,
        "created": info.created,
        "threshold": info.threshold.value,
        "threshold_rule": info.threshold.rule,
        "calibration": asdict(info.calibration),
        "recalibrated": info.recalibration is not None,
    }
