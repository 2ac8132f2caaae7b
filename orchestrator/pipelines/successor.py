"""A run that makes a bundle of another one, whose network stays: quantise and recalibrate."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from orchestrator.config.quantize import QuantizeSpec
from orchestrator.config.specs import RecalibrateSpec, Resources
from orchestrator.data.decode.images import DECODER_VERSION
from orchestrator.data.listing.inputs import check_inputs
from orchestrator.errors import SpecError
from orchestrator.model.bundle_folder import INFO_FILE
from orchestrator.progress import Reporter
from orchestrator.registry.reference import Model, open_model
from orchestrator.runs.life_cycle import BundleFolder, OpenRun, open_run
from orchestrator.runs.run_dir import new_run_id

_Spec = TypeVar("_Spec", QuantizeSpec, RecalibrateSpec)


@dataclass(frozen=True)
class SuccessorResult:
    """What a run made of a bundle.

    Args:
        bundle: folder of the new bundle.
        run: folder of the run.
        report: as in `report.json`.
    """

    bundle: Path
    run: Path
    report: dict[str, Any]


@contextlib.contextmanager
def open_successor(
    kind: str, spec: _Spec, resources: Resources, reporter: Reporter, run_folder: Path | None
) -> Iterator[tuple[_Spec, Model, BundleFolder, OpenRun]]:
    """Opens the bundle and claims the folders of the new one and of the run; see `open_run`.

    Args:
        kind: of the run.
        spec: of the command.
        resources: what to use of the cluster.
        reporter: told where this process waits for another one.
        run_folder: of the run; the one that the bundle's folder names, or a new one under `runs/`
            otherwise.

    Yields:
        The spec with the model that an alias stands for now, that model, the folder of the new
        bundle, and the run.

    Raises:
        SpecError: the output folder is taken, or is the bundle's own.
        DataError: there are no such images.
        BundleError: the bundle cannot be used.
        ClusterError: the file system refused a write.
    """
    model = open_model(spec.model)
    check_inputs([spec.data])
    spec = spec.model_copy(update={"model": model.name})
    out = Path(spec.out or Path("models", new_run_id(kind))).absolute()
    if out.resolve() == model.folder:
        raise SpecError(f"--out {out} is the bundle itself; name another folder")
    bundle = BundleFolder(out, INFO_FILE)
    others = {"models": [model.info.sha256], "decoder": DECODER_VERSION}
    with open_run(
        kind, run_folder, spec, resources, reporter=reporter, others=others, bundle=bundle
    ) as opened:
        yield spec, model, bundle, opened
