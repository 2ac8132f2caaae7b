"""What training logs beside its report, read back from the files it wrote."""

import struct
from importlib.util import find_spec
from pathlib import Path

import pytest

from orchestrator.config.specs import TrainSpec
from orchestrator.errors import ClusterError, SpecError
from orchestrator.pipelines.train import tracking
from orchestrator.pipelines.train.tracking import check_tracking, open_tracking
from orchestrator.runs.run_dir import RunDir

HISTORY = [
    {"epoch": 1, "loss": 0.5, "accuracy": 0.7, "val_loss": 0.6, "val_auroc": 0.8, "lr": 0.01},
    {"epoch": 2, "loss": 0.25, "accuracy": 0.8, "val_loss": 0.5, "val_auroc": 0.9, "lr": 0.003},
]
REPORT = {"validation": {"metrics": {"auroc": {"value": 0.9}, "ppv": {"value": None}}}}


def read_events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Scalars of a folder's event files: length, its checksum, the event, its checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found: dict[str, list[tuple[int, float]]] = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
            data = data[16 + length :]
    return found


def test_tensorboard_gets_kerass_own_names_by_training_and_validation(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    with open_tracking(TrainSpec(data="x"), run) as logs:
        for row in HISTORY:
            logs.epoch(row)
        logs.results(REPORT)
    train = read_events(run.tensorboard / "train")
    assert set(train) == {"epoch_loss", "epoch_accuracy", "epoch_learning_rate"}
    assert train["epoch_loss"] == [(1, 0.5), (2, 0.25)]
    assert dict(train["epoch_learning_rate"]) == pytest.approx({1: 0.01, 2: 0.003})
    validation = read_events(run.tensorboard / "validation")
    assert set(validation) == {"epoch_loss", "epoch_auroc"}


def test_a_resumed_run_logs_each_epoch_once(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    with pytest.raises(KeyboardInterrupt), open_tracking(TrainSpec(data="x"), run) as logs:
        logs.epoch(HISTORY[0])
        raise KeyboardInterrupt
    with open_tracking(TrainSpec(data="x"), run) as logs:
        for row in HISTORY:
            logs.epoch(row)
    assert [step for step, _ in read_events(run.tensorboard / "train")["epoch_loss"]] == [1, 2]


def test_asking_for_mlflow_without_it_is_an_error_before_any_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with pytest.raises(SpecError, match=r"needs the package mlflow.*xray-orchestrator\[mlflow\]"):
        check_tracking(TrainSpec(data="x", mlflow="sqlite:///m.db"))
    check_tracking(TrainSpec(data="x"))


needs_mlflow = pytest.mark.skipif(find_spec("mlflow") is None, reason="needs the extra mlflow")


@needs_mlflow
def test_mlflow_gets_recipe_curves_results_and_no_path(tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    store = f"sqlite:///{tmp_path}/m.db"
    spec = TrainSpec(data="/secret/ward-7", mlflow=store, gamma=1.5, patient_key_file="/k")
    run = RunDir(tmp_path / "train-1")
    check_tracking(spec)
    with pytest.raises(KeyboardInterrupt), open_tracking(spec, run) as logs:
        logs.epoch(HISTORY[0])
        raise KeyboardInterrupt
    with open_tracking(spec, run) as logs:  # the same run, taken up again
        for row in HISTORY:
            logs.epoch(row)
        logs.results(REPORT)
    client = MlflowClient(tracking_uri=store)
    experiment = client.get_experiment_by_name("xray-orchestrator")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "train-1"
    assert found.data.params["gamma"] == "1.5"
    assert not any("ward-7" in value or "/k" in value for value in found.data.params.values())
    assert found.data.metrics["validation_auroc"] == 0.9
    assert "validation_ppv" not in found.data.metrics
    steps = {point.step for point in client.get_metric_history(found.info.run_id, "loss")}
    assert steps == {1, 2}


@needs_mlflow
def test_a_run_that_fails_is_failed_in_mlflow(tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    store = f"sqlite:///{tmp_path}/m.db"
    spec = TrainSpec(data="x", mlflow=store)
    with pytest.raises(ValueError), open_tracking(spec, RunDir(tmp_path / "t")):
        raise ValueError
    client = MlflowClient(tracking_uri=store)
    experiment = client.get_experiment_by_name("xray-orchestrator")
    assert client.search_runs([experiment.experiment_id])[0].info.status == "FAILED"


@needs_mlflow
def test_a_store_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    spec = TrainSpec(data="x", mlflow=str(tmp_path / "folder"))
    with (
        pytest.raises(ClusterError, match="MLflow store named by --mlflow failed"),
        open_tracking(spec, RunDir(tmp_path / "t")),
    ):
        pass
