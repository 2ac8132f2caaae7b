import numpy as np
import pyarrow as pa
import pytest

from orchestrator.data.manifest import SPLIT_COLUMN_KEY, build_manifest
from orchestrator.data.schema import MANIFEST
from orchestrator.data.splits import class_by_split, group_rows, render_class_table, split_rows
from orchestrator.errors import DataError
from tests.conftest import PUBLIC_DATA

REAL = PUBLIC_DATA
real_data = pytest.mark.skipif(not REAL.is_dir(), reason="the public X-rays are not here")


def make_table(label, split=None, patient=None, code=None, sha256=None, in_column=False):
    """A manifest table of the given columns, paths numbered."""
    num_rows = len(label)
    given = {
        "row": range(num_rows),
        "path": [f"{n}.jpg" for n in range(num_rows)],
        "label": label,
        "split": split,
        "patient_id": patient,
        "patient_source": patient and ["column" if p else None for p in patient],
        "code": code,
    }
    arrays = [pa.array(given.get(f.name) or [None] * num_rows, f.type) for f in MANIFEST]
    table = pa.Table.from_arrays(arrays, schema=MANIFEST)
    if in_column:
        table = table.replace_schema_metadata({SPLIT_COLUMN_KEY: b"1"})
    return table if sha256 is None else table.append_column("sha256", pa.array(sha256))


def count(split, table, label=None):
    names = split.names.to_pylist()
    labels = table.column("label").to_pylist()
    chosen = [n for n, lab in zip(names, labels, strict=True) if label in (None, lab)]
    return {name: chosen.count(name) for name in dict.fromkeys(chosen)}


def random_patients(rng, num_patients):
    """Labels and patient ids of patients with 1 to 5 images, some with images of both classes."""
    label, patient = [], []
    for number in range(num_patients):
        base = int(rng.random() < 0.7)
        for _ in range(int(rng.choice([1, 1, 1, 1, 2, 3, 5]))):
            label.append(1 - base if rng.random() < 0.05 else base)
            patient.append(f"p{number}")
    return label, patient


def test_single_pool_is_70_10_20_train_test_val_per_class():
    table = make_table([0] * 100 + [1] * 300)
    split = split_rows(table, seed=1, merge_val=False)
    assert split.layout == "pool"
    assert count(split, table, 0) == {"train": 70, "test": 10, "val": 20}
    assert count(split, table, 1) == {"train": 210, "test": 30, "val": 60}


def test_lone_train_folder_is_80_20_and_has_no_test():
    table = make_table([0] * 100 + [1] * 300, ["train"] * 400)
    split = split_rows(table, seed=1, merge_val=False)
    assert split.layout == "train"
    assert count(split, table, 0) == {"train": 80, "val": 20}
    assert count(split, table, 1) == {"train": 240, "val": 60}


def test_test_folder_stays_and_val_folder_joins_only_when_merged():
    label = [0, 1] * 50 + [0, 1] * 10 + [0, 1] * 15
    table = make_table(label, ["train"] * 100 + ["val"] * 20 + ["test"] * 30)
    split = split_rows(table, seed=0, merge_val=False)
    assert split.layout == "train+test"
    assert split.names.to_pylist()[100:] == [None] * 20 + ["test"] * 30
    assert count(split, table) == {"train": 80, "val": 20, None: 20, "test": 30}
    merged = split_rows(table, seed=0, merge_val=True)
    assert merged.names.to_pylist()[120:] == ["test"] * 30
    assert count(merged, table) == {"train": 96, "val": 24, "test": 30}


def test_a_split_column_is_kept_as_written():
    label = [0, 1] * 8
    written = ["train"] * 8 + ["val"] * 4 + ["test"] * 2 + [None] * 2
    table = make_table(label, written, in_column=True)
    split = split_rows(table, seed=0, merge_val=False)
    assert (split.layout, split.names.to_pylist()) == ("column", written)
    merged = split_rows(table, seed=0, merge_val=True)
    assert count(merged, table) == {"train": 10, "val": 2, "test": 2, None: 2}
    no_val = make_table([0, 1] * 10, ["train"] * 20, in_column=True)
    assert count(split_rows(no_val, seed=0, merge_val=False), no_val) == {"train": 16, "val": 4}


def test_rows_without_label_or_with_a_code_are_unused():
    table = make_table([0, 1] * 20 + [None, 0], code=[None] * 41 + ["damaged"])
    names = split_rows(table, seed=0, merge_val=False).names.to_pylist()
    assert names[40:] == [None, None]
    assert None not in names[:40]


def test_rows_outside_the_train_folder_are_unused():
    table = make_table([0, 1] * 20 + [0, 1], ["train"] * 40 + [None, None])
    assert split_rows(table, seed=0, merge_val=False).names.to_pylist()[40:] == [None, None]


@pytest.mark.parametrize("seed", range(20))
def test_no_group_is_ever_divided_and_counts_are_exact(seed):
    rng = np.random.default_rng(seed)
    label, patient = random_patients(rng, 300)
    patient = [p if rng.random() < 0.9 else None for p in patient]
    sha256 = [f"{n:064d}" for n in range(len(label))]
    for one, other in rng.integers(len(label), size=(20, 2)):  # the same bytes, any patients
        sha256[one] = sha256[other]
    table = make_table(label, patient=patient, sha256=sha256)
    split = split_rows(table, seed=seed, merge_val=False)
    names = split.names.to_pylist()
    for keys in (patient, sha256):
        of_key = {}
        for key, name in zip(keys, names, strict=True):
            if key is not None:
                assert of_key.setdefault(key, name) == name
    for value in (0, 1):
        wanted = label.count(value)
        got = count(split, table, value)
        assert abs(got["test"] - 0.1 * wanted) <= 1
        assert abs(got["val"] - 0.2 * wanted) <= 1


def test_the_seed_decides_and_nothing_else():
    label, patient = random_patients(np.random.default_rng(0), 100)
    table = make_table(label, patient=patient)
    first = split_rows(table, seed=3, merge_val=False).names
    assert first.equals(split_rows(table, seed=3, merge_val=False).names)
    assert not first.equals(split_rows(table, seed=4, merge_val=False).names)


def test_patients_with_many_images_go_to_every_split():
    patient = [f"big{n // 4}" for n in range(400)] + [f"small{n}" for n in range(400)]
    label = [n % 2 for n in range(200) for _ in range(4)]
    table = make_table([label[n] if n < 400 else n % 2 for n in range(800)], patient=patient)
    names = split_rows(table, seed=0, merge_val=False).names.to_pylist()
    big = names[:400]
    assert 10 <= big.count("test") / 4 * 10 / 4 <= 60
    assert 0.1 <= big.count("val") / 400 <= 0.3


def test_large_groups_overshoot_only_where_that_comes_nearer():
    # 10 patients of 10 images a class: a share of 20 % is two patients of each.
    label = [n // 100 for n in range(200)]
    table = make_table(label, ["train"] * 200, [f"p{n // 10}" for n in range(200)])
    split = split_rows(table, seed=0, merge_val=False)
    assert count(split, table, 0) == count(split, table, 1) == {"train": 80, "val": 20}
    # 3 patients of 10: the target of 6 is nearer to 10 than to 0.
    label = [n // 30 for n in range(60)]
    table = make_table(label, ["train"] * 60, [f"p{n // 10}" for n in range(60)])
    split = split_rows(table, seed=0, merge_val=False)
    assert count(split, table, 0) == {"train": 20, "val": 10}
    # 10 of one patient and 2 of another: the target of 2 is met, whichever comes first.
    label = [0] * 12 + [1] * 12
    patient = ["a"] * 10 + ["b"] * 2 + ["c"] * 10 + ["d"] * 2
    table = make_table(label, ["train"] * 24, patient)
    for seed in range(5):
        split = split_rows(table, seed=seed, merge_val=False)
        assert count(split, table, 0) == count(split, table, 1) == {"train": 10, "val": 2}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (make_table([None, None]), "no image has a label; expected class folders"),
        (make_table([0, 1], code=["damaged"] * 2), "no image has a label"),
        (make_table([1, 1, None]), "all labelled images are PNEUMONIA; expected images of both"),
        (make_table([0, 1], ["test"] * 2), "folders give test but no train images"),
        (make_table([0, 1], ["val", "test"]), "folders give test, val but no train"),
        (make_table([0, 1], ["val"] * 2, in_column=True), "column `split` names val but no train"),
        (make_table([0, 1, 1, 1]), "split has no .* image that can be used"),
        (
            make_table([0, 0, 1, 1], ["train"] * 4, ["p", "p", "q", "q"]),
            "the train split has no NORMAL image .* more patients",
        ),
        (
            make_table([0, 1, 1], ["train", "train", "val"], in_column=True),
            "the val split has no NORMAL",
        ),
    ],
)
def test_what_cannot_be_split(table, message):
    with pytest.raises(DataError, match=message):
        split_rows(table, seed=0, merge_val=False)


def test_groups_join_through_patients_and_bytes():
    table = make_table(
        [0] * 7,
        patient=["a", "a", "b", None, None, "c", None],
        sha256=["1", "2", "2", "3", "3", None, None],
    )
    group = group_rows(table)
    assert len({group[n] for n in (0, 1, 2)}) == 1  # a and b share the bytes 2
    assert group[3] == group[4]
    assert len(set(group.tolist())) == 4


def test_groups_join_through_leading_zeros():
    table = make_table([0] * 4, patient=["007", "7", "70", "x7"])
    assert len(set(group_rows(table).tolist())) == 3
    names = pa.array(["train"] * 4)
    assert class_by_split(table, names)["train"]["patients"] == 3


def test_unknown_patients_are_said_to_be():
    table = make_table([0, 1])
    counts = class_by_split(table, pa.array(["train", "train"]))
    assert render_class_table(counts)[1].split() == ["train", "1", "1", "2", "unknown"]


def test_class_by_split_table():
    table = make_table([0, 0, 1, 1, 1, None], patient=["a", "a", "b", None, "c", "d"])
    names = pa.array(["train", "train", "train", "val", "val", None])
    counts = class_by_split(table, names)
    assert counts == {
        "train": {"NORMAL": 2, "PNEUMONIA": 1, "no label": 0, "patients": 2},
        "val": {"NORMAL": 0, "PNEUMONIA": 2, "no label": 0, "patients": 1},
        "unused": {"NORMAL": 0, "PNEUMONIA": 0, "no label": 1, "patients": 1},
    }
    assert [line.split() for line in render_class_table(counts)] == [
        ["NORMAL", "PNEUMONIA", "no", "label", "images", "patients"],
        ["train", "2", "1", "0", "3", "2"],
        ["val", "0", "2", "0", "2", "1"],
        ["unused", "0", "0", "1", "1", "1"],
    ]


@real_data
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_public_training_folder_gives_the_counts_of_the_paper(seed):
    table = build_manifest(REAL / "kermany224", 256).table
    split = split_rows(table, seed=seed, merge_val=False)
    assert split.layout == "train"
    assert count(split, table) == {"train": 4173, "val": 1043}
    assert count(split, table, 0) == {"train": 1073, "val": 268}
    counts = class_by_split(table, split.names)
    assert counts["train"]["patients"] + counts["val"]["patients"] == 3654
