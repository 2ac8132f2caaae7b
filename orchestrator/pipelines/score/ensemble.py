"""The models of a scoring run: one bundle, or several whose probabilities are averaged."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator.config.review import ReviewTarget
from orchestrator.config.specs import ScoreSpec
from orchestrator.config.yaml_file import load_yaml
from orchestrator.errors import SpecError
from orchestrator.evaluation.calibration import choose_threshold
from orchestrator.evaluation.figures import Calibration, Threshold
from orchestrator.evaluation.selective import Reviewer, retarget
from orchestrator.model.bundle import BundleInfo
from orchestrator.model.bundle_folder import newest_bundle
from orchestrator.registry.reference import Model, is_alias, open_model
from orchestrator.runs.run_dir import RunDir


@dataclass(frozen=True)
class Members:
    """Verified bundles in the order in which they were named.

    Args:
        models: aliases and links resolved: a run goes on with what it began with.
        given: threshold in place of their own, or None.
        target: of their review rules, in place of their own, or None.
    """

    models: tuple[Model, ...]
    given: float | None = None
    target: ReviewTarget | None = None

    def at(self, precision: str) -> "Members":
        """Returns the same models, each with its operating point of a precision.

        Raises:
            BundleError: one holds no int8 network, and that is asked for.
        """
        models = (replace(model, info=model.info.at(precision)) for model in self.models)
        return replace(self, models=tuple(models))

    @property
    def names(self) -> tuple[str, ...]:
        """What names the same models again."""
        return tuple(model.name for model in self.models)

    @property
    def bundles(self) -> tuple[Path, ...]:
        """Their folders."""
        return tuple(model.folder for model in self.models)

    @property
    def infos(self) -> tuple[BundleInfo, ...]:
        """What each says of itself."""
        return tuple(model.info for model in self.models)

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

    @property
    def reviewers(self) -> tuple[Reviewer, ...]:
        """What decides whether a person is to look, of each; none unless all have a rule.

        A rule holds for the threshold that it was chosen at, so there is none for a given one.
        """
        if self.given is not None:
            return ()
        found = [
            Reviewer(
                info.review if self.target is None else retarget(info.review, self.target),
                info.calibration,
                info.threshold.value,
            )
            for info in self.infos
            if info.review is not None
        ]
        return tuple(found) if len(found) == len(self.infos) else ()

    def facts(self) -> dict[str, Any]:
        """Returns what a report says of the model."""
        if len(self.models) == 1:
            ((info, version),) = [(model.info, model.version) for model in self.models]
            return {
                **({"version": version} if version else {}),
                "backbone": info.backbone,
                "sha256": info.sha256,
                "image_size": info.size_px,
                "weights": info.weights,
                **_recalibration(info),
            }
        shown = {
            f"probability_{number}": f"{f'{model.version}, ' if model.version else ''}"
            f"{model.info.backbone}, {model.info.weights} weights, {model.info.sha256}"
            for number, model in enumerate(self.models, 1)
        }
        backbones = " + ".join(info.backbone for info in self.infos)
        return {"backbone": backbones, "sha256": self.hashes, "image_size": self.size_px, **shown}


def _recalibration(info: BundleInfo) -> dict[str, str]:
    """What a report says of a recalibration, nothing where there was none."""
    found = info.recalibration
    if found is None:
        return {}
    return {"recalibrated": f"{found.date}, on {found.num_images:,} labelled images"}


def load_members(
    named: Sequence[str] | None,
    threshold: float | None = None,
    target: ReviewTarget | None = None,
) -> Members:
    """Returns the named bundles, or the newest one under `models/`, every hash verified.

    Args:
        named: their folders, addresses or names in a registry.
        threshold: to call PNEUMONIA by, in place of their own.
        target: of their review rules, in place of their own.

    Raises:
        SpecError: none there, one named twice, image sizes that differ, or a target for a rule
            that there is not.
        BundleError: one cannot be used.
        ClusterError: a store does not answer.
    """
    names = list(named) if named else [str(newest_bundle(Path("models")))]
    members = Members(tuple(map(open_model, names)), threshold, target)
    if target is not None and not members.reviewers:
        _refuse_target(members, target[0])
    if len(set(members.hashes)) < len(names):
        raise SpecError("one model is named twice; name each --model once")
    sizes = {info.size_px for info in members.infos}
    if len(sizes) > 1:
        shown = ", ".join(
            f"{name} {i.size_px} px" for name, i in zip(names, members.infos, strict=True)
        )
        raise SpecError(
            f"the models take images of different sizes ({shown}); an ensemble needs one size: "
            "train them at the same --image-size"
        )
    return members


def keep_begun(spec: ScoreSpec, run: RunDir) -> Sequence[str] | None:
    """Returns the models to score with: for an alias the version that an unfinished run began with.

    Args:
        spec: what is asked for.
        run: where it is to be scored.
    """
    named = spec.model
    is_open = run.spec.exists() and not run.success.exists() and not spec.overwrite
    if not named or not is_open or not any(map(is_alias, named)):
        return named
    began = load_yaml(run.spec, "the spec of a run").get("args", {}).get("model")
    began = [began] if isinstance(began, str) else began or []
    if len(began) != len(named):
        return named

    def place(text: str) -> Path:
        return Path(text.rpartition(":")[0]).resolve()

    return [
        then if is_alias(now) and place(now) == place(then) else now
        for now, then in zip(named, began, strict=True)
    ]


def _refuse_target(members: Members, name: str) -> None:
    flag = f"--{name.replace('_', '-')}"
    if members.given is not None:
        raise SpecError(
            f"{flag} and --threshold do not go together: a review rule holds at the threshold that "
            "it was chosen at; leave one of them out, or recalibrate the model with both"
        )
    without = next(model.name for model in members.models if model.info.review is None)
    raise SpecError(
        f"{flag} needs a model that keeps what accepting gave on its validation images, and "
        f"{without} does not; train or recalibrate it with --review-rate or --accept-error"
    )
