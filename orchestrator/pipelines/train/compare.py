"""Train several backbones by one recipe on one split and set them side by side.

Each model is an ordinary training run under the comparison's folder: `runs/NAME` and its bundle
`models/NAME`. A run that is finished is not repeated, and the images are decoded once for all.
"""

import json
import shutil
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from orchestrator.cluster.session import open_session
from orchestrator.config.fields import STORED
from orchestrator.config.specs import CompareSpec, Resources, TrainSpec
from orchestrator.config.workers import Session
from orchestrator.data.listing.inputs import check_inputs
from orchestrator.data.shard_files import has_part, part_path
from orchestrator.errors import SpecError
from orchestrator.evaluation.report.comparison import (
    Contender,
    build_comparison,
    render_comparison_html,
)
from orchestrator.evaluation.report.ensemble import build_ensemble
from orchestrator.model.backbones import canonical_names
from orchestrator.pipelines.prepare.features import compute_features
from orchestrator.pipelines.prepare.images import Prepared, prepare_images
from orchestrator.pipelines.timed import Timed, load_costs
from orchestrator.pipelines.train.check import check_run_folder, check_spec, check_workers
from orchestrator.pipelines.train.evaluated import load_evaluated
from orchestrator.pipelines.train.train import train
from orchestrator.progress import Reporter
from orchestrator.runs.atomic import write_json, write_text
from orchestrator.runs.life_cycle import open_run
from orchestrator.runs.run_dir import RunDir

# Of the training recipe, what is the comparison's own affair.
_NOT_PASSED_ON = {"data", "out", "overwrite", "backbones", "weights", "loss", "seeds", "limit"}
_NOT_PASSED_ON |= {"ensemble"}
_NOT_PASSED_ON |= {"limits", "patient_key_file"}  # the images are decoded already


@dataclass(frozen=True)
class CompareResult:
    """What a comparison made.

    Args:
        run: its folder, with `report.html`, `report.json`, `models/` and `runs/`.
        report: as in `report.json`.
    """

    run: Path
    report: dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One model to train.

    Args:
        name: of its folders.
        loss: "focal" or "bce".
        spec: its training, without data.
    """

    name: str
    loss: str
    spec: TrainSpec

    def run(self, comparison: RunDir) -> RunDir:
        """The model's training run."""
        return comparison.case(self.name)


def compare(
    spec: CompareSpec, resources: Resources, reporter: Reporter, *, run_folder: Path | None = None
) -> CompareResult:
    """Trains every backbone of the spec and writes one report about all.

    Args:
        spec: what to compare, on what.
        resources: what to use of the cluster.
        reporter: receives every step.
        run_folder: folder of the run; `out` of the spec, or a new one under `runs/` otherwise.

    Returns:
        Where the comparison is, and its report.

    Raises:
        SpecError: the spec cannot be met; known before any image is read.
        DataError: the images cannot be trained on, or leak from split to split.
        ClusterError: a worker, the disk or a download failed; the same command goes on later.
    """
    groups = plan_cases(spec)
    check_inputs([spec.data])
    folder = run_folder or (Path(spec.out) if spec.out else None)
    check_run_folder(folder)
    with open_run("compare", folder, spec, resources, reporter=reporter) as opened:
        if not opened.completed:
            _compare(spec, groups, opened.run, resources, reporter)
    return CompareResult(opened.run.path, opened.load_report())


def _compare(
    spec: CompareSpec,
    groups: list[list[Case]],
    run: RunDir,
    resources: Resources,
    reporter: Reporter,
) -> None:
    """Trains and reports in a claimed run."""
    with open_session(resources, reads=[Path(spec.data)], writes=[run.path]) as session:
        if spec.finetune != "none":
            check_workers(session)
        cases = [case for group in groups for case in group]
        if not all(case.run(run).success.exists() for case in cases):
            _train_all(spec, groups, run, session, resources, reporter)
        _report(spec, cases, run, session)


def plan_cases(spec: CompareSpec) -> list[list[Case]]:
    """Returns the models to train, those of one backbone together.

    Binary cross-entropy is focal loss with gamma 0 and alpha 0.5, but for a factor of one half
    that Adam's steps do not depend on.

    Raises:
        SpecError: an unknown or doubled backbone, or weights or a size that one does not offer.
    """
    recipe = {
        name: value for name, value in spec.model_dump().items() if name not in _NOT_PASSED_ON
    }
    groups: list[list[Case]] = []
    for backbone in canonical_names(spec.backbones):
        given = {"data": "", "backbone": backbone, "weights": spec.weights, **recipe}
        # What a comparison may be asked for is its own form's affair.
        focal = check_spec(TrainSpec.model_validate(given, context=STORED))
        short = Path(focal.backbone).stem
        group = _repeats(Case(short, "focal", focal), spec.seeds)
        if spec.loss == "bce":
            bce = focal.model_copy(update={"alpha": 0.5, "gamma": 0.0})
            group += _repeats(Case(f"{short}-bce", "bce", bce), spec.seeds)
        taken = {case.name for other in groups for case in other}
        if twice := [case.name for case in group if case.name in taken]:
            raise SpecError(f"--backbones names {twice[0]} twice; name each backbone once")
        groups.append(group)
    return groups


def _repeats(case: Case, num_seeds: int) -> list[Case]:
    """The case, and its head trained anew with each further seed."""
    cases = [case]
    for seed in range(case.spec.seed + 1, case.spec.seed + num_seeds):
        again = case.spec.model_copy(update={"seed": seed})
        cases.append(Case(f"{case.name}-seed{seed}", case.loss, again))
    return cases


def _train_all(
    spec: CompareSpec,
    groups: list[list[Case]],
    run: RunDir,
    session: Session,
    resources: Resources,
    reporter: Reporter,
) -> None:
    """Trains what is not trained yet; features of a backbone are computed once for its losses."""
    prepared = prepare_images(spec, session, run, reporter, spec.limit)
    for number, group in enumerate(groups, 1):
        waiting = [case for case in group if not case.run(run).success.exists()]
        if not waiting:
            continue
        reporter.say(f"{number} of {len(groups)}: {group[0].name}")
        features = run.features / group[0].name
        _compute_features(group[0].spec, prepared, features, session, run, reporter)
        for case in waiting:
            out = run.case_bundle(case.name)
            given = case.spec.model_copy(
                # What is left of an attempt that cannot be resumed is replaced.
                update={"data": spec.data, "out": str(out), "overwrite": True}
            )
            folder = case.run(run).path
            train(
                given,
                resources,
                reporter,
                run_folder=folder,
                prepared=prepared,
                features=features,
            )
        shutil.rmtree(features, ignore_errors=True)
    shutil.rmtree(run.features, ignore_errors=True)


def _compute_features(
    spec: TrainSpec,
    prepared: Prepared,
    out: Path,
    session: Session,
    run: RunDir,
    reporter: Reporter,
) -> None:
    """Computes the features of one backbone and stores what they cost."""
    dataset, splits, uuid = prepared.dataset, prepared.split.to_pylist(), run.load_uuid()
    done = [s for s in range(dataset.num_shards) if has_part(part_path(out, s), uuid)]
    timed = Timed(reporter, len(done))
    compute_features(spec, dataset, splits, out, uuid, session, timed)
    if timed.num_new_shards == 0:
        return
    rate = timed.images_per_s
    costs = load_costs(run)
    costs[spec.backbone] = {
        "images_per_s": rate,
        "features_s": timed.num_images / rate if rate else timed.seconds,
    }
    write_json(run.costs, costs)


def _report(spec: CompareSpec, cases: list[Case], run: RunDir, session: Session) -> None:
    """Builds the report from the finished runs and writes it."""
    costs = load_costs(run)
    unknown = {"images_per_s": None, "features_s": None}
    contenders = []
    for case in cases:
        own = case.run(run)
        status = own.load_status()
        began, ended = (
            datetime.fromisoformat(status[key]) for key in ("running_at", "succeeded_at")
        )
        cost = costs.get(case.spec.backbone, unknown) | {
            "training_s": (ended - began).total_seconds()
        }
        report = json.loads(own.report_json.read_text(encoding="utf-8"))
        contenders.append(
            Contender(case.spec.backbone, case.loss, report, *load_evaluated(own), cost)
        )
    # The trainings of a model lie side by side, that of the comparison's own seed first.
    contenders = [
        replace(contenders[at], repeats=tuple(contenders[at + 1 : at + spec.seeds]))
        for at in range(0, len(contenders), spec.seeds)
    ]
    if spec.ensemble != "none":
        for loss in dict.fromkeys(case.loss for case in cases):
            members = [contender for contender in contenders if contender.loss == loss]
            contenders.append(build_ensemble(members, spec.ensemble, spec.threshold, spec.seed))
    facts = {
        "run_id": run.path.name,
        "started_at": run.load_status().get("running_at"),
        "workers": session.num_workers,
        "cpus_per_worker": session.cpus_per_worker,
        "gpus_per_worker": session.gpus_per_worker,
    }
    recipe = spec.model_dump(mode="json", exclude={"out", "overwrite"})
    found = build_comparison(contenders, recipe=recipe, run=facts, seed=spec.seed)
    write_json(run.report_json, found)
    write_text(run.report_html, render_comparison_html(found, contenders))
