"""The closing tables of a command, as text: counts, metrics, and where the results are.

Over 300 lines, one function a command.
"""

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from orchestrator.errors import printable
from orchestrator.evaluation.review_rule import describe_review
from orchestrator.evaluation.wording import (
    METRIC_TITLES,
    NO_FIGURE,
    describe_change,
    describe_rule,
    describe_shadow,
    format_difference,
    format_difference_range,
    format_figure,
    format_mean,
    format_range,
    lower_title,
    metric_title,
    name_drifted,
    seeds_note,
)

_TABLE_IV_METRICS = ("accuracy", "precision", "recall", "auroc", "f1")
_TABLE_IV = ("", "accuracy", "precision", "recall", "AUC", "F1", "val. acc.")
_WORTH = ("auroc", "accuracy", "recall", "specificity")
_ROLES = ("live", "candidate")
_WIDTH = 140  # of the widest table, four differences with their intervals: a row is one line


def text_table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Returns the lines of an aligned table; the first column is text, the others numbers."""
    table = Table(title=printable(title), box=SIMPLE_HEAD, title_justify="left", title_style="bold")
    for index, name in enumerate(header):
        table.add_column(name, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(printable, row))
    sink = io.StringIO()
    Console(file=sink, width=_WIDTH, markup=False).print(table)
    return [line.rstrip() for line in sink.getvalue().rstrip().splitlines()]


def score_summary(result: Any) -> list[str]:
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
    scope = report.get("scope") or {"out_of_scope": 0, "populations": ()}
    if scope["out_of_scope"]:
        rows.append(("out of scope", f"{scope['out_of_scope']:,}"))
        rows += [(f"  {code}", f"{n:,}") for code, n in scope["by_code"].items()]
    if counts["ignored"]:
        rows.append(("ignored, no input", f"{counts['ignored']:,}"))
    known = counts["scored_before"] + counts["rejected_before"]
    if known:
        rows.append(("known from earlier runs", f"{known:,}"))
        rows.append(("  scored there", f"{counts['scored_before']:,}"))
        rows.append(("  rejected there", f"{counts['rejected_before']:,}"))
    parts = text_table("Images", ("", "count"), rows)
    if known and not counts["scored"]:
        parts.append("nothing scored: no image is new")
    if report["metrics"]:
        parts += metrics_table("Metrics", report["metrics"])
    if review := report.get("review"):
        parts.append(f"review       {review['counts']['review']:,} images are left to a person")
    if own := report.get("overridden_threshold"):
        given = f"{report['threshold']:.4f}, given for this run"
        parts.append(f"threshold    {given}; the model's own is {own['value']:.4f}")
    parts += [f"made for     {population}" for population in scope["populations"]]
    if (drift := report.get("drift")) and drift["drifted"]:
        parts.append(f"drift        {name_drifted(drift)}")
    if shadow := report.get("shadow"):
        parts.append(f"shadow       {describe_shadow(shadow)}")
    parts.append(f"predictions  {result.run / 'predictions'}")
    if counts["rejected"]:
        parts.append(f"rejected     {result.run / 'rejected.parquet'}")
    parts.append(f"report       {result.run / 'report.html'}")
    if result.published:
        parts.append(f"copied to    {result.published}")
    return parts


def train_summary(result: Any) -> list[str]:
    """Returns validation and test metrics and the paths of a training run.

    Args:
        result: a `TrainResult`.
    """
    report = result.report
    parts = [f"best epoch {report['best_epoch']} of {len(report['history'])}"]
    for split in ("validation", "test"):
        if report.get(split):
            parts += metrics_table(split.capitalize(), report[split]["metrics"])
    if review := report.get("review"):
        parts.append(f"review  {describe_review(review['rules'][0])}")
    parts += [f"bundle  {result.bundle}", f"report  {result.bundle / 'report.html'}"]
    return parts


def models_compare_summary(result: Any) -> list[str]:
    """Returns the differences that the verdict rests on, the verdict, and the report's path.

    Args:
        result: a `CompareModelsResult`.
    """
    report = result.report
    rows = [
        (
            lower_title(name),
            *(format_figure(report["metrics"][name][role]["value"]) for role in _ROLES),
            f"{format_difference(end['value'])} [{format_difference_range(end)}]",
        )
        for name, end in report["grounds"]["endpoints"].items()
    ]
    left_out = {what: n for what, n in report["files"].items() if n and what != "compared"}
    title = f"{report['num_images']:,} labelled images, with 95% intervals"
    lines = text_table(title, ("", *_ROLES, "candidate minus live"), rows) if rows else []
    lines += [f"left out  {n:,} {what}" for what, n in left_out.items()]
    lines += [f"verdict   {report['verdict']['word']}"]
    lines += [f"          {reason}" for reason in report["verdict"]["reasons"]]
    return [*lines, f"report    {result.run / 'report.html'}"]


def recalibrate_summary(result: Any) -> list[str]:
    """Returns the figures before and after, the warnings and the paths of a recalibration.

    Args:
        result: a `SuccessorResult` of a recalibration.
    """
    report = result.report
    before, after = report["before"]["metrics"], report["after"]["metrics"]
    rows = [
        (metric_title(name), *(_figure_range(of[name]) for of in (before, after)))
        for name in report["shown"]
    ]
    bounds = format_range(report["threshold_interval"])
    chosen = f"{report['threshold']:.4f}" + (f", 95% interval {bounds}" if bounds else "")
    title = f"{report['num_images']:,} labelled images, with 95% intervals"
    return [
        *text_table(title, ("", "the bundle's", "recalibrated"), rows),
        f"threshold  {chosen} ({report['threshold_rule']}); "
        f"the bundle's is {report['parent']['threshold']:.4f}",
        *(f"review  {describe_review(r)}" for r in report.get("review", {"rules": []})["rules"]),
        *(f"warning: {line}" for line in report["warnings"]),
        f"bundle  {result.bundle}",
        f"report  {result.bundle / 'report.html'}",
    ]


def quantize_summary(result: Any) -> list[str]:
    """Returns what int8 changes, and the paths of a quantisation.

    Args:
        result: a `SuccessorResult` of a quantisation.
    """
    report = result.report
    return [
        f"int8       {report['described']}; {report['speed']:.2f} x the speed of f32",
        f"threshold  {report['after']['threshold']:.4f} in int8; "
        f"{report['before']['threshold']:.4f} in f32 ({report['threshold_rule']})",
        f"bundle     {result.bundle}",
    ]


def tune_summary(result: Any) -> list[str]:
    """Returns the best trials, the winner against the default, and the paths of a search.

    Args:
        result: a `TuneResult`.
    """
    report = result.report
    best, held_out, objective = report["best"], report["held_out"], report["objective"]
    counts = ", ".join(f"{number} {state}" for state, number in report["counts"].items())
    settings = [(name, f"{value:.3g}") for name, value in best["config"].items()]
    parts = [f"best trial {best['number']} ({counts}): validation {objective} {best['value']:.4f}"]
    rows = [
        (
            metric_title(metric),
            *(format_mean(held_out[name]["metrics"][metric]) for name in ("winner", "default")),
            _difference(difference),
        )
        for metric, difference in held_out["difference"].items()
    ]
    unseen = f"On {held_out['num_images']:,} held-out images that no trial saw"
    parts += [
        *text_table("Winner", ("", "value"), settings),
        *text_table(unseen, ("", "winner", "default", "difference, 95% interval"), rows),
        seeds_note(held_out["difference"]["auroc"].get("num_seeds", 1)),
    ]
    for split in ("validation", "test"):
        if report["refit"][split]:
            metrics = report["refit"][split]["metrics"]
            parts += metrics_table(f"Released model: {split}", metrics)
    parts += [
        f"bundle  {result.bundle}",
        f"spec    {result.run / 'best.yaml'}",
        f"report  {result.run / 'report.html'}",
    ]
    return parts


def rate_summary(result: Any) -> list[str]:
    """Returns the suggested rate, the trials behind it and the paths of a search.

    Args:
        result: a `RateResult`.
    """
    report = result.report
    rows = [
        (f"{row['rate']:.2g}", "diverged" if row["loss"] is None else f"{row['loss']:.4f}")
        for row in report["trials"]
    ]
    return [
        *text_table("Trials", ("learning rate", f"loss after {report['trial_steps']}"), rows),
        f"suggested learning rate  {report['rate']:.2g}",
        f"report  {result.run / 'report.html'}",
    ]


def compare_summary(result: Any) -> list[str]:
    """Returns the table in the form of the paper's Table IV, what the losses differ by, and costs.

    Args:
        result: a `CompareResult`.
    """
    report = result.report
    losses = list(dict.fromkeys(row["loss"] for row in report["rows"]))
    parts = []
    for loss in losses:
        rows = [row for row in report["rows"] if row["loss"] == loss]
        title = (
            f"{report['judged_on'].capitalize()}, {report['num_images']:,} images, {loss} loss, "
            "with 95% intervals"
        )
        parts += text_table(title, _TABLE_IV, _table_iv_rows(rows, report["paper"]))
    rule = describe_rule(report["recipe"]["threshold"])
    parts += [f"threshold: {rule}; the paper's is 0.5", *report["notes"]]
    if report["focal_minus_bce"]:
        worth = [
            (entry["backbone"], *(_difference(entry["metrics"][key]) for key in _WORTH))
            for entry in report["focal_minus_bce"]
        ]
        header = ("", *map(metric_title, _WORTH))
        parts += text_table("Focal loss minus binary cross-entropy", header, worth)
        first = report["focal_minus_bce"][0]["metrics"]["auroc"]
        parts.append(seeds_note(first.get("num_seeds", 1)))
    costs = [
        (
            row["backbone"] if len(losses) == 1 else f"{row['backbone']} {row['loss']}",
            f"{row['num_parameters']:,}",
            *(_cost(row["cost"][key]) for key in ("images_per_s", "features_s", "training_s")),
        )
        for row in report["rows"]
    ]
    header = ("", "parameters", "images/s", "features, s", "training, s")
    parts += [*text_table("Cost", header, costs), f"report  {result.run / 'report.html'}"]
    return parts


def _table_iv_rows(
    rows: Iterable[Mapping[str, Any]], paper: Mapping[str, Mapping[str, float]]
) -> Iterable[Sequence[str]]:
    """Three lines a backbone: its figures, their intervals, and the paper's figures."""
    for row in rows:
        shown = [row["metrics"][name] for name in _TABLE_IV_METRICS] + [row["validation_accuracy"]]
        yield (row["backbone"], *(format_figure(item["value"]) for item in shown))
        yield ("  interval", *(format_range(item) for item in shown))
        theirs = paper.get(row["backbone"])
        if theirs:
            figures = [f"{theirs[name]:.3f}" for name in _TABLE_IV_METRICS]
            yield ("  paper", *figures, f"{theirs['validation_accuracy']:.4f}")


def _difference(interval: Mapping[str, Any]) -> str:
    value, bounds = format_difference(interval["value"]), format_difference_range(interval)
    return f"{value} [{bounds}]" if bounds else value


def _figure_range(interval: Mapping[str, Any]) -> str:
    """A figure and its bounds in one cell."""
    return f"{format_figure(interval['value'])}  {format_range(interval):>13}"


def _cost(value: float | None) -> str:
    return NO_FIGURE if value is None else f"{value:,.1f}"


def metrics_table(title: str, metrics: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns metrics with their intervals, one a line."""
    rows = []
    for name, shown in METRIC_TITLES.items():
        item = metrics[name]
        if item["value"] is None:
            rows.append((shown, "undefined", item.get("note") or ""))
            continue
        bounds = format_range(item) or item.get("note") or ""
        rows.append((shown, format_figure(item["value"]), bounds))
    return text_table(title, ("", "value", "95% interval"), rows)


def bundle_summary(folder: Path | str, info: Any) -> list[str]:
    """Returns what a bundle says of itself.

    Args:
        folder: the bundle, or its name.
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
    if info.review is not None:
        rows.append(("review", describe_review(info.review)))
    if (recalibrated := info.recalibration) is not None:
        rows.append(("recalibrated", f"{recalibrated.date}, {recalibrated.num_images:,} images"))
    if info.parent is not None:
        rows.append(("parent", str(info.parent)))
    if (int8 := info.int8) is not None:
        change = describe_change(int8.auroc_change, int8.calls_changed, int8.num_images)
        rows.append(("int8", f"{change}; {int8.speed:.2f} x f32 with {int8.arithmetic}"))
    parts = text_table(str(folder), ("", ""), rows)
    for split, figures in info.metrics.items():
        metrics = {name: figure.as_dict() for name, figure in figures.metrics.items()}
        parts += metrics_table(split.capitalize(), metrics)
    return parts


def doctor_table(checks: Iterable[Any]) -> list[str]:
    """Returns one line a check.

    Args:
        checks: the `Check`s of `orchestrator.cli.doctor`.
    """
    rows = [(check.name, "ok" if check.ok else "FAIL", check.found) for check in checks]
    table = Table(box=SIMPLE_HEAD)
    for name in ("check", "", "found"):
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*map(printable, row))
    sink = io.StringIO()
    Console(file=sink, width=100, markup=False).print(table)
    return [line.rstrip() for line in sink.getvalue().rstrip().splitlines()]
