"""Decodes baseline and progressive JPEG by Pillow, as grey or as the samples that were stored."""

from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL.JpegImagePlugin import JpegImageFile

from orchestrator.data.decode.codestream import Codestream


def decode_jpeg(data: bytes, stream: Codestream) -> npt.NDArray[Any]:
    """Returns the samples of a JPEG without any conversion of colours.

    Args:
        data: the stream, with its end marker.
        stream: what its header says: 8 bits, 1 or 3 components.

    Returns:
        uint8 [H, W] or [H, W, 3], of the colour model that was stored.
    """
    image = JpegImageFile(BytesIO(data))
    if stream.num_components == 3 and stream.colour_model != "rgb":
        image.draft("YCbCr", image.size)  # what the library takes it for: nothing is converted
    return np.asarray(image)


def decode_grey_jpeg(data: bytes) -> npt.NDArray[Any]:
    """Returns a JPEG at its full size as grey, uint8 [H, W]."""
    image = JpegImageFile(BytesIO(data))
    image.draft("L", image.size)
    return np.asarray(image)
