"""The page of a worklist: a script of its own, no network, answers kept in the browser."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from orchestrator.data.schema import CLASS_NAMES
from orchestrator.evaluation.report.page import render
from orchestrator.evaluation.review_rule import REVIEW_REASONS

UNSURE = "UNSURE"  # beside the names of the classes what a reader may answer
EXPORT_COLUMNS = ("row", "path", "sha256", "answer", "reviewed_at")
EXPORT_NAME = "corrections.csv"


def render_worklist(report: Mapping[str, Any], key: str, items: Sequence[Mapping[str, Any]]) -> str:
    """Returns the page: HTML that runs one script, named by its hash, and loads nothing.

    Args:
        report: of the scoring run.
        key: of the run, under which the browser keeps the answers.
        items: of each image `row`, `path`, `sha256`, `picture` and `heatmap` (data addresses, the
            second may be None), `probability`, `called`, `label` and `reasons` (may be None).
    """
    script = (Path(__file__).parent / "templates" / "worklist.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    data = {
        "key": f"orchestrator-worklist-{key}",
        "items": list(items),
        "meanings": REVIEW_REASONS,
        "answers": {"n": CLASS_NAMES[0], "p": CLASS_NAMES[1], "u": UNSURE},
        "columns": EXPORT_COLUMNS,
        "file": EXPORT_NAME,
    }
    # In a page only `<` could end the element that holds the text.
    embedded = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    return render(
        "worklist.html.j2",
        report=report,
        num_images=len(items),
        has_heatmaps=any(item["heatmap"] for item in items),
        policy="default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'",
        data=Markup(embedded),
        script=Markup(script),
    )
