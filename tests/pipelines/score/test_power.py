"""The power fails while a real run writes its tables: the old state or the new, never a part."""

import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from orchestrator import read_predictions
from orchestrator.config.specs import Resources, ScoreSpec
from orchestrator.data import terms
from orchestrator.data.shard_files import has_part, part_path, read_part, write_part
from orchestrator.pipelines.score import score as scoring
from orchestrator.runs.run_dir import RunDir
from tests.conftest import Recorder
from tests.fixtures.stored import unpack
from tests.runs.power import Tree, put, recorded

SPEC = ScoreSpec(input=("in",), model=("bundle",), shard_rows=3, out="out/run")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """X-rays, a bundle and their scored shards, which take the place of the workers."""
    unpack(tmp_path)
    monkeypatch.chdir(tmp_path)
    scored = RunDir(tmp_path / "score_unfinished")
    decoder = scored.load_status()["terms"]["decoder"]
    for module in (scoring, terms):
        monkeypatch.setattr(module, "DECODER_VERSION", decoder)
    first, last = (read_part(part_path(scored.shards, number)) for number in (0, 2))
    shards = [first, read_part(tmp_path / "shard_left_out.arrow"), last]

    def score_shards(spec: ScoreSpec, run: RunDir, *_: Any) -> None:
        for number, table in enumerate(shards):
            path = part_path(run.shards, number)
            if not has_part(path, run.load_uuid()):
                write_part(path, table, run.load_uuid())

    monkeypatch.setattr(scoring, "open_session", lambda *_, **__: _Nothing())
    monkeypatch.setattr(scoring, "_score_shards", score_shards)
    (tmp_path / "out").mkdir()
    return tmp_path


class _Nothing:
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


def run_score(**changed: Any) -> None:
    scoring.score(SPEC.model_copy(update=changed), Resources(workers=1), Recorder())


def check_tables(run: RunDir) -> None:
    """A run that is marked as finished has all its rows."""
    assert len(read_predictions(run.path)) == 6
    assert pq.read_table(run.manifest).num_rows == 7
    assert pq.read_table(run.rejected).num_rows == 1
    assert run.report_json.read_text().endswith("}\n")
    assert run.report_html.read_text().rstrip().endswith("</html>")


def check(trees: list[Tree], folder: Path, number: int, every: int, *, overwrite: bool) -> None:
    """What a cut leaves is whole where it says so, and the same command ends well."""
    run = RunDir(folder / "out" / "run")
    for count, tree in enumerate(trees):
        put(tree, folder / "out")
        finished = run.success.exists()
        if finished:
            check_tables(run)
        if (number + count) % every == 0 and (overwrite or not finished):
            run_score(overwrite=overwrite)
            check_tables(run)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("every", [25, pytest.param(1, marks=pytest.mark.slow)])
def test_a_power_cut_leaves_whole_tables_or_a_run_that_goes_on(
    folder: Path, every: int, overwrite: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if overwrite:
        run_score()
    with recorded(folder / "out") as recording:
        run_score(overwrite=overwrite)
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    states = 0
    for number, moment in enumerate(recording.moments):
        states += len(moment.trees)
        check(moment.trees, folder, number, every, overwrite=overwrite)
    print(f"score: {len(recording.moments)} prefixes, {states} states")  # shown by -rP
    assert len(recording.moments) > 40
    assert states > 30
    shutil.rmtree(folder / "out")
