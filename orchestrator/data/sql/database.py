"""The runs of a folder as tables that SQL can ask, read-only: DuckDB, imported here alone.

DuckDB never opens a file. Arrow reads the tables, wherever they are, and DuckDB is shut off from
files, networks and extensions before the first query. What a query needs beyond its memory goes to
a temporary folder that is removed at the end.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

from orchestrator.data import schema
from orchestrator.data.sql.found_runs import FoundRun, find_runs_at
from orchestrator.data.sql.latest import FILL_LATEST
from orchestrator.errors import ClusterError, DataError, SpecError

VIEWS = {
    "predictions": "one row per image and run that scored it",
    "latest": "each image once, as the newest run that scored it has it",
    "rejected": "one row per file and run that could not use it",
    "runs": "one row per finished run, the oldest first",
}
_MEMORY = "1200MB"  # of DuckDB's own; what it reads comes on top
_RUNS = pa.schema(
    [
        ("run_id", pa.string()),
        ("ended_at", pa.timestamp("ms")),  # UTC
        ("model", pa.string()),  # SHA-256 of the bundle, of several joined by +
        ("threshold", pa.float64()),
        ("found", pa.int64()),
        ("scored", pa.int64()),
        ("rejected", pa.int64()),
        ("scored_before", pa.int64()),
        ("rejected_before", pa.int64()),
    ]
)
_ROOTS = pa.schema(
    [("run", pa.int64()), ("number", pa.int16()), ("root", pa.string()), ("base", pa.string())]
)
_TOLD = pa.schema([("age", pa.int64()), *((n, pa.string()) for n in ("base", "path", "sha256"))])


class Database:
    """The tables of a folder's runs.

    Attributes:
        unfinished: names of runs that are left out.

    Args:
        connection: of DuckDB.
        runs: the oldest first.
        unfinished: names of those that are left out.
    """

    def __init__(self, connection: Any, runs: list[FoundRun], unfinished: list[str]) -> None:
        self._connection = connection
        self.unfinished = unfinished
        self._fills_latest = True
        roots = [
            {"run": age, "number": number, "root": root, "base": _base(root)}
            for age, run in enumerate(runs)
            for number, root in enumerate(run.roots)
        ]
        self._register("_roots", pa.Table.from_pylist(roots, _ROOTS))
        self._register("runs", _describe(runs))
        self._register("_told", pa.concat_tables([_TOLD.empty_table(), *_tell(runs)]))
        parts = [(run, run.predictions) for run in runs]
        columns = self._register_rows("_predictions", parts, schema.PREDICTIONS)
        self._run(f"CREATE VIEW predictions AS SELECT {columns} {_named('_predictions')}")
        self._run("CREATE TABLE _latest (id BIGINT)")
        self._run(
            f"CREATE VIEW latest AS SELECT {columns} {_named('_predictions')} "
            "WHERE age << 40 | row IN (FROM _latest)"
        )
        bad = [(run, [run.rejected] if run.rejected else []) for run in runs]
        columns = self._register_rows("_rejected", bad, schema.REJECTED)
        self._run(f"CREATE VIEW rejected AS SELECT {columns} {_named('_rejected')}")
        for setting in ("enable_external_access = false", "lock_configuration = true"):
            self._run(f"SET {setting}")

    def query(self, text: str) -> "Rows":
        """Returns the rows that a query gives, to be read while the database is open.

        Args:
            text: one SELECT statement.

        Raises:
            SpecError: anything else, or SQL that DuckDB refuses.
            DataError: a table of a run is damaged.
            ClusterError: a file system fails.
        """
        import duckdb

        with _told_plainly():
            statements = self._connection.extract_statements(text)
            kinds = [statement.type for statement in statements]
            if kinds != [duckdb.StatementType.SELECT]:
                given = ", ".join(kind.name for kind in kinds) or "nothing"
                raise SpecError(
                    f"received {given}; expected one SELECT statement: runs are only read"
                )
            if self._fills_latest and "latest" in text.lower():
                for statement in FILL_LATEST:
                    self._connection.execute(statement)
                self._fills_latest = False
            return Rows(self._connection.sql(text).to_arrow_reader())

    def columns(self) -> dict[str, list[str]]:
        """Returns the names of the columns of each of `VIEWS`."""
        return {name: self._connection.sql(f"FROM {name} LIMIT 0").columns for name in VIEWS}

    def _run(self, statement: str) -> None:
        self._connection.execute(statement)

    def _register(self, name: str, table: Any) -> None:
        self._connection.register(name, table)

    def _register_rows(
        self, name: str, parts: list[tuple[FoundRun, list[str]]], least: pa.Schema
    ) -> str:
        """Makes one table of the parts of all runs, and returns its columns as a user sees them.

        What a run lacks is null there. Two columns more name the run and its age.
        """
        files, schemas = [], [least]
        form = ds.ParquetFileFormat()
        for age, (run, paths) in enumerate(parts):
            of_run = (ds.field("run_id") == run.name) & (ds.field("age") == age)
            files += [form.make_fragment(path, run.filesystem, of_run) for path in paths]
            schemas += [run.schema_of(path) for path in paths[:1]]  # a run's parts are alike
        try:
            columns = pa.unify_schemas(schemas, promote_options="permissive")
        except pa.ArrowException as error:
            raise DataError(
                f"the tables of the runs do not fit together ({error}); ask fewer runs at once"
            ) from error
        whole = pa.schema([("run_id", pa.string()), *columns, ("age", pa.int64())])
        self._register(name, ds.FileSystemDataset(files, whole, form))
        shown = [f'rows."{column}"' for column in columns.names if column != "root"]
        at = columns.names.index("root")
        return ", ".join(["run_id", *shown[:at], "roots.root", *shown[at:]])


@contextmanager
def open_database(place: str) -> Iterator[Database]:
    """Yields the runs of a folder or an address as a database, for the length of the block.

    Args:
        place: as for `find_runs_at`.

    Raises:
        SpecError: DuckDB is not installed, or as `find_runs_at`.
        DataError: as `find_runs_at`.
        ClusterError: as `find_runs_at`.
    """
    try:
        import duckdb
    except ImportError as error:
        raise SpecError(
            "SQL needs DuckDB, which is not installed; install the extra: "
            "pip install 'xray-orchestrator[sql]'"
        ) from error
    runs, unfinished = find_runs_at(place)
    with tempfile.TemporaryDirectory(prefix="orchestrator-sql-") as spill:
        settings = {
            "memory_limit": _MEMORY,
            "temp_directory": spill,
            "preserve_insertion_order": False,
            # How many rows Arrow has to give is not known to DuckDB: the right side of a join is
            # the small one, as written.
            "disabled_optimizers": "build_side_probe_side",
            "python_enable_replacements": False,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
        with duckdb.connect(config=settings) as connection:
            yield Database(connection, runs, unfinished)


class Rows:
    """The rows of a query, batch by batch.

    Attributes:
        schema: of the rows.
    """

    def __init__(self, reader: pa.RecordBatchReader) -> None:
        self.schema: pa.Schema = reader.schema
        self._reader = reader

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Yields the rows; errors are as `Database.query` raises them."""
        with _told_plainly():
            yield from self._reader


@contextmanager
def _told_plainly() -> Iterator[None]:
    """Turns what DuckDB and Arrow say of a query into the errors of the product."""
    import duckdb

    try:
        yield
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        text = " ".join(str(error).split("LINE 1:")[0].split())[:400]
        if ".parquet" in text:
            raise DataError(
                f"a table of a run cannot be read ({text}); move the run out of its folder, or "
                "score its images again"
            ) from error
        if isinstance(error, duckdb.OutOfMemoryException):
            raise SpecError(
                f"the query needs more than {_MEMORY} of memory; ask for fewer rows or columns"
            ) from error
        if any(word in text for word in ("IOError", "OSError", "Errno", "AWS")):
            raise ClusterError(
                f"a table of a run cannot be read ({text}); run the same command again"
            ) from error
        raise SpecError(f"{text}; the tables are {', '.join(VIEWS)}") from error


def _named(rows: str) -> str:
    """The rows of all runs, each with the text of its root."""
    return f"FROM {rows} AS rows JOIN _roots AS roots ON (age = run AND rows.root = number)"


def _describe(runs: list[FoundRun]) -> pa.Table:
    """The table `runs`; what an older report does not say is null."""
    rows = []
    for run in runs:
        counts, model = run.report.get("counts", {}), run.report.get("model", {}).get("sha256")
        rows.append(
            {
                **{name: counts.get(name) for name in _RUNS.names},
                "run_id": run.name,
                "ended_at": _naive(run.ended),
                "model": " + ".join(model) if isinstance(model, list) else model,
                "threshold": run.report.get("threshold"),
            }
        )
    return pa.Table.from_pylist(rows, _RUNS)


def _naive(moment: datetime) -> datetime:
    return moment.replace(tzinfo=None)


def _tell(runs: list[FoundRun]) -> Iterator[pa.Table]:
    """Yields what each run found of the contents of files that it did not score."""
    for age, run in enumerate(runs):
        if run.known is None:
            continue
        rows = run.load(run.known, ["root", "path", "sha256", "matched"]).to_pylist()
        kept = [row for row in rows if row["sha256"] and row["matched"] != "file"]
        named = [row | {"age": age, "base": _base(run.roots[row["root"]])} for row in kept]
        yield pa.Table.from_pylist(named, _TOLD)


def _base(root: str) -> str:
    """A root may be given with and without its last slash."""
    return root.rstrip("/") + "/"
