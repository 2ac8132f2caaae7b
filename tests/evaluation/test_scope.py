from typing import Any

import numpy as np
import pytest
from PIL import Image

from orchestrator.data.phantoms import write_phantoms
from orchestrator.evaluation.scope import FIGURES, ScopeReference, fit_scope
from orchestrator.evaluation.scope_images import ScopeImages, make_thumbnails
from tests.data.make_out_of_scope import DRAWN, crop, invert

SIDE = 64


def shown(images: list[np.ndarray]) -> ScopeImages:
    """Images as files of their own size; the thumbnail is of the whole, as decoding stretches."""
    thumbs = np.concatenate([make_thumbnails(image[np.newaxis]) for image in images])
    sizes = np.array([image.shape for image in images])
    return ScopeImages(thumbs, sizes[:, 1], sizes[:, 0])


def features(rng: np.random.Generator, number: int, at: float = 0.0) -> np.ndarray:
    """Vectors that vary in three directions much and in the others a little."""
    wide = np.concatenate([np.full(3, 5.0), np.full(61, 0.5)])
    return np.asarray(rng.normal(size=(number, 64)) * wide + at, np.float32)


def fit(*of: Any, **more: Any) -> ScopeReference:
    logits = np.linspace(-3, 3, 50, dtype=np.float32)
    return fit_scope(of[0], of[1], of[2], of[3], logits, **more)


def mark(
    reference: ScopeReference, images: ScopeImages, of: np.ndarray, *facts: dict[str, Any]
) -> list[list[str]]:
    return reference.mark(reference.describe(images, of), facts or [{}] * len(of))


@pytest.fixture(scope="module")
def chests(tmp_path_factory: pytest.TempPathFactory) -> list[np.ndarray]:
    folder = tmp_path_factory.mktemp("chests") / "phantoms"
    write_phantoms(folder, num_images=120, seed=7, size_px=SIDE)
    paths = sorted(folder.rglob("*.jpeg"), key=lambda path: path.name[::-1])  # classes mixed
    return [np.asarray(Image.open(path)) for path in paths]


@pytest.fixture(scope="module")
def reference(chests: list[np.ndarray]) -> ScopeReference:
    rng = np.random.default_rng(0)
    return fit(shown(chests[:60]), features(rng, 60), shown(chests[60:90]), features(rng, 30))


def marks(reference: ScopeReference, images: list[np.ndarray], at: float = 0.0) -> list[list[str]]:
    rng = np.random.default_rng(1)
    return mark(reference, shown(images), features(rng, len(images), at))


def test_at_most_one_in_a_hundred_held_out_images_is_too_far(chests: list[np.ndarray]) -> None:
    rng = np.random.default_rng(3)
    of_val = features(rng, 500)
    reference = fit(shown(chests[:60]), features(rng, 100), shown(chests[60:90]), of_val)
    distances = reference.distances(of_val)
    assert 0 < (distances > reference.max_distance / 1.15).sum() <= 5
    assert not (distances > reference.max_distance).any()
    assert reference.num_held_out == 500


def test_distance_is_mahalanobis_by_the_kept_axes_and_one_variance_beside_them() -> None:
    rng = np.random.default_rng(5)
    seen, new = features(rng, 4000), features(rng, 20, at=0.3)
    noise = shown([rng.integers(0, 256, (SIDE, SIDE)).astype(np.uint8)])
    reference = fit(noise, seen, noise, seen[:100])
    centred = seen - seen.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(centred.T, bias=True))
    kept = np.sort(values)[::-1][: len(reference.variances)]
    rest = np.sort(values)[::-1][len(kept) :].mean()
    spread = np.concatenate([np.full(64 - len(kept), rest), kept[::-1]])
    inverse = vectors @ np.diag(1 / spread) @ vectors.T
    by_hand = [np.sqrt(x @ inverse @ x / 64) for x in new - seen.mean(axis=0)]
    np.testing.assert_allclose(reference.distances(new), by_hand, rtol=1e-3)


def test_chests_like_those_of_the_training_are_in_scope(
    reference: ScopeReference, chests: list[np.ndarray]
) -> None:
    assert sum(map(bool, marks(reference, chests[90:]))) <= 1


def test_each_image_code_marks_what_it_says(
    reference: ScopeReference, chests: list[np.ndarray]
) -> None:
    rng = np.random.default_rng(2)
    blank = [DRAWN["blank"][0](rng, SIDE) for _ in range(40)]
    planted = {
        "out_of_scope_inverted": [invert(image) for image in chests[90:]],
        "out_of_scope_aspect": [crop(rng, image) for image in chests[90:]],
        "out_of_scope_blank": blank,
    }
    for code, images in planted.items():
        found = marks(reference, images)
        assert sum(code in codes for codes in found) >= 0.95 * len(images), code
    far = marks(reference, chests[90:], at=4.0)
    assert all(codes == ["out_of_scope_not_chest"] for codes in far if codes[1:] == [])
    assert all("out_of_scope_not_chest" in codes for codes in far)


def test_pages_and_noise_are_not_taken_for_inverted_chests(reference: ScopeReference) -> None:
    rng = np.random.default_rng(4)
    images = [DRAWN[kind][0](rng, 128) for kind in ("page", "noise") for _ in range(20)]
    assert not any("out_of_scope_inverted" in codes for codes in marks(reference, images))


def test_a_reference_is_small_and_is_read_back_as_it_was(reference: ScopeReference) -> None:
    text = reference.model_dump_json()
    assert ScopeReference.model_validate_json(text) == reference
    assert len(text) < 40_000
    low, high = reference.trained_on["width_px"][0], reference.trained_on["width_px"][-1]
    assert (low, high) == (SIDE, SIDE)
    assert set(reference.spreads) == {*FIGURES, "logit"}
    assert all(sum(of.counts) == 30 for name, of in reference.spreads.items() if name != "logit")


def test_constant_features_and_one_image_have_a_reference() -> None:
    """A dead network, or a data set of almost nothing, must not end a training."""
    image = shown([np.full((SIDE, SIDE), 9, np.uint8)])
    reference = fit(image, np.zeros((1, 4), np.float32), image, np.zeros((1, 4), np.float32))
    assert mark(reference, image, np.zeros((1, 4), np.float32)) == [[]]
    far = mark(reference, image, np.ones((1, 4), np.float32))
    assert far == [["out_of_scope_not_chest"]]


FACTS: dict[str, list[Any]] = {
    "age_years": [1.5, 2.0, 4.0, 5.5] * 10 + [None] * 60,
    "modality": ["DX"] * 60 + ["RG"] * 39 + ["OT"],
    "view_position": ["PA"] * 100,
    "sex": ["F", "M"] * 50,
}


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ({"modality": "CT"}, "out_of_scope_modality"),
        ({"modality": "OT"}, None),  # 1 of 100 was such
        ({"modality": "RG"}, None),
        ({"modality": "CR"}, None),
        ({"modality": None}, None),
        ({"view_position": "LL"}, "out_of_scope_view"),
        ({"view_position": "LATERAL"}, "out_of_scope_view"),
        ({"view_position": "AP"}, None),
        ({"view_position": "OTHER"}, None),
        ({"age_years": 0.9}, "out_of_scope_age"),
        ({"age_years": 1.0}, None),
        ({"age_years": 6.0}, None),
        ({"age_years": 61.0}, "out_of_scope_age"),
        ({"presentation_intent": "FOR PROCESSING"}, "out_of_scope_intent"),
        ({"presentation_intent": "FOR PRESENTATION"}, None),
        ({"sex": "O"}, None),
    ],
)
def test_headers_are_held_against_those_of_the_training(
    chests: list[np.ndarray], said: dict[str, Any], code: str | None
) -> None:
    seen, of = shown(chests[:1]), np.zeros((1, 64), np.float32)
    reference = fit(seen, of, seen, of, facts=FACTS)
    assert mark(reference, seen, of, said) == [[code] if code else []]
    assert reference.words["modality"] == {"DX": 60, "RG": 39, "OT": 1}
    unsaid = fit(seen, of, seen, of)
    assert (unsaid.words, unsaid.ages) == ({}, None)
    assert mark(unsaid, seen, of, {"age_years": 61.0}) == [[]]
