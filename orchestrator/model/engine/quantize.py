"""Quantises a bundle's OpenVINO network to int8, with NNCF, which is an extra: `int8`.

Running what is written here needs OpenVINO alone.
"""

import contextlib
import importlib.metadata
import io
import logging
from pathlib import Path
from typing import Any

from orchestrator.errors import BundleError, SpecError
from orchestrator.model.engine.base import Array
from orchestrator.model.keras_file import last_line
from orchestrator.model.network import HEAD_LAYERS

# Regular expressions; what has a match in its name stays in float32.
LAYERS_F32 = tuple(f"/{name}" for name in HEAD_LAYERS)


def check_nncf() -> str:
    """Returns NNCF's version.

    Raises:
        SpecError: it is not installed.
    """
    try:
        return importlib.metadata.version("nncf")
    except importlib.metadata.PackageNotFoundError as error:
        raise SpecError(
            "quantising needs NNCF, which is not installed; install the extra: "
            "pip install 'xray-orchestrator[int8]'"
        ) from error


def quantize_ir(source: Path, target: Path, images: Array) -> None:
    """Writes the int8 network of an IR.

    Args:
        source: the `.xml` file of a bundle, its `.bin` beside it.
        target: the `.xml` file to write, in a folder that is there.
        images: uint8 [N, S, S], like those that it will score; their values give the ranges.

    Raises:
        SpecError: NNCF is not installed.
        BundleError: it cannot quantise this network.
    """
    check_nncf()
    import nncf
    import openvino

    nncf.set_log_level(logging.ERROR)
    try:
        # It draws bars on the standard output, which is the command's own.
        with contextlib.redirect_stdout(io.StringIO()):
            network: Any = nncf.quantize(
                openvino.Core().read_model(source),
                nncf.Dataset([images[place : place + 1] for place in range(len(images))]),
                subset_size=len(images),
                preset=nncf.QuantizationPreset.MIXED,
                ignored_scope=nncf.IgnoredScope(
                    patterns=[f".*{name}.*" for name in LAYERS_F32], validate=False
                ),
            )
    except (RuntimeError, ValueError) as error:
        raise BundleError(f"NNCF cannot quantise {source}: {last_line(error)}") from error
    openvino.save_model(network, target, compress_to_fp16=False)
