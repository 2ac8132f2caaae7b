"""The result of a study as a DICOM object: a Comprehensive SR by template 1500.

Imports highdicom, of the extra `dicom`.

Reference: DICOM PS3.16 TID 1500 (measurement report), TID 1501 (measurement group), TID 4019
(algorithm identification); PS3.3 A.35.3 (Comprehensive SR).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom
from highdicom import UID
from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    ComprehensiveSR,
    DeviceObserverIdentifyingAttributes,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    QualitativeEvaluation,
    RelationshipTypeValues,
    SourceImageForMeasurementGroup,
    TextContentItem,
    TrackingIdentifier,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from orchestrator import __version__
from orchestrator.data.listing.dicomweb.answers import OWN_MANUFACTURER, OWN_REPORT
from orchestrator.errors import DataError
from orchestrator.evaluation.wording import format_figure
from orchestrator.hospital.originals import REQUIRED, derive_uid
from orchestrator.hospital.results import RunFacts, ScoredImage, Study

SERIES_NUMBER = 9101  # beyond those of modalities
_PNEUMONIA = CodedConcept("233604007", "SCT", "Pneumonia")
_PROCEDURE = CodedConcept("399208008", "SCT", "Plain X-ray of chest")


def report_uid(study: Study, facts: RunFacts) -> str:
    """Returns the UID of a study's report, the same whichever of its images are found."""
    return facts.uid("report", study.images[0].original.study_uid)


def load_evidence(path: Path) -> set[str]:
    """Returns the UIDs of the images that a report in a file is of.

    Raises:
        DataError: it is no report.
    """
    keyword = "CurrentRequestedProcedureEvidenceSequence"
    try:
        read = pydicom.dcmread(path, specific_tags=[keyword])
        return {
            item.ReferencedSOPInstanceUID
            for study in read[keyword].value
            for series in study.ReferencedSeriesSequence
            for item in series.ReferencedSOPSequence
        }
    except Exception as error:  # a damaged file makes the library fail in any way, quoting it
        raise DataError(
            f"{path} cannot be read as a structured report; remove it, and it is written again"
        ) from error


def build_report(study: Study, facts: RunFacts) -> Dataset:
    """Returns the report of a study, in a series of its own.

    Of several images the first measurement group holds the highest probability, which is the
    study's, and each image has a group of its own after it.

    Args:
        study: at least one image, all of one patient.
        facts: of the run.
    """
    groups = [_group("result", study.images, study, facts)]
    if len(study.images) > 1:
        for number, image in enumerate(study.images, 1):
            groups.append(_group(f"image {number}", [image], study, facts))
    content = MeasurementReport(_observer(facts), _PROCEDURE, groups)
    content[0].ContentSequence.append(_comment(_notice(study, facts)))
    own = study.images[0].original
    report = ComprehensiveSR(
        [_evidence(image) for image in study.images],
        content[0],
        series_instance_uid=facts.uid("reports", own.study_uid),
        series_number=SERIES_NUMBER,
        sop_instance_uid=report_uid(study, facts),
        instance_number=1,
        manufacturer=OWN_MANUFACTURER,
        is_complete=True,
        series_description=OWN_REPORT,
        manufacturer_model_name=facts.backbone[:64],
        software_versions=__version__,
        device_serial_number=facts.hashes[0],
    )
    own.identify(report)
    date_as(report, facts)
    return report


def date_as(result: Dataset, facts: RunFacts) -> None:
    """Dates a result by the end of its run, so that it is the same whenever it is made."""
    day, time = facts.ended.strftime("%Y%m%d"), facts.ended.strftime("%H%M%S")
    for keyword in ("InstanceCreationDate", "ContentDate", "DateOfSecondaryCapture"):
        if keyword in result:
            setattr(result, keyword, day)
    for keyword in ("InstanceCreationTime", "ContentTime", "TimeOfSecondaryCapture"):
        if keyword in result:
            setattr(result, keyword, time)
    for item in result.get("ContributingEquipmentSequence") or ():  # highdicom names itself
        item.ContributionDateTime = day + time


def _group(
    name: str, images: Sequence[ScoredImage], study: Study, facts: RunFacts
) -> MeasurementsAndQualitativeEvaluations:
    """A finding of one image, or of the study by the highest of all its images."""
    highest = max(images, key=lambda image: image.probability)
    ids = sorted(image.original.sop_uid for image in images)
    derivation = codes.SCT.Maximum if len(images) > 1 else None
    unit = codes.UCUM.NoUnits
    call = codes.SCT.Present if highest.predicted else codes.SCT.Absent
    return MeasurementsAndQualitativeEvaluations(
        TrackingIdentifier(UID(facts.uid(name, *ids)), name),
        finding_type=_PNEUMONIA,
        algorithm_id=AlgorithmIdentification(
            f"{OWN_MANUFACTURER} {facts.backbone}",
            " ".join(f"sha256:{text}" for text in facts.hashes),
            [f"threshold {facts.threshold!r}", f"threshold chosen by {facts.threshold_rule}"],
            codes.cid7162.ArtificialIntelligence,
        ),
        measurements=[
            # As they are shortest, within the 16 characters of a decimal string.
            Measurement(
                codes.DCM.Probability,
                float(str(np.float32(highest.probability))),
                unit,
                derivation=derivation,
            ),
            Measurement(codes.DCM.ThresholdValue, float(f"{facts.threshold:.12g}"), unit),
        ],
        qualitative_evaluations=[QualitativeEvaluation(_PNEUMONIA, call)],
        source_images=[
            SourceImageForMeasurementGroup(image.original.sop_class, image.original.sop_uid)
            for image in images
        ],
    )


def _notice(study: Study, facts: RunFacts) -> str:
    """What a reader of the report must know besides the figures."""
    text = facts.intended_use
    if len(study.images) > 1:
        values = ", ".join(format_figure(image.probability) for image in study.images)
        text += (
            f" The result is that of the image with the highest probability of {len(study.images)}"
            f" ({values})."
        )
    if study.needs_review is not None:
        by_rule = "leaves it to a person" if study.needs_review else "accepts it"
        text += f" The model's review rule {by_rule}."
    return text


def _comment(text: str) -> TextContentItem:
    return TextContentItem(codes.DCM.Comment, text, RelationshipTypeValues.CONTAINS)


def _observer(facts: RunFacts) -> ObservationContext:
    """The program with its model as the device that observed."""
    device = DeviceObserverIdentifyingAttributes(
        uid=derive_uid("device", *facts.hashes),
        name=f"{OWN_MANUFACTURER} {__version__}",
        model_name=facts.backbone,
        serial_number=facts.hashes[0],
    )
    return ObservationContext(observer_device_context=ObserverContext(codes.cid270.Device, device))


def _evidence(image: ScoredImage) -> Dataset:
    """What of an image the report refers to; patient and study are added by `identify`."""
    evidence = Dataset()
    evidence.StudyInstanceUID = image.original.study_uid
    evidence.SeriesInstanceUID = image.original.series_uid
    evidence.SOPInstanceUID = image.original.sop_uid
    evidence.SOPClassUID = image.original.sop_class
    for keyword in REQUIRED:
        setattr(evidence, keyword, None)
    return evidence
