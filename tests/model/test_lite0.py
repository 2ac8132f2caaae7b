import io
import os
import pickle
import re
from pathlib import Path

import keras
import matplotlib
import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupShuffleSplit
from sklearn.preprocessing import StandardScaler

from orchestrator.errors import SpecError
from orchestrator.model import lite0
from orchestrator.model.backbones import build_backbone
from tests.conftest import PUBLIC_DATA

KERMANY = PUBLIC_DATA / "kermany224" / "train"
MILITARY_UNIFORM = 652  # ImageNet class index


@pytest.fixture(scope="module")
def backbone() -> keras.Model:
    return build_backbone("efficientnet-lite0", "offline", 224)


def test_number_of_parameters(backbone: keras.Model) -> None:
    assert backbone.count_params() == 3_413_024
    assert backbone.output_shape == (None, 1280)


def test_imagenet_class_of_a_known_photograph(backbone: keras.Model) -> None:
    # With the classifier that the weights file also holds, the whole network must name what the
    # portrait of Grace Hopper shows, in grey levels too.
    photo = Path(matplotlib.get_data_path()) / "sample_data/grace_hopper.jpg"
    grey = Image.open(photo).convert("L").resize((224, 224), Image.Resampling.BILINEAR)
    tensors = lite0.read_tensors()

    features = backbone.predict(np.asarray(grey, np.float32)[None, :, :, None], verbose=0)
    logits = features @ tensors["_fc.weight"].T + tensors["_fc.bias"]

    assert logits.shape == (1, 1000)
    assert logits.argmax() == MILITARY_UNIFORM


def test_tensors_keep_torch_axis_order() -> None:
    tensors = lite0.read_tensors()

    assert tensors["_conv_stem.weight"].shape == (32, 3, 3, 3)
    assert tensors["_blocks.3._depthwise_conv.weight"].shape == (144, 1, 5, 5)
    assert all(np.isfinite(value).all() for value in tensors.values())
    assert all((v >= 0).all() for k, v in tensors.items() if k.endswith("running_var"))


def test_another_file_is_refused(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "weights.pth"
    fake.write_bytes(pickle.dumps("not the weights"))
    monkeypatch.setattr(lite0, "_weights_path", lambda: fake)

    with pytest.raises(
        SpecError, match=r"has SHA-256 .*, expected 579344248a93e230.*weights: none"
    ):
        build_backbone("efficientnet-lite0", "offline", 32)


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)

    with pytest.raises(SpecError, match="needs the Python package efficientnet-lite0-pytorch"):
        lite0.read_tensors()


def test_unpickler_admits_no_other_name() -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (os.system, ("echo unpickled",))

    file = io.BytesIO(pickle.dumps(Evil()))

    with pytest.raises(SpecError, match=r"asks for (posix|nt)\.system, which is not admitted"):
        lite0._TensorUnpickler(file).load()


def test_tensor_outside_its_storage_is_refused() -> None:
    storage = np.arange(6, dtype=np.float32)
    inside = lite0._TensorView("s", 1, (2, 2), (1, 3))
    outside = lite0._TensorView("s", 2, (2, 2), (1, 3))

    np.testing.assert_array_equal(lite0._materialise(inside, storage), [[1, 4], [2, 5]])
    with pytest.raises(SpecError, match="outside its storage"):
        lite0._materialise(outside, storage)


def test_tensors_of_the_wrong_shape_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = lite0.read_tensors()
    tensors["_bn1.weight"] = tensors["_bn1.weight"][:-1]
    monkeypatch.setattr(lite0, "read_tensors", lambda: tensors)

    with pytest.raises(SpecError, match=r"layer bn1 have shapes \[\(1279,\)"):
        build_backbone("efficientnet-lite0", "offline", 32)


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.skipif(not KERMANY.is_dir(), reason="needs the public X-rays in ../shared/data")
def test_features_separate_pneumonia(backbone: keras.Model) -> None:
    files = sorted(KERMANY.glob("*/*.jp*g"))
    chosen = np.random.default_rng(0).permutation(len(files))[:600]
    images, labels, patients = [], [], []
    for index in chosen:
        path = files[index]
        images.append(np.asarray(Image.open(path).convert("L").resize((224, 224))))
        labels.append(path.parent.name == "PNEUMONIA")
        patients.append(re.sub(r"-\d+$|_(bacteria|virus)_\d+$", "", path.stem))
    features = backbone.predict(np.stack(images)[..., None], batch_size=32, verbose=0)
    split = GroupShuffleSplit(1, test_size=0.3, random_state=0)
    train, val = next(split.split(features, labels, patients))
    y = np.array(labels)
    scaler = StandardScaler().fit(features[train])
    model = LogisticRegression(C=0.01, max_iter=500).fit(
        scaler.transform(features[train]), y[train]
    )

    auroc = roc_auc_score(y[val], model.decision_function(scaler.transform(features[val])))

    assert auroc > 0.97
