"""Results of a run as DICOM objects, into a folder or into an archive: `orchestrator export`.

Every object has the same UID and content whenever it is made, so that a second export, or one that
goes on after a kill, adds none.
"""

import contextlib
import importlib.util
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import SpecError
from orchestrator.hospital.results import RunFacts, Study, find_studies
from orchestrator.pipelines.review.scored_run import ScoredRun, open_scored
from orchestrator.progress import Reporter
from orchestrator.runs.atomic import atomic_path
from orchestrator.runs.lock import hold

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydicom.dataset import Dataset

    from orchestrator.hospital.stow import ResultStore

_NEEDED = {"highdicom": "SR and Secondary Capture objects", "dicomweb_client": "DICOMweb"}


@dataclass(frozen=True)
class ExportResult:
    """What an export came to.

    Attributes:
        num_studies: studies with a result, each with one structured report, stored before or not.
        num_pictures: heat maps of them.
        written: objects written to the folder now; None without one.
        present: objects that were there already.
        stored: objects that the archive took now; None without one.
        stored_before: objects that it had taken in an earlier export.
        refused: what it said of each object that it did not take, by that object's UID.
        left_out: scored images without a result, by `results.LEFT_OUT`.
    """

    num_studies: int
    num_pictures: int
    written: int | None
    present: int
    stored: int | None
    stored_before: int
    refused: dict[str, str]
    left_out: dict[str, int]

    @property
    def num_faults(self) -> int:
        """Images without a result for another reason than that they are no DICOM."""
        return sum(self.left_out.values()) - self.left_out.get("not_dicom", 0)


@dataclass(frozen=True)
class _Made:
    """A result that can be made.

    Attributes:
        modality: "SR", a report, or "OT", a heat map.
        uid: its SOP Instance UID.
        rows: of the run that it is of.
        make: returns it.
    """

    modality: str
    uid: str
    rows: list[int]
    make: "Callable[[], Dataset]"

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{'sr' if self.modality == 'SR' else 'sc'}-{self.uid}.dcm"


def check_extra() -> None:
    """Raises `SpecError` where the extra `dicom` is not installed."""
    for package, what in _NEEDED.items():
        if importlib.util.find_spec(package) is None:
            raise SpecError(
                f"{what} need the package {package}, which is not installed; run "
                "`pip install 'xray-orchestrator[dicom]'`"
            )


def export_results(
    folder: Path, dicom: Path | None, stow: str | None, reporter: Reporter
) -> ExportResult:
    """Writes one report a study, and the heat maps that there are, as DICOM objects.

    Args:
        folder: of a finished scoring run.
        dicom: folder for the objects; what is there stays.
        stow: address of an archive's DICOMweb service that is to store them.
        reporter: receives every original that is read, and every object. For an archive alone that
            is what it has not taken yet.

    Raises:
        SpecError: the extra `dicom` is missing, or the archive's address or credentials are wrong.
        DataError: no finished scoring run, or one that hashed its paths.
        LockedError: another process works in the run.
        ClusterError: the storage of the originals, the archive or the disk failed; the same command
            goes on.
    """
    check_extra()
    if dicom is not None and dicom.exists() and not dicom.is_dir():
        raise SpecError(f"--dicom {dicom} is a file; name a folder, new or of an earlier export")
    scored = open_scored(folder, may_be_empty=True)
    with contextlib.ExitStack() as stack:
        archive = None
        if stow is not None:
            from orchestrator.hospital.stow import ResultStore

            stack.enter_context(hold(scored.run.path))
            archive = stack.enter_context(ResultStore(stow, scored.run))
        return _export(scored, dicom, archive, reporter)


def _export(
    scored: ScoredRun, dicom: Path | None, archive: "ResultStore | None", reporter: Reporter
) -> ExportResult:
    taken = {} if archive is None else archive.taken
    done_rows = _find_done(scored, taken.values()) if dicom is None else ()
    studies, left_out = find_studies(scored, reporter, done_rows)
    facts = RunFacts.of(scored)
    left_out += Counter(late=sum(_drop_late(study, facts, dicom, archive) for study in studies))
    studies = [study for study in studies if study.images]
    results = [each for study in studies for each in _results(study, facts)]
    of = Counter(each.modality for each in results)
    uids = {each.uid for each in results}
    before = Counter(each["modality"] for uid, each in taken.items() if uid not in uids)
    done = Counter(stored_before=before.total())
    refused: dict[str, str] = {}
    reporter.begin("results", len(results), "objects")
    for result in results:
        path = None if dicom is None else dicom / result.name
        is_there = path is None or path.exists()
        is_stored = archive is None or result.uid in taken
        made = None if is_there and is_stored else result.make()
        if path is not None:
            done["present" if is_there else "written"] += 1
            if made is not None and not is_there:
                with atomic_path(path) as temporary:
                    made.save_as(temporary, enforce_file_format=True)
        if archive is not None:
            problem = None
            if made is not None and not is_stored:
                problem = archive.store(made, result.rows)
            if problem is not None:
                refused[result.uid] = problem
            else:
                done["stored_before" if is_stored else "stored"] += 1
        reporter.advance(1)
    reporter.end()
    return ExportResult(
        of["SR"] + before["SR"],
        of["OT"] + before["OT"],
        None if dicom is None else done["written"],
        done["present"],
        None if archive is None else done["stored"],
        done["stored_before"],
        refused,
        dict(left_out),
    )


def _find_done(scored: ScoredRun, taken: Iterable[Mapping[str, Any]]) -> set[int]:
    """Returns the rows of which an archive has taken the report, and the heat map if there is one.

    Args:
        scored: the run.
        taken: what the archive has taken.
    """
    rows: dict[str, set[int]] = {"SR": set(), "OT": set()}
    for each in taken:
        rows[each["modality"]].update(each["rows"])
    drawn = {int(path.stem) for path in scored.run.heatmaps.glob("*.png")}
    return rows["SR"] - (drawn - rows["OT"])


def _drop_late(
    study: Study, facts: RunFacts, dicom: Path | None, archive: "ResultStore | None"
) -> int:
    """Leaves out the images that a report of the study lacks which is there; returns how many."""
    from orchestrator.hospital.structured_report import load_evidence, report_uid

    uid, images = report_uid(study, facts), study.images
    rows = None if archive is None else archive.rows_of(uid)
    if rows is not None:
        study.images = [image for image in study.images if rows & set(image.rows)]
    if dicom is not None and (path := dicom / f"sr-{uid}.dcm").exists():
        evidence = load_evidence(path)
        study.images = [i for i in study.images if i.original.sop_uid in evidence]
    return len(images) - len(study.images)


def _results(study: Study, facts: RunFacts) -> Iterator[_Made]:
    """Yields the report of a study and its heat maps, none of them made yet."""
    from orchestrator.hospital.secondary_capture import build_picture, picture_uid
    from orchestrator.hospital.structured_report import build_report, report_uid

    uid = report_uid(study, facts)
    rows = [row for image in study.images for row in image.rows]
    yield _Made("SR", uid, rows, partial(build_report, study, facts))
    for image in study.images:
        if image.heatmap is not None:
            make = partial(build_picture, image.heatmap, image, facts)
            yield _Made("OT", picture_uid(image, facts), list(image.rows), make)
