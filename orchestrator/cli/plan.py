"""`orchestrator jobs validate` and `plan`: what job files would run, before anything runs."""

import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.options import JsonFlag
from orchestrator.cli.output import print_json, write_line
from orchestrator.errors import SpecError, counted

if TYPE_CHECKING:
    from orchestrator.jobs.plan import Cost, JobPlan, Nodes

Files = Annotated[
    list[Path] | None,
    typer.Argument(metavar="FILE", help="Job files.", show_default="jobs/*.yaml"),
]
Cluster = Annotated[
    Path | None,
    typer.Option(
        metavar="<file>",
        help="Launcher file of the cluster to check against.",
        show_default="the cluster at RAY_ADDRESS, or this machine",
    ),
]


Price = Annotated[
    float | None,
    typer.Option(
        "--price-per-node-hour",
        metavar="<number>",
        min=0.0,
        help="Price of a node per hour, in any currency; adds what runs cost at most.",
        show_default="no costs",
    ),
]


def validate(files: Files = None, cluster: Cluster = None, as_json: JsonFlag = False) -> None:
    """Check job files against their schema and the cluster; exit with code 2 if one is wrong."""
    nodes, plans = _plans(files, cluster, look=False)
    if as_json:
        _print_plans(nodes, plans, [None] * len(plans))
    else:
        for plan in plans:
            if not plan.problems and plan.job is not None:
                write_line(f"{plan.file}: valid, {plan.job.kind}, {_workers(plan)}")
            for problem in plan.problems:
                write_line(f"error: {plan.file}: {problem}")
    _exit(plans)


def plan(
    files: Files = None, cluster: Cluster = None, price: Price = None, as_json: JsonFlag = False
) -> None:
    """Show what job files would run, where, and the disk space, memory and time they need."""
    nodes, plans = _plans(files, cluster, look=True)
    now = datetime.now(UTC)
    costs = [None if price is None else each.estimate_cost(nodes, price, now) for each in plans]
    if as_json:
        _print_plans(nodes, plans, costs)
    else:
        write_line(f"on {nodes.source}: {_machines(nodes)}")
        for each, cost in zip(plans, costs, strict=True):
            for line in ("", *_described(each, cost)):
                write_line(line)
    _exit(plans)


def _plans(
    files: list[Path] | None, cluster: Path | None, *, look: bool
) -> tuple["Nodes", list["JobPlan"]]:
    from orchestrator.jobs.plan import find_nodes, plan_job

    named = files or sorted(p for p in Path("jobs").glob("*") if p.suffix in (".yaml", ".yml"))
    if not named:
        raise SpecError("there is no job file in jobs/; name some, such as jobs/score-nightly.yaml")
    nodes = find_nodes(cluster, os.environ.get("RAY_ADDRESS") or None)
    plans = [plan_job(file, nodes, look=look) for file in named]
    owners: dict[str, Path] = {}
    for each in plans:
        if each.job is not None:
            first = owners.setdefault(each.job.name, each.file)
            if first != each.file:
                each.add_problem(
                    SpecError(f"the name {each.job.name} is {first}'s; give each its own")
                )
    if not files:  # else the job that one follows may be in a file that was not named
        _check_chains(plans)
    return nodes, plans


def _check_chains(plans: list["JobPlan"]) -> None:
    """Adds what is wrong with jobs that follow others."""
    from orchestrator.config.job import find_broken_chains

    scheduled = {plan.job.name: plan.job for plan in plans if plan.job and plan.job.schedule}
    problems = find_broken_chains(scheduled, are_all=all(plan.job for plan in plans))
    for plan in plans:
        if plan.job is not None and plan.job.name in problems:
            plan.add_problem(SpecError(problems[plan.job.name]))


def _described(plan: "JobPlan", cost: "Cost | None") -> list[str]:
    from orchestrator.schedule.policy import describe

    lines = [f"{plan.file}"]
    if plan.job is not None:
        lines[0] = f"{plan.job.name} ({plan.file}): {plan.job.kind}, {_workers(plan)}"
        tries = f"{plan.job.retries + 1} tries" if plan.job.retries else "one try"
        limit = describe(plan.job.timeout)
        when = plan.job.schedule.ticks() if plan.job.schedule else None
        due = f"due {when.cron} {when.timezone}".rstrip() if when else "no schedule"
        lines.append(f"  {tries} of at most {limit}; {due}")
    if plan.found is not None:
        size = f" ({plan.found.size_px} px, ingested)" if plan.found.size_px else ""
        lines.append(
            f"  {plan.found.num_files:,} files, {_size(plan.found.num_bytes)}{size}, "
            f"{plan.found.num_labelled:,} labelled"
        )
    if plan.to_score is not None and plan.job is not None:
        rule = plan.job.args.get("on_new_model", "rescore")
        lines.append(
            f"  {plan.to_score.now:,} of them to score now, {plan.to_score.after_promotion:,} with "
            f"another model in its place (on_new_model: {rule})"
        )
    for predicted in plan.predicted:
        amount = f"{_size(predicted.num_bytes):>10}"
        lines.append(f"  {amount}  {predicted.what}: {predicted.basis}")
    if plan.duration is not None:
        length = describe(timedelta(seconds=plan.duration.seconds))
        lines.append(f"  about {length}: {plan.duration.basis}")
    if cost is not None:
        month = f", {cost.a_run * cost.num_runs:,.2f} in 30 days" if cost.num_runs else ""
        lines.append(
            f"  cost: {cost.an_hour:,.2f} an hour for {cost.num_nodes} node(s); at most "
            f"{cost.a_run:,.2f} a run{month}"
        )
    lines += [f"  note: {note}" for note in plan.notes]
    lines += [f"  error: {problem}" for problem in plan.problems]
    return lines


def _workers(plan: "JobPlan") -> str:
    if plan.session is None:
        return "no workers"
    gpus = f" and {plan.session.gpus_per_worker:g} GPU" if plan.session.gpus_per_worker else ""
    each = f"{plan.session.cpus_per_worker:g} CPU{gpus}"
    return f"{counted(plan.session.num_workers, 'worker')} of {each}"


def _machines(nodes: "Nodes") -> str:
    counts: dict[str, int] = {}
    for node in nodes.resources:
        name = f"{node.get('CPU', 0):g} CPU {node.get('GPU', 0):g} GPU"
        counts[name] = counts.get(name, 0) + 1
    return ", ".join(f"{count} x {name}" for name, count in counts.items()) or "no machine"


def _size(num_bytes: int) -> str:
    for power, unit in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
        if num_bytes >= 1024**power:
            return f"{num_bytes / 1024**power:,.1f} {unit}"
    return f"{num_bytes} B"


def _print_plans(nodes: "Nodes", plans: list["JobPlan"], costs: Sequence["Cost | None"]) -> None:
    body: dict[str, Any] = {
        "nodes": {"source": nodes.source, "resources": nodes.resources},
        "jobs": [
            {
                "file": str(plan.file),
                "job": plan.job.model_dump(mode="json") if plan.job else None,
                "workers": vars(plan.session) if plan.session else None,
                "found": vars(plan.found) if plan.found else None,
                "to_score": vars(plan.to_score) if plan.to_score else None,
                "predicted": [vars(predicted) for predicted in plan.predicted],
                "duration": vars(plan.duration) if plan.duration else None,
                "cost": vars(cost) if cost else None,
                "notes": plan.notes,
                "problems": plan.problems,
            }
            for plan, cost in zip(plans, costs, strict=True)
        ],
    }
    print_json(body)


def _exit(plans: list["JobPlan"]) -> None:
    codes = [plan.exit_code for plan in plans if plan.exit_code]
    if codes:
        raise typer.Exit(min(codes))
