"""What people first try: single files, globs, folders among files; and what must not be input."""

import os
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest

from orchestrator.cli.summaries import score_summary
from orchestrator.config.specs import Resources, ScoreSpec
from orchestrator.errors import DataError, SpecError
from orchestrator.pipelines.score.score import open_ingested_input, score
from tests.conftest import Recorder
from tests.data.make_images import make_chest, write_dicom

pytestmark = pytest.mark.ray
HERE = Resources()


@pytest.fixture
def images(phantoms: Path, tmp_path: Path) -> Path:
    """A folder of six pictures and, in a folder in it, a DICOM file."""
    folder = tmp_path / "xrays"
    folder.mkdir()
    for number, path in enumerate(sorted(phantoms.rglob("*.jpeg"))[:6]):
        (folder / f"{number}.jpeg").write_bytes(path.read_bytes())
    (folder / "study1").mkdir()
    (folder / "study1" / "image.dcm").write_bytes(write_dicom(make_chest(), "monochrome2"))
    return folder


def run(trained: SimpleNamespace, inputs: list[Path], out: Path, **fields: Any) -> SimpleNamespace:
    recorder = Recorder()
    spec = ScoreSpec(
        input=tuple(map(str, inputs)), model=str(trained.bundle), out=str(out), **fields
    )
    result = score(spec, HERE, recorder)
    rows = pq.read_table(result.run / "predictions").to_pylist()
    return SimpleNamespace(
        result=result, counts=result.report["counts"], said=recorder.lines, rows=rows
    )


def test_one_file_many_files_and_files_beside_a_folder(
    trained: SimpleNamespace, images: Path, tmp_path: Path
) -> None:
    whole = run(trained, [images], tmp_path / "whole")
    expected = {row["path"]: row["probability"] for row in whole.rows}
    assert whole.counts["scored"] == 7

    one = run(trained, [images / "study1" / "image.dcm"], tmp_path / "one")
    assert {row["path"]: row["probability"] for row in one.rows} == {
        "image.dcm": expected["study1/image.dcm"]
    }
    many = run(trained, sorted(images.glob("*.jpeg")), tmp_path / "many")
    assert len(many.rows) == 6
    assert all(expected[row["path"]] == row["probability"] for row in many.rows)

    mixed = run(trained, [images / "study1", images / "3.jpeg"], tmp_path / "mixed")
    assert [(row["root"], row["path"]) for row in mixed.rows] == [(0, "image.dcm"), (1, "3.jpeg")]
    assert mixed.rows[1]["probability"] == expected["3.jpeg"]


def test_results_of_earlier_nights_below_the_input_are_never_input(
    trained: SimpleNamespace, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(images)
    (images / ".git").mkdir()
    (images / ".git" / "7.jpeg").write_bytes((images / "0.jpeg").read_bytes())
    counts = []
    for _ in range(2):
        recorder = Recorder()
        spec = ScoreSpec(
            input=str(images),
            model=str(trained.bundle),
            out_root=str(images / "out"),
            only_new=True,
        )
        result = score(spec, HERE, recorder)
        counts.append(result.report["counts"])
        (line,) = [line for line in recorder.lines if line.startswith("ignored")]
    assert [(c["found"], c["scored"], c["rejected"]) for c in counts] == [(7, 7, 0), (7, 0, 0)]
    assert [c["ignored"] for c in counts] == [2, 4]  # of the second: a run, and the index
    assert line == (
        "ignored 4 names: results of this program (3), .git (1); --include-hidden reads hidden and "
        "system files"
    )
    assert result.report["listing"]["ignored"] == {"results of this program": 3, ".git": 1}
    assert "ignored, no input" in "\n".join(score_summary(result))
    assert "names that are no input" in (result.run / "report.html").read_text()


@pytest.mark.usefixtures("in_process")
def test_hidden_files_are_scored_on_request_and_results_still_not(
    trained: SimpleNamespace, images: Path
) -> None:
    (images / "0.jpeg").rename(images / ".0.jpeg")
    for number, scored in enumerate((6, 7)):
        done = run(
            trained, [images], images / f"out{number}", include_hidden=bool(number), shard_rows=3
        )
        assert done.counts["scored"] == scored


def test_names_of_folders_stay_out_of_a_run_with_hashed_paths(
    trained: SimpleNamespace, images: Path, tmp_path: Path
) -> None:
    (images / "NORMAL").mkdir()
    (images / "0.jpeg").rename(images / "NORMAL" / "0.jpeg")
    (images / "Jane Doe").mkdir()
    (images / "1.jpeg").rename(images / "Jane Doe" / "1.jpeg")
    (images / ".Jane Doe").mkdir()
    plain = run(trained, [images], tmp_path / "plain")
    assert any("Jane Doe (1)" in line for line in plain.said)
    hashed = run(trained, [images], tmp_path / "hashed", hash_paths=True)
    assert hashed.counts["ignored"] == 1
    assert not any("Jane" in line for line in hashed.said)
    for path in hashed.result.run.rglob("*"):
        assert not path.is_file() or b"Jane" not in path.read_bytes(), path


@pytest.mark.parametrize("allowed", [0.0, 1.0])
def test_a_run_that_scores_nothing_is_no_success(
    allowed: float, trained: SimpleNamespace, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.txt").write_text("Dear colleague")
    (folder / "empty.png").touch()
    nothing = (
        r"none of the 4 files found could be scored \(.*rejected\.parquet lists them\); 3 of 4: "
        r"not_an_image, empty_file 1; the first is 0\.txt: .*Expected JPEG"
    )
    with pytest.raises(DataError, match=nothing):
        run(trained, [folder], tmp_path / "out", max_rejected_fraction=allowed)
    assert pq.read_metadata(tmp_path / "out" / "rejected.parquet").num_rows == 4
    assert not (tmp_path / "out" / "_SUCCESS").exists()


def test_an_inbox_that_may_be_empty(trained: SimpleNamespace, images: Path, tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    night = tmp_path / "night"
    with pytest.raises(DataError, match="inbox holds no files"):
        run(trained, [images, tmp_path / "inbox"], night)
    # The run that failed goes on with it: what is listed decides, not whether that may be nothing.
    assert run(trained, [images, tmp_path / "inbox"], night, allow_empty=True).counts["scored"] == 7

    quiet = run(trained, [tmp_path / "inbox"], tmp_path / "quiet", allow_empty=True)
    assert (quiet.counts["found"], quiet.rows) == (0, [])
    assert (quiet.result.run / "_SUCCESS").exists()
    assert any(line.split() == ["found", "0"] for line in score_summary(quiet.result))


def test_a_table_whose_files_moved_fails_before_anything_starts(
    trained: SimpleNamespace, images: Path, tmp_path: Path
) -> None:
    table = images / "table.csv"
    table.write_text("path\n" + "".join(f"share/xrays/{n}.jpeg\n" for n in range(6)))
    expected = r"none of the 6 files .* line 2 names share/xrays/0\.jpeg; 0\.jpeg is there: remo"
    with pytest.raises(DataError, match=expected):
        run(trained, [table], tmp_path / "out")
    table.write_text("path\n0.jpeg\ngone.jpeg\n")
    done = run(trained, [table], tmp_path / "out2")
    assert (done.counts["scored"], done.counts["rejected_by_code"]) == (1, {"missing_file": 1})


def test_classes_by_other_names_are_said_and_mapped(
    trained: SimpleNamespace, images: Path, tmp_path: Path
) -> None:
    for number, name in enumerate(("NORMAL", "NORMAL", "VIRUS", "VIRUS", "COVID", "COVID")):
        (images / name).mkdir(exist_ok=True)
        (images / f"{number}.jpeg").rename(images / name / f"{number}.jpeg")
    plain = run(trained, [images], tmp_path / "plain")
    assert any("folders of no known class: COVID (2), VIRUS (2)" in line for line in plain.said)
    assert plain.counts["labelled"] == {"NORMAL": 2, "PNEUMONIA": 0}
    mapped = run(
        trained, [images], tmp_path / "mapped", class_map=("virus=PNEUMONIA", "COVID=none")
    )
    assert mapped.counts["labelled"] == {"NORMAL": 2, "PNEUMONIA": 2}
    assert not any("no known class: COVID" in line for line in mapped.said)


def test_an_ingested_data_set_is_not_listed_again(tmp_path: Path, phantoms: Path) -> None:
    from orchestrator.data.manifest import build_manifest, write_manifest

    write_manifest(build_manifest(phantoms, 64), tmp_path / "manifest.parquet")
    (tmp_path / "dataset.json").write_text('{"schema_version": 1, "size_px": 64, "num_shards": 3}')
    spec = ScoreSpec(input=str(tmp_path), class_map="VIRUS=PNEUMONIA")
    with pytest.raises(SpecError, match="its files listed already; give include_hidden"):
        open_ingested_input(spec, 64)
    assert open_ingested_input(spec.model_copy(update={"class_map": None}), 64) is not None


def test_an_archive_is_named_as_such(tmp_path: Path) -> None:
    from orchestrator.data.listing.inputs import check_inputs

    with zipfile.ZipFile(tmp_path / "xrays.zip", "w") as archive:
        archive.writestr("a.png", os.urandom(10))
    with pytest.raises(DataError, match=r"xrays\.zip is an archive; unpack it and name its folder"):
        check_inputs([tmp_path / "xrays.zip"])
