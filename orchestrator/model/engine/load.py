"""Inference: uint8 grey images in, logits or features out.

Two engines behind one interface: OpenVINO for CPU workers, which needs neither TensorFlow nor
Keras in the process, and Keras for GPUs. Both run batches of one fixed size, the last one padded,
so that an image's result does not depend on the images it shares a batch with. Exporting a model
for OpenVINO is in `export.py`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import BundleError, SpecError
from orchestrator.model.engine.base import BACKBONE_FILE, Engine, choose_engine
from orchestrator.model.engine.keras import _limit_tensorflow_threads, keras_engine
from orchestrator.model.engine.openvino import int8_arithmetics, openvino_engine

if TYPE_CHECKING:
    from orchestrator.model.bundle import BundleInfo


def choose_precision(precision: str, engine: str, infos: Sequence["BundleInfo"]) -> str:
    """Returns the precision of a whole run: for `auto` int8 where that has been shown to do.

    The gate was passed, and the speed measured, on a CPU that computes in one way. One that cannot
    may give other results.

    Args:
        precision: as `score` takes it.
        engine: that scores.
        infos: of the run's bundles.
    """
    if precision != "auto":
        return precision
    here = int8_arithmetics()
    found = [info.int8 for info in infos]
    pays = all(each is not None and each.arithmetic in here and each.speed > 1 for each in found)
    return "int8" if pays and engine == "openvino" else "f32"


def load_engine(
    folder: Path,
    engine: str = "auto",
    num_threads: int | None = None,
    precision: str = "f32",
    *,
    batch_size: int | None = None,
    sha256: str | None = None,
    with_features: bool = False,
) -> Engine:
    """Loads the engine of a bundle, after checking its hashes, or of an exported backbone.

    Args:
        folder: a bundle, or a folder written by `export.export_backbone`.
        engine: `openvino`, `keras`, or `auto`: Keras on a machine with an NVIDIA GPU that this
            process may use, else OpenVINO, as in int8.
        num_threads: CPU threads to use, >= 1; None for as many as this process may run on.
            TensorFlow keeps to it only where it has not started in this process yet.
        precision: `f32`; `bf16` or `f16`, without whose instructions a CPU is faster in f32; or
            `int8`, with OpenVINO, of a bundle that holds a quantised network.
        batch_size: images a call of the network, >= 1; None for the engine's own.
        sha256: of the bundle that is meant; None for whichever is there.
        with_features: whether a bundle's pooled features follow its logit.

    Returns:
        An engine whose `logits` (bundle) or `predict` (backbone) any thread can call.

    Raises:
        BundleError: a file is missing, changed or of a kind that is not loaded, or the bundle is
            another one than is meant.
        SpecError: unknown engine or precision, or one that this machine does not have.
    """
    loaded = _load(folder, engine, num_threads, precision, batch_size, with_features)
    if sha256 is not None:
        # After loading: what was read in between has these hashes, or they differ now.
        _check_bundle(folder, sha256)
    return loaded


def _check_bundle(folder: Path, sha256: str) -> None:
    from orchestrator.model.bundle import load_info

    found = load_info(folder).sha256
    if found != sha256:
        raise BundleError(
            f"{folder} holds the bundle {found[:12]} and the run began with {sha256[:12]}: it was "
            "replaced; put that one back and run the same command again, or score anew into "
            "another folder"
        )


def _load(
    folder: Path,
    engine: str,
    num_threads: int | None,
    precision: str,
    batch_size: int | None,
    with_features: bool,
) -> Engine:
    from orchestrator.model import bundle

    is_backbone = (folder / BACKBONE_FILE).exists()
    if choose_engine(engine, precision) == "openvino":
        ir = folder / Path(BACKBONE_FILE).with_suffix(".xml")
        if not is_backbone:
            bundle.load_info(folder).at(precision)
            ir = folder / (bundle.INT8_FILE if precision == "int8" else bundle.IR_FILE)
        elif precision == "int8":
            raise SpecError(
                f"{folder} holds a backbone, of which there is no int8 network; compute it in f32, "
                "or name a bundle that `orchestrator quantize` made"
            )
        return openvino_engine(ir, num_threads, precision, batch_size, with_features=with_features)

    from orchestrator.model.keras_file import load_keras_file
    from orchestrator.model.views import scoring_model

    _limit_tensorflow_threads(num_threads)
    if is_backbone:
        return keras_engine(load_keras_file(folder / BACKBONE_FILE), precision, batch_size)
    num_views = bundle.load_info(folder).test_time_views
    model = scoring_model(bundle.load_network(folder), num_views, with_features=with_features)
    return keras_engine(model, precision, batch_size, with_features=with_features)
