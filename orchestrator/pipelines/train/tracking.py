"""Where a training's curves go besides its report: TensorBoard files, and MLflow if asked for.

Both are fed by the driver from the history that the worker writes, so workers need neither, and a
resumed run logs all its epochs.
"""

import contextlib
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from orchestrator.config.specs import TrainSpec
from orchestrator.errors import ClusterError, SpecError
from orchestrator.runs.atomic import write_errors
from orchestrator.runs.run_dir import RunDir

_EXPERIMENT = "xray-orchestrator"
_RUN_TAG = "orchestrator.run_id"
# What must not leave the run: paths, and an address that may hold a password.
_PRIVATE = {"data", "out", "overwrite", "mlflow", "patient_key_file", "limits"}


def check_tracking(spec: TrainSpec) -> None:
    """Raises SpecError where MLflow is asked for and not installed; call it before any work."""
    if spec.mlflow is not None and find_spec("mlflow") is None:
        raise SpecError(
            "--mlflow needs the package mlflow, which is not installed; install it with "
            "`pip install 'xray-orchestrator[mlflow]'`, or leave --mlflow out"
        )


@contextlib.contextmanager
def open_tracking(spec: TrainSpec, run: RunDir) -> Iterator["Tracking"]:
    """Yields what logs a run's epochs and results; closed as failed where the block raises.

    Args:
        spec: the resolved spec.
        run: the run; its earlier TensorBoard files are replaced.

    Raises:
        ClusterError: the MLflow store does not answer.
    """
    tracking = Tracking(spec, run)
    try:
        yield tracking
    except BaseException:
        with contextlib.suppress(Exception):  # the error on its way is the one to show
            tracking.close("FAILED")
        raise
    tracking.close("FINISHED")


class Tracking:
    """The logs of one run.

    Args:
        spec: the resolved spec.
        run: the run.
    """

    def __init__(self, spec: TrainSpec, run: RunDir) -> None:
        self._board = _TensorBoard(run)
        self._mlflow = _MLflow(spec, run) if spec.mlflow is not None else None

    def epoch(self, row: Mapping[str, float]) -> None:
        """Logs one row of the history."""
        self._board.epoch(row)
        if self._mlflow is not None:
            self._mlflow.epoch(row)

    def results(self, report: Mapping[str, Any]) -> None:
        """Logs the metrics of a training report."""
        if self._mlflow is not None:
            self._mlflow.results(report)

    def close(self, status: str) -> None:
        """Ends the logs; `status` is MLflow's: FINISHED or FAILED."""
        self._board.close()
        if self._mlflow is not None:
            self._mlflow.close(status)


class _TensorBoard:
    """Event files under Keras's own names, training and validation in folders of their own."""

    def __init__(self, run: RunDir) -> None:
        from tensorboardX import SummaryWriter

        self._folder = run.tensorboard
        shutil.rmtree(self._folder, ignore_errors=True)
        with write_errors(self._folder):
            # A queue without bounds: a full disk ends the thread that empties it.
            self._writers = {
                name: SummaryWriter(str(self._folder / name), max_queue=0, write_to_disk=True)
                for name in ("train", "validation")
            }

    def epoch(self, row: Mapping[str, float]) -> None:
        epoch = int(row["epoch"])
        for name, value in row.items():
            if name == "epoch":
                continue
            folder = "validation" if name.startswith("val_") else "train"
            plain = "learning_rate" if name == "lr" else name.removeprefix("val_")
            self._writers[folder].add_scalar(f"epoch_{plain}", value, epoch)
        with write_errors(self._folder):
            for writer in self._writers.values():
                writer.flush()

    def close(self) -> None:
        with write_errors(self._folder):
            for writer in self._writers.values():
                writer.close()


class _MLflow:
    """One MLflow run, found again by its tag where the run is resumed."""

    def __init__(self, spec: TrainSpec, run: RunDir) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # it would report its use
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        self._errors: type[Exception] = MlflowException
        with self._answering():
            self._client = MlflowClient(tracking_uri=spec.mlflow)
            known = self._client.get_experiment_by_name(_EXPERIMENT)
            experiment = (
                known.experiment_id if known else self._client.create_experiment(_EXPERIMENT)
            )
            earlier = self._client.search_runs(
                [experiment], f"tags.`{_RUN_TAG}` = '{run.path.name}'", max_results=1
            )
            if earlier:
                self._id = earlier[0].info.run_id
                self._client.update_run(self._id, status="RUNNING")
            else:
                tags = {_RUN_TAG: run.path.name}
                made = self._client.create_run(experiment, tags=tags, run_name=run.path.name)
                self._id = made.info.run_id
                for name, value in spec.model_dump(mode="json", exclude=_PRIVATE).items():
                    self._client.log_param(self._id, name, value)

    def epoch(self, row: Mapping[str, float]) -> None:
        with self._answering():
            for name, value in row.items():
                if name != "epoch":
                    self._client.log_metric(self._id, name, value, step=int(row["epoch"]))

    def results(self, report: Mapping[str, Any]) -> None:
        with self._answering():
            for split in ("validation", "test"):
                for name, figure in (report.get(split) or {}).get("metrics", {}).items():
                    if figure["value"] is not None:
                        self._client.log_metric(self._id, f"{split}_{name}", figure["value"])

    def close(self, status: str) -> None:
        with self._answering():
            self._client.set_terminated(self._id, status)

    @contextlib.contextmanager
    def _answering(self) -> Iterator[None]:
        """Turns what MLflow raises into one line."""
        try:
            yield
        except self._errors as error:
            raise ClusterError(
                f"the MLflow store named by --mlflow failed: {str(error).splitlines()[0]}; check "
                "its address, or leave --mlflow out"
            ) from error
