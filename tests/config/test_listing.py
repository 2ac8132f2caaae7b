from typing import Any

import pytest

from orchestrator.config.load import build_spec, dump_yaml
from orchestrator.config.specs import IngestSpec, Resources, ScoreSpec
from orchestrator.data.listing.options import ListingOptions
from orchestrator.errors import SpecError


def spec_of(**fields: Any) -> ScoreSpec:
    return build_spec(ScoreSpec, {"input": ["x"], **fields})


@pytest.mark.parametrize(
    "given",
    [
        ["VIRUS=PNEUMONIA", "COVID=none"],
        "VIRUS=pneumonia,COVID=None",
        ["VIRUS=PNEUMONIA,COVID=none"],
        {"VIRUS": "PNEUMONIA", "COVID": None},
        [" VIRUS = PNEUMONIA", "COVID=none", "VIRUS=PNEUMONIA"],
    ],
)
def test_every_form_of_a_class_map_is_one(given: Any) -> None:
    assert spec_of(class_map=given).class_map == ("VIRUS=PNEUMONIA", "COVID=none")


def test_names_with_commas_and_equals_signs_and_numbers() -> None:
    assert spec_of(class_map="a, b=NORMAL").class_map == ("a, b=NORMAL",)
    assert spec_of(class_map=["p=0.5=NORMAL"]).class_map == ("p=0.5=NORMAL",)
    assert spec_of(class_map={0: "NORMAL", 1: "PNEUMONIA"}).class_map == (
        "0=NORMAL",
        "1=PNEUMONIA",
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("VIRUS", r"expected NAME=CLASS with one of the classes NORMAL, PNEUMONIA, none"),
        ("VIRUS=COVID", r"received 'VIRUS=COVID'"),
        ("=NORMAL", r"received '=NORMAL'"),
        (["A=NORMAL", "A=PNEUMONIA"], "A is given two classes, NORMAL and PNEUMONIA"),
    ],
)
def test_a_class_map_that_says_nothing_is_refused(given: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        spec_of(class_map=given)


def test_unknown_tables_are_refused() -> None:
    with pytest.raises(SpecError, match="table='vindr'"):
        spec_of(table="vindr")


def test_a_stored_spec_gives_the_same_options() -> None:
    import yaml

    spec = spec_of(class_map={"VIRUS": "PNEUMONIA"}, table="nih", include_hidden=True)
    stored = yaml.safe_load(dump_yaml("score", "a", spec, Resources()))["args"]
    assert stored["class_map"] == ["VIRUS=PNEUMONIA"]
    again = ListingOptions.of(build_spec(ScoreSpec, stored))
    assert again == ListingOptions.of(spec)
    assert again.labels["virus"] == 1
    assert again.metadata() == ListingOptions.of(spec).metadata() != {}
    plain = build_spec(IngestSpec, {"input": "x", "out": "y", "image_size": 64})
    assert ListingOptions.of(plain) == ListingOptions()
    assert ListingOptions().metadata() == {}
