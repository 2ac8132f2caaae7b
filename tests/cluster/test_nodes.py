"""Several nodes: what every one of them must have, and what happens to work when one dies."""

import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TypeAlias

import pyarrow.parquet as pq
import pytest
from PIL import Image

from orchestrator.cluster.nodes import _Answer, _compare, _look, code_versions
from orchestrator.errors import ClusterError
from tests.cluster.nodes import Nodes, open_nodes
from tests.conftest import ROOT

PATIENCE_S = 400.0
NUM_LARGE = 240

Driver: TypeAlias = "subprocess.Popen[str]"
Orchestrate = Callable[..., Driver]


@pytest.fixture(scope="module")
def env() -> dict[str, str]:
    """The environment of every process of a cluster, with a token of its own."""
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    return os.environ | {"RAY_AUTH_TOKEN": secrets.token_hex(32), "PYTHONPATH": paths}


@pytest.fixture(scope="module")
def nodes(env: dict[str, str]) -> Iterator[Nodes]:
    """Three nodes."""
    with open_nodes(env) as running:
        yield running


@pytest.fixture(scope="module")
def large(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """X-rays of a size that takes time to decode."""
    folder = tmp_path_factory.mktemp("large")
    for index, path in enumerate(sorted(phantoms.rglob("*.jpeg"))[:20]):
        with Image.open(path) as image:
            image.resize((1600, 1600)).save(folder / f"{index:03d}-0.jpeg", quality=60)
        for copy in range(1, 12):
            shutil.copyfile(folder / f"{index:03d}-0.jpeg", folder / f"{index:03d}-{copy}.jpeg")
    return folder


@pytest.fixture
def orchestrate(env: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., Driver]]:
    """Starts `orchestrator` on a cluster, in the test's folder."""
    drivers: list[Driver] = []

    def start(nodes: Nodes, *arguments: str) -> Driver:
        code = "from orchestrator.cli.app import main; main()"
        drivers.append(
            subprocess.Popen(
                [sys.executable, "-c", code, *arguments],
                env=env | {"RAY_ADDRESS": nodes.address},
                cwd=tmp_path,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return drivers[-1]

    yield start
    for driver in drivers:
        if driver.poll() is None:
            driver.kill()
            driver.wait()


def wait_for(what: Callable[[], bool], driver: Driver) -> None:
    until = time.monotonic() + PATIENCE_S
    while not what():
        assert driver.poll() is None, driver.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.01)


def committed(run: Path) -> int:
    return len(list((run / "_shards").glob("part-*.arrow")))


def scored_paths(run: Path) -> list[str]:
    return sorted(pq.read_table(run / "predictions").column("path").to_pylist())


def score_arguments(trained: SimpleNamespace, folder: Path, run: Path) -> list[str]:
    return [
        "score",
        str(folder),
        *("--model", str(trained.bundle), "--out", str(run), "--shard-rows", "4", "--json"),
    ]


def check_scored(driver: Driver, folder: Path, run: Path) -> None:
    """The driver ends well, with one row for every file of the folder."""
    output, errors = driver.communicate(timeout=PATIENCE_S)
    assert driver.returncode == 0, errors
    counts = json.loads(output)["counts"]
    assert counts["found"] == counts["scored"] == NUM_LARGE
    assert scored_paths(run) == sorted(path.name for path in folder.iterdir())
    assert (run / "_SUCCESS").exists()


def test_a_node_without_the_folder_says_so(tmp_path: Path) -> None:
    present, absent = tmp_path / "present", tmp_path / "absent" / ".tmp-0-shared"
    present.touch()
    assert _look([str(present)], [str(present)]).lacking == []
    answer = _look([str(present), str(tmp_path / "gone")], [str(present), str(absent)])
    assert answer.lacking == [str(tmp_path / "gone"), str(absent.parent)]
    with pytest.raises(ClusterError, match=r"the node 10\.1\.2\.3 does not see .*gone, or may not"):
        _compare("the node 10.1.2.3", answer, code_versions())


@pytest.mark.parametrize(
    ("part", "content"),
    [("pipelines/score/score.py", "another hash"), ("keras", "3.14.0")],
)
def test_a_node_with_another_version_is_named(part: str, content: str) -> None:
    own = code_versions()
    assert part in own
    _compare("the node 10.1.2.3", _Answer(dict(own), []), own)
    _compare("the node 10.1.2.3", _Answer({k: v for k, v in own.items() if k != part}, []), own)
    with pytest.raises(ClusterError, match=rf"10\.1\.2\.3 has another version .*\({part}\)"):
        _compare("the node 10.1.2.3", _Answer(own | {part: content}, []), own)


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_score_goes_on_when_a_node_dies(
    trained: SimpleNamespace, large: Path, nodes: Nodes, orchestrate: Orchestrate, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    driver = orchestrate(nodes, *score_arguments(trained, large, run))
    wait_for(lambda: committed(run) >= 6, driver)
    nodes.tell("kill")
    assert NUM_LARGE / 4 - committed(run) > 3  # it died midway
    check_scored(driver, large, run)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_score_goes_on_on_a_node_that_joins(
    trained: SimpleNamespace,
    large: Path,
    env: dict[str, str],
    orchestrate: Orchestrate,
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    with open_nodes(env, head_cpus=0, others=2) as nodes:
        driver = orchestrate(nodes, *score_arguments(trained, large, run))
        wait_for(lambda: committed(run) >= 6, driver)
        nodes.tell("kill")
        nodes.tell("add")
        nodes.tell("kill first")  # the one that joined is the only one that can hold a worker
        assert NUM_LARGE / 4 - committed(run) > 3
        check_scored(driver, large, run)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_node_with_another_version_ends_a_command_at_once(
    trained: SimpleNamespace,
    large: Path,
    env: dict[str, str],
    orchestrate: Orchestrate,
    tmp_path: Path,
) -> None:
    other = tmp_path / "other"
    shutil.copytree(ROOT / "orchestrator", other / "orchestrator")
    with (other / "orchestrator" / "model" / "views.py").open("a") as module:
        module.write("\n# another version\n")
    run = tmp_path / "run"
    with open_nodes(env, others=1) as nodes:
        nodes.tell(f"add PYTHONPATH={other}")
        driver = orchestrate(nodes, *score_arguments(trained, large, run))
        _, errors = driver.communicate(timeout=PATIENCE_S)
    assert driver.returncode == ClusterError.exit_code
    assert "has another version of this program (model/views.py)" in errors
    assert not (run / "_SUCCESS").exists()
    assert not list(run.glob(".tmp-*"))


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("features", ["cached", "live"])
def test_train_passes_on_several_nodes(
    features: str,
    phantoms: Path,
    env: dict[str, str],
    orchestrate: Orchestrate,
    tmp_path: Path,
) -> None:
    arguments = ["train", str(phantoms), "--backbone", "tiny", "--weights", "none"]
    arguments += ["--image-size", "64", "--epochs", "2", "--features", features, "--json"]
    # Ray Train's controller takes a place, too.
    arguments += ["--workers", "2", "--cpus-per-worker", "1", "--out", str(tmp_path / "model")]
    with open_nodes(env, others=2) as nodes:
        driver = orchestrate(nodes, *arguments)
        output, errors = driver.communicate(timeout=PATIENCE_S * 2)
    assert driver.returncode == 0, errors
    report = json.loads(output)
    assert Path(report["bundle"]) == tmp_path / "model"
    assert (tmp_path / "model" / "bundle.json").exists()
    assert (Path(report["run"]) / "_SUCCESS").exists()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_tune_passes_on_several_nodes(
    phantoms: Path, env: dict[str, str], orchestrate: Orchestrate, tmp_path: Path
) -> None:
    arguments = ["tune", str(phantoms), "--backbone", "tiny", "--weights", "none"]
    arguments += ["--image-size", "64", "--epochs", "2", "--trials", "3", "--json"]
    arguments += ["--workers", "2", "--cpus-per-worker", "1", "--out", str(tmp_path / "tuned")]
    with open_nodes(env, others=2) as nodes:
        driver = orchestrate(nodes, *arguments)
        _, errors = driver.communicate(timeout=PATIENCE_S * 2)
    assert driver.returncode == 0, errors
    assert (tmp_path / "tuned" / "_SUCCESS").exists()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_score_ends_when_the_last_node_dies(
    trained: SimpleNamespace,
    large: Path,
    env: dict[str, str],
    orchestrate: Orchestrate,
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    with open_nodes(env, head_cpus=0, others=1) as nodes:
        driver = orchestrate(nodes, *score_arguments(trained, large, run))
        wait_for(lambda: committed(run) >= 3, driver)
        nodes.tell("kill")
        _, errors = driver.communicate(timeout=PATIENCE_S)
    assert driver.returncode == ClusterError.exit_code
    assert "has lost its last node" in errors
    assert committed(run) >= 3
