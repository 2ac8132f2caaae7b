"""Two scoring runs of the same files, row by row: what both scored, and what became of the rest."""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.data.parquet import open_parquet
from orchestrator.runs.run_dir import RunDir

_KEY = ["root", "path"]
_UNKNOWN = -1  # in place of a root that is null, as in data sets of earlier versions
_OWN = ("sha256", "label", "logit", "probability")  # of each run; all else is of the first


@dataclass(frozen=True)
class PairedRuns:
    """The images on which two models are judged.

    Attributes:
        table: predictions of the first run of each labelled image that both have scored, in the
            order of paths, and beside them `other_logit` and `other_probability` of the second.
        scored: sha256 and label of all that the first has scored.
        files: files found by what became of them; each counts once.
    """

    table: pa.Table
    scored: pa.Table
    files: dict[str, int]


def pair_runs(first: RunDir, second: RunDir) -> PairedRuns:
    """Returns the images that two finished runs have scored, byte for byte the same.

    An image that one of them has rejected is left out of both and counted.

    Args:
        first: of the live model.
        second: of the candidate.
    """
    scored = [_load_scored(run) for run in (first, second)]
    fates = [_fates(run, of) for run, of in zip((first, second), scored, strict=True)]
    counted = fates[0].join(fates[1], _KEY, join_type="full outer", right_suffix="_other")
    counts = counted.group_by(["fate", "fate_other"]).aggregate([([], "count_all")]).to_pylist()
    by_fate = {(row["fate"], row["fate_other"]): row["count_all"] for row in counts}
    other = scored[1].select([*_KEY, *_OWN]).rename_columns([*_KEY, *(f"other_{n}" for n in _OWN)])
    both = scored[0].join(other, _KEY, join_type="inner")
    same = pc.and_(
        pc.equal(both["sha256"], both["other_sha256"]),
        pc.equal(pc.fill_null(both["label"], -1), pc.fill_null(both["other_label"], -1)),
    )
    unchanged = both.filter(same)
    table = unchanged.filter(pc.is_valid(unchanged["label"]))
    files = {
        "compared": table.num_rows,
        "without a label": unchanged.num_rows - table.num_rows,
        "rejected by both": by_fate.get(("rejected", "rejected"), 0),
        "rejected by the live model alone": by_fate.get(("rejected", "scored"), 0),
        "rejected by the candidate alone": by_fate.get(("scored", "rejected"), 0),
        "changed between the two": both.num_rows - unchanged.num_rows,
        "found by one alone": sum(count for fate, count in by_fate.items() if None in fate),
    }
    names = [*scored[0].column_names, "other_logit", "other_probability"]
    ordered = table.select(names).sort_by([(name, "ascending") for name in _KEY])
    known = pc.if_else(pc.equal(ordered["root"], _UNKNOWN), None, ordered["root"])
    ordered = ordered.set_column(names.index("root"), "root", known)
    return PairedRuns(ordered, scored[0].select(["sha256", "label"]), files)


def _load_scored(run: RunDir) -> pa.Table:
    parts = [open_parquet(part).read() for part in run.prediction_parts()]
    return _with_root(pa.concat_tables(parts))


def _fates(run: RunDir, scored: pa.Table) -> pa.Table:
    """root and path of every file that a run found, and whether it was scored or rejected."""
    rejected = _with_root(open_parquet(run.rejected).read(columns=_KEY))
    tables = [
        table.select(_KEY).append_column("fate", pa.array([fate] * table.num_rows, pa.string()))
        for fate, table in (("scored", scored), ("rejected", rejected))
    ]
    return pa.concat_tables(tables)


def _with_root(table: pa.Table) -> pa.Table:
    """The table with a number for a root that is not known: joins leave out what is null."""
    place = table.column_names.index("root")
    return table.set_column(place, "root", pc.fill_null(table["root"], _UNKNOWN))
