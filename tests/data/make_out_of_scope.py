"""Images that no classifier of chest X-rays is made for, drawn: hands, CT slices, pages, noise."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

Grey = npt.NDArray[np.uint8]
_WORDS = ["report", "of", "the", "patient", "was", "seen", "on", "ward", "has", "no", "fever"]


def hand(rng: np.random.Generator, size_px: int = 256) -> Grey:
    """A hand seen from the palm: wrist, five rays of bones in soft tissue, a dark background."""
    scale = size_px / 256
    image = Image.new("L", (size_px, size_px), int(rng.integers(0, 25)))
    draw = ImageDraw.Draw(image)
    flesh, bone = int(rng.integers(60, 110)), int(rng.integers(150, 235))
    wrist = np.array([128 + rng.normal(0, 8), 215 + rng.normal(0, 6)]) * scale
    palm = wrist - np.array([0, 62 * scale])

    def limb(start: npt.NDArray[np.float64], end: npt.NDArray[np.float64], width: float) -> None:
        for wide, grey in ((width, flesh), (width * 0.42, bone)):
            draw.line([*start, *end], fill=grey, width=max(2, round(wide)))

    box = [*(palm - 52 * scale), *(palm + 50 * scale)]
    draw.ellipse(box, fill=flesh)
    draw.rectangle([wrist[0] - 30 * scale, palm[1], wrist[0] + 30 * scale, size_px], fill=flesh)
    for side in (-11, 11):  # radius and ulna
        top = wrist + np.array([side * scale, 0])
        draw.line([*top, top[0], size_px], fill=bone, width=round(15 * scale))
    for finger, degrees in enumerate((-62, -24, -6, 11, 28)):
        angle = np.radians(degrees + rng.normal(0, 3))
        along = np.array([np.sin(angle), -np.cos(angle)])
        start = wrist + along * 18 * scale
        for length in (50, 30, 21, 15)[: 3 if finger == 0 else 4]:
            end = start + along * length * scale * rng.uniform(0.92, 1.06)
            limb(start, end, rng.uniform(21, 25) * scale)
            start = end + along * 4 * scale
    return _finish(rng, image, scale, blur=1.2, noise=4)


def ct_slice(rng: np.random.Generator, size_px: int = 256) -> Grey:
    """An axial slice: a bright oval in black air, two lungs, a spine and ribs in its wall."""
    line = np.linspace(-1, 1, size_px)
    x, y = np.meshgrid(line, line)
    wide, high = rng.uniform(0.78, 0.9), rng.uniform(0.52, 0.64)
    body = (x / wide) ** 2 + (y / high) ** 2
    value = np.where(body < 1, rng.uniform(95, 130), rng.uniform(0, 8))
    value = np.where((body < 1) & (body > 0.86), value * 0.6, value)  # fat
    for side in (-1, 1):
        lung = ((x - side * 0.37 * wide / 0.85) / 0.26) ** 2 + ((y + 0.03) / (high * 0.6)) ** 2
        value = np.where(lung < 1, rng.uniform(12, 30), value)
        for _ in range(12):
            at_x, at_y = side * rng.uniform(0.2, 0.55), rng.uniform(-0.25, 0.25)
            vessel = (x - at_x) ** 2 + (y - at_y) ** 2 < rng.uniform(0.01, 0.025) ** 2
            value = np.where(vessel & (lung < 1), 120, value)
    spine = (x / 0.13) ** 2 + ((y - high * 0.62) / 0.12) ** 2
    value = np.where(spine < 1, rng.uniform(195, 245), value)
    for angle in np.linspace(0, 2 * np.pi, 14)[:-1] + rng.normal(0, 0.05):
        at_x, at_y = 0.9 * wide * np.cos(angle), 0.9 * high * np.sin(angle)
        value = np.where(((x - at_x) / 0.05) ** 2 + ((y - at_y) / 0.025) ** 2 < 1, 225, value)
    table = (np.abs(y - high - 0.08) < 0.012) & (np.abs(x) < 0.7)
    value = np.where(table, 90, value)
    image = Image.fromarray(np.clip(value, 0, 255).astype(np.uint8))
    return _finish(rng, image, size_px / 256, blur=0.7, noise=6)


def page(rng: np.random.Generator, size_px: int = 256) -> Grey:
    """A scanned page: lines of dark words on white, now and then a table's rule."""
    image = Image.new("L", (size_px, size_px), int(rng.integers(225, 256)))
    draw = ImageDraw.Draw(image)
    step = int(rng.integers(11, 16))
    for top in range(int(rng.integers(8, 25)), size_px - 12, step):
        if rng.random() < 0.12:
            draw.line([14, top, size_px - 14, top], fill=60)
            continue
        words = " ".join(rng.choice(_WORDS, 12))
        draw.text((int(rng.integers(10, 20)), top), words[: int(rng.integers(12, 40))], fill=20)
    return _finish(rng, image, size_px / 256, blur=0.4, noise=3)


def noise(rng: np.random.Generator, size_px: int = 256) -> Grey:
    """Noise without structure, fine or coarse."""
    cells = size_px // int(rng.choice([1, 2, 4]))
    drawn = rng.integers(0, 256, (cells, cells)).astype(np.uint8)
    return np.asarray(Image.fromarray(drawn).resize((size_px, size_px), Image.Resampling.BILINEAR))


def blank(rng: np.random.Generator, size_px: int = 256) -> Grey:
    """An exposure of nothing: one grey that falls off a little to one side, and faint noise."""
    fall = np.linspace(0, rng.uniform(18, 26), size_px)
    drawn = rng.uniform(40, 190) + fall + rng.normal(0, 1, (size_px, size_px))
    return np.clip(drawn, 0, 255).astype(np.uint8)


DRAWN: dict[str, tuple[Callable[..., Grey], str]] = {
    "hand": (hand, "out_of_scope_not_chest"),
    "ct slice": (ct_slice, "out_of_scope_not_chest"),
    "page": (page, "out_of_scope_not_chest"),
    "noise": (noise, "out_of_scope_not_chest"),
    "blank": (blank, "out_of_scope_blank"),
}
"""Kind -> what draws one, and the code that it is to be marked with."""


def invert(grey: Grey) -> Grey:
    """An X-ray whose photometric interpretation was lost: black and white exchanged."""
    return 255 - grey


def crop(rng: np.random.Generator, grey: Grey) -> Grey:
    """A half or less of an image: one lung, or a strip."""
    height, width = grey.shape
    share = rng.uniform(0.3, 0.5)
    if rng.random() < 0.5:
        start = int(rng.uniform(0, 1 - share) * width)
        return grey[:, start : start + int(share * width)]
    start = int(rng.uniform(0, 1 - share) * height)
    return grey[start : start + int(share * height)]


def _finish(
    rng: np.random.Generator, image: Image.Image, scale: float, *, blur: float, noise: float
) -> Grey:
    soft = np.asarray(image.filter(ImageFilter.GaussianBlur(blur * scale)), np.float64)
    return np.clip(soft + rng.normal(0, noise, soft.shape), 0, 255).astype(np.uint8)
