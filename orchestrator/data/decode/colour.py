"""From colour samples to grey, whichever colour model they are really in.

X-rays stored in colour are grey, so the samples themselves tell the model better than a header
does: in RGB the three are alike, in YCbCr the second and third lie at the middle.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from orchestrator.data.decode.grey import reduce_colour
from orchestrator.data.decode.rules import GreyImage

_STEP = 4  # every fourth pixel of every fourth row is looked at
_CLEAR = 4  # one reading must be so many times the better one to overrule what the file says


def colour_to_grey(samples: npt.NDArray[Any], bits: int, *, is_ybr: bool) -> GreyImage:
    """Returns colour samples as grey: ITU-R 601 luma.

    Args:
        samples: uint8 or uint16 [H, W, 3], RGB or YCbCr, not subsampled.
        bits: the declared depth, 1 to 16.
        is_ybr: whether the file says YCbCr.

    Returns:
        The image, its rule and whether the file was wrong about the model.

    Reference: ITU-R BT.601; DICOM PS3.3 C.7.6.3.1.2 (YBR_FULL).
    """
    rule = "as_stored"
    if samples.dtype.itemsize > 1:
        in_depth = (samples & ((1 << bits) - 1)).astype(np.uint16)
        samples, rule = reduce_colour(in_depth, max(bits, 8))
    found = is_luma_chroma(samples, is_ybr=is_ybr)
    notes = ("colour_model_corrected",) if found != is_ybr else ()
    if found:
        size = samples.shape[1::-1]
        rgb = Image.frombytes("YCbCr", size, samples.tobytes()).convert("RGB")
    else:
        rgb = Image.fromarray(samples)
    return GreyImage(rgb.convert("L"), rule, notes)


def is_luma_chroma(samples: npt.NDArray[np.uint8], *, is_ybr: bool) -> bool:
    """Tells whether colour samples are YCbCr.

    Args:
        samples: uint8 [H, W, 3].
        is_ybr: whether the file says so, which decides where the samples leave it open.
    """
    seen = samples[::_STEP, ::_STEP].astype(np.int64)
    from_middle = np.abs(seen[..., 1:] - 128).mean()
    from_first = np.abs(seen[..., 1:] - seen[..., :1]).mean()
    if from_middle * _CLEAR < from_first:
        return True
    if from_first * _CLEAR < from_middle:
        return False
    return is_ybr
