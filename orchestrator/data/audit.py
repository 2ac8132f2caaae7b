"""Finds what leaks from one split into another: patients, bytes, near-duplicates.

Splits are made in `splits.py`, the hash of near-duplicates in `perceptual.py`. What a leak means
for a run (stop, or go on with `--allow-leakage`) is decided by the caller from `Audit.blocking`.

Over 300 lines, one search a kind of leak.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.data.decode.perceptual import NEAR_DUPLICATE_BITS
from orchestrator.data.listing.names import comparable_patients
from orchestrator.data.schema import SPLITS
from orchestrator.data.splits import patient_keys

MAX_EXAMPLES = 20  # of each kind of overlap
MAX_IMAGES = 6  # shown of one example

_KNOWN_SOURCES = pa.array(["column", "dicom"])
_BLOCK_PAIRS = 1 << 22  # candidate pairs held in memory at a time

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Example:
    """Images of different splits that have something in common.

    Attributes:
        splits: split of each image shown.
        paths: path of each image shown, escaped; at most `MAX_IMAGES`, of every split at least one.
        bits: hash bits in which a near-duplicate pair differs; None for other kinds.
    """

    splits: tuple[str, ...]
    paths: tuple[str, ...]
    bits: int | None = None


@dataclass(frozen=True)
class Overlap:
    """One kind of overlap between splits.

    Attributes:
        num_cases: patients, groups of identical bytes, or pairs of near-duplicates.
        num_images: images involved.
        examples: the first `MAX_EXAMPLES` cases.
    """

    num_cases: int
    num_images: int
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class Audit:
    """What the splits have in common.

    Attributes:
        same_patient: patients known from a table's column or from DICOM.
        same_bytes: identical files.
        near_duplicate: pairs of images, not identical files, whose hashes differ in at most
            `NEAR_DUPLICATE_BITS` bits.
        possible: equal patient numbers in file names. Where they come from different train and
            test folders the numbering may restart, so this alone proves nothing.
        repeated: identical files within one split, as a zip within a zip leaves them.
        num_images: images of all splits.
        num_with_patient: those of them whose patient is known, or guessed from a name. Of the
            others nobody can say whether one patient's images are in several splits.
    """

    same_patient: Overlap
    same_bytes: Overlap
    near_duplicate: Overlap
    possible: Overlap
    repeated: Overlap
    num_images: int
    num_with_patient: int

    @property
    def blocking(self) -> bool:
        """Whether training must not go on unless leakage is allowed."""
        return bool(self.same_patient.num_cases or self.same_bytes.num_cases)

    def as_dict(self) -> dict[str, Any]:
        """Returns the audit as it is stored in JSON.

        Returns:
            `blocking`; for each kind its number of cases; under `num_images` and `examples` the
            images involved and the examples of each kind; `images_without_patient`.
        """
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        kinds = {name: value for name, value in found.items() if isinstance(value, Overlap)}
        return {
            "blocking": self.blocking,
            "images_without_patient": self.num_images - self.num_with_patient,
            **{name: overlap.num_cases for name, overlap in kinds.items()},
            "num_images": {name: overlap.num_images for name, overlap in kinds.items()},
            "examples": {
                name: [asdict(example) for example in overlap.examples]
                for name, overlap in kinds.items()
            },
        }


def audit_leakage(table: pa.Table, names: pa.Array) -> Audit:
    """Returns what the train, validation and test splits have in common.

    Args:
        table: columns of `MANIFEST`; identical bytes are found where it has `sha256`, and
            near-duplicates where it has `phash`.
        names: the split of each row, from `split_rows`; rows of null are left out.

    Returns:
        The audit.
    """
    used = table.append_column("used_split", names).filter(pc.is_valid(names))
    source = used.column("patient_source")
    known = used.filter(pc.is_in(source, _KNOWN_SOURCES))
    guessed = used.filter(pc.equal(source, "filename"))
    numbers = comparable_patients(guessed.column("patient_id").to_pylist())
    hashes = used.column("sha256") if "sha256" in used.column_names else None
    return Audit(
        same_patient=_find_shared(known, patient_keys(known.column("patient_id"))),
        same_bytes=_find_shared(used, hashes) if hashes is not None else _none(),
        near_duplicate=_find_near(used) if "phash" in used.column_names else _none(),
        possible=_find_shared(guessed, patient_keys(pa.array(numbers, pa.string()))),
        repeated=_find_repeated(used) if hashes is not None else _none(),
        num_images=used.num_rows,
        num_with_patient=used.num_rows - used.column("patient_id").null_count,
    )


def render_audit(audit: Audit) -> list[str]:
    """Returns the audit as lines of text: a line for each kind, and the first example of it."""
    kinds = (
        ("same patient", audit.same_patient, "patients", "blocks training"),
        ("same bytes", audit.same_bytes, "groups", "blocks training"),
        ("near-duplicates", audit.near_duplicate, "pairs", "look at them"),
        ("possibly same patient", audit.possible, "numbers", "equal numbers in file names"),
    )
    lines = []
    unknown = audit.num_images - audit.num_with_patient
    for name, overlap, unit, remark in kinds:
        line = f"{name:<22} across splits: "
        if overlap.num_cases:
            line += f"{overlap.num_cases:,} {unit}, {overlap.num_images:,} images ({remark})"
            first = overlap.examples[0]
            shown = zip(first.splits, first.paths, strict=True)
            lines += [line, "  such as " + ", ".join(f"{path} ({split})" for split, path in shown)]
        elif overlap is audit.same_patient and unknown:
            lines.append(line + _describe_unknown(audit, unknown))
        else:
            lines.append(line + "none")
    if audit.repeated.num_cases:
        paths = " and ".join(audit.repeated.examples[0].paths)
        lines.append(
            f"{'same bytes':<22} within a split: {audit.repeated.num_cases:,} groups, "
            f"{audit.repeated.num_images:,} images (each counts as often as it is there), such as "
            f"{paths}"
        )
    return lines


def _describe_unknown(audit: Audit, unknown: int) -> str:
    """Returns what can be said of patients where that of some images is not known."""
    if not audit.num_with_patient:
        return (
            "patients unknown, so one patient's images may be on both sides; a table with a "
            "column patient_id tells them"
        )
    return f"none found; patients unknown for {unknown:,} of {audit.num_images:,} images"


def _none() -> Overlap:
    return Overlap(0, 0, ())


def _find_shared(rows: pa.Table, keys: pa.Array | pa.ChunkedArray) -> Overlap:
    """Returns the overlap of rows that have the same key in different splits."""
    rows = rows.filter(pc.is_valid(keys))
    keys = keys.filter(pc.is_valid(keys))
    if not rows.num_rows:
        return _none()
    encoded = keys.combine_chunks() if isinstance(keys, pa.ChunkedArray) else keys
    code = encoded.dictionary_encode().indices.to_numpy().astype(np.int64)
    split = _split_numbers(rows)
    seen = np.zeros((int(code.max()) + 1, len(SPLITS)), bool)
    seen[code, split] = True
    shared = seen.sum(axis=1) > 1
    at = np.flatnonzero(shared[code])
    at = at[np.argsort(code[at], kind="stable")]
    cases = np.split(at, np.flatnonzero(np.diff(code[at])) + 1)
    examples = tuple(_example(rows, case, split) for case in cases[:MAX_EXAMPLES] if len(case))
    return Overlap(int(shared.sum()), len(at), examples)


def _find_repeated(rows: pa.Table) -> Overlap:
    """Returns the groups of identical bytes within one split."""
    rows = rows.filter(pc.is_valid(rows.column("sha256")))
    if not rows.num_rows:
        return _none()
    content = rows.column("sha256").combine_chunks().dictionary_encode().indices.to_numpy()
    split = _split_numbers(rows)
    key = content.astype(np.int64) * len(SPLITS) + split
    order = np.argsort(key, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(key[order])) + 1)
    cases = [group for group in groups if len(group) > 1]
    examples = tuple(_example(rows, case, split) for case in cases[:MAX_EXAMPLES])
    return Overlap(len(cases), sum(map(len, cases)), examples)


def _example(rows: pa.Table, case: IntArray, split: IntArray, bits: int | None = None) -> Example:
    """Returns an example that shows the first images of each split, turn by turn."""
    turn = np.zeros(len(case), np.int64)
    for number in range(len(SPLITS)):
        of_split = split[case] == number
        turn[of_split] = np.arange(of_split.sum())
    shown = case[np.lexsort((split[case], turn))][:MAX_IMAGES]
    return Example(
        splits=tuple(SPLITS[number] for number in split[shown]),
        paths=tuple(rows.column("path").take(pa.array(shown)).to_pylist()),
        bits=bits,
    )


def _find_near(rows: pa.Table) -> Overlap:
    """Returns the pairs of different splits with near hashes and different bytes."""
    rows = rows.filter(pc.is_valid(rows.column("phash")))
    hashes = rows.column("phash").to_numpy().view(np.uint64)
    split = _split_numbers(rows)
    content = np.arange(rows.num_rows)  # equal numbers, equal bytes
    if "sha256" in rows.column_names:
        encoded = rows.column("sha256").combine_chunks().dictionary_encode(null_encoding="encode")
        content = encoded.indices.to_numpy()

    num_pairs = 0
    involved = np.zeros(rows.num_rows, bool)
    best: list[tuple[int, int, int]] = []
    for one, other in combinations(range(len(SPLITS)), 2):
        left, right = np.flatnonzero(split == one), np.flatnonzero(split == other)
        for near_left, near_right, bits in near_pairs(hashes[left], hashes[right]):
            a, b = left[near_left], right[near_right]
            differ = content[a] != content[b]
            a, b, bits = a[differ], b[differ], bits[differ]
            num_pairs += len(a)
            involved[a] = involved[b] = True
            first = np.lexsort((b, a, bits))[:MAX_EXAMPLES]
            found = zip(bits[first].tolist(), a[first].tolist(), b[first].tolist(), strict=True)
            best = sorted([*best, *found])[:MAX_EXAMPLES]
    examples = tuple(_example(rows, np.array([a, b]), split, bits) for bits, a, b in best)
    return Overlap(num_pairs, int(involved.sum()), examples)


def near_pairs(
    left: npt.NDArray[np.uint64], right: npt.NDArray[np.uint64]
) -> Iterator[tuple[IntArray, IntArray, IntArray]]:
    """Yields all pairs of hashes that differ in at most `NEAR_DUPLICATE_BITS` bits, each once.

    The 64 bits are cut into one band more than bits may differ, so a near pair agrees in a whole
    band at least (the pigeonhole principle): only pairs that do are compared.

    Args:
        left: hashes, uint64 [n].
        right: hashes, uint64 [m].

    Yields:
        Positions in `left`, positions in `right`, and number of bits that differ, int64 [pairs].
    """
    num_bands = NEAR_DUPLICATE_BITS + 1
    edges = [64 * band // num_bands for band in range(num_bands + 1)]
    masks = [np.uint64((1 << stop) - (1 << start)) for start, stop in pairwise(edges)]
    for band, mask in enumerate(masks):
        order = np.argsort(left & mask, kind="stable")
        keys = (left & mask)[order]
        start = np.searchsorted(keys, right & mask, side="left")
        size = np.searchsorted(keys, right & mask, side="right") - start
        for block in _blocks(size):
            b = np.repeat(block, size[block])
            offset = np.arange(len(b)) - np.repeat(
                np.cumsum(size[block]) - size[block], size[block]
            )
            a = order[np.repeat(start[block], size[block]) + offset]
            differing = left[a] ^ right[b]
            bits = np.bitwise_count(differing).astype(np.int64)
            keep = bits <= NEAR_DUPLICATE_BITS
            for earlier in masks[:band]:  # that band has yielded the pair already
                keep &= (differing & earlier) != 0
            if keep.any():
                yield a[keep], b[keep], bits[keep]


def _blocks(size: IntArray) -> Iterator[IntArray]:
    """Yields positions in runs whose sizes sum to `_BLOCK_PAIRS` or little more."""
    at = np.flatnonzero(size)
    number = np.cumsum(size[at]) // _BLOCK_PAIRS
    yield from np.split(at, np.flatnonzero(np.diff(number)) + 1)


def _split_numbers(rows: pa.Table) -> IntArray:
    """Returns each row's position in `SPLITS`, int64 [rows]."""
    numbers = pc.index_in(rows.column("used_split"), pa.array(SPLITS))
    return np.asarray(numbers.to_numpy(), dtype=np.int64)
