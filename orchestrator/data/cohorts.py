"""Cohorts of labelled images: those of one site, told apart by where the files lie."""

from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from orchestrator.errors import DataError


def number_cohorts(rows: pa.Table) -> npt.NDArray[np.int64]:
    """Numbers the cohorts of images: a folder that holds class folders is one, an input another.

    Args:
        rows: with the columns root, path and label, every row with a label. The file
            `site-a/NORMAL/1.png` belongs to the cohort `site-a` of its input.

    Returns:
        int64 [N], 0 to one less than the number of cohorts.

    Raises:
        DataError: one cohort alone, or one that lacks a class.
    """
    paths = rows.column("path").to_pylist()
    roots = rows.column("root").to_pylist()
    names = [
        (root, str(PurePosixPath(path).parent.parent))
        for root, path in zip(roots, paths, strict=True)
    ]
    cohorts = sorted(set(names))
    place = {name: number for number, name in enumerate(cohorts)}
    numbers = np.array([place[name] for name in names], np.int64)
    labels = rows.column("label").to_numpy()
    classes = [np.unique(labels[numbers == number]).size for number in range(len(cohorts))]
    if len(cohorts) < 2 or min(classes) < 2:
        raise DataError(
            f"received validation images of {len(cohorts)} cohort(s), {classes.count(2)} of them "
            "with both classes; a threshold rule with -cohorts expects 2 or more, each with both: "
            "lay the images out as SITE/NORMAL and SITE/PNEUMONIA, or take another rule"
        )
    return numbers
