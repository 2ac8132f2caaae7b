"""Draws synthetic chest phantoms: images to try the product on where there are no X-rays.

A phantom has what a frontal chest radiograph has at a glance (torso, lungs, ribs, heart, spine,
diaphragm, exposure and noise); PNEUMONIA adds one to three soft opacities inside the lungs, some
of them faint. NORMAL ones have hila, haze and a marker too, as the others do, so that neither
brightness nor any single bright spot gives the class away. They say nothing about real X-rays.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from orchestrator.data.schema import CLASS_NAMES
from orchestrator.errors import DataError
from orchestrator.runs.atomic import atomic_folder

_NORMAL_SHARE = 0.4
_IMAGES_PER_PATIENT = (1, 2, 3)
_SHARE_OF_PATIENTS = (0.6, 0.25, 0.15)  # with that many images
_JPEG_QUALITY = 90
_GRID = 160  # px on which anatomy is drawn, before scaling to the size asked for

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Anatomy:
    """What all images of one patient share; lengths are in half widths of the image.

    Attributes:
        lung_x, lung_width, lung_height: centre and half axes of the lungs.
        heart_width: half width of the heart.
        num_ribs, rib_slope: ribs a side, and how steeply they fall outwards.
        lung_density: how dark the lungs are, 0 to 1.
        haze: density of the breast tissue over the lower lungs.
        spots: opacities as rows of (side, x, y, width, height, density); none when NORMAL.
    """

    lung_x: float
    lung_width: float
    lung_height: float
    heart_width: float
    num_ribs: int
    rib_slope: float
    lung_density: float
    haze: float
    spots: FloatArray


def write_phantoms(
    folder: Path, *, num_images: int, seed: int, size_px: int = 256, masks: Path | None = None
) -> None:
    """Writes phantoms as JPEG into the class folders NORMAL and PNEUMONIA of a new folder.

    Names follow the public data set (`IM-0001-0001.jpeg`, `person1_bacteria_1.jpeg`), so patients
    are known from them; four in ten patients have two or three images. The folder appears whole
    or not at all, and the same arguments give the same images.

    Args:
        folder: does not exist yet, or is empty.
        num_images: two fifths of them NORMAL; at least 2.
        seed: of everything random.
        size_px: height and width, px.
        masks: new folder for a PNG beside each image, by the same class and name: 255 where an
            opacity has at least half its density and lies in a lung, 0 elsewhere.

    Raises:
        DataError: a folder holds something, or fewer than 2 images are asked for.
        ClusterError: the file system refused the write.
    """
    if num_images < 2:
        raise DataError(f"{num_images} phantoms asked for; expected at least 2, one of each class")
    for used in filter(None, (folder, masks)):
        if used.exists() and any(used.iterdir()):
            raise DataError(f"{used} is not empty; name a new folder for the phantoms")
    num_normal = min(max(1, round(num_images * _NORMAL_SHARE)), num_images - 1)
    with contextlib.ExitStack() as made:
        images = made.enter_context(atomic_folder(folder))
        drawn = made.enter_context(atomic_folder(masks)) if masks else None
        for label, num_of_class in enumerate((num_normal, num_images - num_normal)):
            for parent in filter(None, (images, drawn)):
                (parent / CLASS_NAMES[label]).mkdir()
            for name, image, mask in _draw_class(label, num_of_class, seed, size_px):
                image.save(images / CLASS_NAMES[label] / name, quality=_JPEG_QUALITY)
                if drawn:
                    mask.save((drawn / CLASS_NAMES[label] / name).with_suffix(".png"))


def draw_phantoms(size_px: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Returns one phantom of each class, NORMAL first, uint8 [2, size_px, size_px]."""
    images = [image for label in (0, 1) for _, image, _ in _draw_class(label, 1, seed, size_px)]
    return np.stack([np.asarray(image, np.uint8) for image in images])


def _draw_class(
    label: int, num_images: int, seed: int, size_px: int
) -> Iterator[tuple[str, Image.Image, Image.Image]]:
    """Yields file names, images and masks of one class, patient after patient."""
    patient, num_drawn = 0, 0
    while num_drawn < num_images:
        patient += 1
        rng = np.random.default_rng([seed, label, patient])
        anatomy = _make_anatomy(rng, label)
        wanted = int(rng.choice(_IMAGES_PER_PATIENT, p=_SHARE_OF_PATIENTS))
        cause = ("bacteria", "virus")[int(rng.integers(2))]
        for number in range(1, min(wanted, num_images - num_drawn) + 1):
            num_drawn += 1
            pneumonia = f"person{patient}_{cause}_{num_drawn}.jpeg"
            name = pneumonia if label else f"IM-{patient:04d}-{number:04d}.jpeg"
            yield name, *_draw(rng, anatomy, size_px)


def _make_anatomy(rng: np.random.Generator, label: int) -> _Anatomy:
    num_spots = int(rng.integers(1, 4)) if label else 0
    spots = np.column_stack(
        [
            rng.choice((-1.0, 1.0), num_spots),
            rng.uniform(-0.6, 0.6, num_spots),
            rng.uniform(-0.5, 0.75, num_spots),
            rng.uniform(0.1, 0.22, num_spots),
            rng.uniform(0.1, 0.28, num_spots),
            rng.uniform(0.2, 0.6, num_spots),
        ]
    )
    return _Anatomy(
        lung_x=rng.uniform(0.36, 0.42),
        lung_width=rng.uniform(0.24, 0.32),
        lung_height=rng.uniform(0.5, 0.66),
        heart_width=rng.uniform(0.24, 0.36),
        num_ribs=int(rng.integers(7, 10)),
        rib_slope=rng.uniform(0.2, 0.6),
        lung_density=rng.uniform(0.4, 0.6),
        haze=rng.uniform(0.0, 0.14),
        spots=spots,
    )


def _draw(
    rng: np.random.Generator, anatomy: _Anatomy, size_px: int
) -> tuple[Image.Image, Image.Image]:
    """Returns one exposure of a patient and its mask: pose, exposure and noise differ each time."""
    x, y = _pose(rng)
    torso = _inside((x / 0.92) ** 4 + ((y - 0.25) / 1.15) ** 4, 12)
    value = 0.72 * torso
    value += 0.2 * np.exp(-((x / 0.09) ** 2)) * torso  # spine
    lungs = np.zeros_like(x)
    for side in (-1.0, 1.0):
        along = (x * side - anatomy.lung_x) / anatomy.lung_width
        up = (y + 0.05) / anatomy.lung_height
        lungs += _inside(along**2 * (1.0 + 0.5 * np.clip(-up, 0, 1)) + np.abs(up) ** 3, 9)
    lungs *= _inside((y - anatomy.lung_height * 0.75) * 6 + 1 + x**2, 3)  # diaphragm
    value -= anatomy.lung_density * lungs
    heart = ((x - 0.1) / anatomy.heart_width) ** 2 + ((y - 0.25) / 0.33) ** 2
    value += 0.35 * _inside(heart, 6) * lungs
    ribs = np.sin((y + anatomy.rib_slope * (np.abs(x) - 0.4) ** 2) * np.pi * anatomy.num_ribs)
    value += 0.09 * np.clip(ribs, 0, 1) * lungs
    tissue, opacity = _tissue(rng, anatomy, x, y)
    value += tissue * lungs
    if rng.random() < 0.5:  # the side marker
        at_x, at_y = rng.choice((-0.85, 0.85)), rng.uniform(-0.9, -0.75)
        value[(np.abs(x - at_x) < 0.04) & (np.abs(y - at_y) < 0.05)] = 1.0
    drawn = Image.fromarray(((opacity >= 0.5) & (lungs >= 0.5)).astype(np.uint8) * 255)
    mask = drawn.resize((size_px, size_px), Image.Resampling.NEAREST)
    return _expose(rng, value, size_px), mask


def _tissue(
    rng: np.random.Generator, anatomy: _Anatomy, x: FloatArray, y: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Returns what lies over the lungs (hila, vessels, haze, opacities), and the opacities' shapes.

    A shape is 1 at the centre of an opacity, whatever its density.
    """
    value = anatomy.haze * np.exp(-(((np.abs(x) - 0.4) / 0.3) ** 2 + ((y - 0.3) / 0.25) ** 2))
    hilum = ((np.abs(x) - 0.2) / 0.1) ** 2 + (y / 0.2) ** 2
    value += rng.uniform(0.05, 0.2) * np.exp(-hilum)
    value += 0.06 * np.clip(_clouds(rng, 24), 0, 1)  # vessels
    texture = 0.75 + 0.25 * _clouds(rng, 12)
    shapes = np.zeros_like(x)
    for side, along, up, width, height, density in anatomy.spots:
        jitter = rng.normal(0, 0.02, 2)
        at_x = side * (anatomy.lung_x + along * anatomy.lung_width) + jitter[0]
        at_y = up * anatomy.lung_height - 0.05 + jitter[1]
        spot = np.exp(-(((x - at_x) / width) ** 2 + ((y - at_y) / height) ** 2))
        value += density * spot * texture
        shapes = np.maximum(shapes, spot)
    return value, shapes


def _pose(rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Returns coordinates of the pixels, -1 to 1, slightly turned, shifted and scaled."""
    line = np.linspace(-1, 1, _GRID)
    x, y = np.meshgrid(line, line)
    angle, scale = rng.normal(0, 0.04), rng.uniform(0.92, 1.1)
    turned_x = scale * (np.cos(angle) * x - np.sin(angle) * y) + rng.normal(0, 0.04)
    turned_y = scale * (np.sin(angle) * x + np.cos(angle) * y) + rng.normal(0, 0.04)
    return turned_x, turned_y


def _inside(distance: FloatArray, steepness: float) -> FloatArray:
    """Returns a soft mask: 1 where a squared distance is below 1, 0 beyond."""
    return np.asarray(1 / (1 + np.exp(np.clip(steepness * (distance - 1), -50, 50))))


def _clouds(rng: np.random.Generator, num_cells: int) -> FloatArray:
    """Returns smooth noise of about unit variance, float64 [_GRID, _GRID]."""
    cells = Image.fromarray(rng.normal(size=(num_cells, num_cells)).astype(np.float32))
    return np.asarray(cells.resize((_GRID, _GRID), Image.Resampling.BICUBIC), np.float64)


def _expose(rng: np.random.Generator, value: FloatArray, size_px: int) -> Image.Image:
    """Returns the 8-bit grey image: gamma, range, blur and noise of a detector."""
    value = np.clip(value, 0, 1.2) ** rng.uniform(0.8, 1.25)
    value = rng.uniform(0.0, 0.1) + rng.uniform(0.7, 0.95) * value
    drawn = Image.fromarray((255 * np.clip(value, 0, 1)).astype(np.uint8))
    blurred = drawn.filter(ImageFilter.GaussianBlur(rng.uniform(0.1, 0.6)))
    large = blurred.resize((size_px, size_px), Image.Resampling.BICUBIC)
    noise = rng.normal(0, rng.uniform(2, 6), (size_px, size_px))
    return Image.fromarray(np.clip(np.asarray(large) + noise, 0, 255).astype(np.uint8))
