import numpy as np
import pytest
from PIL import Image, ImageFilter
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from orchestrator.data.manifest import build_manifest
from orchestrator.data.phantoms import write_phantoms
from orchestrator.data.splits import split_rows
from orchestrator.errors import DataError


def read_all(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.jpeg"))
    }


def test_class_folders_with_patients_of_several_images(tmp_path):
    write_phantoms(tmp_path / "p", num_images=50, seed=3, size_px=64)
    table = build_manifest(tmp_path / "p", 100).table
    assert table.num_rows == 50
    assert table.column("label").to_pylist() == [0] * 20 + [1] * 30
    patients = table.column("patient_id").to_pylist()
    assert None not in patients
    sizes = [patients.count(patient) for patient in set(patients)]
    assert set(sizes) == {1, 2, 3}
    split = split_rows(table, seed=0, merge_val=False)
    assert split.layout == "pool"
    with Image.open(tmp_path / "p" / table.column("path")[0].as_py()) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "L", (64, 64))


def test_the_seed_decides(tmp_path):
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        write_phantoms(tmp_path / name, num_images=6, seed=seed, size_px=48)
    one, again, other = (read_all(tmp_path / name) for name in ("one", "again", "other"))
    assert one == again
    assert set(one.values()).isdisjoint(other.values())
    assert len(set(one.values())) == 6


def test_a_folder_in_use_is_left_alone(tmp_path):
    (tmp_path / "mine").write_text("x")
    with pytest.raises(DataError, match="is not empty; name a new folder"):
        write_phantoms(tmp_path, num_images=4, seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    with pytest.raises(DataError, match="1 phantoms asked for; expected at least 2"):
        write_phantoms(tmp_path / "new", num_images=1, seed=0)


def test_masks_show_where_the_opacities_are_and_change_no_image(tmp_path):
    for name, masks in (("plain", None), ("masked", tmp_path / "masks")):
        write_phantoms(tmp_path / name, num_images=15, seed=7, size_px=64, masks=masks)
    assert read_all(tmp_path / "plain") == read_all(tmp_path / "masked")
    brighter = []
    for path in sorted((tmp_path / "masked").rglob("*.jpeg")):
        inside = tmp_path / "masks" / path.relative_to(tmp_path / "masked").with_suffix(".png")
        with Image.open(inside) as mask, Image.open(path) as image:
            opacity, pixels = np.asarray(mask) == 255, np.asarray(image, np.float64)
        assert opacity.any() == (path.parent.name == "PNEUMONIA")
        if opacity.any():  # against the other lung, at the same height
            mirrored = opacity[:, ::-1] & ~opacity
            brighter.append(pixels[opacity].mean() > pixels[mirrored].mean())
    assert np.mean(brighter) > 0.8
    with pytest.raises(DataError, match="masks is not empty"):
        write_phantoms(tmp_path / "new", num_images=4, seed=0, masks=tmp_path / "masks")


def blob_features(image):
    """Quantiles of differences of Gaussians over each lung field, in units of the contrast."""
    small = image.resize((64, 64), Image.Resampling.BOX)
    features = []
    for radius in (2, 4):
        fine, coarse = (
            np.asarray(small.filter(ImageFilter.GaussianBlur(r)), np.float64)
            for r in (radius, 2 * radius)
        )
        for columns in (slice(8, 28), slice(36, 56)):
            field = (fine - coarse)[10:46, columns] / np.asarray(small).std()
            features += np.quantile(field, (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)).tolist()
    return features


def test_learnable_by_its_opacities_and_not_by_brightness(tmp_path):
    write_phantoms(tmp_path / "p", num_images=360, seed=5, size_px=96)
    table = build_manifest(tmp_path / "p", 1000).table
    label = table.column("label").to_numpy()
    statistics, features = [], []
    for path in table.column("path").to_pylist():
        with Image.open(tmp_path / "p" / path) as image:
            pixels = np.asarray(image, np.float64)
            statistics.append((pixels.mean(), pixels.max(), pixels.std()))
            features.append(blob_features(image))
    for statistic in np.array(statistics).T:
        assert 0.35 < roc_auc_score(label, statistic) < 0.65

    names = np.array(split_rows(table, seed=0, merge_val=False).names.to_pylist())
    train, held_out = names == "train", names != "train"
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    model.fit(np.array(features)[train], label[train])
    probability = model.predict_proba(np.array(features)[held_out])[:, 1]
    assert 0.75 < roc_auc_score(label[held_out], probability) < 0.98
