"""Bundles whose hashes are right and whose network is none, and comparisons of them."""

import json
import zipfile
from pathlib import Path
from typing import Any

from orchestrator.evaluation.verdict import ENDPOINTS, Endpoint, Grounds, decide
from orchestrator.model.bundle import REQUIRED_FILES, BundleInfo, load_info
from orchestrator.runs.atomic import sha256_file
from orchestrator.runs.run_dir import RunDir


def make_bundle(folder: Path, **changes: Any) -> Path:
    """Writes a bundle; other changes make another content."""
    folder.mkdir(parents=True)
    for name in REQUIRED_FILES:
        (folder / name).write_text(f"{name} of {changes}")
    with zipfile.ZipFile(folder / "model.keras", "w") as archive:
        archive.writestr("config.json", "{}")
    fields: dict[str, Any] = {
        "created": "2026-01-31T02:00:00Z",
        "class_names": ("NORMAL", "PNEUMONIA"),
        "size_px": 32,
        "backbone": "tiny",
        "weights": "none",
        "num_parameters": 7,
        "num_trainable": 3,
        "threshold": {"value": 0.4321, "rule": "youden"},
        "calibration": {"slope": 1.5, "intercept": -0.25},
        "metrics": {},
        "data": {"fingerprint": "f" * 16, "counts": {"train": {"NORMAL": 30, "PNEUMONIA": 90}}},
        "training": {"lr": 0.01},
        "seed": 3,
        "versions": {},
        "files": {
            name: {
                "sha256": sha256_file(folder / name),
                "size_bytes": (folder / name).stat().st_size,
            }
            for name in REQUIRED_FILES
        },
    }
    info = BundleInfo.model_validate(fields | changes)
    (folder / "bundle.json").write_text(json.dumps(info.model_dump(mode="json")))
    return folder


def make_comparison(folder: Path, live: Path, candidate: Path, gain: float = 0.03) -> Path:
    """Writes a finished comparison of two bundles whose figures all differ by so much."""
    end = Endpoint(value=gain, low=gain - 0.01, high=gain + 0.01, gain_low=gain - 0.015)
    grounds = Grounds(
        is_same=False,
        margin=0.02,
        superiority=0.0,
        endpoints=dict.fromkeys(ENDPOINTS, end),
        unusable=[],
        worse_groups=[],
    )
    report = {
        "kind": "models-compare",
        "schema_version": 1,
        "live": {"sha256": load_info(live).sha256},
        "candidate": {"sha256": load_info(candidate).sha256},
        "grounds": grounds.model_dump(),
        "verdict": decide(grounds).model_dump(),
    }
    folder.mkdir(parents=True)
    run = RunDir(folder)
    run.report_json.write_text(json.dumps(report))
    run.report_html.write_text("<p>the page</p>")
    run.success.touch()
    return folder
