"""Which stored numbers are shown as black and as white, for every format alike.

Headers often declare more bits than a detector has, and a single pixel at the end of the container
(padding, a burnt-in marker, a dead detector element) hides that from a look at the extremes. So a
declared range is held against the plausible pixels: those that are not far away from all others.
Where it fits, it is used exactly as declared.

Reference: J. W. Tukey, "Exploratory Data Analysis", 1977 (fences beyond the bulk of the data).
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[Any]  # int64 or float64
Counts = npt.NDArray[np.int64]

_USUAL_DEPTHS_BITS = (8, 10, 12, 14, 16)
# The bulk of an image lies between these shares of its pixels; plausible are values at most this
# part of the bulk's span beyond it.
_BULK = (0.01, 0.99)
_FENCE = 0.25
# And of what is left, this share at either end may be hot pixels or the overshoot of lossy coding,
# in an image that has so many pixels.
_STRAY, _MIN_STRAY = 1e-3, 10
# With fewer distinct values (drawings, masks, tiny tests) nothing can be told from their spread.
_MIN_DISTINCT = 16
# Up to so many distinct values may be padding or a marker whatever number of pixels they fill.
_MAX_SPIKES = 2
# A range is left for that of the pixels where they fill less than this part of it.
_MIN_FILLED = 1 / 8
# Signed values that reach below zero by this part of what they reach above it are noise.
_NOISE = 1 / 32
# Pixels of a range about a middle start within this part of it.
_MAX_START = 3 / 8
# A window or look-up table is not believed where it shows none of the pixels, or all of them in a
# quarter of the greys from black or in a sixteenth of them, as one for a larger depth does.
_DARK, _MIN_CONTRAST = 0.25, 1 / 16
# Nor where it covers only the lowest quarter of the range, as one for a smaller depth does, and
# clips most pixels to white.
_QUARTER, _START, _MAX_CLIPPED = 0.26, 1 / 16, 0.7


@dataclass(frozen=True)
class Shown:
    """The range of numbers that is spread from black to white.

    Attributes:
        low: shown as black; lower numbers too.
        high: shown as white; higher numbers too. Greater than `low`.
        rule: a key of `rules.GREY_RULES`.
    """

    low: float
    high: float
    rule: str


def count_codes(codes: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]) -> Counts:
    """Returns how many pixels hold each possible container value, int64 [256 or 65536]."""
    num_values = 256**codes.dtype.itemsize
    counts = np.zeros(num_values, np.int64)
    for row in np.array_split(codes, max(1, codes.size >> 20)):  # bincount widens to 8 bytes
        counts += np.bincount(row.ravel(), minlength=num_values)
    return counts


def plausible_span(values: Numbers, counts: Counts) -> tuple[float, float]:
    """Returns the lowest and highest plausible number of an image.

    Args:
        values: what each container value stands for, [V].
        counts: pixels of each, [V]; zero for what is known to be no part of the image.
    """
    distinct, held = _distinct(values, counts)
    distinct, held = _without_far_groups(distinct, held)
    inner, inner_held = distinct[1:-1], held[1:-1]  # an extreme may be padding or saturation
    if len(inner) < _MIN_DISTINCT:
        return float(distinct[0]), float(distinct[-1])
    first, last = _quantiles(inner, inner_held)
    reach = (last - first) * _FENCE
    near = (distinct >= first - reach) & (distinct <= last + reach)
    stray = _STRAY if held.sum() * _STRAY >= _MIN_STRAY else 0.0
    return _quantiles(distinct[near], held[near], (stray, 1 - stray))


def choose_range(values: Numbers, counts: Counts, declared: tuple[int, int]) -> Shown:
    """Returns the range that is shown from black to white.

    It is the smallest of these that holds every plausible pixel: the usual bit depths from zero,
    those about zero (for unsigned data about the middle, where it stands for zero), those at the
    upper end of the declared range, and the declared range itself. Where plausible pixels fill
    less than an eighth of it, their own range is taken.

    Args:
        values: what each container value stands for, [V].
        counts: pixels of each, [V].
        declared: lowest and highest number of the declared depth.
    """
    if declared == (0, 255):
        return Shown(0, 255, "as_stored")
    low, high = plausible_span(values, counts)
    if declared[0] < 0 and -high * _NOISE <= low < 0:
        low = 0
    start, end = declared
    for candidate in _candidates(declared):
        if candidate.start <= low <= candidate.latest and high <= candidate.end:
            start, end = candidate.start, candidate.end
            break
    if _MIN_DISTINCT <= high - low < (end - start) * _MIN_FILLED:
        return Shown(low, high, "pixel_range")
    return Shown(start, end, "declared_depth" if (start, end) == declared else "narrower_depth")


def misleads(values: Numbers, grey: npt.NDArray[np.float64], counts: Counts, shown: Shown) -> bool:
    """Tells whether a window or a look-up table cannot have been meant for these pixels.

    Args:
        values: the numbers that it is applied to, [V].
        grey: what it makes of them, 0 for black, 1 for white, [V].
        counts: pixels of each, [V].
        shown: the range of `values` that would be shown without it.
    """
    low, high = plausible_span(values, counts)
    inner = (values > low) & (values < high) & (counts > 0)
    if np.unique(values[inner]).size < _MIN_DISTINCT:
        return False
    seen, held = _distinct(np.clip(grey[inner], 0.0, 1.0), counts[inner])
    darkest, brightest = _quantiles(seen, held)
    if brightest < _DARK or darkest >= 1.0 or brightest - darkest < _MIN_CONTRAST:
        return True
    scale = shown.high - shown.low
    white, black = values[grey >= 1.0], values[grey <= 0.0]
    starts_low = not black.size or black.max() <= shown.low + scale * _START
    ends_low = white.size > 0 and white.min() <= shown.low + scale * _QUARTER
    clipped = held[seen >= 1.0].sum() / held.sum()
    return bool(starts_low and ends_low and clipped > _MAX_CLIPPED)


class _Candidate(NamedTuple):
    start: int
    end: int
    latest: int  # where the darkest pixel must lie at the latest


def _candidates(declared: tuple[int, int]) -> list[_Candidate]:
    """Returns the ranges to try, the smallest first; of equals that from zero comes first."""
    low, high = declared
    middle = (low + high + 1) // 2
    ranges = [_Candidate(0, high, high)]
    for bits in _USUAL_DEPTHS_BITS:
        size = 1 << bits
        ranges.append(_Candidate(0, size - 1, size - 1))
        if low < 0 or size < (high + 1) * _MIN_FILLED:
            start = middle - size // 2
            ranges.append(_Candidate(start, start + size - 1, start + int(size * _MAX_START)))
        ranges.append(_Candidate(high + 1 - size, high, high))
    within = [each for each in ranges if low <= each.start and each.end <= high]
    return sorted(within, key=lambda each: each.end - each.start)


def _distinct(values: Numbers, counts: Counts) -> tuple[Numbers, Counts]:
    """Returns the numbers that some pixel has, ascending, and how many pixels have each."""
    present = counts > 0
    if not present.any():  # all of it is padding
        present = np.ones_like(present)
    distinct, places = np.unique(values[present], return_inverse=True)
    held = np.bincount(places, weights=np.maximum(counts[present], 1)).astype(np.int64)
    return distinct, held


def _without_far_groups(distinct: Numbers, held: Counts) -> tuple[Numbers, Counts]:
    """Drops groups that a wide empty gap parts from the rest: padding and burnt-in markers.

    A group must be few pixels, or many of one or two values: dark background and bright anatomy
    may lie far apart too.
    """
    allowed = held.sum() * (1 - _BULK[1])
    while len(distinct) > _MIN_DISTINCT:
        gaps = np.diff(distinct)
        cut = int(gaps.argmax()) + 1
        is_low_kept = held[:cut].sum() >= held[cut:].sum()
        kept = slice(None, cut) if is_low_kept else slice(cut, None)
        dropped = held[cut:] if is_low_kept else held[:cut]
        span = distinct[kept][-1] - distinct[kept][0]
        is_spike = np.sort(dropped)[:-_MAX_SPIKES].sum() <= allowed
        if len(distinct[kept]) < _MIN_DISTINCT or not is_spike or gaps[cut - 1] <= span * _FENCE:
            break
        distinct, held = distinct[kept], held[kept]
    return distinct, held


def _quantiles(
    distinct: Numbers, held: Counts, shares: tuple[float, float] = _BULK
) -> tuple[float, float]:
    """Returns the numbers below and above which lie at most these shares of the pixels."""
    reached = np.cumsum(held) / held.sum()
    first, last = np.searchsorted(reached, shares[0], "right"), np.searchsorted(reached, shares[1])
    return float(distinct[first]), float(distinct[last])
