import os

import pytest

from orchestrator.data.listing.ignored import OUTPUTS, Ignoring
from orchestrator.data.listing.listing import Listing
from orchestrator.runs.lock import LOCK_NAME
from orchestrator.runs.outputs import MOST_ENTRIES

FILES = [b".DS_Store", b"._IM-0001.jpeg", b".hidden.png", b"THUMBS.DB", b"ehthumbs.db"]
FILES += [
    b"Desktop.ini",
    b"Thumbs.db:encryptable",
    b"Icon\r",
    b"a.png:Zone.Identifier",
    b"_SUCCESS",
    b".\xff",
]
FOLDERS = [b".git", b".Trash-1000", b".ipynb_checkpoints", b"__MACOSX", b"@eaDir", b"#recycle"]
FOLDERS += [b"$RECYCLE.BIN", b"System Volume Information", b"masks", b"Lung_Masks", b"ManualMask"]
INPUT = [b"a.png", b"x_SUCCESS", b"thumbs.db.png", b"masks.png", b"mask", b"unmasked", b"a.b"]


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_no_input(name: bytes) -> None:
    assert Ignoring(include_hidden=False).leaves_out(name, is_folder=False)
    assert not Ignoring(include_hidden=True).leaves_out(name, is_folder=False)


@pytest.mark.parametrize("include_hidden", [False, True])
def test_exported_results_are_no_input(include_hidden: bool) -> None:
    ignoring = Ignoring(include_hidden=include_hidden)
    for name in (b"sr-2.25.123.dcm", b"sc-2.25.123.dcm"):
        assert ignoring.leaves_out(name, is_folder=False)
    for name in (b"sc-2.26.1.dcm", b"sc-2.25.1.dcm.png", b"xsc-2.25.1.dcm", b"sc-2.25.dcm"):
        assert not ignoring.leaves_out(name, is_folder=False)
    assert ignoring.counts == {OUTPUTS: 2}


@pytest.mark.parametrize("name", FOLDERS)
def test_folders_that_are_no_input(name: bytes) -> None:
    assert Ignoring(include_hidden=False).leaves_out(name, is_folder=True)
    assert not Ignoring(include_hidden=True).leaves_out(name, is_folder=True)


@pytest.mark.parametrize("name", INPUT)
def test_files_that_are_input(name: bytes) -> None:
    assert not Ignoring(include_hidden=False).leaves_out(name, is_folder=False)


@pytest.mark.parametrize("name", [b"NORMAL", b"images", b"unmasked", b"maskserade", b"eaDir"])
def test_folders_that_are_input(name: bytes) -> None:
    assert not Ignoring(include_hidden=False).leaves_out(name, is_folder=True)


def test_any_number_of_hidden_folders_has_few_reasons() -> None:
    ignoring = Ignoring(include_hidden=False)
    for number in range(1000):
        assert ignoring.leaves_out(b".study%d" % number, is_folder=True)
        assert ignoring.leaves_out(b"._%d.png" % number, is_folder=False)
    assert sum(ignoring.counts.values()) == 2000
    assert ignoring.counts["._*"] == 1000
    assert len(ignoring.counts) < 50


def test_a_walk_leaves_out_and_counts(tmp_path) -> None:
    for name in ("NORMAL/a.png", "NORMAL/.a.png", ".git/x/y.png", "run/status.json", "b/masks/c"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "run" / "spec.yaml").touch()
    (tmp_path / "runs" / LOCK_NAME).mkdir(parents=True)  # as a night at work has it
    (tmp_path / "runs" / LOCK_NAME / "000001.json").touch()
    (tmp_path / "run" / "NORMAL").mkdir()
    (tmp_path / "run" / "NORMAL" / "copied.png").touch()
    (tmp_path / ".link").symlink_to("NORMAL/a.png")

    def walk(ignoring: Ignoring | None) -> set[bytes]:
        return {found.path for found in Listing(os.fsencode(tmp_path)).walk(ignoring)}

    ignoring = Ignoring(include_hidden=False)
    assert walk(ignoring) == {b"NORMAL/a.png"}
    assert ignoring.counts == {".*": 2, ".git": 1, "masks": 1, OUTPUTS: 1}
    everything = Ignoring(include_hidden=True)
    assert walk(everything) >= {b"NORMAL/.a.png", b".git/x/y.png", b".link", b"b/masks/c"}
    assert everything.counts == {OUTPUTS: 1}
    assert len(walk(None)) == 9


@pytest.mark.parametrize("extra", [MOST_ENTRIES - 3, MOST_ENTRIES])
def test_a_folder_of_many_files_is_listed_to_its_end(tmp_path, extra: int) -> None:
    names = {f"{number}.png" for number in range(extra)} | {"status.json", "spec.yaml"}
    for name in names:
        (tmp_path / name).touch()
    ignoring = Ignoring(include_hidden=False)
    found = [item.path for item in Listing(os.fsencode(tmp_path)).walk(ignoring)]
    # So many entries no folder of ours has, whatever the names among them.
    expected = sorted(map(os.fsencode, names)) if extra == MOST_ENTRIES else []
    assert sorted(found) == expected
