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

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from orchestrator.cluster.nodes import _Answer, _compare, _look, code_versions
from orchestrator.errors import ClusterError
from tests.cluster.nodes import Nodes, open_nodes
from tests.conftest import ROOT
from tests.processes import descendants, title

MAIN = "from orchestrator.cli.app import main; main()"
# Has every step of a training wait, and the group look for more workers after 5 s.
SLOWLY = """
import os, time
import orchestrator.pipelines.train.train as training
from orchestrator.pipelines.train.live_loop import train_network

STEP_S = float(os.environ["STEP_S"])

def train_slowly(worker, task, dataset):
    from orchestrator.model.live import ImageBatches
    make = ImageBatches._batches

    def make_slowly(self, order, epoch):
        for batch in make(self, order, epoch):
            time.sleep(STEP_S)
            yield batch

    ImageBatches._batches = make_slowly
    worker.leaving._look_at -= 25
    return train_network(worker, task, dataset)

training.train_network = train_slowly
""" + MAIN.replace("; ", "\n")
PATIENCE_S = 400.0
# Has every shard of a scoring wait, so that a node has time to join.
SCORE_SLOWLY = f"""
import time
import orchestrator.pipelines.score.score as scoring

class Slowly(scoring.ScoreStage):
    def __call__(self, shard):
        time.sleep(1)
        return super().__call__(shard)

scoring.ScoreStage = Slowly
{MAIN}
"""
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

    def start(
        nodes: Nodes, *arguments: str, code: str = MAIN, cwd: Path = tmp_path, **more: str
    ) -> Driver:
        drivers.append(
            subprocess.Popen(
                [sys.executable, "-c", code, *arguments],
                env=env | {"RAY_ADDRESS": nodes.address} | more,
                cwd=cwd,
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
@pytest.mark.slow
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
        driver = orchestrate(nodes, *score_arguments(trained, large, run), code=SCORE_SLOWLY)
        wait_for(lambda: committed(run) >= 6, driver)
        nodes.tell("kill")
        nodes.tell("add")
        nodes.tell("kill first")  # the one that joined is the only one that can hold a worker
        assert NUM_LARGE / 4 - committed(run) > 3
        check_scored(driver, large, run)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_score_grows_on_a_node_that_joins_and_loses_nothing_of_one_that_is_drained(
    trained: SimpleNamespace,
    large: Path,
    env: dict[str, str],
    orchestrate: Orchestrate,
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    with open_nodes(env, head_cpus=1, others=0) as nodes:
        driver = orchestrate(nodes, *score_arguments(trained, large, run), code=SCORE_SLOWLY)
        wait_for(lambda: committed(run) >= 3, driver)
        nodes.tell("add")
        wait_for(lambda: len(workers(nodes, "ray::_Worker.run")) == 2, driver)
        before = committed(run)
        nodes.tell("drain")
        # The drained node has nothing in work once its worker is gone, and may go at any time.
        wait_for(lambda: len(workers(nodes)) == 1, driver)
        assert committed(run) > before  # what was in hand
        nodes.tell("kill")
        assert NUM_LARGE / 4 - committed(run) > 3
        check_scored(driver, large, run)


def workers(nodes: Nodes, named: str = "ray::_Worker") -> list[int]:
    """Processes of the cluster's pool of workers; while one is at work, `.run` ends its name."""
    return [pid for pid in descendants(nodes.process.pid) if named in title(pid)]


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_training_whose_workers_come_and_go_ends_as_an_undisturbed_one(
    phantoms: Path, env: dict[str, str], orchestrate: Orchestrate, tmp_path: Path
) -> None:
    from orchestrator.model.bundle import load_network

    arguments = ["train", str(phantoms), "--backbone", "tiny", "--weights", "none"]
    arguments += ["--image-size", "64", "--epochs", "3", "--features", "live", "--lr", "0.003"]
    arguments += ["--finetune", "all", "--finetune-epochs", "8", "--finetune-lr", "0.003"]
    arguments += ["--batch-size", "25", "--cpus-per-worker", "1", "--workers", "1-2", "--json"]

    def history(out: str) -> list[dict[str, float]]:
        found = list((tmp_path / out / "runs").glob("train-*/history.json"))
        return json.loads(found[0].read_text()) if found else []

    def begin(out: str, step_s: float) -> Driver:
        (tmp_path / out).mkdir()
        words = [*arguments, "--out", str(tmp_path / out / "model")]
        return orchestrate(nodes, *words, code=SLOWLY, cwd=tmp_path / out, STEP_S=str(step_s))

    with open_nodes(env, head_cpus=1, others=0) as nodes:
        calm = begin("calm", 0.0)
        assert calm.wait(PATIENCE_S) == 0, calm.communicate()[1]
        driver = begin("stormy", 1.0)
        wait_for(lambda: len(history("stormy")) >= 1, driver)
        nodes.tell("add")
        said = wait_for_line(driver, "going on with 2 training workers")
        joined = len(history("stormy"))
        wait_for(lambda: len(history("stormy")) >= joined + 2, driver)
        nodes.tell("drain")
        said += wait_for_line(driver, "going on with 1 training worker")
        assert len(history("stormy")) < 11  # it left midway
        nodes.tell("kill")
        _, errors = driver.communicate(timeout=PATIENCE_S)
    assert driver.returncode == 0, said + errors
    assert "going on" not in errors
    for row, expected in zip(history("stormy"), history("calm"), strict=True):
        assert row == pytest.approx(expected, abs=1e-5)
    ours, theirs = (
        load_network(tmp_path / out / "model").get_weights() for out in ("stormy", "calm")
    )
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


def wait_for_line(driver: Driver, text: str) -> str:
    """Reads what a command says until a line holds a text; returns all of it."""
    assert driver.stderr
    said = ""
    for line in driver.stderr:
        said += line
        if text in line:
            return said
    raise AssertionError(said)


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
