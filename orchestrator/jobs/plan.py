"""What a job file would run, on what, and what it would take of disk and memory.

Nothing is started: files are listed and sized, the rest is arithmetic with the constants of
`estimate.py`, each with its basis.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from orchestrator.cluster.address import find_address
from orchestrator.cluster.session import query_nodes
from orchestrator.config.job import Job, check_scheduled
from orchestrator.config.load import build_spec, load_job
from orchestrator.config.replacement import ModelsCompareSpec
from orchestrator.config.specs import SPECS, RecalibrateSpec, ScoreSpec, scoring_of
from orchestrator.config.workers import Session, count_cpus, count_nodes, plan_workers
from orchestrator.data.listing.options import ListingOptions
from orchestrator.errors import ClusterError, DataError, OrchestratorError, SpecError
from orchestrator.jobs.duration import Duration, estimate_duration
from orchestrator.jobs.estimate import (
    Estimate,
    InputFacts,
    estimate_scoring,
    estimate_shadow,
    estimate_training,
)
from orchestrator.jobs.to_score import ToScore, count_to_score
from orchestrator.launcher.file import load_launcher
from orchestrator.model.backbones import canonical_names, check_size, check_weights
from orchestrator.model.bundle_folder import newest_bundle
from orchestrator.model.engine.base import choose_engine
from orchestrator.model.engine.load import choose_precision
from orchestrator.registry.reference import Model, open_model

THIS_MACHINE = "this machine"
_MONTH = 30  # days
_ALIVE = ("state", "=", "ALIVE")
_JOIN_S = 10.0  # longest wait for a head to list itself
_TRAINS = ("train", "tune", "compare", "find-lr")


@dataclass(frozen=True)
class Nodes:
    """The machines that jobs are held against.

    Args:
        source: where they are, in words.
        resources: CPU and GPU counts of each.
    """

    source: str
    resources: list[dict[str, float]]


@dataclass(frozen=True)
class Cost:
    """What the nodes of a job cost, in the currency of the price that was given.

    Args:
        num_nodes: nodes that its workers take.
        an_hour: what these cost an hour.
        a_run: what a run costs at most: each of its tries as long as its timeout.
        num_runs: runs that are due in the next 30 days; 0 where no clock says.
    """

    num_nodes: int
    an_hour: float
    a_run: float
    num_runs: int


@dataclass
class JobPlan:
    """What would become of one job file.

    Args:
        file: the job file.
        job: as read; None where it could not be.
        session: workers that it would get.
        found: its input, where it was looked at.
        to_score: files that are new to it, where it leaves out what earlier runs have scored.
        predicted: what it would take.
        duration: how long scoring would take, a recalibration's too; None for other jobs, or where
            it cannot be known.
        problems: why it could not run; empty where it could.
        exit_code: of the first of these; 0 where there are none.
        notes: what could not be known from here.
    """

    file: Path
    job: Job | None = None
    session: Session | None = None
    found: InputFacts | None = None
    to_score: ToScore | None = None
    predicted: list[Estimate] = field(default_factory=list)
    duration: Duration | None = None
    problems: list[str] = field(default_factory=list)
    exit_code: int = 0
    notes: list[str] = field(default_factory=list)

    def estimate_cost(self, nodes: Nodes, price: float, now: datetime) -> Cost | None:
        """Returns what runs cost at most where a node costs so much an hour; None without workers.

        Args:
            nodes: what it is to run on.
            price: of a node, an hour, in any currency.
            now: current instant.
        """
        if self.job is None or self.session is None:
            return None
        count = count_nodes(self.session, nodes.resources)
        hours = self.job.timeout / timedelta(hours=1) * (self.job.retries + 1)
        schedule = self.job.schedule
        runs = len(schedule.ticks().next_ticks(now, _MONTH)) if schedule else 0
        return Cost(count, count * price, count * price * hours, runs)

    def add_problem(self, error: OrchestratorError) -> None:
        """Keeps why the job could not run."""
        self.problems.append(str(error).removeprefix(f"{self.file}: "))
        self.exit_code = self.exit_code or error.exit_code


def find_nodes(launcher: Path | None, address: str | None) -> Nodes:
    """Returns the machines of a launcher file, else of a running cluster, else this machine.

    Args:
        launcher: a Ray cluster launcher file.
        address: of a running cluster, as `RAY_ADDRESS` has it.

    Raises:
        SpecError: the launcher file does not say what its machines have.
        ClusterError: the cluster does not answer.
    """
    if launcher is not None:
        resources = load_launcher(launcher).nodes()
        if resources is None:
            raise SpecError(
                f"{launcher} does not say what its machines have; run `orchestrator cluster check "
                f"{launcher}`"
            )
        return Nodes(str(launcher), resources)
    address = find_address(address)
    if address is None:
        gpus = Path("/proc/driver/nvidia/gpus")  # where Ray itself looks
        num_gpus = len(list(gpus.iterdir())) if gpus.is_dir() else 0
        cpus = count_cpus()
        return Nodes(THIS_MACHINE, [{"CPU": float(cpus), "GPU": float(num_gpus)}])
    if address.startswith(("http://", "https://")):
        return Nodes(address, _dashboard_nodes(address))
    return Nodes(address, query_nodes(address))


def _dashboard_nodes(address: str) -> list[dict[str, float]]:
    """Resources of each live node, as the dashboard of a cluster has them."""
    from ray.exceptions import AuthenticationError
    from ray.util.state import list_nodes
    from ray.util.state.exception import RayStateApiException

    until = time.monotonic() + _JOIN_S
    try:
        # The head is a node itself; one that has just started does not list it for a moment.
        while not (live := list_nodes(address=address, filters=[_ALIVE], limit=10_000)):
            if time.monotonic() > until:
                raise RuntimeError("it lists no node")
            time.sleep(0.2)
    except (AuthenticationError, RayStateApiException, ConnectionError, RuntimeError) as error:
        reason = str(error).strip().partition(". ")[0].splitlines()[0]
        raise ClusterError(
            f"the Ray cluster at {address} does not say what it has ({reason}); check RAY_ADDRESS "
            "and the token, or name a launcher file with --cluster"
        ) from error
    return [{name: float(n) for name, n in (node.resources_total or {}).items()} for node in live]


def plan_job(file: Path, nodes: Nodes, *, look: bool) -> JobPlan:
    """Returns the plan of one job file; what is wrong with it is collected, not raised.

    Args:
        file: a job file.
        nodes: what it is to run on.
        look: list the input and estimate from it; otherwise the file alone is checked.
    """
    plan = JobPlan(file)

    def step(action: Callable[[], Any]) -> Any:
        try:
            return action()
        except SpecError as error:
            plan.add_problem(error)
            return None

    plan.job = step(lambda: load_job(file))
    if plan.job is None:
        return plan
    job = plan.job
    plan.session = step(lambda: plan_workers(job.resources, nodes.resources))
    spec = step(lambda: build_spec(SPECS[job.kind], {}, job))
    step(lambda: check_scheduled(job))
    if spec is not None and job.kind in _TRAINS:
        step(lambda: _check_backbones(spec))
    if look and spec is not None and not plan.problems:
        _look(plan, spec, here=nodes.source == THIS_MACHINE)
    return plan


def _check_backbones(spec: Any) -> None:
    """Raises SpecError where a backbone is unknown or offers not what is asked of it."""
    for backbone in backbones_of(spec):
        check_weights(backbone, None if spec.weights == "auto" else spec.weights)
        check_size(backbone, spec.image_size)


def backbones_of(spec: Any) -> list[str]:
    """Returns the canonical names of the backbones that a training spec asks for.

    Raises:
        SpecError: no such backbone.
    """
    return canonical_names(getattr(spec, "backbones", None) or [spec.backbone])


def _add_scoring(plan: JobPlan, spec: ScoreSpec, found: InputFacts, models: list[Model]) -> None:
    """Adds what a scoring job takes, what is new to earlier runs, and how long that lasts.

    Where an earlier run is at work, and where the network cannot be tried here, that is a note.
    """
    infos = [model.info for model in models]
    plan.predicted = estimate_scoring(found, spec, infos[0], plan.session)
    bundles = [model.folder for model in models]
    if spec.shadow is not None:
        bundles += _add_shadow(plan, spec, found)
    gpus = bool(plan.session and plan.session.gpus_per_worker)
    engine = choose_engine(spec.engine, spec.precision, gpus=gpus)
    precision = choose_precision(spec.precision, engine, infos)
    spec = spec.model_copy(update={"engine": engine, "precision": precision})
    if spec.only_new:
        notes: Any = SimpleNamespace(say=plan.notes.append)
        try:
            plan.to_score = count_to_score(
                spec, [info.sha256 for info in infos], found.num_files, notes
            )
        except OrchestratorError as error:
            plan.notes.append(f"what is new could not be counted: {error}")
    if plan.session is None or engine != "openvino":
        return
    num_images = plan.to_score.now if plan.to_score else found.num_files
    try:
        plan.duration = estimate_duration(bundles, spec, precision, found, num_images, plan.session)
    except OrchestratorError as error:
        plan.notes.append(f"how long it takes could not be estimated: {error}")


def _add_shadow(plan: JobPlan, spec: ScoreSpec, found: InputFacts) -> list[Path]:
    """Adds what the shadow takes and returns its bundle; one that cannot be used is a note."""
    try:
        shadow = open_model(str(spec.shadow))
    except OrchestratorError as error:
        plan.notes.append(f"the shadow would score nothing: {error}")
        return []
    plan.predicted += estimate_shadow(found, spec, shadow.info, plan.session)
    return [shadow.folder]


def _look(plan: JobPlan, spec: Any, *, here: bool) -> None:
    """Lists the input and estimates; what cannot be seen from here is a note."""
    if isinstance(spec, RecalibrateSpec):
        spec = scoring_of(spec, spec.model)
    compares = isinstance(spec, ModelsCompareSpec)
    if isinstance(spec, ModelsCompareSpec):  # of one model after the other
        spec = scoring_of(spec, spec.candidate)
    scores = isinstance(spec, ScoreSpec)
    sources = spec.input if scores else [spec.data]
    try:
        plan.found = InputFacts.of(sources, ListingOptions.of(spec))
        if scores:
            named = spec.model or (str(newest_bundle(Path("models"))),)
            _add_scoring(plan, spec, plan.found, [open_model(name) for name in named])
            if compares:  # the other model may have scored these images already
                plan.duration = None
        elif plan.job is not None and plan.job.kind in _TRAINS:
            plan.predicted = estimate_training(plan.found, spec, backbones_of(spec), plan.session)
    except OrchestratorError as error:
        seen = here or all("://" in source or Path(source).exists() for source in sources)
        if isinstance(error, DataError) and seen:
            plan.add_problem(error)
        else:
            plan.notes.append(f"nothing could be predicted: {error}")
