"""`orchestrator cluster`: the cluster that jobs run on, and the files that describe one."""

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import JsonFlag
from orchestrator.cli.output import print_json, write_line
from orchestrator.errors import SpecError, counted

app = typer.Typer(no_args_is_help=True, help="Prepare a cluster for jobs, and stop the local one.")


@app.command()
def stop() -> None:
    """Stop the local Ray head node and the jobs on it."""
    from orchestrator.jobs.local_head import stop_head

    write_line(
        "the local head node has stopped" if stop_head() else "no local head node is running"
    )


@app.command()
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Ray cluster launcher file.")] = Path(
        "cluster.yaml"
    ),
    jobs: Annotated[
        Path | None,
        typer.Option(
            metavar="<folder>",
            help="Folder of the job files that the cluster is to run.",
            show_default="jobs/ beside FILE or one folder up",
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Validate a cluster launcher file; exit with code 2 if anything is wrong."""
    from orchestrator.launcher.check import check_launcher
    from orchestrator.launcher.file import load_launcher

    if jobs is not None and not jobs.is_dir():
        raise SpecError(f"--jobs {jobs} is not a folder; name the folder of job files")
    launcher = load_launcher(file)
    shipped = [folder / "jobs" for folder in list(file.absolute().parents)[:2]]
    found = check_launcher(launcher, jobs or next(filter(Path.is_dir, shipped), None))
    if as_json:
        body = {
            "file": str(file),
            "faults": [vars(finding) for finding in found.faults],
            "notes": [vars(finding) for finding in found.notes],
        }
        print_json(body)
    else:
        for finding in found.faults:
            write_line(f"error: {finding.line()}")
        for finding in found.notes:
            write_line(f"to fill in: {finding.line()}")
        verdict = counted(len(found.faults), "fault") if found.faults else "no fault"
        if found.notes:
            verdict += f", {len(found.notes)} to fill in before `ray up`"
        write_line(f"{file}: {verdict}")
    if found.faults:
        raise typer.Exit(2)


@app.command()
def kuberay(
    image: Annotated[
        str, typer.Option(help="Container image with this package, preferably by digest.")
    ],
    claim: Annotated[
        str, typer.Option(help="Persistent volume claim (ReadWriteMany) of the shared storage.")
    ],
    name: Annotated[str, typer.Option(help="Name of the cluster.")] = "xray",
    workers: Annotated[int, typer.Option(help="Number of worker pods.", min=1, max=1000)] = 2,
    cpus: Annotated[int, typer.Option(help="CPUs per pod.", min=1, max=1024)] = 8,
    gpus: Annotated[int, typer.Option(help="GPUs per worker pod.", min=0, max=16)] = 1,
    memory: Annotated[str, typer.Option(help="Memory per pod.")] = "32Gi",
    mount: Annotated[str, typer.Option(help="Mount path of the storage in pods.")] = "/mnt/xray",
) -> None:
    """Print the Kubernetes manifest of a cluster, for the KubeRay operator."""
    from orchestrator.launcher.kuberay import KubeCluster, render_manifest

    cluster = KubeCluster(name, image, workers, cpus, gpus, memory, claim, mount)
    for line in render_manifest(cluster).splitlines():
        write_line(line)
