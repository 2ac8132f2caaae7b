"""How many images a review rule accepts at a target, and how many of these are wrong.

A labelled cohort is scored once. Then, many times, some of its patients choose calibration,
threshold and rule, as the validation images of a training do, and the other patients are judged by
them: the share of images accepted, and the share of these that are called wrong. The target is on
patients with a wrong accepted image; both shares are shown. Without a bundle the cohort is that of
`benchmarks.recalibrate`.

    python -m benchmarks.review
    python -m benchmarks.review --bundle models/lite0 --data /data/other-site
    python -m benchmarks.review --run runs/score-20260131-020000-1a2b3c --targets 0.02,0.05
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.recalibrate import SOURCE, make_cohorts, score_cohort, train_head


def judge(
    labels: Any,
    logits: Any,
    groups: Any,
    target: float,
    num_patients: int,
    num_draws: int,
    rule: str = "sensitivity@0.95",
    seed: int = 0,
) -> Any:
    """Returns for each draw, of the other patients: coverage, error, and share of patients failed.

    Args:
        labels: int8 [N], 0 NORMAL, 1 PNEUMONIA.
        logits: float [N].
        groups: int64 [N], numbers of patients from 0 without gaps.
        target: as `--accept-error` takes it.
        num_patients: patients that choose.
        num_draws: how often.
        rule: of the threshold.
        seed: of the draws.

    Returns:
        float64 [num_draws, 3].
    """
    from orchestrator.evaluation.calibration import call_labels
    from orchestrator.evaluation.operating_point import choose_point
    from orchestrator.evaluation.report.review import measure_review
    from orchestrator.evaluation.selective import accepts, choose_rule, find_margins

    rng, found = np.random.default_rng(seed), []
    for _ in range(num_draws):
        drawn = np.isin(groups, rng.permutation(groups.max() + 1)[:num_patients])
        point = choose_point(labels[drawn], logits[drawn], rule)
        margins = find_margins(logits, point.calibration, point.threshold.value)
        wrong = call_labels(point.calibration.apply(logits), point.threshold.value) != labels
        chosen = choose_rule(margins[drawn], wrong[drawn], groups[drawn], ("accept_error", target))
        rest = ~drawn
        got = measure_review(
            margins[rest], accepts(chosen, margins[rest]), wrong[rest], groups[rest]
        )
        error = got["wrong"] / max(got["accepted"], 1)
        failed = got["failed"] / max(got["patients"], 1)
        found.append((got["accepted"] / got["num_images"], error, failed))
    return np.array(found)


def main() -> None:
    """Prints a line for each target and number of patients."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, help="a head is trained otherwise")
    parser.add_argument("--data", type=Path, help="labelled images of another cohort")
    parser.add_argument("--run", type=Path, help="a finished scoring run of labelled images")
    parser.add_argument("--source", type=Path, default=SOURCE)
    parser.add_argument("--targets", default="0.02,0.05", help="separated by commas")
    parser.add_argument(
        "--patients", default="270,570,760", help="that choose; separated by commas"
    )
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--rule", default="sensitivity@0.95", help="of the threshold")
    options = parser.parse_args()
    if (options.bundle is None) != (options.data is None):
        parser.error("--bundle and --data go together")
    if options.run is not None:
        print_targets(options, pq.read_table(options.run / "predictions"))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder, bundle, data = Path(scratch), options.bundle, options.data
        if bundle is None:
            known, data = make_cohorts(options.source, folder)
            bundle = train_head(known, folder)
        print_targets(options, score_cohort(bundle, data, folder))


def print_targets(options: argparse.Namespace, table: Any) -> None:
    """Prints how often the target is kept, and medians of what is accepted and wrong."""
    from orchestrator.data.splits import group_rows

    table = table.filter(pc.is_valid(table["label"]))
    labels, logits = table["label"].to_numpy(), table["logit"].to_numpy().astype(np.float64)
    groups = group_rows(table)
    print(f"{len(labels):,} images of {groups.max() + 1:,} patients, {options.draws} draws")
    names = ("target", "patients", "kept", "images accepted", "least", "wrong", "most", "patients")
    print("".join(f"{name:>16}" for name in names))
    for target in map(float, options.targets.split(",")):
        for count in map(int, options.patients.split(",")):
            rows = judge(labels, logits, groups, target, count, options.draws, options.rule)
            coverage, error, failed = rows.T
            kept = f"{int(np.sum(error <= target))} of {len(rows)}"
            shown = (np.median(coverage), coverage.min(), np.median(error), error.max())
            figures = "".join(f"{value:>16.4f}" for value in (*shown, np.median(failed)))
            print(f"{target:>16}{count:>16}{kept:>16}{figures}")


if __name__ == "__main__":
    main()
