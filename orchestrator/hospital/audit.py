"""What an auditor may have of a run: figures and tables in which no person and no file is named.

What goes in is on a list; all else stays. Paths, names of folders and devices, hashes of patients
and files, pictures, and the run's own name do not go in.
"""

import hashlib
import importlib.metadata
import io
import json
import platform
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator import __version__
from orchestrator.config.yaml_file import load_yaml
from orchestrator.data.limits import REJECTION_CODES
from orchestrator.data.parquet import open_parquet
from orchestrator.data.schema import PREDICTIONS
from orchestrator.errors import BundleError, DataError
from orchestrator.evaluation.report.report import render_html
from orchestrator.evaluation.tally import Tally
from orchestrator.model.bundle import CARD_DATA_FILE, CARD_FILE
from orchestrator.pipelines.review.scored_run import ScoredRun, open_scored
from orchestrator.registry.reference import Model, open_model
from orchestrator.runs.atomic import atomic_path, sha256_file
from orchestrator.runs.run_dir import RunDir

# Numbers and words of fixed lists. Patients become numbers in the order of the rows.
_PREDICTIONS = (
    *("row", "label", "split", "width_px", "height_px", "grey_rule", "decode_notes", "scope"),
    *("logit", "probability", "predicted", "margin", "decision", "review_reason"),
    *("age_years", "sex", "view_position", "modality", "photometric_interpretation"),
    *("presentation_intent", "body_part", "burned_in_annotation"),
)
_REJECTED = ("row", "label", "code")
_SHADOW = (
    *("row", "label", "logit", "probability", "threshold", "predicted"),
    *("live_probability", "live_predicted"),
)
_REPORT = (
    *("kind", "counts", "known", "decoding", "num_images", "num_patients", "metrics", "confusion"),
    *("interval", "review", "threshold", "threshold_rule", "overridden_threshold", "model"),
    *("intended_use",),
)
_NAMED_GROUPS = ("root", "site_folder", "device")
_PACKAGES = ("numpy", "pyarrow", "pillow", "pydicom", "openvino", "keras", "tensorflow", "ray")


@dataclass(frozen=True)
class AuditBundle:
    """A ZIP that was written.

    Attributes:
        path: the file.
        sha256: of it.
        files: the names in it.
    """

    path: Path
    sha256: str
    files: list[str]


def write_audit_bundle(folder: Path, out: Path) -> AuditBundle:
    """Writes report, tables, model cards, environment and hashes of a run into a ZIP.

    The same run gives the same bytes on the same machine.

    Args:
        folder: of a finished scoring run.
        out: the ZIP; one that is there is replaced.

    Raises:
        DataError: no finished scoring run, or its tables cannot be read.
        BundleError: the model's bundle is gone or another one by now.
        ClusterError: the file system refused the write.
    """
    scored = open_scored(folder, may_be_empty=True)
    run, models = scored.run, _find_models(scored)
    predictions, rejected = load_predictions(run), _load(run.rejected, _REJECTED)
    tables = {"predictions.parquet": predictions, "rejected.parquet": rejected}
    if run.shadow.exists():
        tables["shadow.parquet"] = _load(run.shadow, _SHADOW)
    report = anonymise(scored.report, run.load_uuid())
    files = {name: _encode(table) for name, table in tables.items()}
    files["report.json"] = _json(report)
    files["report.html"] = render_html(report, _tally(report, predictions, rejected)).encode()
    for number, model in enumerate(models, 1):
        for name in (CARD_FILE, CARD_DATA_FILE):
            card = model.folder / name
            if card.exists():  # bundles of earlier versions have no card for programs
                files[f"model-{number}/{name}"] = card.read_bytes()
    files["environment.json"] = _json(_environment(run))
    files["hashes.json"] = _json(_hashes(scored, files))
    with atomic_path(out) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name)  # of 1980: the same content is the same ZIP
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, files[name])
    return AuditBundle(out, sha256_file(out), sorted(files))


def load_predictions(run: RunDir) -> pa.Table:
    """Returns the predictions of a run without what names a person or a file.

    Args:
        run: a finished scoring run.

    Returns:
        The columns of the list above that the run has, those of several models, and `patient`, the
        number of the patient in the order of the rows, null where unknown.
    """
    parts = [open_parquet(path).read() for path in sorted(run.predictions.glob("*.parquet"))]
    whole = pa.concat_tables(parts, promote_options="default")
    numbered = [name for name in whole.column_names if name.startswith("probability_")]
    kept = [name for name in (*_PREDICTIONS, *numbered) if name in whole.column_names]
    patients = whole["patient_id"].combine_chunks().dictionary_encode().indices
    table = whole.select(kept).append_column("patient", patients.cast(pa.int32()))
    return table.replace_schema_metadata(None)


def anonymise(report: Mapping[str, Any], uuid: str) -> dict[str, Any]:
    """Returns a run's report without what names a person, a file, a folder or a device.

    Args:
        report: as in report.json.
        uuid: of the run, which stands for its name.
    """
    shown = {name: report.get(name) for name in _REPORT}  # earlier versions had fewer
    shown["run"] = {"run_id": uuid, "started_at": report["run"].get("started_at")}
    shown["listing"], shown["scope"], shown["drift"] = {}, report.get("scope"), report.get("drift")
    if shown["scope"]:
        by_root = [root | {"name": None} for root in shown["scope"]["by_root"]]
        shown["scope"] = shown["scope"] | {"by_root": by_root}
    if shown["drift"]:
        groups = [group for group in shown["drift"]["groups"] if group["kind"] not in _NAMED_GROUPS]
        shown["drift"] = shown["drift"] | {"groups": groups}
    shown["subgroups"] = subgroups = report.get("subgroups")
    if subgroups:
        kept = [each for each in subgroups["dimensions"] if each["name"] not in _NAMED_GROUPS]
        worst = subgroups["worst"]
        if worst is not None and worst["dimension"] in _NAMED_GROUPS:
            worst = None
        shown["subgroups"] = subgroups | {"dimensions": kept, "worst": worst}
    return shown


def _tally(report: Mapping[str, Any], predictions: pa.Table, rejected: pa.Table) -> Tally:
    """What the page is drawn from: rows stand for paths, and codes say what was found."""
    tally = Tally(report["threshold"])

    def named(table: pa.Table) -> pa.Table:
        paths = [f"row {row}" for row in table["row"].to_pylist()]
        return table.append_column("path", pa.array(paths, pa.string()))

    for name in PREDICTIONS.names:  # runs of earlier versions lack the newest
        if name not in predictions.column_names:
            kind = PREDICTIONS.field(name).type
            predictions = predictions.append_column(name, pa.nulls(predictions.num_rows, kind))
    predictions = predictions.drop_columns(["path", "patient_id"])
    patients = predictions["patient"].cast(pa.string())
    messages = [REJECTION_CODES.get(code, "") for code in rejected["code"].to_pylist()]
    tally.add(
        named(predictions.append_column("patient_id", patients)),
        named(rejected.append_column("message", pa.array(messages, pa.string()))),
    )
    return tally


def _find_models(scored: ScoredRun) -> list[Model]:
    """Returns the bundles that the run was scored with, verified."""
    named = load_yaml(scored.run.spec, "the spec of a run").get("args", {}).get("model") or []
    models = [open_model(name) for name in ([named] if isinstance(named, str) else named)]
    expected = scored.report["model"]["sha256"]
    found = [model.info.sha256 for model in models]
    if found != ([expected] if isinstance(expected, str) else expected):
        raise BundleError(
            f"the bundle of {scored.run.path} is not the one that it was scored with; restore it "
            "from a backup, or from the registry, so that its model card can be handed over"
        )
    return models


def _environment(run: RunDir) -> dict[str, Any]:
    """Engine and precision of the run, and the program and packages at the time of this export."""
    versions: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # no part of this installation
            versions[package] = None
    terms = run.load_status().get("terms") or {}
    scored_with = {name: terms[name] for name in ("engine", "precision") if name in terms}
    system = f"{platform.system()} {platform.machine()}"
    return {
        "scored_with": scored_with,
        "exported_with": {
            "xray-orchestrator": __version__,
            "python": platform.python_version(),
            "system": system,
            "packages": versions,
        },
    }


def _hashes(scored: ScoredRun, files: Mapping[str, bytes]) -> dict[str, Any]:
    """SHA-256 of the files here, of the bundles, and of the run's own files that they are from."""
    run, model = scored.run, scored.report["model"]["sha256"]
    own = [run.manifest, run.rejected, run.shadow, run.report_json, run.report_html, run.spec]
    own += sorted(run.predictions.glob("*.parquet"))
    return {
        "bundles": [model] if isinstance(model, str) else model,
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())},
        "run": {str(f.relative_to(run.path)): sha256_file(f) for f in own if f.exists()},
    }


def _load(path: Path, columns: tuple[str, ...]) -> pa.Table:
    try:
        return open_parquet(path).read().select(columns).replace_schema_metadata(None)
    except (OSError, pa.ArrowException, KeyError) as error:
        raise DataError(f"{path} cannot be read; copy the run again") from error


def _encode(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()
