"""The closing tables of a command, as text: counts, metrics, and where the results are."""

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

_SHOWN = (
    ("accuracy", "accuracy"),
    ("sensitivity", "sensitivity (recall)"),
    ("specificity", "specificity"),
    ("ppv", "PPV (precision)"),
    ("npv", "NPV"),
    ("f1", "F1"),
    ("auroc", "AUROC"),
    ("auprc", "AUPRC"),
    ("log_loss", "log loss"),
    ("brier", "Brier score"),
)


def text_table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns an aligned table; the first column is text, the others numbers."""
    table = Table(title=title, box=SIMPLE_HEAD, title_justify="left", title_style="bold")
    for index, name in enumerate(header):
        table.add_column(name, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    sink = io.StringIO()
    Console(file=sink, width=100, markup=False).print(table)
    return "\n".join(line.rstrip() for line in sink.getvalue().rstrip().splitlines())


def score_summary(result: Any) -> str:
    """Returns the counts, the metrics where labels exist, and the paths of a scoring run.

    Args:
        result: a `ScoreResult`.
    """
    report = result.report
    counts = report["counts"]
    rows = [("found", f"{counts['found']:,}"), ("scored", f"{counts['scored']:,}")]
    rows += [(f"  called {name}", f"{n:,}") for name, n in counts["called"].items()]
    rows.append(("rejected", f"{counts['rejected']:,}"))
    rows += [(f"  {code}", f"{n:,}") for code, n in counts["rejected_by_code"].items()]
    parts = [text_table("Images", ("", "count"), rows)]
    if report["metrics"]:
        parts.append(metrics_table("Metrics", report["metrics"]))
    parts.append(f"predictions  {result.run / 'predictions'}")
    if counts["rejected"]:
        parts.append(f"rejected     {result.run / 'rejected.parquet'}")
    parts.append(f"report       {result.run / 'report.html'}")
    return "\n".join(parts)


def train_summary(result: Any) -> str:
    """Returns validation and test metrics and the paths of a training run.

    Args:
        result: a `TrainResult`.
    """
    report = result.report
    parts = [f"best epoch {report['best_epoch']} of {len(report['history'])}"]
    for split in ("validation", "test"):
        if report.get(split):
            parts.append(metrics_table(split.capitalize(), report[split]["metrics"]))
    parts += [f"bundle  {result.bundle}", f"report  {result.bundle / 'report.html'}"]
    return "\n".join(parts)


def metrics_table(title: str, metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns metrics with their intervals, one a line."""
    rows = []
    for name, shown in _SHOWN:
        item = metrics[name]
        if item["value"] is None:
            rows.append((shown, "undefined", item.get("note") or ""))
            continue
        low, high = item["low"], item["high"]
        interval = "" if low is None else f"{low:.3f} to {high:.3f}"
        rows.append((shown, f"{item['value']:.3f}", interval))
    return text_table(title, ("", "value", "95% interval"), rows)


def bundle_summary(folder: Path, info: Any) -> str:
    """Returns what a bundle says of itself.

    Args:
        folder: the bundle.
        info: its `BundleInfo`.
    """
    rows = [
        ("backbone", f"{info.backbone} ({info.weights} weights)"),
        ("image size", f"{info.size_px} px"),
        ("classes", ", ".join(info.class_names)),
        ("threshold", f"{info.threshold.value:.4f} ({info.threshold.rule})"),
        ("intended use", info.intended_use),
        ("sha256", info.sha256),
    ]
    parts = [text_table(str(folder), ("", ""), rows)]
    for split, figures in info.metrics.items():
        metrics = {name: figure.model_dump() for name, figure in figures.metrics.items()}
        parts.append(metrics_table(split.capitalize(), metrics))
    return "\n".join(parts)


def doctor_table(checks: Iterable[Any]) -> str:
    """Returns one line a check.

    Args:
        checks: the `Check`s of `orchestrator.cluster.doctor`.
    """
    rows = [(check.name, "ok" if check.ok else "FAIL", check.found) for check in checks]
    table = Table(box=SIMPLE_HEAD)
    for name in ("check", "", "found"):
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*row)
    sink = io.StringIO()
    Console(file=sink, width=100, markup=False).print(table)
    return "\n".join(line.rstrip() for line in sink.getvalue().rstrip().splitlines())
