"""How well 100 labelled images of another cohort place a model's operating point.

A cohort is scored once. Then, many times, some of its images, patients whole, choose calibration
and threshold as `orchestrator recalibrate` does, and the rest is called by them. Beside that stands
the threshold that the rest itself would choose, which nobody can know: the closer, the better.

Without a bundle a head is trained on one half of the public images (NORMAL files that begin with
`IM-`, PNEUMONIA patients with odd numbers) and the other half (`NORMAL2-`, even) is the new cohort;
`--swap` turns the halves round.

    python -m benchmarks.recalibrate
    python -m benchmarks.recalibrate --bundle models/lite0 --data /data/other-site
"""

import argparse
import re
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

SOURCE = Path(__file__).parent.parent.parent / "shared" / "data" / "kermany224" / "train"
RULES = "sensitivity@0.95,sensitivity@0.9,youden,youden-smoothed"


def make_cohorts(source: Path, folder: Path) -> tuple[Path, Path]:
    """Copies the public images into two folders that share no patient."""
    first = re.compile(r"IM-|person\d*[13579]_")
    files = sorted(source.rglob("*.jpeg"))
    if not files:
        sys.exit(f"no X-rays under {source}; name a folder with --source")
    for path in files:
        half = "first" if first.match(path.name) else "second"
        target = folder / half / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    return folder / "first", folder / "second"


def train_head(data: Path, folder: Path) -> Path:
    """Trains a head on EfficientNet-Lite0; returns the bundle."""
    from orchestrator.config.specs import Resources, TrainSpec
    from orchestrator.pipelines.train.train import train

    spec = TrainSpec(
        data=str(data),
        out=str(folder / "bundle"),
        backbone="efficientnet-lite0",
        weights="offline",
        image_size=224,
        views=2,
        augmentation="light",
        epochs=30,
        alpha=0.5,
        gamma=0.0,
    )
    return train(spec, Resources(), Silent(), run_folder=folder / "training").bundle


class Silent:
    """A reporter that says nothing."""

    def say(self, line: str) -> None: ...

    def begin(self, label: str, total: int, unit: str) -> None: ...

    def advance(self, count: int) -> None: ...

    def end(self) -> None: ...


def score_cohort(bundle: Path, data: Path, folder: Path) -> Any:
    """Returns the predictions of the labelled images."""
    from orchestrator.config.specs import Resources, ScoreSpec
    from orchestrator.pipelines.score.score import score

    spec = ScoreSpec(input=str(data), model=str(bundle), out=str(folder / "scored"))
    table = pq.read_table(score(spec, Resources(), Silent()).run / "predictions")
    return table.filter(pc.is_valid(table["label"]))


def draw_images(labels: Any, groups: Any, num_images: int, rng: np.random.Generator) -> Any:
    """Returns which rows are drawn: whole patients, about half of the images of each class."""
    chosen = np.zeros(len(labels), bool)
    for label in (0, 1):
        sizes = np.bincount(groups[labels == label], minlength=groups.max() + 1)
        order = rng.permutation(np.flatnonzero(sizes))
        enough = np.searchsorted(np.cumsum(sizes[order]), num_images / 2) + 1
        chosen |= np.isin(groups, order[:enough])
    return chosen


def judge(
    labels: Any, logits: Any, groups: Any, rule: str, num_images: int, num_draws: int, seed: int = 0
) -> list[tuple[float, float, float]]:
    """Returns for each draw, on the rest: sensitivity, specificity, and the best specificity."""
    from orchestrator.evaluation.calibration import choose_threshold
    from orchestrator.evaluation.metrics import point_metrics
    from orchestrator.evaluation.operating_point import choose_point

    rng, found = np.random.default_rng(seed), []
    for _ in range(num_draws):
        drawn = draw_images(labels, groups, num_images, rng)
        point = choose_point(labels[drawn], logits[drawn], rule)
        rest, probable = labels[~drawn], point.calibration.apply(logits[~drawn])
        best = choose_threshold(rest, probable, rule)
        at = [point_metrics(rest, probable, t.value) for t in (point.threshold, best)]
        found.append((at[0]["sensitivity"], at[0]["specificity"], at[1]["specificity"]))
    return found


def main() -> None:
    """Prints a line for each rule."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, help="trained on the first half otherwise")
    parser.add_argument("--data", type=Path, help="labelled images of another cohort")
    parser.add_argument("--source", type=Path, default=SOURCE)
    parser.add_argument("--swap", action="store_true", help="train on the second half")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--draws", type=int, default=50)
    parser.add_argument("--rules", default=RULES, help="separated by commas")
    options = parser.parse_args()
    if (options.bundle is None) != (options.data is None):
        parser.error("--bundle and --data go together")
    with tempfile.TemporaryDirectory() as scratch:
        folder, bundle, data = Path(scratch), options.bundle, options.data
        if bundle is None:
            halves = make_cohorts(options.source, folder)
            known, data = reversed(halves) if options.swap else halves
            bundle = train_head(known, folder)
        print_rules(options, bundle, score_cohort(bundle, data, folder))


def print_rules(options: argparse.Namespace, bundle: Path, table: Any) -> None:
    """Prints what the bundle's own threshold gives, and each rule's figures."""
    from orchestrator.data.splits import group_rows
    from orchestrator.evaluation.metrics import point_metrics
    from orchestrator.model.bundle import load_info

    labels, logits = table["label"].to_numpy(), table["logit"].to_numpy().astype(np.float64)
    own = point_metrics(labels, table["probability"].to_numpy(), load_info(bundle).threshold.value)
    print(
        f"{len(labels):,} images, AUROC {own['auroc']:.3f}; at the bundle's own threshold "
        f"sensitivity {own['sensitivity']:.3f}, specificity {own['specificity']:.3f}"
    )
    print(f"medians of {options.draws} draws of {options.images} images, judged on the rest")
    names = ("sensitivity", "specificity", "best", "difference", "|difference|", "80% of them")
    print(f"{'':<18}" + "".join(f"{name:>16}" for name in names))
    for rule in options.rules.split(","):
        rows = judge(labels, logits, group_rows(table), rule, options.images, options.draws)
        shown = [statistics.median(column) for column in zip(*rows, strict=True)]
        differences = [row[1] - row[2] for row in rows]
        shown += [statistics.median(differences), statistics.median(map(abs, differences))]
        low, high = np.quantile(differences, [0.1, 0.9])
        figures = "".join(f"{value:>16.3f}" for value in shown)
        print(f"{rule:<18}{figures}{low:>+9.3f}{high:>+7.3f}")


if __name__ == "__main__":
    main()
