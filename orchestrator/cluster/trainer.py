"""Ray Train's trainer of one group of workers, with what our runs need of it and no more.

It is Ray's `DataParallelTrainer` with the process group set-up of its `TensorflowTrainer`, which is
all that class adds. `TensorflowTrainer` itself cannot be imported without TensorFlow, in the driver
and again in the controller, at 4 to 7 s each; here only the workers import it.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.backend import Backend, BackendConfig
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2.api.config import LoggingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from orchestrator.cluster.leaving import heed_sigterm
from orchestrator.config.workers import Session

_SET_UP_S = 300.0


class _WorkerGroupBackend(Backend):
    """Tells each worker the addresses of all, in the form that `tf.distribute` reads."""

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Prepares every worker of the group before the loop begins."""
        import ray

        addresses = worker_group.execute(_free_address)
        ray.get(
            [
                worker_group.execute_single_async(
                    rank, _prepare_worker, addresses=addresses, index=rank
                )
                for rank in range(len(worker_group))
            ],
            timeout=_SET_UP_S,
        )


@dataclass
class WorkerGroupConfig(BackendConfig):
    """Process group of TensorFlow workers."""

    @property
    def backend_cls(self) -> type[Backend]:
        """The class that sets the group up."""
        return _WorkerGroupBackend


def _free_address() -> str:
    from ray._common.network_utils import build_address
    from ray.train._internal.utils import get_address_and_port

    address, port = get_address_and_port()
    return str(build_address(address, port))


def _prepare_worker(addresses: list[str], index: int) -> None:
    heed_sigterm()
    os.environ["TF_CONFIG"] = json.dumps(
        {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
    )


class _GroupPolicy(FixedScalingPolicy):
    """A group of a given size, for which `await_room` has found room.

    Ray's own asks for that room too, through a process that would be started for it.
    """

    def after_controller_start(self, train_run_context: Any) -> None:
        """Asks nobody."""

    def _maybe_send_resource_request(self) -> None:
        """Asks nobody."""


class _GroupTrainer(DataParallelTrainer):
    """Ray's trainer without processes that have nothing to do here, at 2 to 3 CPU seconds each."""

    def _create_default_callbacks(self) -> list[Any]:
        """All but that of Ray Data, and in a driver that which gives the group's places back.

        Ray itself gives them back when a driver ends, but not when an actor does: that of a trial.
        """
        unused: tuple[type, ...] = (DatasetsCallback,)
        if ray.get_runtime_context().get_actor_id() is None:
            unused += (PlacementGroupCleanerCallback,)
        return [
            each for each in super()._create_default_callbacks() if not isinstance(each, unused)
        ]

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        arguments["scaling_policy"] = _GroupPolicy(self.scaling_config)
        return super()._initialize_and_run_controller(**arguments)


def build_trainer(
    run: Callable[[], Any], storage: Path, num_workers: int, session: Session
) -> DataParallelTrainer:
    """The trainer of one group, which ends with the first worker that fails."""
    return _GroupTrainer(
        # Not with a `train_loop_config`, which Ray's dashboard may show: arguments name images.
        lambda: run(),
        backend_config=WorkerGroupConfig(),
        scaling_config=ScalingConfig(
            num_workers=num_workers,
            use_gpu=session.gpus_per_worker > 0,
            resources_per_worker=session.size,
        ),
        run_config=RunConfig(
            name=storage.name,
            storage_path=str(storage.parent),
            failure_config=FailureConfig(
                max_failures=0, controller_failure_limit=0, max_preemption_failures=0
            ),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )
