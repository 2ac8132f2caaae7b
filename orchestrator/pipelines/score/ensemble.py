"""The models of a scoring run: one bundle, or several whose probabilities are averaged."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import SpecError
from orchestrator.evaluation.calibration import choose_threshold
from orchestrator.evaluation.figures import Calibration, Threshold
from orchestrator.model.bundle import BundleInfo, load_info
from orchestrator.model.bundle_folder import newest_bundle


@dataclass(frozen=True)
class Members:
    """Verified bundles in the order in which they were named.

    Args:
        bundles: their folders, links resolved: a run goes on with what it began with.
        infos: what each says of itself.
        given: threshold in place of their own, or None.
    """

    bundles: tuple[Path, ...]
    infos: tuple[BundleInfo, ...]
    given: float | None = None

    @property
    def size_px(self) -> int:
        """Height and width of the images that all of them take, px."""
        return self.infos[0].size_px

    @property
    def hashes(self) -> list[str]:
        """SHA-256 of each bundle."""
        return [info.sha256 for info in self.infos]

    @property
    def populations(self) -> list[str]:
        """Whom the training images are of, as far as the models say."""
        return sorted({p for info in self.infos if (p := info.data.population) is not None})

    @property
    def calibrations(self) -> tuple[Calibration, ...]:
        """From logit to probability, of each."""
        return tuple(info.calibration for info in self.infos)

    @property
    def threshold(self) -> Threshold:
        """The threshold that was given, or the bundles' own."""
        if self.given is None:
            return self.own_threshold
        return choose_threshold((), (), str(self.given))

    @property
    def own_threshold(self) -> Threshold:
        """The bundle's threshold; of several the mean.

        With the mean, what all members call PNEUMONIA the ensemble calls PNEUMONIA, and what all
        call NORMAL it calls NORMAL.
        """
        if len(self.infos) == 1:
            return self.infos[0].threshold
        values = [info.threshold.value for info in self.infos]
        return Threshold(sum(values) / len(values), f"mean of {len(values)} models' thresholds")

    def facts(self) -> dict[str, Any]:
        """Returns what a report says of the model."""
        if len(self.infos) == 1:
            (info,) = self.infos
            return {
                "backbone": info.backbone,
                "sha256": info.sha256,
                "image_size": info.size_px,
                "weights": info.weights,
                **_recalibration(info),
            }
        shown = {
            f"probability_{number}": f"{info.backbone}, {info.weights} weights, {info.sha256}"
            for number, info in enumerate(self.infos, 1)
        }
        backbones = " + ".join(info.backbone for info in self.infos)
        return {"backbone": backbones, "sha256": self.hashes, "image_size": self.size_px, **shown}


def _recalibration(info: BundleInfo) -> dict[str, str]:
    """What a report says of a recalibration, nothing where there was none."""
    found = info.recalibration
    if found is None:
        return {}
    return {"recalibrated": f"{found.date}, on {found.num_images:,} labelled images"}


def load_members(named: Sequence[str] | None, threshold: float | None = None) -> Members:
    """Returns the named bundles, or the newest one under `models/`, every hash verified.

    Args:
        named: their folders.
        threshold: to call PNEUMONIA by, in place of their own.

    Raises:
        SpecError: none there, one named twice, or image sizes that differ.
        BundleError: one cannot be used.
    """
    folders = [Path(name) for name in named] if named else [newest_bundle(Path("models"))]
    bundles = tuple(folder.resolve() for folder in folders)
    members = Members(bundles, tuple(map(load_info, folders)), threshold)
    if len(set(members.hashes)) < len(bundles):
        raise SpecError("one model is named twice; name each --model once")
    sizes = {info.size_px for info in members.infos}
    if len(sizes) > 1:
        shown = ", ".join(
            f"{f} {i.size_px} px" for f, i in zip(folders, members.infos, strict=True)
        )
        raise SpecError(
            f"the models take images of different sizes ({shown}); an ensemble needs one size: "
            "train them at the same --image-size"
        )
    return members
