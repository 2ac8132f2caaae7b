"""The model card and `card.json`: complete, and every figure that of the bundle."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from orchestrator.data.shifts import SHIFTS
from orchestrator.evaluation.groups import find_groups
from orchestrator.evaluation.metrics import METRIC_NAMES, evaluate
from orchestrator.evaluation.subgroups import TESTED, measure_subgroups
from orchestrator.evaluation.wording import METRIC_TITLES, format_figure, format_range
from orchestrator.model.bundle import BundleInfo
from orchestrator.model.card import render_card
from orchestrator.model.card_data import render_card_data
from orchestrator.pipelines.train.evidence import hide_folders

NUM_IMAGES = 400
# Fields of a Hugging Face model card, and of a result in its model-index.
HUB_FIELDS = {
    *("language", "license", "license_name", "license_link", "library_name", "tags", "datasets"),
    *(
        "metrics",
        "base_model",
        "pipeline_tag",
        "model-index",
        "inference",
        "thumbnail",
        "model_name",
    ),
}
RESULT_FIELDS = {
    "task": {"type", "name"},
    "dataset": {"type", "name", "config", "split", "revision", "args"},
}
METRIC_FIELDS = {"type", "value", "name", "config", "args", "verified"}
SCOPE = {
    "words": {"modality": {"DX": 250, "CR": 30}},
    "ages": [1, 2, 3, 4, 5, 6, 7, 81, 90],
    "aspects": [0.8, 1.4],
}


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    """What a training found on its test images, one of two sites being served worse."""
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 2, NUM_IMAGES).astype(np.int8)
    far = np.arange(NUM_IMAGES) % 4 == 0
    noise = rng.normal(0, np.where(far, 3.0, 0.5))
    probabilities = (1 / (1 + np.exp(-(2 * labels - 1 + noise)))).astype(np.float32)
    patients = np.array([f"p{row // 2}" for row in range(NUM_IMAGES)], object)
    rows = pa.table(
        {
            "root": np.zeros(NUM_IMAGES, np.int16),
            "path": [f"{'Mercy' if f else 'Charity'}/{i}.png" for i, f in enumerate(far)],
            "width_px": np.where(far, 400, 900),
            "height_px": np.full(NUM_IMAGES, 900),
        }
    )
    found = measure_subgroups(labels, probabilities, 0.5, patients, find_groups(rows))
    few = {"num_resamples": 50}
    shifts = {
        name: evaluate(labels, probabilities * share, 0.5, patients, num_resamples=50).metrics
        for name, share in zip(("none", *SHIFTS), np.linspace(1, 0.5, 10), strict=True)
    }
    return {
        "evaluation": evaluate(labels, probabilities, 0.5, patients, **few),  # type: ignore[arg-type]
        "subgroups": found,
        "shifts": {
            name: {metric: of[metric].as_dict() for metric in TESTED} for name, of in shifts.items()
        },
    }


def make_info(measured: dict[str, Any], **changes: Any) -> BundleInfo:
    evaluation = measured["evaluation"]
    undefined = {"npv": {"value": None, "note": "undefined: no image was called NORMAL"}}
    fields: dict[str, Any] = {
        "created": "2026-01-31T02:00:00Z",
        "class_names": ("NORMAL", "PNEUMONIA"),
        "size_px": 224,
        "backbone": "EfficientNetLite0",
        "weights": "offline",
        "num_parameters": 7,
        "num_trainable": 3,
        "threshold": {"value": 0.4321, "rule": "sensitivity@0.95"},
        "calibration": {"slope": 1.5, "intercept": -0.25},
        "metrics": {
            "validation": {"num_images": 10, "metrics": undefined},
            "test": {
                "num_images": evaluation.num_images,
                "num_patients": evaluation.num_patients,
                "metrics": {n: of.as_dict() for n, of in evaluation.metrics.items()},
            },
        },
        "data": {
            "fingerprint": "f" * 64,
            "counts": {"train": {"NORMAL": 30, "PNEUMONIA": 90}},
            "population": "children, 1 to 5 years",
        },
        "training": {"backbone": "EfficientNetLite0", "views": 2, "merge_val": True},
        "seed": 3,
        "versions": {"keras": "3.15"},
        "evidence": {
            "layout": "train+test",
            "audit": {
                "blocking": False,
                "images_without_patient": 5,
                "same_patient": 0,
                "same_bytes": 0,
                "near_duplicate": 12,
                "possible": 3,
                "files": {"found": 500, "rejected": 4, "rejected_by_code": {"damaged": 4}},
            },
            "judged_on": "test",
            "subgroups": hide_folders(measured["subgroups"]),
            "num_shifted": 200,
            "shifts": measured["shifts"],
        },
    }
    return BundleInfo.model_validate(fields | changes)


def shown(figure: dict[str, Any]) -> str:
    bounds = format_range(figure)
    return format_figure(figure["value"]) + (f" [{bounds}]" if bounds else "")


def test_every_figure_of_the_card_is_the_bundles(measured: dict[str, Any]) -> None:
    info = make_info(measured)
    card = render_card(info, SCOPE)
    rows = {line.split(" | ")[0].lstrip("| "): line for line in card.splitlines() if "|" in line}
    for name, title in METRIC_TITLES.items():
        assert shown(info.metrics["test"].metrics[name].as_dict()) in rows[title]
    assert "undefined: no image was called NORMAL" in rows["NPV"]
    assert info.evidence is not None
    for dimension in info.evidence.subgroups["dimensions"]:
        for group in dimension["groups"]:
            for figure in group["metrics"].values():
                assert shown(figure) in rows[group["name"]]
    for name, figures in info.evidence.shifts.items():
        for figure in figures.values():
            assert shown(figure.as_dict()) in rows[name]
    for said in (
        "0.4321 (chosen by: sensitivity@0.95, highest specificity with a sensitivity of at least",
        "sigmoid(1.5000 x logit + -0.2500)",
        "- 12 pairs of look-alike images in different splits",
        "- 4 of 500 files could not be used: damaged 4",
        "- 5 images of unknown patients",
        "None of this is proven leakage.",
        "own test folder",
        "| train | 30 | 90 | 120 | 75.0% |",
        "Population: children, 1 to 5 years",
        "Modality in the headers: DX 250, CR 30",
        "Age: 2 to 81 years",
        "its network is of no other bundle",
        "orchestrator train DATA --views 2 --merge-val --backbone EfficientNetLite0",
        "Not a diagnostic device",
    ):
        assert said in card, said


def test_the_worst_group_is_named_and_no_folder_is(measured: dict[str, Any]) -> None:
    worst = measured["subgroups"]["worst"]
    assert worst["is_worse"] and worst["dimension"] in ("site_folder", "image_size")
    texts = [render_card(make_info(measured)), render_card_data(make_info(measured))]
    assert not [text for text in texts if "Mercy" in text or "Charity" in text]
    assert "Served worst is " in texts[0] and "**worse**" in texts[0]
    named = {
        **measured["subgroups"],
        "worst": worst | {"dimension": "site_folder", "group": "Mercy"},
    }
    assert hide_folders(named)["worst"]["group"] == "site folder 2"
    kept = json.loads(texts[1])["orchestrator"]["evidence"]["subgroups"]
    assert kept == hide_folders(measured["subgroups"])


def test_card_data_has_hugging_face_s_fields_and_the_bundles_figures(
    measured: dict[str, Any],
) -> None:
    info = make_info(measured)
    card = json.loads(render_card_data(info, SCOPE))
    assert set(card) - HUB_FIELDS == {"orchestrator"}
    assert "license" not in card and "datasets" not in card
    assert card["pipeline_tag"] == "image-classification"
    (index,) = card["model-index"]
    assert set(index) == {"name", "results"} and index["name"]
    assert [result["dataset"]["split"] for result in index["results"]] == ["validation", "test"]
    for result in index["results"]:
        assert set(result) == {*RESULT_FIELDS, "metrics"}
        for name, allowed in RESULT_FIELDS.items():
            assert {"type"} <= set(result[name]) <= allowed
        assert result["dataset"]["name"]
        for metric in result["metrics"]:
            assert {"type", "value"} <= set(metric) <= METRIC_FIELDS
    assert index["results"][0]["metrics"] == []  # undefined: there a value is required
    found = {metric["name"]: metric for metric in index["results"][1]["metrics"]}
    for name, figure in info.metrics["test"].metrics.items():
        if name in METRIC_TITLES:
            metric = found.pop(METRIC_TITLES[name])
            args = metric["args"]
            assert (metric["value"], args["low"], args["high"]) == (
                figure.value,
                figure.low,
                figure.high,
            )
            assert metric["type"] in card["metrics"]
    assert not found and len(METRIC_NAMES) > len(METRIC_TITLES)
    own = card["orchestrator"]
    assert own["threshold"]["rule"] == "sensitivity@0.95"
    assert own["evidence"]["audit"]["near_duplicate"] == 12
    assert own["scope"]["ages"] == SCOPE["ages"]


def test_a_recalibrated_bundle_names_all_that_it_comes_from(measured: dict[str, Any]) -> None:
    threshold = {"value": 0.3, "rule": "youden"}
    ancestors = [
        {"sha256": "a" * 64, "date": "2026-01-31", "threshold": threshold},
        {"sha256": "b" * 64, "date": "2026-02-28", "num_images": 80, "threshold": threshold},
    ]
    recalibration = {
        "date": "2026-03-31",
        "num_images": 120,
        "counts": {"NORMAL": 60, "PNEUMONIA": 60},
        "rule": "sensitivity@0.95",
        "calibration": "none",
        "threshold": {"value": 0.4321, "low": 0.4, "high": 0.5},
        "fingerprint": "e" * 64,
    }
    changes = {"parent": "b" * 64, "ancestors": ancestors, "recalibration": recalibration}
    info = make_info(measured, **changes)
    card = render_card(info)
    lineage = card.partition("## Where it comes from")[2].partition("\n## ")[0].splitlines()
    assert [line for line in lineage if line.startswith("- ")] == [
        f"- `{'a' * 64}`: trained on 2026-01-31; threshold 0.3000 (`youden`)",
        f"- `{'b' * 64}`: recalibrated on 2026-02-28, on 80 labelled images; threshold 0.3000 "
        "(`youden`)",
        "- This bundle: recalibrated on 2026-03-31, on 120 labelled images; threshold 0.4321 "
        "(`sensitivity@0.95`)",
    ]
    command = (
        "orchestrator recalibrate PARENT LABELLED --threshold sensitivity@0.95 --calibration none"
    )
    assert command in card and f"`PARENT` is the bundle `{'b' * 64}`" in card
    assert "of the training, at its threshold of 0.3000" in card
    own = json.loads(render_card_data(info))["orchestrator"]
    assert own["parent"] == "b" * 64 and len(own["ancestors"]) == 2
    assert own["recalibration"]["num_images"] == 120
    assert own["reproduce"] == command


def test_a_bundle_of_an_earlier_version_says_what_was_not_measured(
    measured: dict[str, Any],
) -> None:
    card = render_card(make_info(measured, evidence=None))
    assert card.count("an earlier version of this program trained the network") == 2
    assert "cached features" not in card
    assert "Leakage audit" not in card
