"""How classifiers hold on images unlike those they were trained on: cohorts, and shifted copies.

A cohort is a family of file names: in the public pediatric data set the NORMAL images come as
`IM-...` and as `NORMAL2-IM-...`, from two sources. PNEUMONIA images, which have no such families,
are parted patient by patient, a part to each cohort. Of each cohort, and of shifted copies of a
sample of it, the table gives AUROC, and sensitivity and specificity at the bundle's own threshold.

Two recipes are trained without each cohort in turn and judged on it (an hour and more for two):

    python -m benchmarks.robustness DATA --recipe jobs/train-offline.yaml --recipe other.yaml

With `--rule` each network is also judged at the threshold that another rule would have given it, on
its validation images or, with `-shifted`, on these and their shifted copies.

Or bundles are judged as they are, which says little about images that they were trained on:

    python -m benchmarks.robustness DATA --bundle models/a --bundle models/b
"""

import argparse
import csv
import hashlib
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

FAMILIES = r"^(NORMAL2-IM|IM)-"


@dataclass(frozen=True)
class Labelled:
    """The images of a labelled folder.

    Args:
        paths: [N].
        labels: int8 [N], 0 NORMAL, 1 PNEUMONIA.
        patients: [N], ids.
        cohorts: [N], names.
    """

    paths: Sequence[Path]
    labels: np.ndarray
    patients: Sequence[str]
    cohorts: np.ndarray

    @property
    def names(self) -> list[str]:
        """The cohorts."""
        return sorted(set(self.cohorts))


def find_images(data: Path, families: str) -> Labelled:
    """Lists a folder that has NORMAL and PNEUMONIA folders anywhere under it."""
    from orchestrator.data.listing.inputs import list_inputs

    found = [row for row in list_inputs([data]).rows() if row.label is not None]
    paths = [data / row.path for row in found]
    matches = [re.match(families, path.name) for path in paths]
    names = sorted({match[1] for match in matches if match})
    if len(names) < 2:
        sys.exit(
            f"the names of {len(paths)} images match {len(names)} families; expected 2 or more"
        )
    patients = [row.patient_id or path.name for row, path in zip(found, paths, strict=True)]
    parts = [int(hashlib.sha256(patient.encode()).hexdigest(), 16) for patient in patients]
    cohorts = [
        match[1] if match else names[part % len(names)]
        for match, part in zip(matches, parts, strict=True)
    ]
    labels = np.array([row.label for row in found], np.int8)
    return Labelled(paths, labels, patients, np.array(cohorts))


def train_without(images: Labelled, cohort: str, recipe: Path, out: Path) -> Path:
    """Trains a recipe on all cohorts but one.

    Returns:
        A folder with `bundle` and the run under `runs`; what is there already is not done again.
    """
    folder = out.absolute() / f"{recipe.stem}-without-{cohort}"
    if not (folder / "bundle" / "bundle.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        table = folder / "images.csv"
        with table.open("w", newline="") as handle:
            writer = csv.writer(handle)
            writer.writerow(["path", "label", "patient_id", "split"])
            rows = zip(images.paths, images.labels, images.patients, images.cohorts, strict=True)
            for path, label, patient, of in rows:
                split = "test" if of == cohort else "train"
                writer.writerow([path.absolute(), ("NORMAL", "PNEUMONIA")[label], patient, split])
        command = [sys.executable, "-m", "orchestrator", "train", table, "-c", recipe.absolute()]
        start = time.perf_counter()
        subprocess.run([*command, "--out", folder / "bundle"], check=True, cwd=folder)
        print(f"{folder.name} took {(time.perf_counter() - start) / 60:.1f} min", flush=True)
    return folder


def decode_all(paths: Sequence[Path], size_px: int) -> np.ndarray:
    """Decodes images as the product does, uint8 [N, S, S]."""
    from orchestrator.data.decode.images import decode
    from orchestrator.data.limits import Limits

    return np.stack([decode(path.read_bytes(), size_px, Limits()).pixels for path in paths])


def logits_of(engine: Any, pixels: np.ndarray) -> np.ndarray:
    """Returns float64 [N] of uint8 [N, S, S]."""
    starts = range(0, len(pixels), engine.batch_size)
    logits = [engine.logits(pixels[start : start + engine.batch_size]) for start in starts]
    return np.concatenate(logits).ravel().astype(np.float64)


def thresholds_by(rules: Sequence[str], folder: Path) -> list[float]:
    """Returns the thresholds, calibrated probabilities, that rules give a trained network."""
    import pyarrow.parquet as pq

    from orchestrator.data.shifts import SHIFTS
    from orchestrator.evaluation.calibration import choose_threshold
    from orchestrator.model.bundle import load_info
    from orchestrator.model.engine.load import load_engine

    if not rules:
        return []
    info, engine = load_info(folder / "bundle"), load_engine(folder / "bundle")
    (table,) = (folder / "runs").glob("*/splits.parquet")
    rows = [row for row in pq.read_table(table).to_pylist() if row["split"] == "val"]
    pixels = decode_all([Path("/", row["path"]) for row in rows], info.size_px)
    copies = [pixels, *(shift(pixels) for shift in SHIFTS.values())]
    probabilities = [info.calibration.apply(logits_of(engine, copy)) for copy in copies]
    found = []
    for rule in rules:
        plain = rule.removesuffix("-shifted")
        of = probabilities[:1] if plain == rule else probabilities
        labels = np.tile([row["label"] for row in rows], len(of))
        found.append(choose_threshold(labels, np.concatenate(of), plain).value)
    return found


def judge(
    bundle: Path, images: Labelled, cohort: str, sample: int, thresholds: Sequence[float]
) -> dict[str, list[dict[str, float]]]:
    """Judges a bundle on a cohort and on shifted copies of a sample of it.

    Returns:
        By name of the shift, AUROC, sensitivity and specificity at each threshold.
    """
    from sklearn.metrics import roc_auc_score

    from orchestrator.data.shifts import SHIFTS
    from orchestrator.evaluation.calibration import call_labels
    from orchestrator.model.bundle import load_info
    from orchestrator.model.engine.load import load_engine

    info, engine = load_info(bundle), load_engine(bundle)
    mine = np.flatnonzero(images.cohorts == cohort)
    pixels = decode_all([images.paths[i] for i in mine], info.size_px)
    labels = images.labels[mine]
    drawn = np.sort(np.random.default_rng(0).permutation(len(mine))[:sample])

    def figures(grey: np.ndarray, truth: np.ndarray) -> list[dict[str, float]]:
        probabilities = info.calibration.apply(logits_of(engine, grey))
        auroc, found = float(roc_auc_score(truth, probabilities)), []
        for threshold in thresholds or [info.threshold.value]:
            called = call_labels(probabilities, threshold)
            found.append(
                {
                    "AUROC": auroc,
                    "sensitivity": float(called[truth == 1].mean()),
                    "specificity": float(1 - called[truth == 0].mean()),
                }
            )
        return found

    found = {"plain": figures(pixels, labels)}
    for name, shift in SHIFTS.items():
        found[name] = figures(shift(pixels[drawn]), labels[drawn])
    return found


def print_table(names: Sequence[str], rows: dict[tuple[str, str], list[dict[str, float]]]) -> None:
    """Prints one row a cohort and shift, the bundles side by side, and the worst of each."""
    kinds = ("AUROC", "sensitivity", "specificity")
    print("| cohort | images | " + " | ".join(f"{n} {k}" for n in names for k in kinds) + " |")
    print("|---" * (2 + len(kinds) * len(names)) + "|")
    for (cohort, shift), found in rows.items():
        cells = [f"{one[kind]:.3f}" for one in found for kind in kinds]
        print(f"| {cohort} | {shift} | " + " | ".join(cells) + " |")
    for title, wanted in (("plain images", True), ("shifted copies", False)):
        for place, name in enumerate(names):
            chosen = [v[place] for (_, shift), v in rows.items() if (shift == "plain") == wanted]
            worst = {kind: min(one[kind] for one in chosen) for kind in kinds}
            shown = ", ".join(f"{kind} {worst[kind]:.3f}" for kind in kinds)
            print(f"worst of {title}, {name}: {shown}")


def main() -> None:
    """Judges bundles, or recipes trained without each cohort."""
    here = Path(__file__).parent.parent
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    public = here.parent / "shared" / "data" / "kermany224" / "train"
    parser.add_argument("data", type=Path, nargs="?", default=public)
    parser.add_argument("--recipe", type=Path, action="append", default=[])
    parser.add_argument("--bundle", type=Path, action="append", default=[])
    parser.add_argument("--rule", action="append", default=[], help="of a recipe's threshold")
    parser.add_argument("--families", default=FAMILIES)
    parser.add_argument("--sample", type=int, default=600, help="images of a cohort to shift")
    parser.add_argument("--out", type=Path, default=here / "runs" / "robustness")
    options: Any = parser.parse_args()
    recipes = options.recipe or ([] if options.bundle else [here / "jobs" / "train-offline.yaml"])
    images = find_images(options.data, options.families)
    rows: dict[tuple[str, str], list[dict[str, float]]] = {}
    names = [f"{r.stem} {rule}".strip() for r in recipes for rule in options.rule or [""]]
    for cohort in images.names:
        judged: list[tuple[Path, list[float]]] = []
        for recipe in recipes:
            folder = train_without(images, cohort, recipe, options.out)
            judged.append((folder / "bundle", thresholds_by(options.rule, folder)))
        judged += [(bundle, []) for bundle in options.bundle]
        for bundle, thresholds in judged:
            for shift, found in judge(bundle, images, cohort, options.sample, thresholds).items():
                rows.setdefault((cohort, shift), []).extend(found)
    print_table([*names, *(path.stem for path in options.bundle)], rows)


if __name__ == "__main__":
    main()
