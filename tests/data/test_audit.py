import hashlib
import json

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from orchestrator.data.audit import (
    MAX_EXAMPLES,
    MAX_IMAGES,
    audit_leakage,
    near_pairs,
    render_audit,
)
from orchestrator.data.decode.perceptual import NEAR_DUPLICATE_BITS, perceptual_hash
from orchestrator.data.manifest import build_manifest
from orchestrator.data.splits import split_rows
from tests.conftest import PUBLIC_DATA

REAL = PUBLIC_DATA
real_data = pytest.mark.skipif(not REAL.is_dir(), reason="the public X-rays are not here")


def make_rows(rows):
    """Rows of (split, patient_id, patient_source, sha256, phash) as a table and split names."""
    split, patient, source, sha256, phash = zip(*rows, strict=True)
    table = pa.table(
        {
            "path": [f"{n}.jpg" for n in range(len(rows))],
            "patient_id": pa.array(patient, pa.string()),
            "patient_source": pa.array(source, pa.string()),
            "sha256": pa.array(sha256, pa.string()),
            "phash": pa.array(phash, pa.int64()),
        }
    )
    return table, pa.array(split, pa.string())


def unique(split, number):
    """A row that has nothing in common with any other of another number."""
    far = int(np.random.default_rng(number).integers(-(2**63), 2**63))
    return (split, f"p{number}", "column", f"sha{number}", far)


CLEAN = [unique("train", 1), unique("train", 2), unique("val", 3), unique("test", 4)]


def test_clean_splits():
    audit = audit_leakage(*make_rows(CLEAN))
    assert not audit.blocking
    described = audit.as_dict()
    kinds = ("same_patient", "same_bytes", "near_duplicate", "possible")
    assert [described[kind] for kind in kinds] == [0] * 4
    assert all(line.endswith("none") for line in render_audit(audit))


@pytest.mark.parametrize("source", ["column", "dicom"])
def test_a_known_patient_in_two_splits_blocks(source):
    rows = [*CLEAN, ("train", "x", source, "s5", None), ("val", "x", source, "s6", None)]
    rows += [("val", "x", source, "s7", None), ("test", "y", source, "s8", None)]
    audit = audit_leakage(*make_rows(rows))
    assert audit.blocking
    assert (audit.same_patient.num_cases, audit.same_patient.num_images) == (1, 3)
    (example,) = audit.same_patient.examples
    assert (example.splits, example.paths) == (
        ("train", "val", "val"),
        ("4.jpg", "5.jpg", "6.jpg"),
    )
    assert audit.as_dict()["blocking"] is True
    assert "1 patients, 3 images (blocks training)" in render_audit(audit)[0]


def test_identical_bytes_in_two_splits_block_and_are_no_near_duplicates():
    rows = [*CLEAN, ("train", None, None, "s", 5), ("test", None, None, "s", 5)]
    audit = audit_leakage(*make_rows(rows))
    assert audit.blocking
    assert (audit.same_bytes.num_cases, audit.same_bytes.num_images) == (1, 2)
    assert audit.near_duplicate.num_cases == 0


def test_near_duplicates_do_not_block():
    at_limit = (1 << NEAR_DUPLICATE_BITS) - 1
    rows = [
        *CLEAN,
        ("train", None, None, "a", 0),
        ("val", None, None, "b", at_limit),
        ("test", None, None, "c", ~0),
        ("test", None, None, "d", -1 << NEAR_DUPLICATE_BITS + 1),  # one bit too many from c
        ("train", None, None, "e", 0),  # in one split with a
    ]
    audit = audit_leakage(*make_rows(rows))
    assert not audit.blocking
    assert (audit.near_duplicate.num_cases, audit.near_duplicate.num_images) == (2, 3)
    assert [example.paths for example in audit.near_duplicate.examples] == [
        ("4.jpg", "5.jpg"),
        ("8.jpg", "5.jpg"),
    ]
    assert {example.bits for example in audit.near_duplicate.examples} == {NEAR_DUPLICATE_BITS}


def test_patients_nobody_knows_are_not_said_to_be_apart():
    rows = [(split, None, None, f"s{n}", None) for n, split in enumerate(("train", "val", "test"))]
    audit = audit_leakage(*make_rows(rows))
    assert not audit.blocking
    assert audit.as_dict()["images_without_patient"] == 3
    assert "across splits: patients unknown, so one patient's images may" in render_audit(audit)[0]
    some = audit_leakage(*make_rows([*rows, *CLEAN]))
    assert render_audit(some)[0].endswith("none found; patients unknown for 3 of 7 images")


def test_leading_zeros_do_not_tell_patients_apart():
    rows = [*CLEAN, ("train", "007", "column", "s5", None), ("val", "7", "column", "s6", None)]
    rows += [("test", "0", "column", "s7", None), ("val", "00", "column", "s8", None)]
    assert audit_leakage(*make_rows(rows)).same_patient.num_cases == 2
    rows = [*CLEAN, ("train", "a07", "column", "s5", None), ("val", "a7", "column", "s6", None)]
    assert audit_leakage(*make_rows(rows)).same_patient.num_cases == 0


def test_identical_bytes_within_a_split_are_said():
    rows = [*CLEAN, *[("train", None, None, "s", None)] * 3, *[("val", None, None, "t", None)] * 2]
    audit = audit_leakage(*make_rows(rows))
    assert not audit.blocking
    assert (audit.repeated.num_cases, audit.repeated.num_images) == (2, 5)
    assert "within a split: 2 groups, 5 images" in render_audit(audit)[-1]
    assert audit_leakage(*make_rows(CLEAN)).repeated.num_cases == 0


def test_numbers_from_file_names_clash_as_possible_only():
    rows = [*CLEAN]
    rows += [("train", "train/person1", "filename", "s5", None)]
    rows += [("val", "train/person2", "filename", "s6", None)]
    rows += [("test", "test/person1", "filename", "s7", None)]
    rows += [("test", "test/person9", "filename", "s8", None)]
    rows += [("test", "train/person2", "column", "s9", None)]  # another kind of id
    audit = audit_leakage(*make_rows(rows))
    assert not audit.blocking
    assert (audit.possible.num_cases, audit.possible.num_images) == (1, 2)
    assert audit.possible.examples[0].paths == ("4.jpg", "6.jpg")


def test_the_cause_tells_children_apart_below_one_folder_but_not_across_folders():
    rows = [*CLEAN]
    rows += [("train", "train/person1_virus", "filename", "s5", None)]
    rows += [("val", "train/person1_bacteria", "filename", "s6", None)]
    assert audit_leakage(*make_rows(rows)).possible.num_cases == 0
    rows += [("test", "test/person1_bacteria", "filename", "s7", None)]
    audit = audit_leakage(*make_rows(rows))
    assert (audit.possible.num_cases, audit.possible.num_images) == (1, 3)


def test_unused_rows_are_left_out():
    rows = [*CLEAN, ("train", "x", "column", "s", 0), (None, "x", "column", "s", 0)]
    assert not audit_leakage(*make_rows(rows)).blocking


def test_without_hashes_and_without_splits():
    table, names = make_rows([*CLEAN, ("val", "p1", "column", None, None)])
    plain = table.drop_columns(["sha256", "phash"])
    assert audit_leakage(plain, names).same_patient.num_cases == 1
    nothing = pa.nulls(len(names), pa.string())
    assert not audit_leakage(table, nothing).blocking


def test_examples_are_bounded_and_json_holds_everything():
    rows = [("train", "x", "column", f"t{n}", n << 40) for n in range(50)]
    rows += [("val", "x", "column", f"v{n}", n << 40) for n in range(50)]
    rows += [(split, f"p{n}", "column", None, None) for n in range(50) for split in ("val", "test")]
    audit = audit_leakage(*make_rows(rows))
    assert audit.same_patient.num_cases == 51
    assert len(audit.same_patient.examples) == MAX_EXAMPLES
    longest = max(audit.same_patient.examples, key=lambda example: len(example.paths))
    assert len(longest.paths) == MAX_IMAGES
    assert set(longest.splits) == {"train", "val"}
    stored = json.loads(json.dumps(audit.as_dict(), allow_nan=False))
    assert stored["same_patient"] == 51
    assert stored["num_images"]["same_patient"] == 200
    assert len(stored["examples"]["near_duplicate"]) == MAX_EXAMPLES


@pytest.mark.parametrize("seed", range(5))
def test_near_pairs_equal_those_of_all_comparisons(seed):
    rng = np.random.default_rng(seed)
    centres = rng.integers(2**64, size=6, dtype=np.uint64)
    hashes = rng.choice(centres, 300)
    for _ in range(3):  # so two of one centre differ in up to 6 bits
        flipped = np.uint64(1) << rng.integers(0, 64, 300).astype(np.uint64)
        hashes ^= flipped
    left, right = hashes[:180], hashes[180:]
    bits = np.bitwise_count(left[:, None] ^ right[None, :])
    expected = {(a, b, bits[a, b]) for a, b in np.argwhere(bits <= NEAR_DUPLICATE_BITS)}
    found = [
        pair for block in near_pairs(left, right) for pair in zip(*map(list, block), strict=True)
    ]
    assert len(expected) > 50
    assert len(found) == len(set(found)), "a pair was yielded twice"
    assert set(found) == expected


@real_data
def test_public_training_folder():
    table = build_manifest(REAL / "kermany224", 256).table
    sha256, phash = [], []
    for path in table.column("path").to_pylist():
        data = (REAL / "kermany224" / path).read_bytes()
        sha256.append(hashlib.sha256(data).hexdigest())
        with Image.open(REAL / "kermany224" / path) as image:
            phash.append(perceptual_hash(np.asarray(image.convert("L"))))
    table = table.append_column("sha256", pa.array(sha256)).append_column("phash", pa.array(phash))
    by_patient = audit_leakage(table, split_rows(table, seed=0, merge_val=False).names)
    leaks = ("same_patient", "same_bytes", "near_duplicate", "possible")
    # 24 groups of identical images lie within one split, 50 images in all.
    assert by_patient.as_dict()["num_images"] == {**dict.fromkeys(leaks, 0), "repeated": 50}

    # Identical images lie within one patient each, so a split by image leaks both.
    rng = np.random.default_rng(0)
    by_image = pa.array(np.where(rng.random(len(phash)) < 0.8, "train", "val").tolist())
    leaking = audit_leakage(table, by_image)
    assert leaking.blocking
    assert leaking.same_bytes.num_cases > 0
    assert leaking.possible.num_cases > 300
    assert leaking.near_duplicate.num_cases == 0
