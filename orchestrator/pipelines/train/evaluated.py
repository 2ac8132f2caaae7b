"""The scored validation and test rows of a training run, kept to compare models row by row."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.data.labelled_rows import LabelledRows
from orchestrator.data.parquet import open_parquet, write_parquet
from orchestrator.runs.run_dir import RunDir

_TITLES = {"val": "validation", "test": "test"}
_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("split", pa.string()),
        ("patient_id", pa.string()),
        ("label", pa.int8()),
        ("probability", pa.float32()),  # calibrated, of PNEUMONIA
    ]
)


def write_evaluated(
    run: RunDir, parts: Mapping[str, LabelledRows], probabilities: Mapping[str, Any]
) -> None:
    """Writes the rows on which a run was evaluated.

    Args:
        run: the run.
        parts: split -> its rows.
        probabilities: split -> float32 [n], calibrated, in the part's order.
    """
    tables = [
        pa.Table.from_arrays(
            [
                pa.array(parts[split].rows, pa.int64()),
                pa.array([split] * len(values), pa.string()),
                pa.array(parts[split].patients, pa.string()),
                pa.array(parts[split].labels, pa.int8()),
                pa.array(values, pa.float32()),
            ],
            schema=_SCHEMA,
        )
        for split, values in probabilities.items()
    ]
    write_parquet(run.evaluated, pa.concat_tables(tables))


def load_evaluated(
    run: RunDir,
) -> tuple[dict[str, LabelledRows], dict[str, npt.NDArray[np.float32]]]:
    """Returns what `write_evaluated` wrote: rows, and probabilities in their order.

    Both by "validation", and "test" where there is one.
    """
    table = open_parquet(run.evaluated).read()
    parts = {
        title: table.filter(pc.equal(table.column("split"), split))
        for split, title in _TITLES.items()
    }
    parts = {title: part for title, part in parts.items() if part.num_rows}
    return (
        {title: LabelledRows.of(part) for title, part in parts.items()},
        {title: part.column("probability").to_numpy() for title, part in parts.items()},
    )
