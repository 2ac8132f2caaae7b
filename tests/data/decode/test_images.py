import hashlib
import logging
import pickle
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from orchestrator.data.decode.images import DecodedImage, Limits, decode
from orchestrator.data.decode.perceptual import perceptual_hash
from orchestrator.data.limits import Stopwatch, rejection
from orchestrator.errors import ImageError
from tests.conftest import PUBLIC_DATA
from tests.data.decode.decoded import LIMITS, rejected
from tests.data.make_images import PICTURE_WAYS, SIDE_PX, make_chest, save, write_picture

# Under pytest the package's own filter is not in force
pytestmark = pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")

CANARY = "Canary^Jane 19660101"
FULLRES = PUBLIC_DATA / "fullres"


def largest_difference(image: DecodedImage, grey: np.ndarray) -> int:
    return int(np.abs(image.pixels.astype(int) - grey).max())


def by_hand(data: bytes, full_scale: int = 65535) -> np.ndarray:
    """Returns the full-size grey of a file through Pillow alone."""
    image = Image.open(BytesIO(data))
    if image.format != "TIFF":  # Pillow turns TIFF itself
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        sixteen = np.asarray(image).astype(float)
        if image.format == "TIFF" and image.tag_v2[262] == 0:
            sixteen = full_scale - sixteen
        return np.rint(sixteen * (255 / full_scale))
    return np.asarray(image.convert("RGB").convert("L"))


@pytest.mark.parametrize("way", PICTURE_WAYS)
def test_every_way_of_writing_gives_the_same_pixels(way, chest):
    data = write_picture(chest, way)
    image = decode(data, SIDE_PX, LIMITS)
    assert largest_difference(image, chest) <= PICTURE_WAYS[way]
    expected = by_hand(data, full_scale=4095 if "12" in way else 65535)
    assert largest_difference(image, expected) <= 1  # luma taken before or after RGB rounding
    assert image.pixels.dtype == np.uint8
    assert image.pixels.flags.c_contiguous
    assert (image.width_px, image.height_px) == (SIDE_PX, SIDE_PX)
    assert image.sha256 == hashlib.sha256(data).hexdigest()
    assert image.patient_id is None


@pytest.mark.parametrize("way", PICTURE_WAYS)
@pytest.mark.parametrize("kept", [0.5, 0.95])
def test_a_file_cut_short_is_rejected(way, kept, chest):
    data = write_picture(chest, way)
    assert rejected(data[: int(len(data) * kept)]).code == "damaged"


def test_content_not_name_tells_the_format(chest):
    assert rejected(b"hello, this is text").code == "not_an_image"
    assert rejected(b"").code == "empty_file"
    assert rejected(b"%PDF-1.7 ...").code == "not_an_image"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_orientation_is_applied_to_pixels_and_size(orientation, kind, chest):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(make_chest(80, 50))
    options = {"tiffinfo": {274: orientation}} if kind == "TIFF" else {"exif": exif}
    if kind == "JPEG":
        options["quality"] = 98
    data = save(stored, kind, **options)
    stored.getexif()[0x0112] = orientation
    shown = ImageOps.exif_transpose(stored)
    image = decode(data, 40, LIMITS)
    assert (image.width_px, image.height_px) == shown.size
    expected = np.asarray(shown.resize((40, 40), Image.Resampling.BILINEAR), int)
    assert np.abs(image.pixels - expected).mean() < 1.5


def test_broken_exif_leaves_the_image_as_stored(chest):
    exif = b"Exif\0\0II*\0\xff\xff\xff\xff"
    image = decode(save(Image.fromarray(chest), "PNG", exif=exif), SIDE_PX, LIMITS)
    assert largest_difference(image, chest) == 0


@pytest.mark.parametrize("size", [(1500, 1200), (700, 2100), (300, 301), (64, 64), (40, 30)])
def test_resize_is_pillows_antialiased_stretch(size):
    grey = Image.fromarray(make_chest(*size))
    expected = np.asarray(grey.resize((64, 64), Image.Resampling.BILINEAR), int)
    png = decode(save(grey, "PNG"), 64, LIMITS)
    assert np.abs(png.pixels - expected).max() <= 2
    jpeg = decode(save(grey, "JPEG", quality=98), 64, LIMITS)
    assert np.abs(jpeg.pixels - expected).max() <= 6
    assert np.abs(jpeg.pixels - expected).mean() < 1
    assert (jpeg.width_px, jpeg.height_px) == size


def test_transparent_parts_become_black(chest):
    image = Image.fromarray(chest).convert("LA")
    image.putalpha(Image.fromarray((np.arange(SIDE_PX * SIDE_PX) % 2 * 255).astype(np.uint8)
                                   .reshape(SIDE_PX, SIDE_PX)))  # fmt: skip
    decoded = decode(save(image, "PNG"), SIDE_PX, LIMITS).pixels
    assert (decoded[:, 0::2] == 0).all()
    assert (decoded[:, 1::2] == chest[:, 1::2]).all()


def test_transparent_colour_of_a_grey_png_becomes_black():
    grey = np.full((SIDE_PX, SIDE_PX), 90, np.uint8)
    grey[:10] = 200
    decoded = decode(save(Image.fromarray(grey), "PNG", transparency=200), SIDE_PX, LIMITS).pixels
    assert (decoded[:10] == 0).all()
    assert (decoded[10:] == 90).all()


@pytest.mark.parametrize(("highest", "full_scale"), [(255, 255), (256, 1023), (4095, 4095),
                                                     (4096, 16383), (65535, 65535)])  # fmt: skip
def test_16_bit_grey_is_scaled_by_its_depth(highest, full_scale):
    ramp = np.linspace(0, highest, SIDE_PX * SIDE_PX).astype(np.uint16)
    data = save(Image.fromarray(ramp.reshape(SIDE_PX, SIDE_PX)), "PNG")
    expected = np.rint(ramp * (255 / full_scale)).reshape(SIDE_PX, SIDE_PX)
    assert largest_difference(decode(data, SIDE_PX, LIMITS), expected) == 0


@pytest.mark.parametrize("mode", ["I", "F"])
def test_32_bit_pixels_are_rejected(mode, chest):
    data = save(Image.fromarray(chest).convert(mode), "TIFF")
    assert rejected(data).code == "unsupported_pixels"


def test_lab_is_rejected(chest):
    data = save(Image.merge("LAB", [Image.fromarray(chest)] * 3), "TIFF")
    assert rejected(data).code == "unsupported_pixels"


def with_bad_checksum(png: bytes, chunk: bytes) -> bytes:
    start = png.index(chunk)
    end = start + 4 + int.from_bytes(png[start - 4 : start], "big")
    return png[:end] + bytes([png[end] ^ 1]) + png[end + 1 :]


@pytest.mark.parametrize("chunk", [b"IHDR", b"IDAT"])
def test_png_with_a_bad_checksum_is_rejected(chunk, chest):
    assert rejected(with_bad_checksum(write_picture(chest, "png"), chunk)).code == "damaged"


def test_jpeg_whose_second_half_was_zeroed_is_rejected(chest):
    data = write_picture(chest, "jpeg")
    half = len(data) // 2
    assert "end marker" in rejected(data[:half] + bytes(len(data) - half)).message


def test_jpeg_with_a_thumbnail_and_trailing_bytes_decodes(chest):
    thumbnail = write_picture(make_chest(16, 16), "jpeg")
    data = write_picture(chest, "jpeg")
    app1 = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    image = decode(data[:2] + app1 + data[2:] + b"trailing bytes", SIDE_PX, LIMITS)
    assert largest_difference(image, chest) <= 4


def bombs() -> dict[str, bytes]:
    """Returns small files whose headers claim 20000 x 20000 px or tiles of that size."""
    small = make_chest(16, 16)
    side = 20000
    png = bytearray(write_picture(small, "png"))
    png[16:24] = struct.pack(">II", side, side)
    png[29:33] = struct.pack(">I", zlib.crc32(png[12:29]))
    bmp = bytearray(write_picture(small, "bmp"))
    bmp[18:26] = struct.pack("<ii", side, side)
    jpeg = bytearray(write_picture(small, "jpeg"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", side, side)
    gif = bytearray(write_picture(small, "gif"))
    gif[6:10] = struct.pack("<HH", side, side)
    gif_frame = bytearray(write_picture(small, "gif"))
    at = gif_frame.index(b",\0\0\0\0\x10\0\x10\0")
    gif_frame[at + 5 : at + 9] = struct.pack("<HH", side, side)
    tiff = write_picture(small, "tiff")
    for tag in (256, 257):
        entry = tiff.index(struct.pack("<H", tag), 8)
        tiff = tiff[: entry + 2] + struct.pack("<HII", 4, 1, side) + tiff[entry + 12 :]
    return {
        "png": bytes(png),
        "bmp": bytes(bmp),
        "jpeg": bytes(jpeg),
        "gif": bytes(gif),
        "gif frame": bytes(gif_frame),
        "tiff": tiff,
        "tiff tile": tiff_with_tile(side),
    }


def tiff_with_tile(side: int) -> bytes:
    """Returns a 16 x 16 TIFF that says it is stored as one Deflate tile of a given side."""
    body = zlib.compress(bytes(1024))
    tags = [(256, 16), (257, 16), (258, 8), (259, 8), (262, 1), (277, 1), (322, side), (323, side)]
    num_entries = len(tags) + 2
    data_at = 8 + 2 + 12 * num_entries + 4
    tags += [(324, data_at), (325, len(body))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    head = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", num_entries)
    return head + entries + bytes(4) + body


@pytest.mark.parametrize("kind", bombs())
def test_bombs_are_rejected_by_their_header(kind):
    started_s = time.process_time()
    assert rejected(bombs()[kind]).code == "too_many_pixels"
    assert time.process_time() - started_s < 0.2  # 400 million pixels take seconds


def test_a_tile_within_the_limit_decodes():
    assert rejected(tiff_with_tile(32), size_px=16).code == "no_contrast"  # it is all black


def test_jpeg_with_endless_scans_is_rejected(chest):
    data = write_picture(chest, "jpeg progressive")
    scan = data.index(b"\xff\xda")
    segment = data[scan : data.index(b"\xff", scan + 20)]
    error = rejected(data[:scan] + segment * 101 + data[scan:])
    assert (error.code, "scans" in error.message) == ("too_slow", True)


@pytest.mark.parametrize("way", ["tiff pages", "gif animated"])
def test_too_many_frames_are_rejected_and_fewer_give_the_first(way, chest):
    data = write_picture(chest, way)  # three frames
    assert rejected(data, Limits(max_frames=2)).code == "too_many_frames"
    assert largest_difference(decode(data, SIDE_PX, Limits(max_frames=3)), chest) == 0


def test_frames_of_an_animated_png_are_counted(chest):
    image = Image.fromarray(chest)
    others = [Image.new("L", image.size, level) for level in (1, 2)]
    data = save(image, "PNG", save_all=True, append_images=others)
    assert rejected(data, Limits(max_frames=2)).code == "too_many_frames"
    assert largest_difference(decode(data, SIDE_PX, LIMITS), chest) == 0


def test_limits_on_bytes_pixels_and_seconds(chest):
    data = write_picture(chest, "png")
    assert rejected(data, Limits(max_bytes=len(data) - 1)).code == "too_large"
    assert rejected(data, Limits(max_pixels=SIDE_PX**2 - 1)).code == "too_many_pixels"
    assert rejected(data, Limits(max_seconds=0)).code == "too_slow"
    exact = Limits(max_bytes=len(data), max_pixels=SIDE_PX**2)
    assert largest_difference(decode(data, SIDE_PX, exact), chest) == 0


def test_stopwatch_counts_processor_time_only():
    watch = Stopwatch(0.05)
    time.sleep(0.1)
    watch.check()
    until_s = time.thread_time() + 0.06
    while time.thread_time() < until_s:
        pass
    with pytest.raises(ImageError, match=r"took over 0\.05 s"):
        watch.check()


def test_rejection_says_what_was_found_and_what_to_do():
    error = rejection("empty_file", "The file holds no bytes")
    assert error.message == "The file holds no bytes. Copy it again from its source."
    with pytest.raises(KeyError):
        rejection("no_such_code", "x")


def test_hash_is_that_of_the_decoded_pixels(chest):
    image = decode(write_picture(chest, "png"), 64, LIMITS)
    mirrored = decode(save(ImageOps.mirror(Image.fromarray(chest)), "PNG"), 64, LIMITS)
    assert image.phash == perceptual_hash(image.pixels) != mirrored.phash


def test_threads_give_what_one_thread_gives(chest):
    files = [write_picture(chest, way) for way in PICTURE_WAYS] * 3
    alone = [decode(data, 50, LIMITS) for data in files]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda data: decode(data, 50, LIMITS), files))
    for one, other in zip(alone, together, strict=True):
        assert (one.pixels == other.pixels).all()
        assert (one.sha256, one.phash) == (other.sha256, other.phash)


def pictures_with_text(chest: np.ndarray) -> dict[str, bytes]:
    """Returns files with a canary wherever a format has room for text."""
    image = Image.fromarray(chest)
    exif = Image.Exif()
    exif[0x010E] = exif[0x9286] = CANARY
    png = PngImagePlugin.PngInfo()
    png.add_text("Comment", CANARY)
    png.add_text("Patient", CANARY, zip=True)
    png.add_itxt("Other", CANARY, zip=True)
    tags = {270: CANARY, 305: CANARY, 315: CANARY, 65000: CANARY}
    return {
        "jpeg": save(image, "JPEG", comment=CANARY, exif=exif, xmp=CANARY.encode()),
        "png": save(image, "PNG", pnginfo=png, exif=exif, icc_profile=CANARY.encode()),
        "tiff": save(image, "TIFF", tiffinfo=tags),
        "tiff lzw": save(image, "TIFF", tiffinfo=tags, compression="tiff_lzw"),
        "gif": save(image, "GIF", comment=CANARY),
    }


@pytest.mark.parametrize("kind", ["jpeg", "png", "tiff", "tiff lzw", "gif"])
def test_no_text_of_a_file_gets_out(kind, chest, caplog, capfd, recwarn):
    caplog.set_level(logging.DEBUG)
    data = pictures_with_text(chest)[kind]
    assert "Canary" not in repr(decode(data, SIDE_PX, LIMITS))
    rng = np.random.default_rng(5)
    num_rejected = 0
    for _ in range(300):
        broken = bytearray(data)
        for position in rng.integers(0, len(data), 3):
            broken[position] ^= 1 << rng.integers(8)
        cut = broken[: int(rng.integers(1, len(data)))] if rng.random() < 0.3 else broken
        try:
            decode(bytes(cut), SIDE_PX, LIMITS)
        except ImageError as error:
            num_rejected += 1
            assert "Canary" not in str(error) + repr(pickle.loads(pickle.dumps(error)))
    assert num_rejected > 20
    printed = capfd.readouterr()
    warned = " ".join(str(warning.message) for warning in recwarn)
    assert "Canary" not in caplog.text + printed.out + printed.err + warned


@pytest.mark.real_data
@pytest.mark.skipif(not FULLRES.is_dir(), reason="needs the public X-rays in ../shared/data")
def test_real_x_rays_agree_with_pillow_by_hand():
    paths = sorted(FULLRES.glob("*/*"))
    assert len(paths) == 96
    for path in paths[::4]:
        data = path.read_bytes()
        expected = Image.fromarray(by_hand(data)).resize((150, 150), Image.Resampling.BILINEAR)
        image = decode(data, 150, LIMITS)
        difference = np.abs(image.pixels - np.asarray(expected, int))
        assert difference.mean() < 0.7
        assert difference.max() <= 12
