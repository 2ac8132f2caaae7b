"""What the tests of this folder quantise by."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.config.specs import IngestSpec, Resources
from orchestrator.pipelines.prepare.ingest import ingest
from tests.conftest import Recorder


def ingest_phantoms(folder: Path, out: Path) -> Path:
    spec = IngestSpec(input=str(folder), out=str(out), image_size=64)
    ingest(spec, Resources(workers=1), Recorder())
    return out


@pytest.fixture(scope="module")
def dataset(
    trained: SimpleNamespace, phantoms: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return ingest_phantoms(phantoms, tmp_path_factory.mktemp("ingested") / "data")
