"""What a worker does with a shadow where images change and workers die; no run is needed for it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.evaluation.figures import Calibration
from orchestrator.pipelines.score.shadow_scorer import ShadowScorer, ShadowTask
from tests.pipelines.score.test_shadow import make_engine
from tests.registry.bundles import make_bundle


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle in `other`."""
    folder = tmp_path_factory.mktemp("place")
    make_bundle(folder / "other")
    return folder


class Twice:
    """A source that decodes images a second time, some of them not to the same end."""

    num_shards = 1

    def open_reader(self, _: int) -> Any:
        return self

    def decode_shard(self, *_: Any) -> Any:
        image = np.full((32, 32), 99, np.uint8)
        yield {"sha256": "a", "code": None}, image
        yield {"sha256": "changed", "code": None}, image
        yield {"sha256": None, "code": "unreadable"}, None
        yield {"sha256": None, "code": "damaged"}, None

    def close(self) -> None:
        pass


def make_scorer(place: Path, attempts: Path, twice: Any = None) -> ShadowScorer:
    task = ShadowTask(place / "other", "0" * 64, Calibration(), 32, twice, attempts)
    return ShadowScorer(task, lambda folder, _: make_engine(folder), 1)


def test_an_image_that_is_another_one_the_second_time_is_not_scored(
    place: Path, tmp_path: Path
) -> None:
    scorer = make_scorer(place, tmp_path, Twice())
    rows: list[dict[str, Any]] = [{"sha256": name} for name in ("a", "b", "c")] + [{}]
    scorer.begin(0, None)
    for row, image in zip(rows, [np.zeros((64, 64), np.uint8)] * 3 + [None], strict=True):
        scorer.add(row, image)
    scorer.end()
    assert rows[0]["shadow_logit"] == pytest.approx((99 - 120) / 20)
    assert [row.get("shadow_fault") for row in rows] == [
        None,
        "not decoded a second time: changed",
        "not decoded a second time: unreadable",
        None,
    ]


def test_workers_that_die_with_the_shadow_go_on_without_it(place: Path, tmp_path: Path) -> None:
    image = np.zeros((32, 32), np.uint8)

    def score_shard(shard: int, *, dies: bool = False) -> dict[str, Any]:
        row: dict[str, Any] = {}
        scorer = make_scorer(place, tmp_path)
        scorer.begin(shard, None)
        if not dies:
            scorer.add(row, image)
            scorer.end()
        return row

    score_shard(7, dies=True)
    assert "shadow_logit" in score_shard(8)
    assert "shadow_logit" in score_shard(7)  # a kill is no fault of the shadow yet
    for _ in range(2):
        score_shard(7, dies=True)
    for shard in (7, 8):
        assert score_shard(shard) == {
            "shadow_fault": "workers died 2 times while it scored a shard"
        }
