import pytest

from orchestrator.data.listing.names import comparable_patients, patient_of_name, read_folders


@pytest.mark.parametrize(
    ("folder", "label", "split", "scope"),
    [
        (b"", None, None, None),
        (b"NORMAL", 0, None, None),
        (b"pneumonia", 1, None, None),
        (b"Train/Normal", 0, "train", "train"),
        (b"TEST/PNEUMONIA/ward 3", 1, "test", "test"),
        (b"validation/NORMAL", 0, "val", "train"),
        (b"val/NORMAL", 0, "val", "train"),
        (b"test", None, "test", "test"),
        (b"test/chest_xray/train/NORMAL", 0, "train", "train"),
        (b"NORMAL/test", 0, "test", "test"),  # the class folders may be the outer ones
        (b"NORMAL/Training/a", 0, "train", "train"),
        (b"NORMAL/ward/test", 0, None, None),
        (b"NORMAL/test patient", 0, None, None),
        (b"test/NORMAL/train", 0, "test", "test"),
        (b"valid/NORMAL", 0, "val", "train"),
        (b"Training/0_Normal", 0, "train", "train"),
        (b"Testing/PNEUMONIA ", 1, "test", "test"),
        (b"stage_2_test_images", None, "test", "test"),
        (b"external test cohort/NORMAL", 0, "test", "test"),
        (b"train_val/NORMAL", 0, "train", "train"),
        (b"latest/contest/NORMAL", 0, None, None),
        (b"No Finding", 0, None, None),
        (b"VIRUS", None, None, None),
        (b"NORMAL/PNEUMONIA", None, None, None),  # contradiction
        (b"NORMAL/normal", 0, None, None),
        (b"abnormal/normals", None, None, None),
        (b"caf\xe9/NORMAL", 0, None, None),
    ],
)
def test_folders(folder, label, split, scope):
    assert read_folders(folder) == (label, split, scope)


@pytest.mark.parametrize(
    ("name", "patient"),
    [
        (b"person1000_bacteria_2931.jpeg", "person1000_bacteria"),
        (b"person447_virus_921_1.jpeg", "person447_virus"),
        (b"IM-0115-0001.jpeg", "IM-0115"),
        (b"IM-0429-0001-0002.jpeg", "IM-0429"),
        (b"NORMAL2-IM-0381-0001.jpeg", "NORMAL2-IM-0381"),
        (b"NORMAL2-IM-0381-0001-0002.png", "NORMAL2-IM-0381"),
        (b"IM-0001-0001.dcm", None),  # a viewer's export names every patient's file so
        (b"._IM-0115-0001.jpeg", None),
        (b"person1000.jpeg", None),
        (b"person_bacteria_1.jpeg", None),
        (b"xperson1_bacteria_1.jpeg", None),
        (b"IM-0115-0001.jpeg\n", None),
        (b"caf\xe9.jpeg", None),
    ],
)
def test_patient_of_name(name, patient):
    assert patient_of_name(name, None) == patient
    scoped = patient_of_name(name, "test")
    assert scoped == (None if patient is None else f"test/{patient}")


def test_numbers_are_compared_across_folders_and_causes_below_one():
    found = ["train/person1_virus", "train/person1_bacteria", "train/person2_virus", "IM-0001"]
    assert comparable_patients(found) == found
    across = comparable_patients([*found, "test/person2_bacteria", "test/IM-0001"])
    assert across == [*found[:2], "person2", "IM-0001", "person2", "IM-0001"]
