"""What a promotion over a live version asks for: a comparison of exactly these two bundles.

A registry keeps the report of each promotion under its hash, which the history names; it is never
changed.

    registry/reports/SHA256/report.json    with report.html
"""

import json
import shutil
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from orchestrator.errors import SpecError, describe_newer
from orchestrator.evaluation.verdict import (
    PROOF_KIND,
    PROOF_SCHEMA_VERSION,
    Grounds,
    PromotionVerdict,
    Word,
    decide,
)
from orchestrator.model.bundle import Sha256
from orchestrator.runs.atomic import atomic_folder, sha256_file
from orchestrator.runs.run_dir import RunDir

REPORTS = "registry/reports"


class Proof(BaseModel):
    """The comparison by which a version was promoted: the hash of its report, and its verdict."""

    sha256: Sha256
    verdict: Word


class _Model(BaseModel):
    sha256: Sha256


class _Report(BaseModel):
    """What of a comparison's report.json a promotion is held to."""

    kind: Literal["models-compare"]
    live: _Model
    candidate: _Model
    grounds: Grounds
    verdict: PromotionVerdict


def check_proof(run: Path, live: str | None, candidate: str, *, force: bool) -> Proof:
    """Returns the proof that a comparison gives for a candidate in the place of the live model.

    Args:
        run: folder of the comparison.
        live: SHA-256 of the bundle that is live now; None where none is.
        candidate: of the one that is to be.
        force: whatever its verdict.

    Raises:
        SpecError: no finished comparison, one of other bundles, one whose verdict its figures do
            not give, or one whose verdict is not `promote`.
    """
    files = RunDir(run)
    if not files.success.exists():
        raise SpecError(
            f"--report {run} holds no finished comparison; expected the folder of a run of "
            "`orchestrator models compare`"
        )
    report = _load(files.report_json)
    compared = (report.live.sha256, report.candidate.sha256)
    if compared != (live, candidate):
        shown = [of[:12] if of else "nothing" for of in (*compared, live, candidate)]
        raise SpecError(
            f"--report {run} compares {shown[0]} as the live model with {shown[1]}; live now is "
            f"{shown[2]} and the candidate {shown[3]}: compare these two"
        )
    if decide(report.grounds).word != report.verdict.word:
        raise SpecError(
            f"the verdict of --report {run} does not follow from its figures; compare again"
        )
    if report.verdict.word != "promote" and not force:
        raise SpecError(
            f"the comparison says {report.verdict.word}: {'; '.join(report.verdict.reasons)}; "
            "--force promotes all the same, and the history keeps that"
        )
    return Proof(sha256=sha256_file(files.report_json), verdict=report.verdict.word)


def keep_proof(place: str, run: Path, proof: Proof) -> None:
    """Copies a comparison's report into a registry that nobody else changes meanwhile."""
    kept = Path(place, REPORTS, proof.sha256)
    if kept.exists():
        return
    files = RunDir(run)
    with atomic_folder(kept) as draft:
        for file in (files.report_json, files.report_html):
            temporary = draft / file.name
            shutil.copyfile(file, temporary)
            temporary.chmod(0o444)
        if sha256_file(draft / files.report_json.name) != proof.sha256:
            raise SpecError(f"{files.report_json} was changed meanwhile; compare again")


def _load(path: Path) -> _Report:
    try:
        raw = json.loads(path.read_bytes())
        version = int(raw["schema_version"]) if raw["kind"] == PROOF_KIND else 0
        if version > PROOF_SCHEMA_VERSION:
            raise SpecError(describe_newer(path, version, PROOF_SCHEMA_VERSION))
        return _Report.model_validate(raw)
    except (OSError, ValueError, TypeError, KeyError) as error:  # pydantic's is a ValueError
        raise SpecError(
            f"{path} is no report of `orchestrator models compare`, or it is damaged; compare again"
        ) from error
