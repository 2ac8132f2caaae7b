"""The whole way on synthetic phantoms: make, train, score, report."""

from pathlib import Path

from orchestrator.config.specs import Resources, ScoreSpec, TrainSpec
from orchestrator.data.phantoms import write_phantoms
from orchestrator.errors import SpecError
from orchestrator.pipelines.score.score import ScoreResult, score
from orchestrator.pipelines.train.train import train
from orchestrator.progress import Reporter

_SIZE_PX = 96
_TRAIN_SEED, _SCORE_SEED = 1, 2


def run_demo(folder: Path, num_images: int, reporter: Reporter) -> ScoreResult:
    """Makes phantoms under a folder, trains on them and scores others that it never saw.

    Args:
        folder: made by this demo; one made by an earlier demo is replaced.
        num_images: phantoms to train on; a third as many are scored.
        reporter: told of every step.

    Returns:
        The scoring run.

    Raises:
        SpecError: the folder holds something that is not a demo.
    """
    import shutil

    folder = folder.absolute()
    marker = folder / ".orchestrator-demo"
    if folder.exists() and any(folder.iterdir()) and not marker.exists():
        raise SpecError(f"{folder} is not empty and not a demo's; name another --out")
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
