import io

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageEnhance

from orchestrator.data.decode.perceptual import NEAR_DUPLICATE_BITS, perceptual_hash
from tests.conftest import PUBLIC_DATA

REAL = PUBLIC_DATA
real_data = pytest.mark.skipif(not REAL.is_dir(), reason="the public X-rays are not here")


def bits_between(one, other):
    return ((one ^ other) & (2**64 - 1)).bit_count()


def test_bits_are_signs_of_cosine_coefficients():
    # One cosine wave of frequency 7 down and 9 across: its bit alone is set among large ones.
    at = (2 * np.arange(32) + 1) * np.pi / 64
    wave = np.outer(np.cos(7 * at), np.cos(9 * at))
    bit = 63 - ((7 - 5) * 8 + (9 - 5))
    image = np.round(128 + 100 * wave).astype(np.uint8)
    assert perceptual_hash(image) >> bit & 1 == 1
    assert perceptual_hash(255 - image) >> bit & 1 == 0


def test_fits_a_signed_integer_and_takes_any_size():
    rng = np.random.default_rng(0)
    hashes = [
        perceptual_hash(rng.integers(0, 256, (size, size + 3)).astype(np.uint8))
        for size in (16, 32, 96, 224)
    ]
    assert len(set(hashes)) == 4
    assert pa.array(hashes, pa.int64()).to_pylist() == hashes
    assert perceptual_hash(np.zeros((50, 50), np.uint8)) == 0


def test_negative_is_the_complement():
    image = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
    assert bits_between(perceptual_hash(image), perceptual_hash(255 - image)) >= 62


@real_data
def test_copies_are_near_and_other_patients_are_far():
    paths = sorted((REAL / "fullres").glob("*/*.jpeg"))[::4]
    near, own = [], []
    for path in paths:
        with Image.open(path) as opened:
            image = opened.convert("L")
        stored = io.BytesIO()
        image.resize((512, 400)).save(stored, "JPEG", quality=70)
        copies = (Image.open(stored), ImageEnhance.Contrast(image).enhance(1.15))
        own.append(perceptual_hash(np.asarray(image)))
        near += [bits_between(own[-1], perceptual_hash(np.asarray(copy))) for copy in copies]
    assert np.mean(np.array(near) <= NEAR_DUPLICATE_BITS) >= 0.95
    between = [bits_between(a, b) for n, a in enumerate(own) for b in own[:n]]
    assert min(between) > NEAR_DUPLICATE_BITS
