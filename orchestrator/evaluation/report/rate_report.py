"""The page of a learning rate search."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from orchestrator.evaluation.report import overlays
from orchestrator.evaluation.report.page import list_facts, render
from orchestrator.evaluation.wording import INTENDED_USE


def render_rate_html(report: Mapping[str, Any]) -> str:
    """Returns report.html of a learning rate search: one page without scripts or outside files.

    Args:
        report: `RateSearch.as_dict()`, and `recipe` and `run` as in a training report.

    Returns:
        HTML, all text escaped.
    """
    run = report["run"]
    return render(
        "rate.html.j2",
        report={**report, "intended_use": INTENDED_USE},
        subtitle=" · ".join(
            str(part)
            for part in (run.get("run_id"), run.get("started_at"), report["recipe"]["backbone"])
            if part
        ),
        picture=Markup(overlays.rate_curve(report, "rate")),
        rate=f"{report['rate']:.2g}",
        steepest=f"{report['steepest']:.2g}",
        ended=f"{report['sweep'][-1]['rate']:.2g}",
        trials=[
            {
                "rate": f"{row['rate']:.2g}",
                "loss": "diverged" if row["loss"] is None else f"{row['loss']:.4f}",
                "best": row["rate"] == report["rate"],
            }
            for row in report["trials"]
        ],
        recipe_facts=list_facts(report["recipe"]),
    )
