"""`orchestrator export`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.options import JsonFlag
from orchestrator.cli.output import print_result
from orchestrator.errors import DataError, SpecError, counted

if TYPE_CHECKING:
    from orchestrator.hospital.export import ExportResult

app = typer.Typer()


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished scoring run.")],
    dicom: Annotated[
        Path | None,
        typer.Option(
            metavar="<path>",
            help="Folder for a structured report of each study, and its heat maps, as DICOM.",
            show_default="none",
        ),
    ] = None,
    stow: Annotated[
        str | None,
        typer.Option(
            metavar="<address>",
            help="Store them in the archive whose DICOMweb service is at this address.",
            show_default="none",
        ),
    ] = None,
    audit: Annotated[
        Path | None,
        typer.Option(
            "--bundle-for-audit",
            metavar="<file>",
            help="ZIP of report, tables, model card and hashes, in which no person is named.",
            show_default="none",
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Hand the results of a scoring run to an archive, as DICOM, or to an auditor."""
    if dicom is None and stow is None and audit is None:
        raise SpecError("nothing to export to; give --dicom, --stow or --bundle-for-audit")
    body: dict[str, Any] = {}
    lines: list[str] = []
    result = None
    if dicom is not None or stow is not None:
        from orchestrator.cli.terminal import open_reporter
        from orchestrator.hospital.export import export_results

        with open_reporter() as reporter:
            result = export_results(run, dicom, stow, reporter)
        body |= vars(result)
        lines += _result_lines(result, dicom, stow)
    if audit is not None:
        from orchestrator.hospital.audit import write_audit_bundle

        written = write_audit_bundle(run, audit)
        body["audit"] = {**vars(written), "path": str(written.path)}
        lines.append(f"audit    {written.path}, SHA-256 {written.sha256}")
    print_result(body, lines, as_json=as_json)
    if result is not None and (result.num_faults or result.refused):
        raise DataError(
            f"{counted(result.num_faults, 'DICOM image')} without a result, "
            f"{counted(len(result.refused), 'result')} refused by the archive; all others are "
            "exported: correct what is said above, then run the same command again"
        )


def _result_lines(result: "ExportResult", dicom: Path | None, stow: str | None) -> list[str]:
    """Returns what was exported, and each reason why something was not."""
    from orchestrator.hospital.results import LEFT_OUT

    lines = [
        f"results  {counted(result.num_studies, 'structured report')}, one a study; "
        f"{counted(result.num_pictures, 'heat map')}"
    ]
    if dicom is not None:
        lines.append(f"written  {dicom}, {result.written:,} new, {result.present:,} there already")
    if stow is not None:
        lines.append(f"stored   {stow}, {result.stored:,} new, {result.stored_before:,} before")
    lines += [
        f"{counted(number, 'image')} without a result: {LEFT_OUT[reason]}"
        for reason, number in result.left_out.items()
        if number
    ]
    said: dict[str, int] = {}
    for problem in result.refused.values():
        said[problem] = said.get(problem, 0) + 1
    lines += [f"{counted(n, 'result')} refused by the archive: {text}" for text, n in said.items()]
    return lines
