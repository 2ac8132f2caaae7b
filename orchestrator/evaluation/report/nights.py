"""The page of many scoring runs of one folder, a row a night, and their newest figures as metrics.

Both are made of the runs' own reports; what an older report does not say is left blank.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.evaluation.report.page import render
from orchestrator.evaluation.wording import INTENDED_USE, describe_shadow, name_drifted

# Of the newest run, in the text form of Prometheus: name, help.
_METRICS = {
    "files_found": "Files found by the newest finished scoring run.",
    "images_scored": "Images that it scored.",
    "images_known": "Files known from earlier runs.",
    "files_rejected": "Files that it rejected.",
    "images_out_of_scope": "Images unlike those that the model was trained on.",
    "images_called_pneumonia": "Images called PNEUMONIA.",
    "images_to_review": "Images left to a person.",
    "images_shadow_differs": "Images that the shadow calls otherwise than the live model.",
    "images_shadow_missing": "Images scored by the live model and not by the shadow.",
    "drifted": "1 where images or probabilities drifted from those of the training, else 0.",
    "ended_timestamp_seconds": "When it ended, Unix time.",
}


def build_nights(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns a row a run, JSON-able, in the order of the runs.

    Args:
        runs: each with `run` (name), `ended` (ISO 8601), `ended_s` (Unix time) and `report`.

    Returns:
        run, ended, ended_s, found, scored, known, rejected, rejected_by_code, pneumonia (images
        called so), and out_of_scope, review, shadow_differs, shadow_missing (images), shadow and
        drift (in words, drift empty without any), which are None where the report does not say.
    """
    return [_night(run) for run in runs]


def _night(run: Mapping[str, Any]) -> dict[str, Any]:
    report = run["report"]
    counts, drift = report["counts"], report.get("drift")
    scope, review, shadow = (report.get(name) for name in ("scope", "review", "shadow"))
    return {
        **{name: run[name] for name in ("run", "ended", "ended_s")},
        **{name: counts[name] for name in ("found", "scored", "rejected", "rejected_by_code")},
        "known": counts["scored_before"] + counts["rejected_before"],
        "pneumonia": counts["called"]["PNEUMONIA"],
        "out_of_scope": scope["out_of_scope"] if scope and scope["judged"] else None,
        "review": review["counts"]["review"] if review and review.get("counts") else None,
        "drift": name_drifted(drift) if drift else None,
        "shadow": describe_shadow(shadow) if shadow else None,
        "shadow_differs": sum(shadow["calls"][f"{one}_only"] for one in ("live", "shadow"))
        if shadow
        else None,
        "shadow_missing": sum(shadow["not_scored"].values()) if shadow else None,
    }


def render_nights(nights: Sequence[Mapping[str, Any]], folder: str) -> str:
    """Returns the page: one without scripts or outside files.

    Args:
        nights: from `build_nights`, the oldest first.
        folder: of the runs, as text.
    """
    return render(
        "nights.html.j2",
        report={"intended_use": INTENDED_USE},
        nights=nights[::-1],
        folder=folder,
        total={name: sum(night[name] for night in nights) for name in ("scored", "rejected")},
        shadowed=any(night["shadow"] for night in nights),
        drifted=sum(bool(night["drift"]) for night in nights),
    )


def render_metrics(night: Mapping[str, Any], folder: str) -> str:
    """Returns the newest run as metrics, for a collector of text files such as the node exporter's.

    Args:
        night: the newest row.
        folder: of the runs, as text; the label `root` of each metric.
    """
    values = {
        "files_found": night["found"],
        "images_scored": night["scored"],
        "images_known": night["known"],
        "images_out_of_scope": night["out_of_scope"],
        "images_called_pneumonia": night["pneumonia"],
        "images_to_review": night["review"],
        "images_shadow_differs": night["shadow_differs"],
        "images_shadow_missing": night["shadow_missing"],
        "drifted": None if night["drift"] is None else int(bool(night["drift"])),
        "ended_timestamp_seconds": night["ended_s"],
    }
    root = f'root="{_escape(folder)}"'
    lines = []
    for name, text in _METRICS.items():
        full = f"orchestrator_{name}"
        rows = [(root, values[name])] if name in values else []
        if name == "files_rejected":
            by_code = night["rejected_by_code"].items()
            rows = [(f'{root},code="{_escape(code)}"', number) for code, number in by_code]
        rows = [(labels, value) for labels, value in rows if value is not None]
        if rows:
            lines += [f"# HELP {full} {text}", f"# TYPE {full} gauge"]
            lines += [f"{full}{{{labels}}} {value}" for labels, value in rows]
    return "\n".join(lines) + "\n"


def _escape(text: str) -> str:
    """A label's value in the text form of Prometheus."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
