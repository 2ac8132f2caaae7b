"""Writes Keras models for OpenVINO, and checks that both give the same numbers.

An IR (`.xml` and `.bin`) written here takes uint8 [N, S, S] for any N, gives float32 [N, D] and
keeps float32 weights. Conversion needs TensorFlow; where Keras runs on another backend it happens
in a process of its own. Running an IR is in `openvino.py`.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from orchestrator.errors import BundleError
from orchestrator.model.engine.base import BACKBONE_FILE, Array, Engine, choose_engine
from orchestrator.model.engine.keras import keras_engine
from orchestrator.model.engine.openvino import openvino_engine
from orchestrator.model.keras_file import last_line, load_keras_file
from orchestrator.model.views import scoring_model
from orchestrator.runs.atomic import atomic_path, write_errors

if TYPE_CHECKING:
    import keras

# Largest accepted |OpenVINO - Keras| as a share of the outputs' scale: both compute in float32,
# in another order of additions.
MAX_DIFFERENCE = 3e-5
# A network that was not pretrained may be chaotic on what it was not trained on: where the grey
# levels change by a few roundings in float32, its outputs change far more (EfficientNetB5, trained
# from scratch for 700 steps, on noise: by 5e-2). Its engines may differ by some times as much.
_ROUNDING = 1e-6
_TIMES_CHAOS = 3
_MAX_CHAOS = 0.2
_NUM_PROBES = 8  # images of each kind


def export_backbone(backbone: "keras.Model", folder: Path, num_threads: int | None = None) -> float:
    """Writes a backbone for `load_engine`; `backbone.keras` appears last.

    Args:
        backbone: a model of `build_backbone`.
        folder: made if it is missing.
        num_threads: CPU threads for the check; None for as many as this process may run on.

    Returns:
        The largest difference found between the engines, as `export_ir` does.

    Raises:
        BundleError: the two engines disagree.
    """
    final = folder / BACKBONE_FILE
    difference = export_ir(backbone, final.with_suffix(".xml"), num_threads)
    with atomic_path(final) as temporary:
        backbone.save(temporary)
    return difference


def build_engine(network: "keras.Model", num_views: int, num_threads: int) -> Engine:
    """Returns the engine that `load_engine` would choose, for a model in memory, with features.

    Args:
        network: a model of `build_network`.
        num_views: its test-time views.
        num_threads: CPU threads.

    Returns:
        An engine that gives the logit and the pooled features.

    Raises:
        BundleError: the OpenVINO export disagrees with Keras.
    """
    if choose_engine("auto") == "keras":
        model = scoring_model(network, num_views, with_features=True)
        return keras_engine(model, with_features=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        export_ir(scoring_model(network, num_views), path, num_threads)
        return openvino_engine(path, num_threads, "f32", with_features=True)


def export_ir(model: "keras.Model", path: Path, num_threads: int | None = None) -> float:
    """Writes the IR of a model and checks it against Keras on random and on smooth images.

    Args:
        model: images [None, S, S, 1], grey levels 0..255 -> [None, D].
        path: the `.xml` file to write, whole or not at all; its `.bin` is written beside it, before
            it. Their folder is made.
        num_threads: CPU threads for the check; None for as many as this process may run on.

    Returns:
        The largest |OpenVINO - Keras| over the outputs' scale, which is their largest magnitude,
        for logits at least 1; at most `MAX_DIFFERENCE`, of a chaotic network more.

    Raises:
        BundleError: the difference is larger; no file is written.
        ClusterError: the file system refused a write.
    """
    temporary_root = Path(tempfile.gettempdir())
    with write_errors(temporary_root), tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / path.name
        difference = _export_draft(model, draft, num_threads)
        for written in (draft.with_suffix(".bin"), draft):
            with atomic_path(path.with_name(written.name)) as temporary:
                shutil.copyfile(written, temporary)
    return difference


def _export_draft(model: "keras.Model", path: Path, num_threads: int | None) -> float:
    """Writes the IR, and returns how far it is from Keras, as `export_ir` does."""
    import keras

    if keras.backend.backend() == "tensorflow":
        _convert(model, path)
    else:
        _convert_in_tensorflow(model, path)
    difference = _largest_difference(model, path, num_threads)
    if difference <= MAX_DIFFERENCE:
        return difference
    allowed = max(MAX_DIFFERENCE, min(_TIMES_CHAOS * _chaos(model), _MAX_CHAOS))
    if not difference <= allowed:  # so that NaN fails too
        raise BundleError(
            f"the OpenVINO export of {model.name} differs from Keras by {difference:.1e} of the "
            f"outputs' scale, expected at most {allowed:.0e}; use --engine keras, and "
            "report the backbone"
        )
    return difference


def _convert(model: "keras.Model", path: Path) -> None:
    """Converts a model that runs on TensorFlow."""
    import keras
    import openvino

    size_px = model.input_shape[1]
    images = keras.Input((size_px, size_px), dtype="uint8", name="images")
    grey = keras.ops.cast(keras.ops.expand_dims(images, -1), "float32")
    with tempfile.TemporaryDirectory() as folder:
        draft = str(Path(folder) / "draft.xml")
        keras.Model(images, model(grey)).export(draft, format="openvino", verbose=False)
        converted = openvino.Core().read_model(draft)
        # Every SiLU comes out as an output of its own, through TensorFlow's custom gradient;
        # that would keep each in memory and unfused. Only the first output is the model's.
        result = openvino.opset13.result(converted.output(0).get_node().input_value(0))
        pruned = openvino.Model([result], converted.get_parameters(), model.name)
        openvino.save_model(pruned, path, compress_to_fp16=False)


def _convert_in_tensorflow(model: "keras.Model", path: Path) -> None:
    """Converts a model of another backend through a `.keras` file and a process of its own."""
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": "-1"}
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "model.keras"
        model.save(saved)
        command = [sys.executable, "-m", "orchestrator.model.engine.export", str(saved), str(path)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BundleError(
            f"the OpenVINO export of {model.name} failed: {last_line(Exception(done.stderr))}; "
            "install tensorflow beside this backend"
        )


def _largest_difference(model: "keras.Model", path: Path, num_threads: int | None) -> float:
    """Largest |OpenVINO - Keras| on the probe images, over the scale of the outputs."""
    probes = _probe_images(int(model.input_shape[1]))
    expected = keras_engine(model, batch_size=len(probes)).predict(probes)
    received = openvino_engine(path, num_threads, "f32", len(probes)).predict(probes)
    return _change(expected, received)


def _chaos(model: "keras.Model") -> float:
    """What Keras's own outputs on the probe images change by where the images hardly do."""
    probes = _probe_images(int(model.input_shape[1]))[..., np.newaxis].astype(np.float32)
    first, second = (
        np.asarray(model.predict_on_batch(probes * np.float32(factor)))
        for factor in (1.0, 1.0 - _ROUNDING)
    )
    return _change(first, second)


def _change(expected: Array, received: Array) -> float:
    """The largest difference of outputs over their scale."""
    scale = float(np.abs(expected).max())
    if expected.shape[1] == 1:
        scale = max(scale, 1.0)
    return float(np.abs(expected - received).max()) / max(scale, 1e-30)


def _probe_images(size_px: int) -> Array:
    """Noise images and smooth ones (gratings and ramps), uint8 [2 * _NUM_PROBES, S, S]."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (_NUM_PROBES, size_px, size_px))
    y, x = np.mgrid[0 : 1 : size_px * 1j, 0 : 1 : size_px * 1j]
    fx, fy, phase = rng.uniform(-3, 3, (3, _NUM_PROBES, 1, 1))
    smooth = 127.5 + 127.5 * np.sin(2 * np.pi * (fx * x + fy * y) + phase)
    return np.concatenate([noise, smooth]).astype(np.uint8)


if __name__ == "__main__":
    _convert(load_keras_file(Path(sys.argv[1])), Path(sys.argv[2]))
