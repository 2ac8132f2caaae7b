from pathlib import Path

import pytest

from orchestrator.data import roots
from orchestrator.data.roots import Roots
from orchestrator.errors import ClusterError

LINE = "{number} 22 0:{device} / {point} rw,relatime shared:1 - nfs4 server:/export rw\n"


@pytest.fixture
def mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What stands for the system's table of mounts."""
    path = tmp_path / "mountinfo"
    monkeypatch.setattr(roots, "_MOUNTS", path)
    return path


def mounted(*places: tuple[Path | str, int]) -> str:
    shown = [(str(point).replace(" ", "\\040"), device) for point, device in places]
    return "".join(
        LINE.format(number=number, device=device, point=point)
        for number, (point, device) in enumerate(shown)
    )


def test_a_share_below_the_root_of_an_absolute_path_is_missed(tmp_path: Path, mounts: Path) -> None:
    share, other = tmp_path / "the share", tmp_path / "other"
    share.mkdir()
    other.mkdir()
    path = bytes(share / "a.jpeg")[1:]
    mounts.write_text(mounted(("/", 1), (share, 50), (other, 51)))
    found = Roots([b"/", bytes(tmp_path)])
    found.check(0, path)
    mounts.write_text(mounted(("/", 1), (share, 50)))
    found.check(0, path)  # what is gone does not hold the file
    for table in (mounted(("/", 1)), mounted(("/", 1), (share, 52))):
        mounts.write_text(table)
        for root, file in ((0, path), (1, b"the share/a.jpeg")):
            with pytest.raises(ClusterError, match=f"gone: {share} is not mounted any more"):
                found.check(root, file)


def test_a_share_that_is_mounted_when_it_is_first_used_is_no_other(
    tmp_path: Path, mounts: Path
) -> None:
    mounts.write_text(mounted((tmp_path, 40)))
    found = Roots([bytes(tmp_path)])
    mounts.write_text(mounted((tmp_path, 40), (tmp_path, 50)))  # automount: one over the other
    found.check(0, b"a.jpeg")


def test_a_system_without_a_table_of_mounts_still_knows_its_roots(
    tmp_path: Path, mounts: Path
) -> None:
    folder = tmp_path / "xrays"
    folder.mkdir()
    (folder / "a.jpeg").touch()
    found = Roots([bytes(folder), b"s3://bucket/xrays"])
    found.check(0, b"b.jpeg")
    found.check(1, b"b.jpeg")  # its store has said what is the matter
    folder.rename(tmp_path / "away")
    with pytest.raises(ClusterError, match="is not there any more"):
        found.check(0, b"b.jpeg")
