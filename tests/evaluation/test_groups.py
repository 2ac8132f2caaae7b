"""To which group an image belongs."""

from typing import Any

import pyarrow as pa

from orchestrator.evaluation.groups import MAX_GROUPS, Dimension, GroupCodes


def found_in(*rows: dict[str, Any], roots: tuple[str, ...] = ()) -> dict[str, Dimension]:
    codes = GroupCodes(roots)
    plain = {"root": 0, "path": "x.png", "width_px": 600, "height_px": 600}
    for row in rows:  # a shard each
        codes.add(pa.Table.from_pylist([plain | row]))
    return {dimension.name: dimension for dimension in codes.dimensions()}


def groups_of(dimension: Dimension) -> list[str | None]:
    return [dimension.groups[code - 1] if code else None for code in dimension.codes]


def test_bands_are_in_their_order_and_what_is_not_known_has_no_group() -> None:
    ages = [80.0, 0.9, None, 79.9, 1.0, 4.9, 18.0, 5.0, 64.0]
    age = found_in(*({"age_years": age} for age in ages))["age_band"]
    assert age.groups == (
        *("under 1 year", "1 to 4 years", "5 to 17 years", "18 to 39 years", "40 to 64 years"),
        *("65 to 79 years", "80 years and over"),
    )
    assert groups_of(age)[:3] == ["80 years and over", "under 1 year", None]
    assert [groups_of(age)[n] for n in (3, 4, 5, 6)] == [
        *("65 to 79 years", "1 to 4 years", "1 to 4 years", "18 to 39 years")
    ]


def test_an_image_is_as_large_as_its_shorter_side() -> None:
    sizes = ((511, 4000), (4000, 512), (2048, 2048), (1024, 2047))
    size = found_in(*({"width_px": w, "height_px": h} for w, h in sizes))["image_size"]
    assert groups_of(size) == [
        *("under 512 px", "512 to 1023 px", "2048 px and over", "1024 to 2047 px")
    ]


def test_a_site_is_the_first_folder_that_names_no_class_and_no_split() -> None:
    paths = ["train/NORMAL/north/a.png", "south/PNEUMONIA/b.png", "test/PNEUMONIA/c.png", "d.png"]
    site = found_in(*({"path": path} for path in paths))["site_folder"]
    assert groups_of(site) == ["north", "south", None, None]


def test_root_sex_view_device_and_format() -> None:
    rows = (
        {"root": 1, "sex": "F", "view_position": "PA", "manufacturer": "GE", "file_format": "PNG"},
        {"root": 0, "sex": "M", "device_model": "XR656", "file_format": "DICOM"},
        {"root": 2, "sex": None, "view_position": "AP", "manufacturer": "GE", "device_model": "X"},
    )
    every = dict.fromkeys(("sex", "view_position", "manufacturer", "device_model", "file_format"))
    found = found_in(*(every | row for row in rows), roots=("/a", "/b"))
    groups = {name: groups_of(dimension) for name, dimension in found.items()}
    assert groups == {
        "root": ["/b", "/a", "input 3"],
        "sex": ["female", "male", None],
        "view": ["PA", None, "AP"],
        "device": ["GE", "XR656", "GE X"],
        "format": ["PNG", "DICOM", None],
    }


def test_what_divides_nothing_or_too_much_is_left_out() -> None:
    assert found_in({"sex": "F"}, {"sex": "F"}) == {}
    folders = [{"path": f"site{number}/x.png"} for number in range(MAX_GROUPS)]
    assert list(found_in(*folders)) == ["site_folder"]
    assert found_in(*folders, {"path": "another/x.png"}, {"path": "site0/x.png"}) == {}
