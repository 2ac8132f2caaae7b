"""Scoring from a real Orthanc by DICOMweb: like from a folder, whatever is killed or stopped."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydicom import uid

from orchestrator.data.listing.dicomweb.login import PASSWORD, TOKEN_COMMAND, USERNAME
from tests import orthanc as real
from tests.conftest import PUBLIC_DATA
from tests.data.make_images import encapsulated, make_dataset
from tests.fixtures.stored import unpack
from tests.pipelines.command import start
from tests.processes import descendants, title

pytestmark = [pytest.mark.slow, pytest.mark.real_data]
NUM = 200
DAY = "20260105"


def make_dicoms(folder: Path) -> None:
    """Writes 200 X-rays as DICOM files, named by their instance: JPEG of three qualities."""
    sources = sorted((PUBLIC_DATA / "fullres").rglob("*.jpeg"))
    if not sources:
        pytest.skip("needs the full-size X-rays in ../shared/data/fullres")
    folder.mkdir()
    for number in range(NUM):
        image = Image.open(sources[number % len(sources)]).convert("L")
        image.thumbnail((1024, 1024))
        out = BytesIO()
        image.save(out, "JPEG", quality=90 - 10 * (number // len(sources)))
        instance = uid.generate_uid(entropy_srcs=[f"instance {number}"])
        dataset = make_dataset(
            np.asarray(image),
            8,
            SOPInstanceUID=instance,
            StudyInstanceUID=uid.generate_uid(entropy_srcs=[f"study {number // 2}"]),
            SeriesInstanceUID=uid.generate_uid(entropy_srcs=[f"series {number}"]),
            PatientID=f"P{number // 2}",
            StudyDate=DAY,
            InstanceCreationDate=DAY,
            InstanceCreationTime="101112",
        )
        dataset.file_meta.MediaStorageSOPInstanceUID = instance
        data = encapsulated(dataset, uid.JPEGBaseline8Bit, out.getvalue())
        (folder / f"{instance}.dcm").write_bytes(data)


class Scene:
    """An Orthanc with 200 X-rays, the same in a folder, a bundle, and commands on them."""

    def __init__(self, folder: Path, orthanc: real.Orthanc) -> None:
        self.folder, self.orthanc = folder, orthanc
        query = f"StudyDate={DAY}-20260131&Modality=DX"
        self.address = f"dicomweb+{orthanc.dicomweb}?{query}"

    def start(self, source: object, *words: object, **how: Any) -> subprocess.Popen[str]:
        return start("score", source, "--model", self.folder / "bundle", *words, **how)

    def score(self, source: object, *words: object, exit_code: int = 0) -> str:
        """Runs a command and returns what it said."""
        command = self.start(source, *words)
        output, said = command.communicate(timeout=400)
        assert command.returncode == exit_code, said
        return output + said


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("archive")
    with real.run_orthanc(tmp_path_factory.mktemp("orthanc")) as orthanc:
        make_dicoms(folder / "xrays")
        for path in (folder / "xrays").iterdir():
            orthanc.store(path.read_bytes())
        unpack(folder)
        yield Scene(folder, orthanc)


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(USERNAME, real.USER)
    monkeypatch.setenv(PASSWORD, real.PASSWORD)
    monkeypatch.delenv(TOKEN_COMMAND, raising=False)


@pytest.fixture(scope="module")
def expected(scene: Scene) -> dict[str, float]:
    """The logits of the folder's images."""
    run = scene.folder / "of_folder"
    scene.score(scene.folder / "xrays", "--out", run)
    return logits(run)


def logits(run: Path) -> dict[str, float]:
    """Logits by instance; fails where one has two rows, or was rejected."""
    rows = pq.read_table(run / "predictions").to_pylist()
    found = {row["path"].rpartition("/")[2].removesuffix(".dcm"): row["logit"] for row in rows}
    assert len(found) == len(rows) == NUM
    assert not pq.read_table(run / "rejected.parquet").num_rows
    assert (run / "_SUCCESS").exists()
    return found


def wait_for(reached: Callable[[], bool], command: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 200
    while not reached():
        if command.poll() is not None or time.monotonic() > deadline:
            command.kill()
            pytest.fail(f"it ended or stood still: {command.communicate()[1][-2000:]}")
        time.sleep(0.05)


def num_committed(run: Path) -> int:
    return len(list((run / "_shards").glob("part-*")))


def assert_no_secret(folder: Path, *texts: str) -> None:
    files = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    assert files
    for data in (*files, *(text.encode() for text in texts)):
        assert real.PASSWORD.encode() not in data


def test_an_archive_gives_the_results_of_the_folder(
    scene: Scene, expected: dict[str, float]
) -> None:
    root = scene.folder / "of_archive"
    words = ["--out-root", root, "--only-new", "--json"]
    said = scene.score(scene.address, *words)
    (run,) = (path.parent for path in root.glob("*/_SUCCESS"))
    assert logits(run) == expected
    assert_no_secret(root, said)
    # Another query finds them again, and none is fetched.
    again = scene.score(scene.address.replace(DAY, "20251201"), *words)
    counts = json.loads(again[again.index("{") : again.rindex("}") + 1])["counts"]
    assert (counts["found"], counts["scored"], counts["scored_before"]) == (NUM, 0, NUM)


def test_a_run_that_was_killed_goes_on_and_no_process_shows_the_password(
    scene: Scene, expected: dict[str, float]
) -> None:
    run = scene.folder / "killed"
    words = [scene.address, "--out", run, "--shard-rows", 20]
    command = scene.start(*words, decode_s=0.1)
    wait_for(lambda: num_committed(run) >= 2, command)
    family = descendants(command.pid)
    assert not [pid for pid in (command.pid, *family) if real.PASSWORD in title(pid)]
    command.kill()
    command.communicate(timeout=60)
    assert num_committed(run) < NUM // 20
    scene.score(*words)
    assert logits(run) == expected
    assert_no_secret(run)


def test_a_run_whose_archive_stops_ends_with_5_and_goes_on_later(
    scene: Scene, expected: dict[str, float]
) -> None:
    run = scene.folder / "stopped"
    words = [scene.address, "--out", run, "--shard-rows", 20]
    command = scene.start(*words, decode_s=0.1)
    wait_for(lambda: num_committed(run) >= 2, command)
    scene.orthanc.stop()
    try:
        _, said = command.communicate(timeout=400)
    finally:
        scene.orthanc.start()
    assert command.returncode == 5, said
    line = said.strip().splitlines()[-1]
    assert "does not give its images: no connection to it" in " ".join(said.split()), line
    assert num_committed(run) >= 2
    assert not (run / "_SUCCESS").exists()
    scene.score(*words)
    assert logits(run) == expected


def test_a_wrong_password_is_one_line_and_shows_nowhere(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PASSWORD, f"wrong {real.PASSWORD}")
    said = scene.score(scene.address, "--out", scene.folder / "wrong", exit_code=5)
    assert "it refuses the credentials, HTTP status 401" in " ".join(said.split())
    assert "Traceback" not in said
    assert_no_secret(scene.folder / "wrong", said)


def test_an_instance_that_goes_meanwhile_is_a_rejected_row(scene: Scene) -> None:
    run = scene.folder / "removed"
    words = [scene.address, "--out", run, "--shard-rows", 20]
    command = scene.start(*words, decode_s=0.1)
    wait_for(lambda: num_committed(run) >= 1, command)
    os.kill(command.pid, signal.SIGTERM)
    command.communicate(timeout=100)
    last = pq.read_table(run / "manifest.parquet")["path"].to_pylist()[-1]
    instance = last.rpartition("/")[2]
    ids = scene.orthanc.ask("/tools/lookup", instance.encode())
    data = scene.orthanc.fetch(f"/instances/{ids[0]['ID']}/file")
    scene.orthanc.fetch(f"/instances/{ids[0]['ID']}", method="DELETE")
    try:
        scene.score(*words)
    finally:
        scene.orthanc.store(data)
    rejected = pq.read_table(run / "rejected.parquet").to_pylist()
    assert [(row["path"], row["code"]) for row in rejected] == [(last, "missing_file")]
