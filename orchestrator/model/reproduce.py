"""The one command that makes a bundle again, from what it keeps of its training."""

import shlex
from typing import TYPE_CHECKING, Any

from orchestrator.config.specs import TrainSpec

if TYPE_CHECKING:
    from orchestrator.model.bundle import BundleInfo


def reproduce(info: "BundleInfo") -> str:
    """Returns the command line that made a bundle, `DATA` or `LABELLED` for the images.

    Args:
        info: the bundle's metadata.
    """
    if info.recalibration is not None:
        words = ["recalibrate", "PARENT", "LABELLED", "--threshold", info.recalibration.rule]
        if info.recalibration.calibration != "platt":
            words += ["--calibration", info.recalibration.calibration]
        if info.review is not None:
            name, share = info.review.target
            words += [f"--{name.replace('_', '-')}", repr(share)]
        return shlex.join(["orchestrator", *words])
    return shlex.join(["orchestrator", "train", "DATA", *_flags(info.training)])


def _flags(recipe: dict[str, Any]) -> list[str]:
    """The flags of a training whose values are not the defaults."""
    plain = TrainSpec(data="DATA").model_dump(mode="json")
    given = {**recipe, **(recipe.get("limits") or {})}
    defaults = {**plain, **plain["limits"]}
    flags = []
    for name, default in defaults.items():
        value = given.get(name, default)
        if value == default or name in ("data", "limits"):
            continue
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            flags.append(flag)
        else:
            for one in value if isinstance(value, list) else [value]:
                flags += [flag, str(one)]
    return flags
