"""The range of shown numbers, on histograms made by hand."""

import numpy as np
import pytest

from orchestrator.data.decode.value_range import (
    Shown,
    choose_range,
    count_codes,
    misleads,
    plausible_span,
)


def counted(*groups: tuple[int, int, int], low: int = 0, high: int = 65535):
    """Returns numbers and their pixels; a group is first and last number, and pixels of each."""
    values = np.arange(low, high + 1)
    counts = np.zeros(len(values), np.int64)
    for first, last, pixels in groups:
        counts[first - low : last - low + 1] += pixels
    return values, counts


def test_codes_are_counted_over_any_number_of_blocks() -> None:
    codes = np.random.default_rng(1).integers(0, 65536, (1100, 2000), dtype=np.uint16)
    assert (count_codes(codes) == np.bincount(codes.ravel(), minlength=65536)).all()
    assert count_codes(codes.astype(np.uint8)).shape == (256,)


@pytest.mark.parametrize(
    ("groups", "span"),
    [
        ([(100, 4000, 2)], (100, 4000)),
        ([(100, 4000, 2), (65535, 65535, 1)], (100, 4000)),  # a hot pixel
        ([(100, 4000, 1), (65535, 65535, 2000)], (100, 4000)),  # padding of a third of the pixels
        ([(100, 4000, 1), (60000, 60000, 900), (65535, 65535, 900)], (100, 4000)),
        ([(100, 4000, 2), (4001, 4040, 1)], (100, 4040)),  # a thin tail within a quarter of it
        ([(100, 4000, 2), (6001, 6030, 1)], (100, 4000)),  # a few pixels far away
        ([(100, 4000, 2), (7000, 9000, 1)], (100, 9000)),  # too many to be strays
        ([(0, 200, 30), (20000, 23000, 1)], (0, 23000)),  # dark background, bright anatomy
        ([(7, 7, 50), (9, 9, 50), (60000, 60000, 1)], (7, 60000)),  # too few values to judge
    ],
)
def test_plausible_span(groups: list[tuple[int, int, int]], span: tuple[int, int]) -> None:
    assert plausible_span(*counted(*groups)) == span


def test_strays_are_left_out_where_there_are_pixels_enough() -> None:
    values, counts = counted((100, 4095, 5), (4096, 4110, 1))
    assert plausible_span(values, counts) == (103, 4095)  # of 19,995 pixels 19 at either end
    assert plausible_span(values, np.minimum(counts, 1)) == (100, 4110)  # of 4,011 pixels none


def test_padding_alone_has_the_span_of_its_values() -> None:
    values, counts = counted(high=255)
    assert plausible_span(values, counts) == (0, 255)


@pytest.mark.parametrize(
    ("group", "declared", "expected"),
    [
        ((3, 250), (0, 255), Shown(0, 255, "as_stored")),
        ((3, 250), (0, 65535), Shown(0, 255, "narrower_depth")),
        ((3, 256), (0, 65535), Shown(0, 1023, "narrower_depth")),
        ((3, 4095), (0, 65535), Shown(0, 4095, "narrower_depth")),
        ((3, 4095), (0, 4095), Shown(0, 4095, "declared_depth")),
        ((3, 2000), (0, 32767), Shown(0, 4095, "narrower_depth")),
        ((3, 5000), (0, 8191), Shown(0, 8191, "declared_depth")),
        ((61500, 65000), (0, 65535), Shown(61440, 65535, "narrower_depth")),
        ((31000, 34000), (0, 65535), Shown(30720, 34815, "narrower_depth")),
        ((20000, 23000), (0, 65535), Shown(20000, 23000, "pixel_range")),
        ((-1500, 2000), (-32768, 32767), Shown(-2048, 2047, "narrower_depth")),
        ((3, 4000), (-32768, 32767), Shown(0, 4095, "narrower_depth")),
        ((-20, 4000), (-32768, 32767), Shown(0, 4095, "narrower_depth")),
        ((-200, 4000), (-32768, 32767), Shown(-200, 4000, "pixel_range")),
        ((-200, 1500), (-2048, 2047), Shown(-2048, 2047, "declared_depth")),
        ((1800, 4000), (0, 65535), Shown(0, 4095, "narrower_depth")),
        ((3, 1500), (-2048, 2047), Shown(0, 2047, "narrower_depth")),
        ((-1500, 1500), (-2048, 2047), Shown(-2048, 2047, "declared_depth")),
    ],
)
def test_the_smallest_range_that_holds_the_pixels_is_shown(
    group: tuple[int, int], declared: tuple[int, int], expected: Shown
) -> None:
    values, counts = counted((*group, 1), low=-32768)
    assert choose_range(values, counts, declared) == expected


@pytest.mark.parametrize(
    ("low", "high", "is_misleading"),
    [
        (0, 4095, False),
        (0, 8191, False),
        (0, 16383, True),  # all in the darkest quarter
        (-30000, 35000, True),  # all in a sixteenth of the greys
        (0, 500, True),  # that of a smaller depth: seven of eight pixels white
        (1500, 2500, False),  # a narrow window on the middle
        (5000, 6000, True),  # all black
        (-2000, -1000, True),  # all white
    ],
)
def test_a_window_for_other_numbers_misleads(low: int, high: int, is_misleading: bool) -> None:
    values, counts = counted((10, 4000, 2))
    grey = (values - low) / (high - low)
    shown = Shown(0, 4095, "declared_depth")
    assert misleads(values, grey, counts, shown) is is_misleading
