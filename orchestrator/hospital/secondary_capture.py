"""A heat map as a DICOM object: a Secondary Capture with what it is written into the picture.

Imports highdicom, of the extra `dicom`.

Reference: DICOM PS3.3 A.8.1 (Secondary Capture), C.7.6.1 (General Image).
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from highdicom.sc import SCImage
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from orchestrator import __version__
from orchestrator.data.listing.dicomweb.answers import OWN_HEATMAP, OWN_MANUFACTURER
from orchestrator.hospital.results import RunFacts, ScoredImage
from orchestrator.hospital.structured_report import SERIES_NUMBER, date_as

_NOTICE = "RESEARCH USE ONLY. NOT FOR DIAGNOSIS."
_WHAT = "Heat map of a computer's probability of pneumonia; not a finding of a radiologist."
_LINES_A_PICTURE, _TEXT_PX = 40, (10, 32)  # of the notice: its size follows the picture's width
_PAPER, _INK = (20, 20, 20), (255, 214, 10)


def picture_uid(image: ScoredImage, facts: RunFacts) -> str:
    """Returns the UID of the picture of an image."""
    return facts.uid("picture", image.original.sop_uid)


def build_picture(heatmap: Path, image: ScoredImage, facts: RunFacts) -> Dataset:
    """Returns the heat map of an image, in the series of its study's heat maps.

    Args:
        heatmap: the picture of the image's heat map.
        image: which it is of.
        facts: of the run.
    """
    with Image.open(heatmap) as opened:
        pixels = burn_in(opened.convert("RGB"), facts)
    own = image.original
    picture = SCImage(
        pixels,
        "RGB",
        8,
        "PATIENT",
        study_instance_uid=own.study_uid,
        series_instance_uid=facts.uid("pictures", own.study_uid),
        series_number=SERIES_NUMBER + 1,
        sop_instance_uid=picture_uid(image, facts),
        instance_number=1 + image.rows[0],  # whichever others of the study are found
        manufacturer=OWN_MANUFACTURER,
        patient_orientation=("L", "F"),
        series_description=OWN_HEATMAP,
        manufacturer_model_name=facts.backbone[:64],
        software_versions=__version__,
        device_serial_number=facts.hashes[0],
    )
    own.identify(picture)
    date_as(picture, facts)
    picture.BodyPartExamined = "CHEST"  # is no side
    picture.PatientOrientation = None  # as in the X-ray, which may not say
    picture.ConversionType = "SYN"
    picture.BurnedInAnnotation = "YES"
    picture.DerivationDescription = _WHAT
    picture.ImageComments = facts.intended_use
    source = Dataset()
    source.ReferencedSOPClassUID = own.sop_class
    source.ReferencedSOPInstanceUID = own.sop_uid
    purpose = Dataset()
    code = codes.DCM.SourceImageForImageProcessingOperation
    purpose.CodeValue, purpose.CodingSchemeDesignator = code.value, code.scheme_designator
    purpose.CodeMeaning = code.meaning
    source.PurposeOfReferenceCodeSequence = [purpose]
    picture.SourceImageSequence = [source]
    return picture


def burn_in(picture: Image.Image, facts: RunFacts) -> npt.NDArray[np.uint8]:
    """Returns a picture with a strip above it that says what it is, uint8 [H, W, 3].

    Args:
        picture: RGB.
        facts: of the run.
    """
    em = min(max(picture.width // _LINES_A_PICTURE, _TEXT_PX[0]), _TEXT_PX[1])
    models = ", ".join(text[:12] for text in facts.hashes)
    lines = [_NOTICE, _WHAT, f"{OWN_MANUFACTURER} {facts.backbone}, model {models}"]
    font = ImageFont.load_default(em)
    rows = [row for line in lines for row in _wrap(line, font, picture.width - em)]
    height = round(1.5 * em * len(rows) + em)
    canvas = Image.new("RGB", (picture.width, picture.height + height), _PAPER)
    canvas.paste(picture, (0, height))
    draw = ImageDraw.Draw(canvas)
    for number, row in enumerate(rows):
        draw.text((em / 2, em / 2 + 1.5 * em * number), row, _INK, font)
    return np.asarray(canvas)


def _wrap(
    line: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, most_px: float
) -> list[str]:
    """A line in as many rows as its width takes."""
    rows = [""]
    for word in line.split():
        longer = f"{rows[-1]} {word}".strip()
        if rows[-1] and font.getlength(longer) > most_px:
            rows.append(word)
        else:
            rows[-1] = longer
    return rows
