import os
from pathlib import Path

import pytest

from orchestrator.errors import SpecError
from orchestrator.model.bundle_folder import INFO_FILE, list_bundles, newest_bundle


def test_a_bundle_is_a_folder_with_a_description_and_the_newest_was_described_last(
    tmp_path: Path,
) -> None:
    with pytest.raises(SpecError, match="no model was named and there is none under"):
        newest_bundle(tmp_path / "models")
    for name, written in (("old", 3), ("new", 9), ("older", 1)):
        (tmp_path / name).mkdir()
        (tmp_path / name / INFO_FILE).touch()
        os.utime(tmp_path / name / INFO_FILE, (written, written))
    (tmp_path / "unfinished").mkdir()
    (tmp_path / INFO_FILE).touch()
    assert {bundle.name for bundle in list_bundles(tmp_path)} == {"old", "new", "older"}
    assert newest_bundle(tmp_path) == tmp_path / "new"
