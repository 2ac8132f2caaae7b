"""Bundles whose description and hashes are right, and whose network is none."""

import json
import zipfile
from pathlib import Path
from typing import Any

from orchestrator.model.bundle import REQUIRED_FILES, BundleInfo
from orchestrator.runs.atomic import sha256_file


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
