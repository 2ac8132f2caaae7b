"""Quantise a bundle: its network in int8, judged, and released beside the float32 one.

What is judged, and by which images, is in `judge.py`.
"""

import importlib.metadata
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from orchestrator.cluster.session import open_session
from orchestrator.config.fields import STORED
from orchestrator.config.quantize import QuantizeSpec
from orchestrator.config.specs import Resources, TrainSpec
from orchestrator.config.workers import Session, count_cpus
from orchestrator.data.source import open_ingested
from orchestrator.errors import BundleError
from orchestrator.evaluation.int8_gate import (
    MAX_AUROC_LOSS,
    MAX_CALLS_CHANGED,
)
from orchestrator.model.bundle import (
    GOLDEN_FILE,
    GOLDEN_INT8_FILE,
    INT8_FILE,
    INT8_FILES,
    IR_FILE,
    BundleInfo,
    Quantized,
)
from orchestrator.model.bundle_writer import copy_bundle
from orchestrator.model.engine.load import load_engine
from orchestrator.model.engine.openvino import openvino_engine
from orchestrator.model.engine.quantize import (
    LAYERS_F32,
    check_arithmetics,
    check_nncf,
    choose_usual,
    quantize_ir,
)
from orchestrator.model.golden import load_difference, render_golden
from orchestrator.pipelines.prepare.images import open_images, prepare_images
from orchestrator.pipelines.quantize.judge import (
    Judged,
    QuantizeImages,
    choose_site_images,
    choose_training_images,
    judge,
)
from orchestrator.pipelines.successor import SuccessorResult, open_successor
from orchestrator.progress import Reporter
from orchestrator.runs.atomic import write_json, write_text
from orchestrator.runs.run_dir import RunDir


def quantize(
    spec: QuantizeSpec,
    resources: Resources,
    reporter: Reporter,
    *,
    run_folder: Path | None = None,
) -> SuccessorResult:
    """Releases a bundle again with an int8 network beside its own, if that passes the gate.

    Args:
        spec: which bundle, and the images that it was made with.
        resources: what to use of the cluster to decode them.
        reporter: receives every step.
        run_folder: folder of the run; the one that the bundle's folder names, or a new one under
            `runs/` otherwise.

    Returns:
        Where the bundle, the run and the report are.

    Raises:
        SpecError: NNCF is not installed, the CPU has no fast int8, or the output folder is taken.
        DataError: other images than those that the bundle was made with.
        BundleError: the bundle cannot be used, or its int8 network does not pass: no bundle is
            written.
        ClusterError: a worker or the disk failed; the same command goes on later.
    """
    nncf = check_nncf()
    check_arithmetics()
    begun = open_successor("quantize", spec, resources, reporter, run_folder)
    with begun as (spec, model, bundle, opened):
        parent, info = model.folder, model.info
        if not opened.completed:
            images = _open_images(spec, info, resources, opened.run, reporter)
            with tempfile.TemporaryDirectory() as draft:
                network = Path(draft) / INT8_FILE
                reporter.say(f"quantising by {len(images.ranges):,} images with NNCF {nncf}")
                float32 = load_engine(parent, "openvino", sha256=info.sha256, with_features=True)
                ranges = images.store.take(images.ranges)
                usual = ranges[choose_usual(float32.predict(ranges)[:, 1:])]
                arithmetic = quantize_ir(parent / IR_FILE, network, usual)
                engines = float32, openvino_engine(network, None, "int8", with_features=True)
                judged = judge(info, images, engines, spec.seed, reporter)
                write_json(opened.run.report_json, _report(info, judged))
                if not judged.change.passes:
                    bundle.note.unlink()  # nothing is left where the bundle would have been
                    raise BundleError(_refusal(spec.model, judged))
                golden = render_golden(engines[1], load_difference(parent / GOLDEN_FILE))
                write_text(Path(draft) / GOLDEN_INT8_FILE, golden)
                _release(info, judged, len(usual), parent, bundle.path, network, arithmetic, nncf)
    return SuccessorResult(bundle.path, opened.run.path, opened.load_report())


def _open_images(
    spec: QuantizeSpec, info: BundleInfo, resources: Resources, run: RunDir, reporter: Reporter
) -> QuantizeImages:
    """Returns the images that the bundle was made with, divided by what they are for."""
    site = info.recalibration
    # How a training lists and divides files says nothing of the site's.
    recipe = {} if site else info.training
    known = {key: recipe[key] for key in TrainSpec.model_fields if key in recipe}
    # Its fingerprint tells whether these are the images; what was allowed then is allowed now.
    now = {"data": spec.data, "image_size": info.size_px, "allow_leakage": True}
    now["max_rejected_fraction"] = 1.0
    wanted = TrainSpec.model_validate(
        {**known, **now, "patient_key_file": spec.patient_key_file}, context=STORED
    )

    def choose(session: Session) -> QuantizeImages:
        if site is not None:
            return choose_site_images(spec, site, open_images(wanted, session, run, reporter))
        return choose_training_images(spec, info, prepare_images(wanted, session, run, reporter))

    folder = Path(spec.data)
    if run.own_dataset.described.is_file() or (folder.is_dir() and open_ingested(folder)):
        # Nothing is left to decode, so that no cluster is needed.
        return choose(Session(1, float(count_cpus()), 0.0))
    with open_session(resources, reads=[folder], writes=[run.path]) as session:
        return choose(session)


def _refusal(name: str, judged: Judged) -> str:
    return (
        f"the int8 network of {name} does not pass: {judged.change}; at most "
        f"{MAX_AUROC_LOSS:g} of AUROC may be lost and {MAX_CALLS_CHANGED:.1%} of the calls "
        "changed. No bundle was written; score this one in f32"
    )


def _report(info: BundleInfo, judged: Judged) -> dict[str, Any]:
    """What `report.json` says."""
    return {
        "kind": "quantize",
        "parent": {"sha256": info.sha256, "backbone": info.backbone},
        "layers_f32": list(LAYERS_F32),
        "before": {"threshold": info.threshold.value, "calibration": vars(info.calibration)},
        "after": {
            "threshold": judged.point.threshold.value,
            "calibration": vars(judged.point.calibration),
        },
        "threshold_rule": info.threshold.rule,
        "change": judged.change.as_dict(),
        "speed": judged.speed,
        "described": str(judged.change),
    }


def _release(
    info: BundleInfo,
    judged: Judged,
    num_calibration: int,
    parent: Path,
    out: Path,
    network: Path,
    arithmetic: str,
    nncf: str,
) -> None:
    """Writes the bundle."""
    change = judged.change
    released = info.model_copy(
        update={
            "parent": info.sha256,
            "ancestors": (*info.ancestors, info.as_ancestor()),
            "int8": Quantized(
                date=datetime.now(UTC).isoformat(timespec="seconds"),
                arithmetic=arithmetic,
                layers_f32=LAYERS_F32,
                num_calibration=num_calibration,
                threshold=judged.point.threshold,
                calibration=judged.point.calibration,
                review=judged.review,
                num_images=change.num_images,
                num_patients=change.num_patients,
                auroc_change=change.auroc_change,
                calls_changed=change.calls_changed,
                speed=judged.speed,
                versions={"nncf": nncf, "openvino": importlib.metadata.version("openvino")},
            ),
        }
    )
    added = {name: network.with_name(name) for name in INT8_FILES}
    copy_bundle(parent, out, released, added=added)
