"""Pictures of heat maps: the map over its X-ray, and beside it the probability and the scale.

Colours are those of viridis, which rises evenly in lightness and can be read with any kind of
colour vision. The colder a place, the more of the X-ray shows.

Reference:
    Smith and van der Walt, A Better Default Colormap for Matplotlib, SciPy 2015.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from orchestrator.data.schema import CLASS_NAMES
from orchestrator.evaluation.calibration import call_labels
from orchestrator.evaluation.wording import format_figure

_VIRIDIS = [
    "440154",
    "472d7b",
    "3b528b",
    "2c728e",
    "21918c",
    "28ae80",
    "5ec962",
    "addc30",
    "fde725",
]
_MOST_OPAQUE = 0.55  # of the hottest place
_MARGIN, _TEXT_PX = 14, (12, 40)  # smallest and largest size of a line of text
_LINES_A_PICTURE = 26  # whose size follows the picture's height
_PANEL_EMS, _SCALE_EMS = 12, 6  # width of the panel and height of the scale, in lines of text
_TITLES = {
    "wrong": "Called wrongly, the most wrong first",
    "uncertain": "Least certain, nearest to the threshold first",
    "random": "Drawn at random",
}
_INK, _SOFT = (27, 36, 48), (85, 96, 110)

Grey = npt.NDArray[np.uint8]
Heat = npt.NDArray[np.float32]


def draw_overlay(grey: Grey, heat: Heat) -> Image.Image:
    """Returns an X-ray with its heat map over it, RGB, of the X-ray's own size.

    Args:
        grey: uint8 [H, W].
        heat: float [h, w], 0..1, over the whole of the X-ray; usually much coarser.
    """
    xray = Image.fromarray(grey)
    small = Image.fromarray(np.asarray(heat, np.float32), "F")
    smooth = small.resize(xray.size, Image.Resampling.BICUBIC)
    levels = Image.fromarray((255 * np.clip(np.asarray(smooth), 0, 1)).astype(np.uint8))
    colours = levels.copy()
    colours.putpalette(_palette().tobytes())
    opacity = levels.point([round(_MOST_OPAQUE * 255 * n / 255) for n in range(256)])
    return Image.composite(colours.convert("RGB"), xray.convert("RGB"), opacity)


def draw_heatmap(
    grey: Grey, heat: Heat, probability: float, threshold: float, label: int | None = None
) -> Image.Image:
    """Returns `draw_overlay`, and beside it the probability, the call and the scale.

    Args:
        grey: as in `draw_overlay`; where it is small the picture is higher than it.
        heat: as in `draw_overlay`.
        probability: of PNEUMONIA, calibrated.
        threshold: PNEUMONIA is called where probability >= threshold.
        label: 0 NORMAL, 1 PNEUMONIA, None where it is not known.
    """
    overlay = draw_overlay(grey, heat)
    em = min(max(overlay.height // _LINES_A_PICTURE, _TEXT_PX[0]), _TEXT_PX[1])
    lines = [
        (CLASS_NAMES[1], em, _SOFT),
        (format_figure(probability), 2 * em, _INK),
        (f"threshold {format_figure(threshold)}", em, _SOFT),
        (f"called {CLASS_NAMES[call_labels([probability], threshold)[0]]}", em, _INK),
    ]
    if label is not None:
        lines.append((f"labelled {CLASS_NAMES[label]}", em, _INK))
    bottom = round(sum(1.4 * size for _, size, _ in lines) + (_SCALE_EMS + 4) * em)
    canvas = Image.new(
        "RGB",
        (overlay.width + _PANEL_EMS * em, max(overlay.height, bottom + 2 * _MARGIN)),
        "white",
    )
    canvas.paste(overlay)
    draw = ImageDraw.Draw(canvas)
    x, y = overlay.width + _MARGIN, float(_MARGIN)
    for text, size, ink in lines:
        draw.text((x, y), text, ink, ImageFont.load_default(size))
        y += 1.4 * size
    _draw_scale(canvas, draw, x, round(y + em), em)
    return canvas


def embed(image: Image.Image, height_px: int) -> str:
    """Returns a picture of at most this height as a `data:` address, JPEG."""
    small = image.copy()
    small.thumbnail((3 * height_px, height_px))
    sink = io.BytesIO()
    small.save(sink, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(sink.getvalue()).decode()


def list_heatmaps(report: Mapping[str, Any], thumbnails: Sequence[str]) -> list[dict[str, Any]]:
    """Returns what a page shows of heat maps: groups with their title and images.

    Args:
        report: of a scoring run; it may have no heat maps.
        thumbnails: as `embed` gives them, one for each.
    """
    entries = list(zip(report.get("heatmaps", ()), thumbnails, strict=True))
    groups = []
    for why, title in _TITLES.items():
        images = [
            {
                **entry,
                "thumbnail": thumbnail,
                "called": CLASS_NAMES[call_labels([entry["probability"]], report["threshold"])[0]],
                "label": None if entry["label"] is None else CLASS_NAMES[entry["label"]],
            }
            for entry, thumbnail in entries
            if entry["why"] == why
        ]
        if images:
            groups.append({"title": title, "images": images})
    return groups


def _draw_scale(canvas: Image.Image, draw: ImageDraw.ImageDraw, x: int, y: int, em: int) -> None:
    """Draws the colours over mid grey as they come out over an X-ray, and what their ends mean."""
    height = _SCALE_EMS * em
    ramp = np.linspace(1, 0, height, dtype=np.float32)[:, np.newaxis]
    canvas.paste(draw_overlay(np.full((height, em), 128, np.uint8), ramp), (x, y))
    font = ImageFont.load_default(0.85 * em)
    beside = x + round(1.4 * em)
    draw.text((beside, y), "raises it strongly", _SOFT, font, anchor="lt")
    draw.text((beside, y + height), "does not raise it", _SOFT, font, anchor="ls")


def _palette() -> npt.NDArray[np.uint8]:
    """The colours of 256 levels, uint8 [256, 3]."""
    anchors = np.array([list(bytes.fromhex(colour)) for colour in _VIRIDIS])
    places = np.linspace(0, len(anchors) - 1, 256)
    columns = [np.interp(places, range(len(anchors)), column) for column in anchors.T]
    return np.stack(columns, axis=1).round().astype(np.uint8)
