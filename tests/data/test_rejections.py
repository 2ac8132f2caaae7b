from pathlib import Path

import pytest

from orchestrator.data.rejections import Rejections, check_rejected
from orchestrator.errors import DataError


def test_the_commonest_cause_comes_first_with_its_first_file() -> None:
    rejections = Rejections()
    rejections.add([{"code": "empty_file", "path": "a.png", "message": "No bytes."}])
    rejections.add(
        {"code": "missing_file", "path": f"{n}.png", "message": "There is no such file."}
        for n in range(1200)
    )
    rejections.add([{"code": "damaged", "path": "z.png"}])
    assert rejections.total == 1202
    assert list(rejections.by_code()) == ["missing_file", "damaged", "empty_file"]
    assert rejections.describe(5000) == (
        "1,200 of 5,000: missing_file, damaged 1, empty_file 1; the first is 0.png: There is no "
        "such file."
    )


def test_a_cause_without_words_is_its_code() -> None:
    rejections = Rejections()
    rejections.add([{"code": "damaged", "path": "z.png"}])
    assert rejections.describe(1) == "1 of 1: damaged; the first is z.png"


def test_more_rejected_than_allowed_is_an_error() -> None:
    check_rejected(3, 60, 0.05, Path("rejected.parquet"))
    check_rejected(0, 0, 0.0, Path("rejected.parquet"))
    with pytest.raises(DataError, match=r"^4 of 60 files were rejected, .* 0.05; rejected.parquet"):
        check_rejected(4, 60, 0.05, Path("rejected.parquet"))
