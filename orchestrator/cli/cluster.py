"""`orchestrator cluster`: the cluster that jobs run on, and the files that describe one."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.jobs import stop_head
from orchestrator.errors import SpecError

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]

app = typer.Typer(no_args_is_help=True, help="The cluster that jobs run on.")
app.command("stop")(stop_head)


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="Ray cluster launcher file.")] = Path("cluster.yaml"),
    jobs: Annotated[
        Path | None,
        typer.Option(
            "--jobs",
            help="Folder of the jobs it is to run; jobs beside FILE, or one folder up, otherwise.",
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Find what is wrong with a launcher file before `ray up` does, or does not; exit code 2."""
    from orchestrator.launcher.check import check_launcher
    from orchestrator.launcher.file import load_launcher

    if jobs is not None and not jobs.is_dir():
        raise SpecError(f"--jobs {jobs} is no folder; name the folder of job files")
    launcher = load_launcher(file)
    shipped = [folder / "jobs" for folder in list(file.absolute().parents)[:2]]
    found = check_launcher(launcher, jobs or next(filter(Path.is_dir, shipped), None))
    if as_json:
        body = {
            "file": str(file),
            "faults": [vars(finding) for finding in found.faults],
            "notes": [vars(finding) for finding in found.notes],
        }
        sys.stdout.write(json.dumps(body, indent=2) + "\n")
    else:
        for finding in found.faults:
            sys.stdout.write(f"error: {finding.line()}\n")
        for finding in found.notes:
            sys.stdout.write(f"to fill in: {finding.line()}\n")
        verdict = f"{len(found.faults)} faults" if found.faults else "no fault"
        if found.notes:
            verdict += f", {len(found.notes)} to fill in before `ray up`"
        sys.stdout.write(f"{file}: {verdict}\n")
    if found.faults:
        raise typer.Exit(2)


@app.command()
def kuberay(
    image: Annotated[
        str, typer.Option(help="Container image with this package, best by its digest.")
    ],
    claim: Annotated[
        str, typer.Option(help="Persistent volume claim of the shared storage, ReadWriteMany.")
    ],
    name: Annotated[str, typer.Option(help="Name of the cluster.")] = "xray",
    workers: Annotated[int, typer.Option(help="Worker pods.", min=1, max=1000)] = 2,
    cpus: Annotated[int, typer.Option(help="CPUs of each.", min=1, max=1024)] = 8,
    gpus: Annotated[int, typer.Option(help="GPUs of each.", min=0, max=16)] = 1,
    memory: Annotated[str, typer.Option(help="Memory of each.")] = "32Gi",
    mount: Annotated[str, typer.Option(help="Where pods mount the storage.")] = "/mnt/xray",
) -> None:
    """Print the manifest of a cluster on Kubernetes, for the KubeRay operator."""
    from orchestrator.launcher.kuberay import KubeCluster, render_manifest

    cluster = KubeCluster(name, image, workers, cpus, gpus, memory, claim, mount)
    sys.stdout.write(render_manifest(cluster))
