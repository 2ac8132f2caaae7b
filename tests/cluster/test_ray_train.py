import sys
from pathlib import Path
from typing import Any

import pytest
from ray import cloudpickle

from orchestrator.cluster.ray_train import run_training
from orchestrator.config.workers import Session
from orchestrator.errors import DataError

cloudpickle.register_pickle_by_value(sys.modules[__name__])
pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


def refuse_on_the_last(config: dict[str, Any]) -> None:
    """One worker meets an error of the user's; the others wait for it at a barrier."""
    import ray.train

    Path(config["marks"], f"{ray.train.get_context().get_world_rank()}").touch()
    if ray.train.get_context().get_world_rank() == ray.train.get_context().get_world_size() - 1:
        raise DataError("received x; expected y; do z")
    ray.train.report({})


@pytest.mark.parametrize("num_workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_an_error_of_one_worker_ends_all_and_arrives_as_it_was(
    num_workers: int, tmp_path: Path
) -> None:
    session = Session(num_workers, 1.0, 0.0)
    with pytest.raises(DataError) as caught:
        run_training(
            refuse_on_the_last,
            {"marks": str(tmp_path)},
            tmp_path / "storage",
            num_workers,
            session,
            lambda: None,
        )
    assert type(caught.value) is DataError
    assert str(caught.value) == "received x; expected y; do z"
    assert len(list(tmp_path.glob("[01]"))) == num_workers
