from dataclasses import replace

import numpy as np
import pytest

from orchestrator.data.labelled_rows import LabelledRows
from orchestrator.errors import DataError
from orchestrator.evaluation.metrics import evaluate, point_metrics
from orchestrator.evaluation.paired import below_best
from orchestrator.evaluation.report.comparison import (
    COLUMNS,
    PAPER,
    Contender,
    build_comparison,
    paper_notes,
    render_comparison_html,
)

RNG = np.random.default_rng(0)
LABELS = (RNG.random(240) < 0.7).astype(np.int8)
PATIENTS = np.array([f"p{number // 2}" for number in range(240)], object)
ROWS = LabelledRows(np.arange(240), LABELS, PATIENTS)
THRESHOLD = 0.6


def probabilities_of(skill: float, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 1, LABELS.size)
    return (1 / (1 + np.exp(-(skill * (2 * LABELS - 1) + noise)))).astype(np.float32)


def contender(
    backbone: str, skill: float, seed: int, loss: str = "focal", test: bool = True
) -> Contender:
    splits = ("validation", "test") if test else ("validation",)
    probabilities = {n: probabilities_of(skill, seed + place) for place, n in enumerate(splits)}
    found = {
        split: evaluate(LABELS, values, THRESHOLD, PATIENTS).as_dict()
        for split, values in probabilities.items()
    }
    report = {
        "validation": found["validation"],
        "test": found.get("test"),
        "splits": {"train": {"NORMAL": 100, "PNEUMONIA": 300}},
        "threshold": THRESHOLD,
        "best_epoch": 3,
        "history": [{}] * 9,
        "recipe": {"lr": 0.001},
        "model": {"weights": "none", "num_parameters": 20_000_000, "num_trainable": 1_000_000},
    }
    cost = {"features_s": 12.0, "images_per_s": 41.5, "training_s": 20.0}
    return Contender(backbone, loss, report, dict.fromkeys(splits, ROWS), probabilities, cost)


def build(contenders: list[Contender]) -> dict:
    return build_comparison(
        contenders,
        recipe={"epochs": 9, "threshold": "youden"},
        run={"run_id": "r1", "started_at": "now"},
        seed=0,
    )


MODELS = [
    contender("VGG19", 0.4, 1),
    contender("EfficientNetB5", 2.0, 2),
    contender("tiny<b>", 1.7, 7),
]


def test_the_papers_figures_are_those_of_its_table() -> None:
    assert PAPER["VGG19"] == {
        "accuracy": 0.814,
        "precision": 0.793,
        "recall": 0.951,
        "auroc": 0.910,
        "f1": 0.865,
        "validation_accuracy": 0.9204,
    }
    assert list(PAPER) == ["VGG19", "ResNet50", "DenseNet121", "EfficientNetB5"]


def test_only_the_f1_that_does_not_follow_gets_a_note() -> None:
    (note,) = paper_notes()
    assert "F1 of 0.900 for EfficientNetB5" in note
    assert "which give 0.922" in note


def test_each_model_is_measured_as_its_own_report_says() -> None:
    report = build(MODELS)
    assert report["judged_on"] == "test"
    for row, model in zip(report["rows"], MODELS, strict=True):
        assert row["metrics"] == model.report["test"]["metrics"]
        assert row["validation_accuracy"] == model.report["validation"]["metrics"]["accuracy"]


def test_the_best_is_the_highest_auroc_and_others_are_paired_with_it() -> None:
    found = build(MODELS)["against_best"]
    assert [(entry["backbone"], entry["best"]) for entry in found] == [
        ("VGG19", "EfficientNetB5"),
        ("tiny<b>", "EfficientNetB5"),
    ]
    answers = [model.probabilities["test"] for model in MODELS]
    best, expected = below_best(LABELS, answers, PATIENTS, seed=0)
    assert best == 1
    assert [entry["auroc"] for entry in found] == [expected[n].as_dict() for n in (0, 2)]
    assert found[0]["auroc"]["high"] < 0


def test_one_training_is_not_said_to_be_beyond_chance_and_several_are() -> None:
    once = render_comparison_html(build(MODELS), MODELS)
    assert "beyond chance" not in once and "AUC by seed" not in once
    assert "leave out the chance of training" in once
    thrice = [
        replace(model, repeats=tuple(contender(model.backbone, skill, n) for n in (20, 30)))
        for model, skill in zip(MODELS, (0.4, 2.0, 1.7), strict=True)
    ]
    report = build(thrice)
    html = render_comparison_html(report, thrice)
    assert html.count("lower beyond chance") == 1 and "on these images" not in html
    assert "trained with 3 seeds" in html and "leave out the chance" not in html
    # The figures stay those of the released model; its seeds are beside them.
    for row, model in zip(report["rows"], thrice, strict=True):
        assert row["metrics"] == model.report["test"]["metrics"]
        assert len(row["auroc_by_seed"]) == 3
        assert row["auroc_by_seed"][0] == row["metrics"]["auroc"]["value"]
        assert f"AUC by seed {row['auroc_by_seed'][0]:.3f}, " in html
    means = [np.mean(row["auroc_by_seed"]) for row in report["rows"]]
    assert report["against_best"][0]["auroc"]["value"] == pytest.approx(means[0] - means[1])
    wider = report["against_best"][0]["auroc"], build(MODELS)["against_best"][0]["auroc"]
    assert wider[0]["num_seeds"] == 3 and wider[1]["num_seeds"] == 1


def test_the_losses_are_compared_over_all_seeds_with_the_threshold_of_each() -> None:
    focal, bce = (
        replace(model, repeats=(replace(again, report=again.report | {"threshold": 0.9}),))
        for model, again in (
            (contender("VGG19", 1.0, 1), contender("VGG19", 1.0, 3)),
            (contender("VGG19", 1.0, 5, "bce"), contender("VGG19", 1.0, 7, "bce")),
        )
    )
    (entry,) = build([focal, bce])["focal_minus_bce"]

    def mean_recall(model: Contender) -> float:
        recalls = [
            point_metrics(LABELS, one.probabilities["test"], one.report["threshold"])["recall"]
            for one in (model, *model.repeats)
        ]
        return float(np.mean(recalls))

    assert entry["metrics"]["recall"]["num_seeds"] == 2
    expected = mean_recall(focal) - mean_recall(bce)
    assert entry["metrics"]["recall"]["value"] == pytest.approx(expected)


def test_focal_minus_bce_has_the_sign_of_its_name() -> None:
    models = [contender("VGG19", 2.0, 1), contender("VGG19", 0.5, 2, "bce")]
    report = build(models)
    (entry,) = report["focal_minus_bce"]
    assert entry["metrics"]["auroc"]["low"] > 0
    assert entry["metrics"]["brier"]["high"] < 0
    assert report["against_best"] == []
    html = render_comparison_html(report, models)
    assert "What focal loss is worth" in html
    assert f"<strong>{entry['metrics']['auroc']['value']:+.3f}</strong>" in html
    assert "Binary cross-entropy" in html


def test_a_difference_of_nothing_is_not_marked() -> None:
    models = [contender("VGG19", 1.0, 1), contender("VGG19", 1.0, 1, "bce")]
    html = render_comparison_html(build(models), models)
    assert html.count('<td class="num">+0.000<br>') == 7
    assert "<strong>+" not in html


def test_the_page_shows_every_figure_beside_the_papers() -> None:
    report = build(MODELS)
    html = render_comparison_html(report, MODELS)
    for row in report["rows"]:
        for metric in COLUMNS:
            assert f"<strong>{row['metrics'][metric]['value']:.3f}</strong>" in html
    for figure in (*list(PAPER["EfficientNetB5"].values())[:5], 0.941):
        assert f"paper {figure:.3f}" in html
    assert "0.9204" in html and "0.8658" in html
    assert "which give 0.922" in html
    assert "What focal loss is worth" not in html
    assert html.count("lower on these images") == 1
    assert html.count("these images do not tell them apart") == 1


def test_text_is_escaped_and_nothing_comes_from_outside() -> None:
    html = render_comparison_html(build(MODELS), MODELS)
    assert "tiny&lt;b&gt;" in html and "tiny<b>" not in html
    assert "<script" not in html and "http://" not in html.replace("http://www.w3.org", "")


def test_without_test_images_the_page_says_what_validation_is_worth() -> None:
    models = [contender("VGG19", 1.0, 1, test=False), contender("tiny", 1.5, 2, test=False)]
    report = build(models)
    assert report["judged_on"] == "validation"
    html = render_comparison_html(report, models)
    assert "No test images" in html
    assert "Accuracy on validation" not in html


def test_models_of_other_images_are_not_compared() -> None:
    other = contender("tiny", 1.0, 5)
    # As many, with the same labels.
    rows = {**other.rows, "test": replace(ROWS, rows=ROWS.rows + 1)}
    swapped = replace(other, rows=rows)
    with pytest.raises(DataError, match="measured on other test images"):
        build([contender("VGG19", 1.0, 1), swapped])
