"""Fixtures shared by all tests: one local Ray, one small trained bundle, the public X-rays."""

import functools
import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

import orchestrator.cluster  # noqa: F401 - sets Ray's environment before anything imports ray

if TYPE_CHECKING:
    from orchestrator.jobs.local_head import LocalHead

# The processes of `pytest -n 2` ignore it, and so would the commands that tests start and stop.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parent.parent  # of the project
PUBLIC_DATA = ROOT.parent / "shared" / "data"


_ASKS_FOR_RAY = re.compile(
    r"mark\.ray\b|usefixtures\(.*ray_cluster"
    r"|\b(ray_cluster: None|local_head: |trained: SimpleNamespace)"
)


@functools.cache
def needs_ray(module: str) -> bool:
    """Whether tests of a module, as a path from the project's folder, need the one Ray."""
    return bool(_ASKS_FOR_RAY.search((ROOT / module).read_text()))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begins with what needs Ray, which takes longest; gives slow tests an hour each."""
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(3600))
        if {"ray_cluster", "local_head"} & set(getattr(item, "fixturenames", ())):
            module = item.nodeid.partition("::")[0]
            assert needs_ray(module), f"{module} needs Ray, which its text does not show"
    items.sort(key=lambda item: needs_ray(item.nodeid.partition("::")[0]), reverse=True)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Under `pytest -n 2`, keeps what needs the one Ray in one process, and a module in one.

    The marks that xdist has for that do nothing under pytest 9.2, whose ids are read-only.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByModule(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            module = nodeid.partition("::")[0]
            return "ray" if needs_ray(module) else module

    return ByModule(config, log)


class Recorder:
    """A Reporter that keeps what it receives."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.bars: list[tuple[str, int]] = []
        self.counts: list[int] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def begin(self, label: str, total: int, unit: str) -> None:
        self.bars.append((label, total))
        self.counts.append(0)

    def advance(self, count: int) -> None:
        self.counts[-1] += count

    def end(self) -> None:
        pass


def computes_in(precision: str) -> bool:
    """Returns whether OpenVINO computes in bf16 or f16 on this CPU; it has f32 on each."""
    import openvino

    name = {"bf16": "BF16", "f16": "FP16"}.get(precision)
    return name is None or name in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has scoring runs of several shards compute them in this process, as those of one shard are.

    For what is said of runs, not of the cluster: listing, decoding, engine and tables are the same.
    """
    keep_in_process(monkeypatch)


def keep_in_process(patch: pytest.MonkeyPatch) -> None:
    """As the fixture `in_process`, for fixtures that last longer."""
    import orchestrator.pipelines.score.score as scoring
    from orchestrator.config.workers import Session

    patch.setattr(scoring, "_fit_here", lambda *_: Session(1, 2.0, 0.0))


@pytest.fixture(scope="session")
def public_data() -> Path:
    if not PUBLIC_DATA.is_dir():
        pytest.skip("the public X-rays are not at ../shared/data")
    return PUBLIC_DATA


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """The one local Ray of the ordinary tests."""
    import orchestrator.cluster.session as session

    # The workers' environment is that of this moment; the tests' own S3 server takes any key.
    os.environ.setdefault("AWS_ACCESS_KEY_ID", "test")
    os.environ.setdefault("AWS_SECRET_ACCESS_KEY", "test")
    os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")
    session.connect(None, num_cpus=2, object_store_bytes=128 * 2**20)
    yield
    import ray

    ray.shutdown()


@pytest.fixture(scope="session")
def local_head(tmp_path_factory: pytest.TempPathFactory) -> Iterator["LocalHead"]:
    """A head for jobs, with the state folder of the whole session, which no test may keep."""
    from orchestrator.jobs.local_head import LocalHeadFiles, ensure_head, stop_head

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
            patch.delenv(name, raising=False)
        yield ensure_head(lambda line: None)
        stop_head()
        shutil.rmtree(LocalHeadFiles().temporary, ignore_errors=True)


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of 160 synthetic phantoms."""
    from orchestrator.data.phantoms import write_phantoms

    folder = tmp_path_factory.mktemp("phantoms")
    write_phantoms(folder, num_images=160, seed=3, size_px=96)
    return folder


@pytest.fixture(scope="session")
def trained(
    ray_cluster: None, phantoms: Path, tmp_path_factory: pytest.TempPathFactory
) -> SimpleNamespace:
    """A bundle trained on the phantoms with the tiny backbone, and what its training said."""
    from orchestrator.config.specs import Resources, TrainSpec
    from orchestrator.pipelines.train.train import train

    folder = tmp_path_factory.mktemp("trained")
    recorder = Recorder()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        spec = TrainSpec(
            data=str(phantoms),
            out=str(folder / "models" / "tiny"),
            backbone="tiny",
            weights="none",
            image_size=64,
            views=2,
            epochs=4,
            lr=0.003,
            population="phantoms",
            review_rate=0.4,
        )
        result = train(spec, Resources(workers=1), recorder)
    return SimpleNamespace(
        folder=folder, bundle=result.bundle, run=result.run, report=result.report, said=recorder
    )
