import numpy as np
import pyarrow as pa
import pytest

from orchestrator.data.cohorts import number_cohorts
from orchestrator.errors import DataError


def table(*files: tuple[int, str]) -> pa.Table:
    return pa.table(
        {
            "root": [root for root, _ in files],
            "path": [path for _, path in files],
            "label": pa.array([int("PNEUMONIA" in path) for _, path in files], pa.int8()),
        }
    )


def test_a_folder_of_class_folders_is_a_cohort_and_so_is_an_input() -> None:
    both = [f"{site}{name}/1.png" for site in ("a/", "b/", "") for name in ("NORMAL", "PNEUMONIA")]
    files = [(0, path) for path in both] + [(1, path) for path in both[4:]]
    numbers = number_cohorts(table(*files))
    assert len(set(numbers)) == 4
    assert (numbers[::2] == numbers[1::2]).all()
    assert numbers.dtype == np.int64


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ([(0, "NORMAL/1.png"), (0, "PNEUMONIA/1.png")], r"1 cohort\(s\), 1 of them"),
        (
            [(0, "a/NORMAL/1.png"), (0, "a/PNEUMONIA/1.png"), (0, "b/NORMAL/1.png")],
            r"2 cohort\(s\), 1 of them",
        ),
    ],
)
def test_one_cohort_or_one_class_is_told(files: list[tuple[int, str]], told: str) -> None:
    with pytest.raises(DataError, match=told):
        number_cohorts(table(*files))
