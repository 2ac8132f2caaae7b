"""Graphs made by hand, whose maps are known, and a trained bundle."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import openvino
import pytest
from openvino import opset13 as op

from orchestrator.errors import BundleError
from orchestrator.model.engine.load import load_engine
from orchestrator.model.heatmap import (
    head_gradient,
    load_heat_model,
    open_heat_model,
)

_PX, _CELLS = 16, 4


def constant(values: Any) -> Any:
    return op.constant(np.asarray(values, np.float32))


def maps_of(image: Any) -> Any:
    """Two maps [N, 2, 4, 4]: how bright a cell is, and how dark."""
    cells = _PX // _CELLS
    cell = np.full((1, 1, cells, cells), 1 / (255 * cells**2), np.float32)
    kernels = np.concatenate([cell, -cell])
    maps = op.convolution(image, constant(kernels), [cells, cells], [0, 0], [0, 0], [1, 1])
    return op.relu(op.add(maps, constant([[[[0.0]], [[1.0]]]])))


def head_of(pooled: Any, hidden: Any, last: Any) -> Any:
    x = op.matmul(pooled, constant(hidden), False, True)
    x = op.relu(op.add(x, constant(np.zeros((1, len(hidden))))))
    return op.add(op.matmul(x, constant(last), False, True), constant([[0.25]]))


def write(logit: Any, images: Any, path: Path) -> Path:
    openvino.save_model(openvino.Model([op.result(logit)], [images]), path, compress_to_fp16=False)
    return path


def inputs() -> tuple[Any, Any]:
    images = op.parameter([-1, _PX, _PX], np.uint8)
    return images, op.unsqueeze(op.convert(images, "f32"), op.constant(1))


def write_classifier(path: Path, hidden: Any, last: Any, *, channels_last: bool = False) -> Path:
    images, grey = inputs()
    maps, axes = maps_of(grey), [2, 3]
    if channels_last:
        maps, axes = op.transpose(maps, op.constant([0, 2, 3, 1])), [1, 2]
    return write(head_of(op.reduce_mean(maps, op.constant(axes)), hidden, last), images, path)


def spot(row: int, column: int) -> np.ndarray:
    """An image that is bright in one cell, and less so in the last."""
    cells = np.zeros((_CELLS, _CELLS))
    cells[-1, -1], cells[row, column] = 0.4, 1.0
    side = _PX // _CELLS
    return (255 * np.kron(cells, np.ones((side, side)))).astype(np.uint8)


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_map_is_what_each_place_adds_to_the_logit(tmp_path: Path, channels_last: bool) -> None:
    # Brightness raises the logit, darkness does not reach it: its unit is off.
    path = tmp_path / "m.xml"
    write_classifier(path, [[3.0, 0.0], [0.0, -2.0]], [[2.0, 5.0]], channels_last=channels_last)

    logit, heat = open_heat_model(path, 1).explain(spot(1, 2))

    expected = np.zeros((_CELLS, _CELLS))
    expected[1, 2], expected[-1, -1] = 1.0, 0.4
    np.testing.assert_allclose(heat, expected, atol=1e-5)
    assert logit == pytest.approx(0.25 + 6 * 1.4 / _CELLS**2, abs=1e-5)


def test_what_lowers_the_logit_is_not_shown_and_dims_the_rest(tmp_path: Path) -> None:
    # Darkness lowers the logit by twice as much as brightness raises it.
    path = write_classifier(tmp_path / "m.xml", [[1.0, 0.0], [0.0, 1.0]], [[1.0, -2.0]])

    _, heat = open_heat_model(path, 1).explain(spot(0, 0))

    assert heat[0, 0] == pytest.approx(0.5, abs=1e-5)
    assert heat[0, 1:].max() == 0.0
    np.testing.assert_array_equal(open_heat_model(path, 1).explain(spot(0, 0) * 0)[1], 0.0)


def test_of_several_views_the_plain_one_is_shown(tmp_path: Path) -> None:
    images, grey = inputs()
    turned = op.gather(grey, op.constant(np.arange(_PX)[::-1].copy()), op.constant(2))
    logits = [
        head_of(
            op.reduce_mean(maps_of(view), op.constant([2, 3])),
            [[1.0, 0.0], [0.0, 0.0]],
            [[1.0, 0.0]],
        )
        for view in (turned, grey)
    ]
    mean = op.multiply(op.add(*logits), constant([[0.5]]))

    logit, heat = open_heat_model(write(mean, images, tmp_path / "m.xml"), 1).explain(spot(0, 3))

    assert np.unravel_index(heat.argmax(), heat.shape) == (0, 3)
    assert logit == pytest.approx(0.25 + 1.4 / _CELLS**2, abs=1e-5)


@pytest.mark.parametrize(
    ("between", "message"),
    [
        (lambda maps: op.reduce_max(maps, op.constant([2, 3])), "no global average pooling"),
        (lambda maps: op.tanh(op.reduce_mean(maps, op.constant([2, 3]))), "has a Tanh between"),
    ],
)
def test_a_network_that_heat_maps_do_not_fit_is_named(
    tmp_path: Path, between: Any, message: str
) -> None:
    images, grey = inputs()
    path = write(head_of(between(maps_of(grey)), [[1.0, 0.0]], [[1.0]]), images, tmp_path / "m.xml")

    with pytest.raises(BundleError, match=message):
        open_heat_model(path, 1)


def test_a_trained_bundles_gradient_is_that_of_its_graph(trained: SimpleNamespace) -> None:
    model = load_heat_model(trained.bundle, 1)
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64), dtype=np.uint8)

    found = [model.explain(image)[0] for image in images]

    np.testing.assert_allclose(
        found, load_engine(trained.bundle, "openvino", 1).logits(images), 1e-4
    )
    head = tuple((kind, None if w is None else w.astype(np.float64)) for kind, w in model.head)
    features = model.run(images[:1])[1].mean((0, 1)).astype(np.float64)
    step = 1e-6 * np.random.default_rng(1).normal(size=features.shape)
    ahead, behind = (run_head(head, features + sign * step) for sign in (1, -1))
    assert ahead - behind == pytest.approx(2 * head_gradient(head, features) @ step, rel=1e-4)
    assert run_head(head, features) == pytest.approx(found[0], abs=1e-4)


def run_head(head: Any, x: np.ndarray) -> float:
    apply = {"MatMul": np.matmul, "Add": np.add, "Multiply": np.multiply}
    for kind, weights in head:
        x = np.maximum(x, 0) if kind == "Relu" else apply[kind](x, weights)
    return float(x[0])
