import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from orchestrator.model import augment as augment_module
from orchestrator.model.backbones import build_backbone
from orchestrator.model.engine.export import export_backbone
from orchestrator.pipelines.prepare.features import FeatureStage

COUNT, VIEWS = 80, 3


def make_stage(folder: Path, num_threads: int) -> FeatureStage:
    images = np.random.default_rng(0).integers(0, 256, (COUNT, 32, 32), dtype=np.uint8)
    codes = ["not_an_image" if row == 5 else None for row in range(COUNT)]
    table = pa.table(
        {
            "row": np.arange(COUNT),
            "code": pa.array(codes, pa.string()),
            "image": pa.FixedShapeTensorArray.from_numpy_ndarray(images),
        }
    )
    dataset: Any = SimpleNamespace(load_table=lambda shard: table)
    splits = ["train" if row % 2 else "val" for row in range(COUNT - 1)] + [None]
    return FeatureStage(dataset, splits, folder, VIEWS, 1, "light", num_threads, "openvino")


def test_features_of_a_view_do_not_depend_on_the_threads_that_share_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_backbone(build_backbone("tiny", "none", 32), tmp_path)
    alone = make_stage(tmp_path, 1)(0)

    at_work, together = threading.Barrier(2, timeout=60), []
    real = augment_module.augment

    def meet(*args: Any, **kwargs: Any) -> Any:
        at_work.wait()  # ends in an error where one thread does all
        together.append(threading.get_ident())
        return real(*args, **kwargs)

    monkeypatch.setattr(augment_module, "augment", meet)
    shared = make_stage(tmp_path, 2)(0)

    assert len(together) == 2 * (VIEWS - 1)  # 39 training rows, 32 at a time
    rows, views = alone["row"].to_numpy(), alone["view"].to_numpy()
    train = [row for row in range(1, COUNT - 1, 2) if row != 5]
    assert rows[views == 0].tolist() == [row for row in range(COUNT - 1) if row != 5]
    assert rows[views == 1].tolist() == rows[views == 2].tolist() == train
    assert shared.select(["row", "view"]).equals(alone.select(["row", "view"]))
    features = [np.stack(table["feature"].to_numpy()) for table in (alone, shared)]
    np.testing.assert_array_equal(*features)
