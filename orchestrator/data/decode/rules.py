"""The public words for how the numbers of a file became grey, and for what was odd about the file.

They stand in the columns `grey_rule` and `decode_notes` of every table of decoded images, and the
formats in reports. The words are stable: scripts and dashboards may count by them.
"""

from dataclasses import dataclass, replace

from PIL import Image

FILE_FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "GIF", "DICOM")

# How stored numbers were spread from black to white: one word an image.
GREY_RULES: dict[str, str] = {
    "as_stored": "8-bit values, shown as they are",
    "declared_depth": "the whole range that the file declares",
    "narrower_depth": "a smaller usual bit depth than declared, which holds every plausible pixel",
    "pixel_range": "from the darkest to the brightest plausible pixel, as no usual depth fits",
    "window": "the window of the DICOM header",
    "voi_lut": "the VOI look-up table of the DICOM header",
}

# What was odd about a file that was decoded all the same: any number of words an image.
DECODE_NOTES: dict[str, str] = {
    "no_end_marker": "the end marker is missing, all rows are there",
    "window_ignored": "the window contradicts the pixels and was not used",
    "voi_lut_ignored": "the VOI look-up table contradicts the pixels and was not used",
    "lut_depth_corrected": "a look-up table declares more bits than it gives",
    "bits_exceeded": "pixels use more bits than BitsStored, and all of them were read",
    "high_bits_masked": "bits above BitsStored hold something else than the image: masked",
    "opaque_alpha": "every pixel is declared transparent; the image was taken as opaque",
    "colour_model_corrected": "the pixels are in another colour model than the file says",
}


@dataclass(frozen=True)
class GreyImage:
    """An image turned into grey, and how.

    Attributes:
        image: 8-bit image of mode "L".
        rule: a key of `GREY_RULES`.
        notes: keys of `DECODE_NOTES`.
    """

    image: Image.Image
    rule: str
    notes: tuple[str, ...] = ()

    def noted(self, *notes: str) -> "GreyImage":
        """Returns the same image with more notes before its own."""
        return replace(self, notes=notes + self.notes)
