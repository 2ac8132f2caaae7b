"""Training, ingest and scoring take from a store what they take from a folder."""

import csv
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.config.specs import IngestSpec, Resources, ScoreSpec, TrainSpec
from orchestrator.data.source import load_dataset
from orchestrator.pipelines.prepare.ingest import ingest
from orchestrator.pipelines.score.score import score
from orchestrator.pipelines.train.train import train
from orchestrator.runs.run_dir import RunDir
from tests.conftest import Recorder
from tests.data.s3_server import Bucket, serve_s3

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]
ONE = Resources(workers=1)


@pytest.fixture(scope="module")
def bucket(phantoms: Path) -> Iterator[Bucket]:
    """The phantoms below `in/`, and beside them a table that puts their labels the other way."""
    with pytest.MonkeyPatch.context() as patch, serve_s3() as found:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        for path in phantoms.rglob("*.jpeg"):
            found.objects[f"in/{path.relative_to(phantoms)}"] = path.read_bytes()
        yield found


@pytest.fixture(scope="module")
def table(phantoms: Path, bucket: Bucket, tmp_path_factory: pytest.TempPathFactory) -> Path:
    text = StringIO()
    writer = csv.writer(text)
    writer.writerow(["path", "label", "patient_id"])
    for number, path in enumerate(sorted(phantoms.rglob("*.jpeg"))):
        writer.writerow([path.relative_to(phantoms.parent), int("NORMAL" in path.parts), number])
    bucket.objects |= {
        f"{phantoms.name}/{key[3:]}": data
        for key, data in bucket.objects.items()
        if key.startswith("in/")
    }
    bucket.objects["labels.csv"] = text.getvalue().encode()
    path = phantoms.parent / "labels_of_addresses.csv"
    path.write_text(text.getvalue())
    return path


def images(folder: Path) -> pa.Table:
    dataset = load_dataset(RunDir(folder).dataset)
    tables = [dataset.load_table(shard) for shard in range(dataset.num_shards)]
    return pa.concat_tables(tables).drop_columns(["mtime_ns"]).replace_schema_metadata(None)


@pytest.mark.parametrize("of", ["folder", "table"])
def test_train_ingest_and_score_equal_those_of_the_folder(
    phantoms: Path,
    bucket: Bucket,
    table: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    of: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    here = str(phantoms if of == "folder" else table)
    there = bucket.address("in" if of == "folder" else "labels.csv")
    results: list[Any] = []
    for name, source in (("here", here), ("there", there)):
        ingest(IngestSpec(input=source, out=f"{name}_set", image_size=32), ONE, Recorder())
        spec = TrainSpec(
            data=source,
            out=f"{name}_model",
            backbone="tiny",
            weights="none",
            image_size=32,
            views=1,
            epochs=1,
            allow_leakage=True,
        )
        trained = train(spec, ONE, Recorder())
        scored = score(
            ScoreSpec(input=source, model="here_model", out=f"{name}_run"), ONE, Recorder()
        )
        rows = pq.read_table(scored.run / "predictions").to_pylist()
        results.append(
            (
                images(tmp_path / f"{name}_set"),
                trained.report["test"],
                [(row["path"], row["label"], row["logit"]) for row in rows],
            )
        )
    (here_images, here_report, here_rows), (there_images, there_report, there_rows) = results
    assert len(here_rows) == here_images.num_rows == 160
    assert there_images.equals(here_images)
    assert there_report == here_report
    assert there_rows == here_rows
