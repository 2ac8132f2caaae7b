"""A scoring report with every section that its page can have, and the page."""

import functools
from typing import Any

import pyarrow as pa
from PIL import Image

from orchestrator.data.schema import PREDICTIONS, REJECTED
from orchestrator.evaluation.drift import DriftCounts, Spread, compare
from orchestrator.evaluation.report.heat_picture import embed
from orchestrator.evaluation.report.report import build_report, render_html
from orchestrator.evaluation.report.scope import ScopeCounts
from orchestrator.evaluation.review_rule import ReviewPoint, ReviewRule
from orchestrator.evaluation.tally import Tally
from orchestrator.evaluation.wording import FIGURE_TITLES

RULE = ReviewRule(("review_rate", 0.1), 1.0, 40, 20, (ReviewPoint(0.0, 40, 2, 20, 2),))
ROOTS = ["/data/hospital-north/chest", "/data/hospital-south-with-a-long-name/radiology/2026/11"]
NUM_IMAGES = 120


@functools.cache
def make_page() -> tuple[dict[str, Any], str]:
    """Returns report.json and report.html of a labelled run in which everything was found."""
    rows = [_row(number) for number in range(NUM_IMAGES)]
    scored = pa.Table.from_pylist(rows, PREDICTIONS)
    codes = ["damaged", "empty_file", "damaged", "too_many_pixels"]
    bad = [
        {
            "row": NUM_IMAGES + n,
            "root": 0,
            "path": f"north/1.2.840.113619.2.55.3.604688119.{n}.1599720001.dcm",
            "code": code,
            "message": "The file is cut short or corrupt; copy it again from its source.",
        }
        for n, code in enumerate(codes)
    ]
    tally = Tally(0.5)
    tally.add(scored, pa.Table.from_pylist(bad, REJECTED))
    report = build_report(
        tally,
        found=NUM_IMAGES + len(bad),
        threshold_rule="youden",
        overridden={"value": 0.4, "rule": "youden"},
        model={"backbone": "tiny", "sha256": "ab" * 32},
        run={"run_id": "score-20261126-180715-eafd91"},
        review_rules=[RULE],
        ignored=3,
        num_resamples=50,
    )
    scope = ScopeCounts()
    scope.add(scored)
    report["scope"] = scope.as_report(["children, 1 to 5 years, one site"], ROOTS)
    report["drift"] = _drift() | {"held_out": 500}
    report["heatmaps"] = [
        {
            "row": n,
            "path": rows[n]["path"],
            "label": rows[n]["label"],
            "probability": rows[n]["probability"],
            "why": ("wrong", "uncertain", "random")[n % 3],
            "file": f"heatmaps/{n:08}.png",
        }
        for n in range(6)
    ]
    grey = Image.new("RGB", (200, 200), "grey")
    return report, render_html(report, tally, [embed(grey, 200)] * 6)


def _row(number: int) -> dict[str, Any]:
    label, root = number % 2, number // 2 % 2
    wrong = number % 11 == 0
    probability = (0.1 + 0.8 * label) if not wrong else 0.45 + 0.1 * (1 - label)
    strange = number % 20 == 5
    return {
        "row": number,
        "root": root,
        "path": f"{('NORMAL', 'PNEUMONIA')[label]}/1.2.840.113619.2.55.3.604688119.{number}.dcm",
        "patient_id": f"p{number}",
        "label": label,
        "probability": probability,
        "predicted": int(probability >= 0.5),
        "grey_rule": "window",
        "decode_notes": "no_end_marker" if strange else None,
        "sex": "MF"[number // 4 % 2],
        "view_position": "PA",
        "margin": abs(probability - 0.5),
        "decision": "review" if strange or wrong else "accept",
        "review_reason": "out_of_scope" if strange else "near_threshold" if wrong else None,
        "scope": "out_of_scope_view,out_of_scope_not_chest" if strange else "in_scope",
    }


def _drift() -> dict[str, Any]:
    spreads = {name: Spread.of(range(100)) for name in FIGURE_TITLES if name != "rejected"}
    counts = DriftCounts(spreads)
    for group in (("all", ""), ("root", ROOTS[0]), ("root", ROOTS[1])):
        values = range(100) if group[1] != ROOTS[0] else [99] * 100
        counts.add(group, dict.fromkeys(spreads, values) | {"brightness": [99] * 100})
    return compare(counts, {})
