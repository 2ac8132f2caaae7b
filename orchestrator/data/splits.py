"""Divides labelled images into train, validation and test, patient by patient.

What leaks from one split into another is found in `audit.py`.

Over 300 lines: splits, folds and what both must have.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold

from orchestrator.data.listing.notes import load_notes
from orchestrator.data.manifest import SPLIT_COLUMN_KEY
from orchestrator.data.schema import CLASS_NAMES, SPLITS
from orchestrator.errors import DataError

VAL_OF_TRAIN = 0.2  # of the images of `train`
TEST_OF_POOL, VAL_OF_POOL = 0.1, 0.2  # of a single pool: 70/10/20 train/test/validation

UNUSED = "unused"
_NO_LABEL = "no label"

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """The split of every row.

    Attributes:
        names: string [rows], "train", "val" or "test", and null where the row is not used.
        layout: what was found: "train+test", "train" or "pool" (folders), or "column" (a table's
            own splits).
    """

    names: pa.Array
    layout: str


def split_rows(table: pa.Table, *, seed: int, merge_val: bool) -> Split:
    """Returns the split of every row of a manifest.

    Rows are used where they have a label and no rejection code.

    - Folders `train` and `test`: `test` stays the test set, `train` is divided 80/20 into train
      and validation. A `val` folder is unused, being too small to choose anything by (16 images
      in the public data set), unless `merge_val` adds it to `train` before the division.
    - A folder `train` without `test`: the same, without a test set.
    - Neither: the single pool is divided 70/10/20 into train, test and validation.
    - A table's `split` column is kept as written; only where it names no validation rows, or with
      `merge_val`, is its train part divided 80/20.

    Where some rows have a split, those that have none are unused. Divisions are stratified by
    label and exact about grouping: images of one patient, and images of identical bytes where
    `sha256` is known, never part. Counts are those nearest to the stated shares that the groups
    allow, per class.

    Args:
        table: columns of `MANIFEST`, with the metadata that `build_manifest` gave them;
            optionally `sha256`.
        seed: of the shuffle; the same table and seed give the same split.
        merge_val: add validation rows to train before dividing it.

    Returns:
        The split of each row, in the table's order.

    Raises:
        DataError: no labelled rows, one class only, no train rows, or too few patients of a
            class for each split to get one.
    """
    label = table.column("label")
    usable = pc.and_(pc.is_valid(label), pc.is_null(table.column("code"))).to_numpy()
    given = pc.fill_null(table.column("split"), "").to_numpy(zero_copy_only=False)
    given = np.where(usable, given, "")
    found = set(given.tolist()) - {""}
    check_classes(table, usable)

    names = np.full(table.num_rows, "", dtype=object)
    if not found:
        _divide(names, table, usable, {"test": TEST_OF_POOL, "val": VAL_OF_POOL}, seed)
        return _result(names, "pool")
    in_column = SPLIT_COLUMN_KEY in (table.schema.metadata or {})
    if "train" not in found:
        where = "column `split` names" if in_column else "folders give"
        first = table.column("path")[int(np.flatnonzero(given != "")[0])].as_py()
        raise DataError(
            f"the {where} {', '.join(sorted(found))} but no train images, such as {first}; "
            "expected a train part, or class folders alone"
        )
    names[given == "test"] = "test"
    if in_column and "val" in found and not merge_val:
        names[given == "train"] = "train"
        names[given == "val"] = "val"
        for part in ("train", "val"):
            _check_part(table, names, part)
    else:
        pool = (given == "train") | ((given == "val") & merge_val)
        _divide(names, table, pool, {"val": VAL_OF_TRAIN}, seed)
    folders = "train+test" if "test" in found else "train"
    return _result(names, "column" if in_column else folders)


def class_by_split(table: pa.Table, names: pa.Array) -> dict[str, dict[str, int]]:
    """Returns the class-by-split table: counts of images by class, and of patients where known.

    Args:
        table: columns of `MANIFEST`.
        names: the split of each row, from `split_rows`.

    Returns:
        For each of "train", "val", "test" and "unused" that has rows, in this order, the counts
        "NORMAL", "PNEUMONIA", "no label", "patients". A patient whose id is not known is not
        counted.

    Reference:
        Table I of the paper.
    """
    split = pc.fill_null(names, UNUSED)
    counts: dict[str, dict[str, int]] = {}
    for part in (*SPLITS, UNUSED):
        rows = table.filter(pc.equal(split, part))
        if rows.num_rows:
            label = pc.fill_null(rows.column("label"), len(CLASS_NAMES)).to_numpy()
            of_class = np.bincount(label, minlength=len(CLASS_NAMES) + 1).tolist()
            counts[part] = dict(zip((*CLASS_NAMES, _NO_LABEL), of_class, strict=True))
            counts[part]["patients"] = pc.count_distinct(
                patient_keys(rows.column("patient_id"))
            ).as_py()
    return counts


def render_class_table(counts: dict[str, dict[str, int]]) -> list[str]:
    """Returns the class-by-split table as lines of text, columns aligned.

    Args:
        counts: from `class_by_split`.
    """
    columns = [
        name
        for name in (*CLASS_NAMES, _NO_LABEL)
        if name != _NO_LABEL or any(row[name] for row in counts.values())
    ]
    lines = [f"{'':<7}" + "".join(f"{name:>11}" for name in (*columns, "images", "patients"))]
    for part, row in counts.items():
        shown = [row[name] for name in columns]
        numbers = "".join(f"{value:>11,}" for value in (*shown, sum(shown)))
        lines.append(f"{part:<7}{numbers}{row['patients'] or 'unknown':>11}")
    return lines


def group_rows(table: pa.Table) -> IntArray:
    """Returns the group of each row: rows that share a patient or their bytes are one group.

    Args:
        table: columns `patient_id`, and optionally `sha256`.

    Returns:
        int64 [rows], group numbers from 0; a row with neither patient nor bytes in common with
        another is a group of its own.
    """
    num_rows = table.num_rows
    rows, nodes = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    num_nodes = num_rows
    for name in ("patient_id", "sha256"):
        if name not in table.column_names:
            continue
        values = table.column(name)
        if name == "patient_id":
            values = patient_keys(values)
        codes = values.combine_chunks().dictionary_encode().indices
        known = np.flatnonzero(pc.is_valid(codes).to_numpy(zero_copy_only=False))
        numbers = codes.take(pa.array(known)).to_numpy()
        rows.append(known)
        nodes.append(numbers.astype(np.int64) + num_nodes)
        num_nodes += int(numbers.max(initial=-1)) + 1
    edges = (np.concatenate(rows), np.concatenate(nodes))
    graph = coo_array((np.ones(len(edges[0]), np.int8), edges), shape=(num_nodes, num_nodes))
    _, component = connected_components(graph, directed=False)
    return np.asarray(component[:num_rows], dtype=np.int64)


def patient_keys(patients: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Returns patient ids in the form in which they are compared: `007` and `7` are one patient.

    Spreadsheets drop leading zeros. Two patients taken for one cost a little freedom in the split;
    one taken for two would be a leak.
    """
    return pc.replace_substring_regex(patients, r"^0+([0-9]+)$", r"\1")


def fold_rows(table: pa.Table, chosen: IntArray, num_folds: int, seed: int) -> IntArray:
    """Divides rows into folds of about equal size and share of classes; patients stay whole.

    Args:
        table: columns `label`, `patient_id`, and optionally `sha256`.
        chosen: int64 [n], indices of the rows to divide.
        num_folds: >= 2.
        seed: of the shuffle.

    Returns:
        int64 [n], the fold of each chosen row, 0..num_folds-1.

    Raises:
        DataError: too few patients of a class for each fold to have one.
    """
    part = table.take(pa.array(chosen))
    labels, groups = part.column("label").to_numpy(), group_rows(part)
    folds = np.zeros(len(chosen), np.int64)
    if min(len(np.unique(groups[labels == label])) for label in (0, 1)) >= num_folds:
        divided = StratifiedGroupKFold(num_folds, shuffle=True, random_state=seed)
        for fold, (_, held_out) in enumerate(divided.split(labels, labels, groups)):
            folds[held_out] = fold
    for fold in range(num_folds):
        if len(np.unique(labels[folds == fold])) < len(CLASS_NAMES):
            raise DataError(
                f"{len(chosen)} images cannot be divided into {num_folds} folds with both classes "
                "in each; images of one patient stay together, so more patients are needed"
            )
    return folds


def _divide(
    names: npt.NDArray[np.object_],
    table: pa.Table,
    chosen: npt.NDArray[np.bool_],
    shares: dict[str, float],
    seed: int,
) -> None:
    """Writes into `names` the splits of the chosen rows: the shares given, train for the rest."""
    at = np.flatnonzero(chosen)
    part = table.take(pa.array(at))
    _, group = np.unique(group_rows(part), return_inverse=True)
    label = part.column("label").to_numpy()
    counts = np.zeros((int(group.max()) + 1, len(CLASS_NAMES)), np.int64)
    np.add.at(counts, (group, label), 1)

    free = np.random.default_rng(seed).permutation(len(counts))
    names[at] = "train"
    for name, share in shares.items():
        target = _allot(counts.sum(axis=0), share)
        taken = fill_groups(counts[free], target)
        names[at[np.isin(group, free[taken])]] = name
        free = free[~taken]
    for name in (*shares, "train"):
        _check_part(table, names, name)


def _allot(num_images: IntArray, share: float) -> IntArray:
    """Returns the images of each class that a split should get: the share of their sum, rounded,
    with the remainders going to the classes nearest to one more."""
    exact = num_images * share
    target: IntArray = np.floor(exact).astype(np.int64)
    missing = round(float(exact.sum())) - int(target.sum())
    target[np.argsort(target - exact, kind="stable")[:missing]] += 1
    target[:] = np.maximum(target, np.minimum(num_images, 1))
    return target


def fill_groups(counts: IntArray, target: IntArray) -> npt.NDArray[np.bool_]:
    """Returns which whole groups to take, in the order given, to come nearest to a target.

    Args:
        counts: int64 [groups, classes], images of each group.
        target: int64 [classes].

    Returns:
        bool [groups].
    """
    taken = np.zeros(len(counts), bool)
    need = target.copy()
    for index, images in enumerate(counts):
        if (images <= need).all():
            taken[index] = True
            need -= images
    # What is left fits in no group: overshoot where that comes nearer, or where a class would
    # have no image at all.
    for index in np.argsort(counts.sum(axis=1), kind="stable"):
        images = counts[index]
        without = (need == target) & (target > 0) & (images > 0)
        nearer = np.abs(need - images).sum() < np.abs(need).sum()
        if not taken[index] and (nearer or without.any()):
            taken[index] = True
            need -= images
    return taken


def check_classes(table: pa.Table, usable: npt.NDArray[np.bool_]) -> None:
    """Raises `DataError` where the usable rows of a manifest lack a class.

    Args:
        table: columns of `MANIFEST`, with the metadata of the listing.
        usable: bool [rows], whether a row has a label and no rejection code.
    """
    present = set(table.column("label").filter(pa.array(usable)).to_pylist())
    notes = load_notes(table.schema.metadata)
    folders = f"; there are {notes.describe_unknown()}" if notes.unknown else ""
    if not present:
        raise DataError(
            "no image has a label; expected class folders NORMAL and PNEUMONIA, or a table with a "
            f"column `label`{folders}"
        )
    if len(present) == 1:
        (only,) = present
        raise DataError(
            f"all labelled images are {CLASS_NAMES[only]}; expected images of both NORMAL and "
            f"PNEUMONIA{folders}"
        )


def _check_part(table: pa.Table, names: npt.NDArray[np.object_], part: str) -> None:
    """Raises `DataError` where a split lacks a class."""
    present = set(table.column("label").filter(pa.array(names == part)).to_pylist())
    for label, name in enumerate(CLASS_NAMES):
        if label not in present:
            raise DataError(
                f"the {part} split has no {name} image that can be used; images of one patient "
                f"stay together, so more patients with {name} images are needed"
            )


def _result(names: npt.NDArray[np.object_], layout: str) -> Split:
    return Split(pa.array([name or None for name in names], pa.string()), layout)
