"""Files that would take all memory are rejected by their headers, in no time and no memory."""

import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.data.decode.images import Limits, decode
from orchestrator.data.decode.jpeg2000 import check_jpeg2000_parts
from orchestrator.errors import ImageError
from tests.data.field.bombs import BOMBS, in_dicom, precincts, strips
from tests.data.field.dicom_tools import (
    J2K,
    LS,
    colours,
    jpeg2000,
    jpegls,
    lossless,
    native,
    overlaid,
    rle,
    twelve,
    wrapped,
)
from tests.data.field.picture_tools import bmp, png, tiff, with_opacity
from tests.data.make_images import make_chest, write_picture

LIMITS = Limits()


@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb_of_many_parts_is_rejected_by_its_header(kind: str) -> None:
    data = BOMBS[kind]()
    started_s = time.process_time()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ImageError) as caught:
        decode(data, 64, LIMITS)
    assert caught.value.code == "too_many_parts"
    assert kind.split()[0] in caught.value.message
    assert time.process_time() - started_s < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 << 10  # KiB


@pytest.mark.parametrize("options", [{}, {"codec_format": 1}])
def test_the_parts_of_a_real_stream_are_few(options: dict[str, int]) -> None:
    check_jpeg2000_parts(jpeg2000(twelve(make_chest(640, 500)), 12, **options))


def test_a_small_image_may_have_as_many_parts_as_pixels() -> None:
    with pytest.raises(ImageError) as caught:
        decode(in_dicom(precincts(400, 400), 400, 400), 64, LIMITS)
    assert caught.value.code != "too_many_parts"  # 160,000 precincts of nothing
    with pytest.raises(ImageError) as caught:
        decode(strips(4000), 64, LIMITS)
    assert caught.value.code == "no_contrast"  # an image of zeros


@pytest.mark.parametrize("kind", ["png", "tiff", "bmp", "gif"])
def test_pixels_are_held_against_the_limit_on_memory(kind: str) -> None:
    data = write_picture(make_chest(200, 200), kind)
    with pytest.raises(ImageError) as caught:
        decode(data, 64, Limits(max_memory=1_000_000))
    assert caught.value.code == "out_of_memory"
    assert "200 x 200 px may take 1200000 bytes, over 1000000" in caught.value.message
    assert decode(data, 64, Limits(max_memory=1_200_000)).pixels.std() > 10


def test_a_jpeg_takes_less_memory_a_pixel() -> None:
    data = write_picture(make_chest(200, 200), "jpeg")
    assert decode(data, 64, Limits(max_memory=320_000)).pixels.std() > 10
    with pytest.raises(ImageError, match="may take 320000 bytes"):
        decode(data, 64, Limits(max_memory=319_999))


def test_no_format_takes_more_memory_than_pixels_are_counted_with(tmp_path: Path) -> None:
    grey = make_chest(2400, 2000)
    deep = with_opacity(colours(twelve(grey)), 65535)
    files = {
        "png rgba of 16": png(deep, 6),
        "png grey alpha of 16": png(with_opacity(twelve(grey), 65535), 4),
        "tiff rgba of 16": tiff(deep, 2, ExtraSamples=2),
        "bmp of 32": bmp(grey, 255, 124),
        "dicom rgb of 16": native(colours(twelve(grey)), 16),
        "dicom with an overlay": native(overlaid(grey), 12),
        "dicom jpeg lossless": lossless(twelve(grey), 12),
        "dicom jpeg-ls": wrapped(twelve(grey), 12, LS, jpegls(twelve(grey), 12)),
        "dicom jpeg 2000": wrapped(twelve(grey), 12, J2K, jpeg2000(twelve(grey), 12)),
        "dicom rle": rle(twelve(grey), 12),
    }
    for number, data in enumerate(files.values()):
        (tmp_path / f"{number}").write_bytes(data)
    # A process each, of one that has the decoders loaded.
    program = """
import os, pathlib, sys
from orchestrator.data.decode import dicom
from orchestrator.data.decode.decoder_process import limit_memory
from orchestrator.data.decode.images import Limits, decode
for number, name in enumerate(sys.argv[2:]):
    data = pathlib.Path(sys.argv[1], str(number)).read_bytes()
    child = os.fork()
    if child == 0:
        limit_memory(2400 * 2000 * 30)
        decode(data, 64, Limits())
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit(name)
"""
    command = [sys.executable, "-c", program, str(tmp_path), *files]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-500:]
