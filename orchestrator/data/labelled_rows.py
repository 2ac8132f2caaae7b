"""Labelled rows of a manifest as arrays: those of a split, of a fold, of an evaluation."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa


@dataclass(frozen=True)
class LabelledRows:
    """Rows with their labels and patients, in one order.

    Args:
        rows: int64 [N], manifest rows.
        labels: int8 [N], 0 NORMAL, 1 PNEUMONIA.
        patients: object [N], patient ids, None where unknown.
    """

    rows: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int8]
    patients: npt.NDArray[np.object_]

    @classmethod
    def of(cls, table: pa.Table) -> "LabelledRows":
        """Returns the rows of a table with the columns row, label and patient_id.

        Args:
            table: every row with a label.
        """
        return cls(
            table.column("row").to_numpy(),
            table.column("label").to_numpy(),
            np.array(table.column("patient_id").to_pylist(), object),
        )

    def __len__(self) -> int:
        return len(self.rows)
