"""Golden images: what a bundle gave for them when it was written, to be computed again anywhere.

`golden.json` of a bundle holds two phantoms and two images of noise, never a patient's, with the
logits that Keras gave for them, and `golden_int8.json` with those of its int8 network. They are
drawn small and enlarged to the model's size by repeating pixels, so that every machine has the same
ones. A bundle of an earlier version has no such file: its engines are held against each other.

A network may be chaotic on such images (`engine/export.py`). So the files say by how much its two
engines differed on probe images when it was written, and three times as much is accepted.
"""

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.data.phantoms import draw_phantoms
from orchestrator.errors import BundleError
from orchestrator.model.bundle import GOLDEN_FILE, GOLDEN_INT8_FILE, BundleInfo
from orchestrator.model.engine.base import Array, Engine, EngineName, Precision
from orchestrator.model.engine.load import load_engine
from orchestrator.model.engine.openvino import can_compute

# Largest accepted difference as a share of the logits' scale: float32 on another processor adds in
# another order, and another network is thousands of times farther off. In int8 such a difference
# may round a value to the next step, and others after it.
TOLERANCE = 1e-4
INT8_TOLERANCE = 0.02
_TIMES_CHAOS = 3
NUM_IMAGES = 4
_SIDE_PX = 64  # at most, as stored


@dataclass(frozen=True)
class Replay:
    """The golden images computed again.

    Args:
        engine: `openvino` or `keras`.
        precision: `f32` or `int8`.
        difference: the largest |logit - golden logit| over their scale, the largest magnitude or 1.
        tolerance: the largest accepted difference.
        against: what the logits were held against, in words.
    """

    engine: EngineName
    precision: Precision
    difference: float
    tolerance: float
    against: str

    @property
    def ok(self) -> bool:
        """Whether the difference is within the tolerance; NaN is not."""
        return self.difference <= self.tolerance

    def __str__(self) -> str:
        return self.engine if self.precision == "f32" else f"{self.engine} in {self.precision}"


def render_golden(engine: Engine, difference: float) -> str:
    """Returns what `golden.json` of a bundle, or `golden_int8.json`, is to hold.

    Args:
        engine: of its network; a batch of `NUM_IMAGES` is enough.
        difference: of the float32 network's two engines, as `export_ir` returns it.
    """
    small = _draw(min(engine.size_px, _SIDE_PX))
    logits = engine.logits(_enlarge(small, engine.size_px))
    stored = {
        "side_px": small.shape[1],
        "pixels": base64.b64encode(small.tobytes()).decode(),
        "logits": [float(logit) for logit in logits],
        "difference": difference,
    }
    return json.dumps(stored, allow_nan=False) + "\n"


def replay_bundle(folder: Path, info: BundleInfo) -> list[Replay]:
    """Computes a bundle's golden images with each engine, on this machine.

    Its int8 network is left out where that computes in bfloat16 too and this CPU does not.

    Args:
        folder: the bundle, verified.
        info: what it says of itself.

    Raises:
        BundleError: the golden images cannot be read, or an engine cannot load the bundle.
    """
    if GOLDEN_FILE in info.files:
        images, expected, tolerance = _load(folder / GOLDEN_FILE, info.size_px, "f32")
        against = "the golden outputs"
    else:
        images, expected = _enlarge(_draw(min(info.size_px, _SIDE_PX)), info.size_px), None
        tolerance = TOLERANCE
        against = "Keras: an earlier version wrote the bundle, without golden outputs"
    names: tuple[EngineName, ...] = ("keras", "openvino")
    found = []
    for name in names:
        logits = load_engine(folder, name, batch_size=len(images)).logits(images)
        expected = logits if expected is None else expected
        found.append(Replay(name, "f32", _difference(logits, expected), tolerance, against))
    if info.int8 is not None and can_compute(info.int8.arithmetic):
        images, expected, tolerance = _load(folder / GOLDEN_INT8_FILE, info.size_px, "int8")
        logits = load_engine(folder, "openvino", None, "int8", batch_size=len(images)).logits(
            images
        )
        difference = _difference(logits, expected)
        found.append(Replay("openvino", "int8", difference, tolerance, "the golden outputs"))
    return found


def check_engine(folder: Path, engine: Engine) -> None:
    """Computes golden images with an engine that is about to score.

    In float32 as many as one batch takes, which shows another network. In int8 all of them: a CPU
    that adds otherwise need not show by one. In bf16 and f16 outputs may differ: none is computed.

    Args:
        folder: the bundle, verified; one of an earlier version passes.
        engine: of the bundle.

    Raises:
        BundleError: the outputs differ from those when the bundle was written.
    """
    path = folder / (GOLDEN_INT8_FILE if engine.precision == "int8" else GOLDEN_FILE)
    if engine.precision not in ("f32", "int8") or not path.exists():
        return
    images, expected, tolerance = _load(path, engine.size_px, engine.precision)
    count = len(images) if engine.precision == "int8" else min(len(images), engine.batch_size)
    difference = _difference(engine.logits(images[:count]), expected[:count])
    replay = Replay(engine.name, engine.precision, difference, tolerance, "")
    if not replay.ok:
        raise BundleError(describe_difference(folder, replay))


def describe_difference(folder: Path, replay: Replay) -> str:
    """Returns the message about a bundle that does not give here what it gave when written."""
    what = (
        f"{folder} gives other outputs with {replay} here than when it was written, by "
        f"{replay.difference:.1e} of their scale, expected at most {replay.tolerance:.0e}: "
    )
    if replay.precision == "int8":
        return what + (
            "its network was replaced, or this CPU multiplies bytes otherwise than the one it was "
            "quantised on. Score with --precision f32 here"
        )
    return what + (
        "its network was replaced, or this machine computes wrongly. Copy the bundle again from "
        "where it was trained; if it still fails, do not use its scores from this machine"
    )


def _draw(side_px: int) -> Array:
    """Two phantoms and two images of noise, uint8 [4, side_px, side_px]."""
    noise = np.random.default_rng(0).integers(0, 256, (2, side_px, side_px))
    return np.concatenate([draw_phantoms(side_px), noise.astype(np.uint8)])


def _enlarge(images: Array, size_px: int) -> Array:
    """Repeats pixels up to a size, uint8 [N, size_px, size_px]."""
    places = np.arange(size_px) * images.shape[1] // size_px
    return images[:, places[:, np.newaxis], places]


def load_difference(path: Path) -> float:
    """Returns by how much a network's engines differed when its golden images were written.

    Args:
        path: of `golden.json`; one of an earlier version, or none, says 0.

    Raises:
        BundleError: it cannot be read.
    """
    return float(_read(path).get("difference", 0.0)) if path.exists() else 0.0


def _load(path: Path, size_px: int, precision: Precision) -> tuple[Array, Array, float]:
    """The images, uint8 [N, size_px, size_px], their logits, float32 [N], and the tolerance."""
    stored = _read(path)
    try:
        side_px = int(stored["side_px"])
        logits = np.array(stored["logits"], np.float32)
        pixels = np.frombuffer(base64.b64decode(stored["pixels"]), np.uint8)
        images = _enlarge(pixels.reshape(len(logits), side_px, side_px), size_px)
        chaos = _TIMES_CHAOS * float(stored.get("difference", 0.0))
    except (ValueError, TypeError, KeyError) as error:
        raise BundleError(f"{path} cannot be read; copy the bundle again") from error
    return images, logits, max(INT8_TOLERANCE if precision == "int8" else TOLERANCE, chaos)


def _read(path: Path) -> dict[str, Any]:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(stored, dict):
            return stored
    except (OSError, ValueError) as error:
        raise BundleError(f"{path} cannot be read; copy the bundle again") from error
    raise BundleError(f"{path} holds no golden images; copy the bundle again")


def _difference(logits: Array, expected: Array) -> float:
    return float(np.abs(logits - expected).max() / max(float(np.abs(expected).max()), 1.0))
