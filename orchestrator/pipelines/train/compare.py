"""Train several backbones by one recipe on one split and set them side by side.

Each model is an ordinary training run under the comparison's folder: `runs/NAME` and its bundle
`models/NAME`. A run that is finished is not repeated, and the images are decoded once for all.
"""

import json
import shutil
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from orchestrator.cluster.session import open_session
from orchestrator.config.load import dump_yaml
from orchestrator.config.specs import CompareSpec, Resources, TrainSpec
from orchestrator.config.workers import Session
from orchestrator.data.shard_files import part_path, read_part
from orchestrator.data.source import IngestedSource
from orchestrator.errors import SpecError
from orchestrator.evaluation.report.comparison import (
    Contender,
    build_comparison,
    render_comparison_html,
)
from orchestrator.pipelines.prepare.features import Backbone, compute_features
from orchestrator.pipelines.prepare.images import open_images, split_images
from orchestrator.pipelines.train.check import check_spec
from orchestrator.pipelines.train.evaluated import load_evaluated
from orchestrator.pipelines.train.train import train
from orchestrator.progress import Reporter
from orchestrator.runs.atomic import digest, write_json, write_text
from orchestrator.runs.run_dir import RunDir, new_run_id

# Of the training recipe, what is the comparison's own affair.
_NOT_PASSED_ON = {"data", "out", "overwrite", "backbones", "weights", "loss", "limit"}
_NOT_PASSED_ON |= {"limits", "patient_key_file"}  # the images are decoded already
_COSTS = "costs.json"


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
        return RunDir(comparison.path / "runs" / self.name)


def compare(spec: CompareSpec, resources: Resources, reporter: Reporter) -> CompareResult:
    """Trains every backbone of the spec and writes one report about all.

    Args:
        spec: what to compare, on what.
        resources: what to use of the cluster.
        reporter: told of every step.

    Returns:
        Where the comparison is, and its report.

    Raises:
        SpecError: the spec cannot be met; known before any image is read.
        DataError: the images cannot be trained on, or leak from split to split.
        ClusterError: a worker, the disk or a download failed; the same command goes on later.
    """
    groups = plan_cases(spec)
    run = RunDir(Path(spec.out or Path("runs", new_run_id("compare"))).absolute())
    run.start(digest(spec.model_dump(exclude={"out", "overwrite"})), overwrite=spec.overwrite)
    # With the folder, so that the stored spec goes on with this very run.
    stored = spec.model_copy(update={"out": str(run.path)})
    write_text(run.spec, dump_yaml("compare", run.path.name, stored, resources))
    reads, writes = [Path(spec.data)], [run.path]
    with run.recording_failure(), open_session(resources, reads=reads, writes=writes) as session:
        cases = [case for group in groups for case in group]
        if not all(case.run(run).success.exists() for case in cases):
            _train_all(spec, groups, run, session, resources, reporter)
        report = _report(spec, cases, run, session)
    shutil.rmtree(run.ingested, ignore_errors=True)
    run.finish()
    return CompareResult(run.path, report)


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
    for given in spec.backbones:
        focal = check_spec(TrainSpec(data="", backbone=given, weights=spec.weights, **recipe))
        short = Path(focal.backbone).stem
        if short in {group[0].name for group in groups}:
            raise SpecError(f"--backbones names {short} twice; name each backbone once")
        group = [Case(short, "focal", focal)]
        if spec.loss == "bce":
            bce = focal.model_copy(update={"alpha": 0.5, "gamma": 0.0})
            group.append(Case(f"{short}-bce", "bce", bce))
        groups.append(group)
    return groups


def _train_all(
    spec: CompareSpec,
    groups: list[list[Case]],
    run: RunDir,
    session: Session,
    resources: Resources,
    reporter: Reporter,
) -> None:
    """Trains what is not trained yet; features of a backbone are computed once for its losses."""
    dataset = open_images(spec, session, run, reporter, spec.limit)
    said = _SaidOnce(reporter)
    splits = split_images(groups[0][0].spec, dataset.load_rows(), run, said)[0].to_pylist()
    for number, group in enumerate(groups, 1):
        waiting = [case for case in group if not case.run(run).success.exists()]
        if not waiting:
            continue
        reporter.say(f"{number} of {len(groups)}: {group[0].name}")
        features = run.features / group[0].name
        _compute_features(group[0].spec, dataset, splits, features, session, run, said)
        for case in waiting:
            out = run.path / "models" / case.name
            given = case.spec.model_copy(
                # A bundle whose run was cut short before its last file is made again.
                update={"data": str(dataset.folder), "out": str(out), "overwrite": True}
            )
            train(given, resources, said, run_folder=case.run(run).path, features=features)
        shutil.rmtree(features, ignore_errors=True)
    shutil.rmtree(run.features, ignore_errors=True)


def _compute_features(
    spec: TrainSpec,
    dataset: IngestedSource,
    splits: list[str | None],
    out: Path,
    session: Session,
    run: RunDir,
    reporter: Reporter,
) -> None:
    """Computes the features of one backbone and stores what they cost."""
    done = [shard for shard in range(dataset.num_shards) if part_path(out, shard).exists()]
    timed = _Timed(reporter, len(done))
    backbone = Backbone(spec.backbone, spec.weights, spec.image_size, spec.seed)
    compute_features(dataset, splits, backbone, spec.views, out, session, timed, spec.augmentation)
    if len(done) == dataset.num_shards:
        return
    total = sum(read_part(part_path(out, shard)).num_rows for shard in range(dataset.num_shards))
    rate = timed.images_per_s
    costs = _load_costs(run)
    costs[spec.backbone] = {
        "images_per_s": rate,
        "features_s": total / rate if rate else timed.seconds,
    }
    write_json(run.path / _COSTS, costs)


def _load_costs(run: RunDir) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((run.path / _COSTS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return found


def _report(spec: CompareSpec, cases: list[Case], run: RunDir, session: Session) -> dict[str, Any]:
    """Builds the report from the finished runs and writes it."""
    costs = _load_costs(run)
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
            Contender(case.spec.backbone, case.loss, report, load_evaluated(own), cost)
        )
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
    return found


class _SaidOnce:
    """Passes on what was not said before: every run of one split says the same tables."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._said: set[str] = set()
        self.begin, self.advance, self.end = reporter.begin, reporter.advance, reporter.end

    def say(self, line: str) -> None:
        if line not in self._said or line.startswith("epoch"):
            self._reporter.say(line)
        self._said.add(line)


class _Timed:
    """Passes everything on, and times the shards as they are committed.

    Args:
        reporter: told of everything.
        num_done: shards that were there before.
    """

    def __init__(self, reporter: Reporter, num_done: int) -> None:
        self._reporter = reporter
        self._skip = num_done
        self._times: list[float] = []
        self._counts: list[int] = []
        self.seconds = 0.0
        self._began = 0.0
        self.say = reporter.say

    def begin(self, label: str, total: int, unit: str) -> None:
        self._began = time.perf_counter()
        self._reporter.begin(label, total, unit)

    def advance(self, count: int) -> None:
        self._times.append(time.perf_counter())
        self._counts.append(count)
        self._reporter.advance(count)

    def end(self) -> None:
        self.seconds = time.perf_counter() - self._began
        self._reporter.end()

    @property
    def images_per_s(self) -> float | None:
        """Images a second from the first new shard's end to the last's; None for one shard."""
        times, counts = self._times[self._skip :], self._counts[self._skip :]
        if len(times) < 2 or times[-1] == times[0]:
            return None
        return sum(counts[1:]) / (times[-1] - times[0])
