"""`orchestrator demo`: the whole way on synthetic phantoms, from images to report."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import JsonFlag
from orchestrator.cli.output import print_result
from orchestrator.errors import SpecError
from orchestrator.progress import Reporter

if TYPE_CHECKING:
    from orchestrator.pipelines.score.score import ScoreResult

_SIZE_PX = 96
_TRAIN_SEED, _SCORE_SEED = 1, 2

app = typer.Typer()


@app.command()
def demo(
    out: Annotated[
        Path, typer.Option(metavar="<path>", help="Folder for the demo; replaced if it is one.")
    ] = Path("demo"),
    images: Annotated[int, typer.Option(help="Phantoms to train on.", min=60)] = 400,
    as_json: JsonFlag = False,
) -> None:
    """Make synthetic X-rays, train on them, score others, and write a report."""
    from orchestrator.cli.summaries import score_summary
    from orchestrator.cli.terminal import open_reporter

    with open_reporter() as reporter:
        result = run_demo(out, images, reporter)
    body = result.report | {"out": str(result.run)}
    print_result(body, score_summary(result), as_json=as_json)


def run_demo(folder: Path, num_images: int, reporter: Reporter) -> "ScoreResult":
    """Makes phantoms under a folder, trains on them and scores others that it never saw.

    Args:
        folder: made by this demo; one made by an earlier demo is replaced.
        num_images: phantoms to train on; a third as many are scored.
        reporter: given every step.

    Returns:
        The scoring run.

    Raises:
        SpecError: the folder holds something that is not a demo.
    """
    from orchestrator.config.specs import Resources, ScoreSpec, TrainSpec
    from orchestrator.data.phantoms import write_phantoms
    from orchestrator.pipelines.score.score import score
    from orchestrator.pipelines.train.train import train

    folder = folder.absolute()
    marker = folder / ".orchestrator-demo"
    if folder.exists() and any(folder.iterdir()) and not marker.exists():
        raise SpecError(f"{folder} is not empty and was not made by a demo; name another --out")
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    marker.touch()
    reporter.say(f"making {num_images} chest phantoms in {folder}")
    write_phantoms(folder / "phantoms", num_images=num_images, seed=_TRAIN_SEED)
    write_phantoms(folder / "unseen", num_images=num_images // 3, seed=_SCORE_SEED)
    spec = TrainSpec(
        data=str(folder / "phantoms"),
        out=str(folder / "model"),
        backbone="efficientnet-lite0",
        weights="offline",
        image_size=_SIZE_PX,
        epochs=30,
    )
    train(spec, Resources(), reporter)
    return score(
        ScoreSpec(
            input=(str(folder / "unseen"),),
            model=(str(folder / "model"),),
            out=str(folder / "scored"),
        ),
        Resources(),
        reporter,
    )
