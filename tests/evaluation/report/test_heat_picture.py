import base64
import io
import re
from html import unescape

import numpy as np
import pytest
from PIL import Image

from orchestrator.evaluation.report.heat_picture import (
    draw_heatmap,
    draw_overlay,
    embed,
    list_heatmaps,
)
from orchestrator.evaluation.report.report import render_html
from tests.evaluation.report.test_report import EVIL, predictions, rejected, report_and_page


def lightness(rgb: np.ndarray) -> np.ndarray:
    """CIE L*, which equal steps of grey follow."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    return 116 * np.cbrt(luminance) - 16


def test_heat_lies_where_it_is_and_the_rest_of_the_xray_is_left_as_it_was() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (70, 110), dtype=np.uint8)
    heat = np.zeros((5, 5), np.float32)
    heat[0, 4] = 1.0

    picture = np.asarray(draw_overlay(grey, heat)).astype(int)

    assert picture.shape == (70, 110, 3)
    changed = np.abs(picture - grey[..., np.newaxis]).max(2)
    assert changed[42:].max() == 0
    assert changed[:, :44].max() == 0
    assert (changed[:10, 95:] > 20).mean() > 0.9


def test_colours_rise_evenly_in_lightness() -> None:
    """So that their order can be told by every eye, and in a grey print."""
    ramp = np.linspace(0, 1, 256, dtype=np.float32)[np.newaxis]
    rgb = np.asarray(draw_overlay(np.zeros((1, 256), np.uint8), ramp)).astype(float)[0] / 255
    steps = np.diff(lightness(rgb)[::16])
    assert (steps > 0).all()
    blue_blind = lightness(np.stack([rgb[:, 0], rgb[:, 1], rgb[:, 1]], 1))[::16]
    assert (np.diff(blue_blind) > 0).all()


@pytest.mark.parametrize("size", [(30, 40), (600, 900)])
def test_a_picture_holds_the_xray_at_its_own_size_and_writing_beside_it(
    size: tuple[int, int],
) -> None:
    grey = np.full(size, 90, np.uint8)

    picture = np.asarray(draw_heatmap(grey, np.zeros((2, 2), np.float32), 0.7, 0.5, 0))

    assert (picture[: size[0], : size[1]] == 90).all()
    assert picture.shape[0] >= size[0]
    beside = picture[:, size[1] :]
    assert (beside.min(2) < 100).mean() > 0.01
    edges = [beside[-5:], beside[:, -5:], beside[:5]]
    assert all((edge == 255).all() for edge in edges)  # nothing is cut off
    other = np.asarray(draw_heatmap(grey, np.zeros((2, 2), np.float32), 0.3, 0.5, 0))
    assert (other[:, size[1] :] != beside).any()


def test_a_page_shows_every_map_in_its_group_with_all_text_escaped() -> None:
    report, _, _ = report_and_page(predictions([0, 1, None], [0.9, 0.8, 0.4]), rejected())
    small = embed(Image.new("RGB", (900, 600)), 200)
    entries = [
        {"row": 0, "path": EVIL, "label": 0, "probability": 0.9, "why": "wrong", "file": "h/0.png"},
        {"row": 2, "path": "c", "label": None, "probability": 0.4, "why": "random", "file": "2"},
    ]
    with_maps = report | {"heatmaps": entries}
    groups = list_heatmaps(with_maps, [small, small])
    assert [len(group["images"]) for group in groups] == [1, 1]
    assert [group["images"][0]["called"] for group in groups] == ["PNEUMONIA", "NORMAL"]
    assert list_heatmaps(report, ()) == []

    from orchestrator.evaluation.tally import Tally

    tally = Tally(0.5)
    tally.add(predictions([0, 1, None], [0.9, 0.8, 0.4]), rejected())
    page = render_html(with_maps, tally, [small, small])

    assert "<script" not in page
    assert EVIL in unescape(page)
    assert page.count(small) == 2
    assert re.findall(r'<a href="([^"]*)">', page) == ["h/0.png", "2"]
    with Image.open(io.BytesIO(base64.b64decode(small.partition(",")[2]))) as thumbnail:
        assert thumbnail.size == (300, 200)
