"""`orchestrator doctor`: what a machine and its cluster have, and what of it is wrong."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.completion import complete_bundle
from orchestrator.cli.options import JsonFlag
from orchestrator.cli.output import print_result
from orchestrator.errors import ClusterError, OrchestratorError, counted

_PACKAGES = ("ray", "tensorflow", "keras", "openvino", "pyarrow", "pandas", "pydicom")
_MIN_DISK_BYTES = 5 * 2**30
_MIN_MEMORY_BYTES = 4 * 2**30

app = typer.Typer()


@dataclass(frozen=True)
class Check:
    """One thing looked at.

    Args:
        name: what was looked at.
        ok: whether a job can run with it.
        found: what was found and, where it is not ok, what to do.
    """

    name: str
    ok: bool
    found: str


@app.command()
def doctor(
    model: Annotated[
        str | None,
        typer.Option(
            metavar="<path>",
            help="Also verify this bundle, as `models verify` does.",
            show_default="none",
            autocompletion=complete_bundle,
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Check Python, packages, devices, memory, disk space, the cluster, and a model."""
    from orchestrator.cli.summaries import doctor_table

    checks = diagnose() + ([_model(model)] if model else [])
    body = {"checks": [vars(check) for check in checks]}
    print_result(body, doctor_table(checks), as_json=as_json)
    if not all(check.ok for check in checks):
        raise typer.Exit(ClusterError.exit_code)


def diagnose() -> list[Check]:
    """Returns every check, in the order in which a person would fix them."""
    return [
        _python(),
        _packages(),
        _memory(),
        _disk(),
        _backend(),
        _cluster(),
    ]


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    return Check("Python", sys.version_info >= (3, 11), f"{version} (3.11 or newer is needed)")


def _packages() -> Check:
    import importlib.metadata

    found, missing = [], []
    for name in _PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        return Check("packages", False, f"missing: {', '.join(missing)}; run `make setup`")
    return Check("packages", True, ", ".join(found))


def _memory() -> Check:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    text = f"{total / 2**30:.1f} GiB"
    if total < _MIN_MEMORY_BYTES:
        text += "; at least 4 GiB is needed"
    return Check("memory", total >= _MIN_MEMORY_BYTES, text)


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free
    text = f"{free / 2**30:.1f} GiB free in {Path.cwd()}"
    if free < _MIN_DISK_BYTES:
        text += "; runs need 5 GiB: free space or work in another folder"
    return Check("disk", free >= _MIN_DISK_BYTES, text)


def _backend() -> Check:
    # In a process of its own: some backends write to the terminal when they are loaded.
    code = "from orchestrator.model.devices import describe_backend; print(describe_backend())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    found = lines[-1] if lines else f"exit code {done.returncode}"
    if done.returncode:
        found += "; run `make setup`, or correct KERAS_BACKEND"
    return Check("Keras backend", done.returncode == 0, found)


def _cluster() -> Check:
    from orchestrator.cluster.address import find_address
    from orchestrator.cluster.session import node_resources, open_session
    from orchestrator.config.specs import Resources
    from orchestrator.jobs.client import Jobs
    from orchestrator.jobs.plan import find_nodes

    where = find_address() or "a local one"
    try:
        if where.startswith(("http://", "https://")):
            Jobs(where)  # checks the token too, and that one is asked for
            found = _shown(find_nodes(None, where).resources)
            return Check("Ray cluster", True, f"{where}: {found}; `orchestrator submit` uses it")
        with open_session(Resources()) as session:
            text = (
                f"{where}: {_shown(node_resources())}; a job would use "
                f"{counted(session.num_workers, 'worker')} of {session.cpus_per_worker:g} CPU and "
                f"{session.gpus_per_worker:g} GPU"
            )
            return Check("Ray cluster", True, text)
    except OrchestratorError as error:
        return Check("Ray cluster", False, str(error))


def _model(name: str) -> Check:
    from orchestrator.model.golden import describe_difference, replay_bundle
    from orchestrator.registry.reference import open_model

    try:
        model = open_model(name)
        replays = replay_bundle(model.folder, model.info)
    except OrchestratorError as error:
        return Check("model", False, str(error))
    for replay in replays:
        if not replay.ok:
            return Check("model", False, describe_difference(model.folder, replay))
    shown = ", ".join(f"{replay} {replay.difference:.1e}" for replay in replays)
    return Check(
        "model",
        True,
        f"{model.name}: hashes as recorded; {shown} from the expected outputs (relative)",
    )


def _shown(nodes: list[dict[str, float]]) -> str:
    cpus, gpus = (sum(node.get(name, 0) for node in nodes) for name in ("CPU", "GPU"))
    return f"{counted(len(nodes), 'node')}, {cpus:g} CPU, {gpus:g} GPU"
