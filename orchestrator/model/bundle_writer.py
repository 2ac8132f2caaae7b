"""Writes a bundle: the released model with its calibration, threshold, metrics and model card.

Its network is a trained one, or that of another bundle.
"""

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from orchestrator.runs.atomic import atomic_path, sha256_file, write_errors, write_text
from orchestrator.runs.folders import make_folder, sync_folder

if TYPE_CHECKING:
    import keras
from orchestrator.errors import BundleError
from orchestrator.model.bundle import (
    CARD_DATA_FILE,
    CARD_FILE,
    GOLDEN_FILE,
    INT8_FILES,
    IR_FILE,
    MODEL_FILE,
    REQUIRED_FILES,
    SCOPE_FILE,
    BundleInfo,
    FileEntry,
    check_name,
)
from orchestrator.model.bundle_folder import INFO_FILE


def write_bundle(
    folder: Path,
    network: "keras.Model",
    info: BundleInfo,
    *,
    extra: Mapping[str, str] | None = None,
    num_threads: int | None = None,
) -> BundleInfo:
    """Writes a bundle; `bundle.json` comes last, and an old one is removed first.

    Args:
        folder: made if it is missing; other files in it stay.
        network: a model of `build_network`, trained.
        info: the metadata; its `files` are ignored.
        extra: more text files to keep and hash, plain name -> content, e.g. `report.html`.
        num_threads: CPU threads for checking the export; None for all.

    Returns:
        The metadata as written, with `files`.

    Raises:
        BundleError: the OpenVINO export disagrees with Keras, or a name is not a plain one.
        ClusterError: the file system refused a write.
    """
    from orchestrator.model.engine.export import export_ir
    from orchestrator.model.engine.keras import keras_engine
    from orchestrator.model.golden import NUM_IMAGES, render_golden
    from orchestrator.model.views import scoring_model

    texts = _begin(folder, info, extra)
    with atomic_path(folder / MODEL_FILE) as temporary:
        # A fresh model over the same layers: without the optimizer's state.
        type(network)(network.input, network.output, name=network.name).save(temporary)
    scoring = scoring_model(network, info.test_time_views)
    difference = export_ir(scoring, folder / IR_FILE, num_threads)
    engine = keras_engine(scoring, batch_size=NUM_IMAGES)
    golden = render_golden(engine, difference)
    return _finish(folder, info, texts | {GOLDEN_FILE: golden})


def copy_bundle(
    parent: Path,
    folder: Path,
    info: BundleInfo,
    *,
    extra: Mapping[str, str] | None = None,
    added: Mapping[str, Path] = MappingProxyType({}),
) -> BundleInfo:
    """Writes a bundle with the network of another one, as `write_bundle` does.

    Args:
        parent: the other bundle.
        folder: as for `write_bundle`.
        info: the metadata, with the parent's `files`.
        extra: as for `write_bundle`.
        added: further files, plain name -> where it is now.

    Returns:
        The metadata as written.

    Raises:
        BundleError: the parent's network is no longer that of `info`, or a name is not a plain one.
        ClusterError: the file system refused a write.
    """
    scope = parent / SCOPE_FILE
    stored = scope.read_text(encoding="utf-8") if SCOPE_FILE in info.files else None
    texts = _begin(folder, info, extra, stored)
    # The parent's int8 network has the parent's operating point.
    copied = {name: parent / name for name in info.files if name not in {*texts, *INT8_FILES}}
    for name, path in {**copied, **added}.items():
        with atomic_path(folder / name) as temporary:
            shutil.copyfile(path, temporary)
        if name in copied and sha256_file(folder / name) != info.files[name].sha256:
            raise BundleError(f"{path} was changed meanwhile; copy the bundle again")
    return _finish(folder, info, texts, {**copied, **added})


def _begin(
    folder: Path, info: BundleInfo, extra: Mapping[str, str] | None, scope: str | None = None
) -> dict[str, str]:
    """Makes the folder no bundle until it is finished; returns its text files."""
    from orchestrator.model.card import render_card
    from orchestrator.model.card_data import render_card_data

    scope = (extra or {}).get(SCOPE_FILE, scope)
    about = (info, None if scope is None else json.loads(scope))
    texts = {CARD_FILE: render_card(*about), CARD_DATA_FILE: render_card_data(*about)}
    texts |= extra or {}
    for name in texts:
        check_name(folder, name)
    with write_errors(folder):
        make_folder(folder)
        (folder / INFO_FILE).unlink(missing_ok=True)
        sync_folder(folder)
    return texts


def _finish(
    folder: Path, info: BundleInfo, texts: Mapping[str, str], copied: Iterable[str] = ()
) -> BundleInfo:
    """Writes the text files and, last, what the bundle is."""
    for name, text in texts.items():
        write_text(folder / name, text)
    names = sorted({*REQUIRED_FILES, *copied, *texts})
    files = {
        name: FileEntry(
            sha256=sha256_file(folder / name), size_bytes=(folder / name).stat().st_size
        )
        for name in names
    }
    written = info.model_copy(update={"files": files})
    written._stored = None  # a copy would keep that of the bundle it was read from
    write_text(folder / INFO_FILE, written.model_dump_json(indent=2) + "\n")
    return written
