"""Finds a patient's rows in scoring runs, by id, by file, and by what these lead to."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.config.yaml_file import load_yaml
from orchestrator.data.known.forgotten import File
from orchestrator.data.known.index import path_hash, whole_path
from orchestrator.data.manifest import iter_shards, open_manifest_file
from orchestrator.data.parquet import open_parquet
from orchestrator.data.pseudonym import HASHED, keyed_hash
from orchestrator.data.schema import escape_path, unescape_path
from orchestrator.errors import DataError, SpecError
from orchestrator.pipelines.prepare.ingest import load_patient_key
from orchestrator.runs.atomic import sha256_file
from orchestrator.runs.run_dir import RunDir

_LISTED = ["row", "root", "path", "size_bytes", "mtime_ns", "patient_id"]
# By what a row of the predictions or a rejected one is known, null where the table has no such.
_TRACED = pa.schema(
    [("row", pa.int64())] + [(name, pa.string()) for name in ("patient_id", "sha256", "study_uid")]
)


@dataclass
class Traces:
    """By what a patient's rows are known; it grows as rows are found.

    Attributes:
        key: under which ids and paths were hashed; None where none was given.
        ids: as tables may hold them.
        named: whole paths of files and folders that the user says are the patient's.
        files: whole paths of files found.
        contents: SHA-256 of files found.
        studies: UIDs of their studies, as tables hold them.
    """

    key: bytes | None
    ids: set[str]
    named: set[bytes] = field(default_factory=set)
    files: set[bytes] = field(default_factory=set)
    contents: set[str] = field(default_factory=set)
    studies: set[str] = field(default_factory=set)

    def size(self) -> int:
        """Returns how much is known."""
        return len(self.ids) + len(self.files) + len(self.contents) + len(self.studies)


@dataclass(frozen=True)
class PatientRows:
    """A patient's rows in a run.

    Attributes:
        rows: numbers of rows of the manifest.
        files: what a later night must know of them.
        counts: rows by table.
        num_unnamed: other rejected rows, of which nothing tells whose they are.
    """

    rows: list[int]
    files: list[File]
    counts: dict[str, int]
    num_unnamed: int


def start_traces(
    patient: str, issuer: str | None, key_file: Path | None, named: Iterable[Path]
) -> Traces:
    """Returns what is known of a patient at first.

    Args:
        patient: the id as a table or a DICOM header has it.
        issuer: of the id, as in the DICOM header.
        key_file: that the runs were scored with.
        named: files, and folders of files, that are the patient's.

    Raises:
        SpecError: the key file cannot be read, or no id is given.
    """
    if not patient.strip():
        raise SpecError("received an empty patient id; give the id, or - to read it from a pipe")
    key = load_patient_key(str(key_file)) if key_file else None
    traces = Traces(key, {patient.strip()})
    if key is not None:
        whole = patient.strip() + (f"\0{issuer}" if issuer else "")
        for encoding in ("utf-8", "latin-1"):  # headers are hashed in the bytes that they hold
            for text in (patient.strip(), whole):
                traces.ids.add(keyed_hash(key, text.encode(encoding, "replace")))
    for path in named:
        below = [path, *path.rglob("*")] if path.is_dir() else [path]
        traces.named |= {os.fsencode(found.absolute()) for found in below}
        traces.contents |= {sha256_file(found) for found in below if found.is_file()}
    return traces


def find_rows(run: RunDir, traces: Traces) -> PatientRows:
    """Returns a patient's rows in a run, and adds what they tell to the traces.

    Raises:
        DataError: a table of the run is damaged.
    """
    try:
        return _find_rows(run, traces)
    except (OSError, pa.ArrowException, KeyError) as error:
        raise DataError(
            f"the tables of {run.path} cannot be read ({str(error).splitlines()[0]}); remove the "
            "run, or restore it from a backup, and run the same command again"
        ) from error


def _find_rows(run: RunDir, traces: Traces) -> PatientRows:
    stored = open_manifest_file(run.manifest)
    bad = _load_traced(run.rejected)
    unnamed = bad.filter(_all_null(bad))["row"]
    rejected = {row["row"]: row for row in bad.to_pylist()}
    rows: list[int] = []
    files: list[File] = []
    num_scored = num_unnamed = 0
    for shard, listed in enumerate(iter_shards(stored, _LISTED)):
        part = run.predictions / f"part-{shard:05d}.parquet"
        scored = _load_traced(part)
        # What has no prediction is known by its file, or by what the listing says of it.
        unscored = pc.invert(pc.is_in(listed["row"], scored["row"]))
        mine = pc.is_in(listed["row"], scored.filter(_any_of(scored, traces))["row"])
        mine = pc.or_(mine, pc.and_(unscored, pc.is_in(listed["patient_id"], _texts(traces.ids))))
        mine = pc.or_(mine, pc.is_in(listed["row"], bad.filter(_any_of(bad, traces))["row"]))
        for number, root in enumerate(stored.roots):
            of_root = pc.equal(listed["root"], number)
            named = _is_named(listed["path"], root, number, traces)
            again = pc.and_(unscored, pc.is_in(listed["path"], _below(root, traces.files)))
            mine = pc.or_(mine, pc.and_(of_root, pc.or_(named, again)))
        blank = pc.and_(pc.is_in(listed["row"], unnamed), pc.is_null(listed["patient_id"]))
        num_unnamed += pc.sum(pc.and_(blank, pc.invert(mine))).as_py() or 0
        listed = listed.filter(mine)
        scored = scored.filter(pc.is_in(scored["row"], listed["row"]))
        by_row = {row["row"]: row for row in scored.to_pylist()}
        for row in listed.to_pylist():
            path = whole_path(stored.roots[row["root"]], unescape_path(row["path"]))
            found = by_row.get(row["row"]) or rejected.get(row["row"], {})
            sha, patient = found.get("sha256") or "", found.get("patient_id")
            traces.files.add(path)
            traces.contents |= {sha} - {""}
            traces.studies |= {found.get("study_uid") or ""} - {""}
            if patient and patient.startswith(HASHED) and patient != row["patient_id"]:
                traces.ids.add(patient)  # of the header, under whatever key
            rows.append(row["row"])
            num_scored += row["row"] in by_row
            state = (row["size_bytes"], row["mtime_ns"])
            files.append((path_hash(path).hex(), *state, sha))
    counts = {"scored": num_scored, "rejected": len(rejected.keys() & set(rows))}
    known = list(iter_known_rows(run, traces.contents, hash_files(traces.files)))
    for _, path, row in known:
        traces.files.add(path)
        state = (row["size_bytes"], row["mtime_ns"])
        files.append((path_hash(path).hex(), *state, row["sha256"] or ""))
    return PatientRows(rows, files, counts | {"known": len(known)}, num_unnamed)


def hash_files(files: Iterable[bytes]) -> set[str]:
    """Returns the hashes of whole paths, hexadecimal."""
    return {path_hash(path).hex() for path in files}


def iter_known_rows(
    run: RunDir, contents: set[str], files: set[str]
) -> Iterator[tuple[int, bytes, dict[str, Any]]]:
    """Yields a patient's rows of `known.parquet`: the place of each, its whole path, and the row.

    Args:
        run: the run.
        contents: SHA-256 of the patient's images.
        files: as `hash_files` gives them; what was rejected there has no SHA-256.
    """
    if not run.known.exists():
        return
    roots = open_manifest_file(run.manifest).roots
    for place, row in enumerate(open_parquet(run.known).read().to_pylist()):
        path = whole_path(roots[row["root"]], unescape_path(row["path"]))
        sha = row["sha256"]
        if sha in contents or (sha is None and path_hash(path).hex() in files):
            yield place, path, row


def hides_patients(run: RunDir, traces: Traces) -> str | None:
    """Returns why a patient's rows in a run may be hidden from a search by id; None where not."""
    kept = [
        *(_load_traced(path)["patient_id"] for path in (*run.prediction_parts(), run.rejected)),
        *(table["patient_id"] for table in iter_shards(open_manifest_file(run.manifest))),
    ]
    hashed = [ids for ids in kept if pc.any(pc.starts_with(ids, HASHED)).as_py()]
    if not hashed or any(pc.any(pc.is_in(ids, _texts(traces.ids))).as_py() for ids in hashed):
        return None
    named = load_args(run).get("patient_key_file")
    if named is None:
        return "its key was random and was not kept"
    if traces.key is None:
        return f"it was scored with the key file {named}: give it as --patient-key-file"
    try:
        other = load_patient_key(str(named)) != traces.key
    except SpecError:  # moved since: the one that is given is taken for it
        other = False
    return f"it was scored with another key file, {named}" if other else None


def load_args(run: RunDir) -> dict[str, Any]:
    """Returns what a run was asked for; nothing where it was copied without its spec."""
    if not run.spec.exists():
        return {}
    args: dict[str, Any] = load_yaml(run.spec, "the spec of a run")["args"]
    return args


def _any_of(table: pa.Table, traces: Traces) -> pa.Array:
    """Whether each row of `_TRACED` is the patient's; a study tells where no patient is named."""
    by_id = pc.is_in(table["patient_id"], _texts(traces.ids))
    by_study = pc.is_in(table["study_uid"], _texts(traces.studies))
    by_study = pc.and_(by_study, pc.is_null(table["patient_id"]))
    return pc.or_(by_id, pc.or_(by_study, pc.is_in(table["sha256"], _texts(traces.contents))))


def _all_null(table: pa.Table) -> pa.Array:
    """Whether each row of `_TRACED` says nothing of whose it is."""
    patient, sha, study = (pc.is_null(table[name]) for name in _TRACED.names[1:])
    return pc.and_(patient, pc.and_(sha, study))


def _load_traced(path: Path) -> pa.Table:
    """Returns the columns of `_TRACED` of a table."""
    file = open_parquet(path)
    kept = [name for name in _TRACED.names if name in file.schema_arrow.names]
    parts = [file.read(columns=kept), _TRACED.empty_table()]
    return pa.concat_tables(parts, promote_options="default")


def _is_named(paths: pa.ChunkedArray, root: bytes, number: int, traces: Traces) -> pa.Array:
    """Whether each path of a root is one that the user named, or below one."""
    found = pc.is_in(paths, _below(root, traces.named))
    if traces.key is not None:  # of a run that hashed its paths
        relative = _below(root, traces.named).to_pylist()
        hashes = {keyed_hash(traces.key, f"{number}:{path}") for path in relative}
        found = pc.or_(found, pc.is_in(paths, _texts(hashes)))
    for path in traces.named:
        if (root.rstrip(b"/") + b"/").startswith(path + b"/"):
            found = pc.or_(found, pc.is_valid(paths))
        elif path.startswith(root.rstrip(b"/") + b"/"):
            folder = escape_path(path[len(root.rstrip(b"/")) + 1 :]) + "/"
            found = pc.or_(found, pc.starts_with(paths, folder))
    return found


def _below(root: bytes, files: Iterable[bytes]) -> pa.Array:
    """The paths of files below a root, as its rows have them."""
    start = root.rstrip(b"/") + b"/"
    return _texts(escape_path(f[len(start) :]) for f in files if f.startswith(start))


def _texts(values: Iterable[str]) -> pa.Array:
    return pa.array(sorted(values), pa.string())
