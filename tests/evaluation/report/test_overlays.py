import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from orchestrator.evaluation.report import overlays
from orchestrator.evaluation.report.rate_report import render_rate_html

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 2, 300)
MODELS = [
    (f"model{number}", LABELS, np.clip(0.2 + 0.1 * number * LABELS + RNG.normal(0, 0.2, 300), 0, 1))
    for number in range(9)
]
RATES = np.geomspace(1e-6, 10, 60).tolist()
SEARCH = {
    "rate": 0.0123,
    "steepest": 0.0045,
    "lowest": 0.4,
    "diverged": True,
    "trial_steps": 50,
    "trials": [
        {"rate": 1.0, "loss": None},
        {"rate": 0.1, "loss": 0.4},
        {"rate": 0.0123, "loss": 0.2},
    ],
    "sweep": [{"rate": rate, "loss": 0.7, "smoothed": 0.7 - 0.1 * rate} for rate in RATES],
}
DRAW = {
    "models": lambda name: overlays.compare_models(MODELS, name),
    "rate": lambda name: overlays.rate_curve(SEARCH, name),
}


@pytest.mark.parametrize("kind", DRAW)
def test_one_deterministic_element_that_keeps_its_text(kind: str) -> None:
    svg = DRAW[kind]("a")
    assert svg == DRAW[kind]("a")
    assert svg.startswith("<svg viewBox=") and svg.endswith("</svg>")
    assert len(svg) < 150_000
    assert ElementTree.fromstring(re.sub("xlink:", "", svg)).tag.endswith("svg")


def test_every_model_is_named_with_its_area_and_has_a_line_of_its_own() -> None:
    svg = DRAW["models"]("a")
    for name, _, _ in MODELS:
        assert re.search(rf"{name} 0\.\d{{3}}<", svg)
    styles = re.findall(r'style="(fill: none;[^"]*stroke-width: 1.8[^"]*)"', svg)
    assert len(set(styles)) == len(MODELS)


def test_the_rate_page_names_the_suggestion_and_the_trials() -> None:
    recipe = {"backbone": "tiny<b>"}
    page = render_rate_html(SEARCH | {"recipe": recipe, "run": {"run_id": "find-lr-1"}})
    assert "suggested 0.012" in page
    assert "diverged" in page
    assert "<strong>0.2000</strong>" in page
    assert "tiny&lt;b&gt;" in page and "tiny<b>" not in page
