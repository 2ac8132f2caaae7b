from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.cluster import trainer
from orchestrator.cluster.trainer import build_trainer
from orchestrator.config.workers import Session

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


def callbacks(folder: Path) -> set[str]:
    built = build_trainer(lambda: None, folder, 1, Session(1, 1.0, 0.0))
    return {type(each).__name__ for each in built._create_default_callbacks()}


def test_what_gives_a_groups_places_back_is_started_by_trials_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = callbacks(tmp_path)
    assert "BackendSetupCallback" in found
    assert not found & {"DatasetsCallback", "PlacementGroupCleanerCallback"}
    trial = SimpleNamespace(get_actor_id=lambda: "a trial's")
    monkeypatch.setattr(trainer.ray, "get_runtime_context", lambda: trial)
    assert callbacks(tmp_path) - found == {"PlacementGroupCleanerCallback"}
