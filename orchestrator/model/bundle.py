"""The released model: a folder that can be read and verified without loading the network.

    model.keras      the network, images to probability
    openvino.xml     what scores: images to logit, for CPU workers, with openvino.bin
    README.md        the model card
    card.json        the same for programs, in the fields of Hugging Face's model cards
    golden.json      a few images that are no patient's, and the logits that they gave
    scope.json       what its training images were like, to mark others by; not in older bundles
    openvino_int8.*  the same network in int8, with golden_int8.json; where `quantize` made it
    bundle.json      what it is, and the SHA-256 of every other file; written last

A folder without `bundle.json` is not a bundle, so a half-written one is never used. Reading the
metadata needs no Keras; only `.keras` files are ever loaded, with Keras's safe mode on.

Over 300 lines: all that a bundle says of itself.
"""

import json
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orchestrator import __version__
from orchestrator.config.fields import Calibrated
from orchestrator.errors import BundleError, describe_newer
from orchestrator.evaluation.figures import Calibration, Interval, Threshold
from orchestrator.evaluation.review_rule import ReviewRule
from orchestrator.evaluation.wording import INTENDED_USE
from orchestrator.model.bundle_folder import INFO_FILE
from orchestrator.model.evidence import Ancestor, TrainingEvidence
from orchestrator.model.keras_file import check_keras_file, load_keras_file
from orchestrator.runs.atomic import digest, sha256_file

if TYPE_CHECKING:
    import keras

    from orchestrator.evaluation.scope import ScopeReference

SCHEMA_VERSION = 1
MODEL_FILE = "model.keras"
IR_FILE = "openvino.xml"
IR_WEIGHTS_FILE = "openvino.bin"
CARD_FILE = "README.md"
CARD_DATA_FILE = "card.json"
SCOPE_FILE = "scope.json"
GOLDEN_FILE = "golden.json"  # see `golden.py`; bundles of earlier versions have none
INT8_FILE = "openvino_int8.xml"
INT8_WEIGHTS_FILE = "openvino_int8.bin"
GOLDEN_INT8_FILE = "golden_int8.json"
INT8_FILES = (INT8_FILE, INT8_WEIGHTS_FILE, GOLDEN_INT8_FILE)
REQUIRED_FILES = (MODEL_FILE, IR_FILE, IR_WEIGHTS_FILE, CARD_FILE)

_LISTABLE = frozenset({".keras", ".xml", ".bin", ".md", ".json", ".html", ".svg", ".yaml"})
# Files that some library would run code from; none belongs in a bundle, listed or not.
_REFUSED = frozenset({".h5", ".hdf5", ".pkl", ".pickle", ".joblib", ".dill", ".pt", ".pth"})
_MAX_INFO_BYTES = 4 << 20

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class FileEntry(_Form):
    """Size and hash of one file of the bundle."""

    sha256: Sha256
    size_bytes: Annotated[int, Field(ge=0)]


class Metrics(_Form):
    """How the classifier did on one split."""

    num_images: Annotated[int, Field(ge=0)]
    num_patients: Annotated[int, Field(ge=0)] | None = None
    metrics: dict[str, Interval]


class TrainingData(_Form):
    """What it was trained on; counts are images by split, then by class."""

    fingerprint: str
    counts: dict[str, dict[str, int]]
    population: str | None = None  # whom the images are of, in the words of who trained it


class Recalibration(_Form):
    """The images by which a bundle's calibration and threshold were chosen after its training."""

    date: str  # ISO 8601, UTC
    num_images: Annotated[int, Field(ge=0)]
    num_patients: Annotated[int, Field(ge=0)] | None = None
    counts: dict[str, int]  # images by class
    rule: str
    calibration: Calibrated
    threshold: Interval  # over patients
    fingerprint: str


class Quantized(_Form):
    """A bundle's int8 network: its own operating point, and the gate that it has passed.

    Args:
        date: ISO 8601, UTC.
        arithmetic: by which the gate was passed, as `int8_arithmetics` names it.
        layers_f32: what is not quantised in any network, as regular expressions on layers' names;
            first convolutions, and what swish adds to it, go by the network (`engine/quantize.py`).
        num_calibration: images by which the ranges of values were found.
        threshold: chosen anew: by the bundle's rule where it has a floor, otherwise to call images
            as float32 does; one that was given as a number stays.
        calibration: fitted anew.
        review: chosen anew.
        num_images: labelled ones of the gate, none of them among those above.
        num_patients: whose images these are, where known.
        auroc_change: of int8 less that of float32.
        calls_changed: share of these images that int8 and float32 call differently.
        speed: images/s of int8 over those of float32, on that CPU.
        versions: library -> version.
    """

    date: str
    arithmetic: str
    layers_f32: tuple[str, ...]
    num_calibration: Annotated[int, Field(ge=1)]
    threshold: Threshold
    calibration: Calibration
    review: ReviewRule | None = None
    num_images: Annotated[int, Field(ge=1)]
    num_patients: Annotated[int, Field(ge=0)] | None = None
    auroc_change: Interval
    calls_changed: Interval
    speed: Annotated[float, Field(gt=0)]
    versions: dict[str, str]


class BundleInfo(_Form):
    """All of `bundle.json`.

    `files` is filled by `write_bundle`. `training` is the resolved train spec, JSON-able.
    """

    schema_version: int = SCHEMA_VERSION
    created: str  # ISO 8601, UTC
    orchestrator_version: str = __version__
    class_names: tuple[str, str]
    size_px: Annotated[int, Field(ge=16, le=4096)]
    backbone: str
    weights: str
    num_parameters: Annotated[int, Field(ge=0)]
    num_trainable: Annotated[int, Field(ge=0)]
    threshold: Threshold
    calibration: Calibration
    review: ReviewRule | None = None
    test_time_views: Literal[1, 3] = 1  # whose mean logit is calibrated; see `views.py`
    metrics: dict[str, Metrics]  # split name -> figures; validation, and test where there is one
    data: TrainingData
    training: dict[str, Any]
    seed: int
    versions: dict[str, str]  # library -> version
    intended_use: str = INTENDED_USE
    parent: Sha256 | None = None  # of the bundle that was recalibrated or quantised
    recalibration: Recalibration | None = None
    int8: Quantized | None = None
    evidence: TrainingEvidence | None = (
        None  # of the training; bundles of earlier versions have none
    )
    ancestors: tuple[Ancestor, ...] = ()  # the trained bundle first; empty for one that was trained
    files: dict[str, FileEntry] = {}
    _stored: dict[str, Any] | None = None  # all of `bundle.json`, where it was read

    @property
    def sha256(self) -> str:
        """Identity of the bundle: a SHA-256 over its metadata, which hold every file's hash.

        Over what is stored, so that a field that a later version adds changes no bundle.
        """
        return digest(self.model_dump(mode="json") if self._stored is None else self._stored)

    def as_ancestor(self) -> Ancestor:
        """Returns what the bundles that are made of this one keep of it."""
        last, int8 = self.recalibration, self.int8
        return Ancestor(
            sha256=self.sha256,
            date=int8.date if int8 else last.date if last else self.created,
            num_images=last.num_images if last and not int8 else None,
            threshold=self.threshold,
        )

    def at(self, precision: str) -> "BundleInfo":
        """Returns the same bundle with the operating point of a precision.

        Raises:
            BundleError: it holds no int8 network.
        """
        if precision != "int8":
            return self
        if self.int8 is None:
            raise BundleError(
                f"the bundle {self.sha256[:12]} holds no int8 network; make one that does with "
                "`orchestrator quantize BUNDLE DATA`, or leave --precision int8 out"
            )
        own = ("threshold", "calibration", "review")
        return self.model_copy(update={name: getattr(self.int8, name) for name in own})


def load_info(folder: Path) -> BundleInfo:
    """Reads a bundle's metadata and verifies the size and SHA-256 of every file.

    Needs no Keras.

    Args:
        folder: the bundle.

    Returns:
        The metadata.

    Raises:
        BundleError: not a bundle, of a newer schema, a file missing, changed or refused.
    """
    if not folder.is_dir():
        kind = "is a file" if folder.exists() else "does not exist"
        raise BundleError(
            f"{folder} {kind}; expected a bundle, the folder that `orchestrator train` writes"
        )
    info = _read_info(folder / INFO_FILE)
    required = (*REQUIRED_FILES, *(INT8_FILES if info.int8 else ()))
    missing = [name for name in required if name not in info.files]
    if missing:
        raise BundleError(f"{folder / INFO_FILE} does not list {missing[0]}; write it again")
    for name in sorted(os.listdir(folder)):  # noqa: PTH208 - names, of any bytes
        if Path(name).suffix.lower() in _REFUSED:
            raise BundleError(
                f"the bundle {folder} holds {name}, a kind of file that can run code when "
                "loaded; remove it"
            )
    for name, entry in info.files.items():
        check_name(folder, name)
        _check_file(folder / name, entry)
    check_keras_file(folder / MODEL_FILE)
    return info


def load_scope(folder: Path) -> "ScopeReference | None":
    """Returns what a bundle's training images were like; None where it does not say.

    Its hash is verified by `load_info`, not here.

    Raises:
        BundleError: not a bundle, or the file cannot be read.
    """
    from orchestrator.evaluation.scope import ScopeReference

    if SCOPE_FILE not in _read_info(folder / INFO_FILE).files:
        return None
    path = folder / SCOPE_FILE
    try:
        return ScopeReference.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise BundleError(f"{path} cannot be read; copy the bundle again") from error


def load_network(folder: Path) -> "keras.Model":
    """Verifies a bundle and loads its network.

    Args:
        folder: the bundle.

    Returns:
        A model from images [None, S, S, 1], grey levels 0..255, to probability [None, 1].

    Raises:
        BundleError: as `load_info`, or the network is not of the form the bundle states.
    """
    info = load_info(folder)
    network = load_keras_file(folder / MODEL_FILE)
    expected = (None, info.size_px, info.size_px, 1)
    names = [layer.name for layer in network.layers]
    if network.input_shape != expected or network.output_shape != (None, 1) or "logit" not in names:
        raise BundleError(
            f"{folder / MODEL_FILE} maps {network.input_shape} to {network.output_shape}; expected "
            f"{expected} to (None, 1) through a layer named logit: train the bundle again"
        )
    return network


def _read_info(path: Path) -> BundleInfo:
    """Reads and checks `bundle.json` itself."""
    try:
        if path.stat().st_size > _MAX_INFO_BYTES:
            raise BundleError(f"{path} is over {_MAX_INFO_BYTES} bytes; it is not a bundle's")
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise BundleError(
            f"{path.parent} holds no {INFO_FILE}; it is not a bundle, or its training did not end"
        ) from error
    except OSError as error:
        raise BundleError(f"{path} cannot be read; copy the bundle again") from error
    return parse_info(data, path)


def parse_info(data: bytes, path: Path | str) -> BundleInfo:
    """Returns what a `bundle.json` says; the files that it lists are not looked at.

    Args:
        data: its content.
        path: where it is, for messages.

    Raises:
        BundleError: no bundle's, or of a newer schema.
    """
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path} is not readable JSON; copy the bundle again") from error
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if not isinstance(version, int) or version < 1:
        raise BundleError(
            f"{path} has schema_version {version!r}; expected a whole number: copy the bundle again"
        )
    if version > SCHEMA_VERSION:
        where = str(path).removesuffix(f"/{INFO_FILE}")
        raise BundleError(describe_newer(where, version, SCHEMA_VERSION))
    try:
        info = BundleInfo.model_validate(raw)
        info._stored = raw
        return info
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise BundleError(f"{path}: {where}: {first['msg']}; copy the bundle again") from error


def check_name(folder: Path | str, name: str) -> None:
    """Refuses a listed name that leaves the folder or has a kind no bundle needs."""
    if name in ("", INFO_FILE) or name != Path(name).name or name.startswith("."):
        raise BundleError(f"the bundle {folder} lists {name!r}; expected plain file names")
    if Path(name).suffix.lower() not in _LISTABLE:
        raise BundleError(
            f"the bundle {folder} lists {name!r}, a kind of file that is not loaded; expected "
            f"one of {', '.join(sorted(_LISTABLE))}"
        )


def _check_file(path: Path, entry: FileEntry) -> None:
    """Compares one file with its entry."""
    try:
        found = path.lstat()
    except OSError as error:
        raise BundleError(f"{path} is missing from the bundle; copy the bundle again") from error
    if not stat.S_ISREG(found.st_mode):
        raise BundleError(f"{path} is not a regular file; copy the bundle again")
    if found.st_size != entry.size_bytes or sha256_file(path) != entry.sha256:
        raise BundleError(
            f"{path} differs from what bundle.json records (size or SHA-256); the file was "
            "changed or cut: copy the bundle again"
        )
