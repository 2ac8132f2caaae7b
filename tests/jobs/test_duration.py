from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from orchestrator.config.specs import ScoreSpec
from orchestrator.config.workers import Session
from orchestrator.jobs import duration
from orchestrator.jobs.duration import estimate_duration
from orchestrator.jobs.estimate import InputFacts

SPEC = ScoreSpec(input="x", model="m")
FILES = InputFacts(1000, 1000 * 331_000, 400_000, 0, False, None)


@pytest.fixture
def networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks that take 10 ms an image, a shadow that takes 5."""
    took = {Path("live"): 0.010, Path("shadow"): 0.005}
    monkeypatch.setattr(duration, "measure_network", lambda bundle, precision: took[bundle])


@pytest.mark.usefixtures("networks")
def test_time_follows_from_images_networks_files_and_cores() -> None:
    one = Session(1, 1.0, 0.0)
    alone = estimate_duration([Path("live")], SPEC, "f32", FILES, 1000, one)
    # By hand: 10 ms, 0.5 ms and 331 kB at 17 ns; 20 s besides.
    assert alone.seconds == pytest.approx(20 + 1000 * (0.010 + 0.0005 + 331_000 * 17e-9))
    assert "1,000 images x (10.0 ms for the network in f32" in alone.basis
    four = estimate_duration([Path("live")], SPEC, "f32", FILES, 1000, Session(2, 2.0, 0.0))
    assert four.seconds - 20 == pytest.approx((alone.seconds - 20) / 4)
    both = estimate_duration([Path("live"), Path("shadow")], SPEC, "f32", FILES, 1000, one)
    assert both.seconds - alone.seconds == pytest.approx(5.0)
    # A thousand images are four shards: the other workers would have none.
    many = estimate_duration([Path("live")], SPEC, "f32", FILES, 1000, Session(100, 1.0, 0.0))
    assert many.seconds - 20 == pytest.approx((alone.seconds - 20) / 4)
    assert "on 4 cores, plus 20 s" in many.basis
    decoded = InputFacts(1000, 10, 10, 0, False, 224)
    ingested = estimate_duration([Path("live")], SPEC, "f32", decoded, 500, one)
    assert ingested.seconds == pytest.approx(20 + 500 * 0.010)
    assert "decode" not in ingested.basis


@pytest.mark.usefixtures("networks")
def test_one_driver_bounds_what_many_workers_do() -> None:
    many = Session(4000, 64.0, 0.0)
    found = estimate_duration([Path("live")], SPEC, "f32", FILES, 256_000_000, many)
    assert found.seconds == pytest.approx(20 + 256_000_000 / 256 / 1000)
    assert found.basis == "256,000,000 images in shards of 256, 1,000 a second"


def test_the_network_is_tried_on_one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    clock = iter([0.0, 0.0, 0.3, 0.6])

    def load(*arguments: Any) -> SimpleNamespace:
        asked.append(arguments)
        return SimpleNamespace(batch_size=8, size_px=32, logits=lambda x: np.zeros(len(x)))

    monkeypatch.setattr(duration, "load_engine", load)
    monkeypatch.setattr(duration.time, "process_time", lambda: next(clock))
    assert duration.measure_network(Path("b"), "int8") == pytest.approx(0.6 / 16)
    assert asked == [(Path("b"), "openvino", 1, "int8")]
