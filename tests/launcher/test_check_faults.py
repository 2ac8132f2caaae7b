"""Each fault of a launcher file is named, alone and among others."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT
from tests.launcher.aws_faults import AWS_FAULTS
from tests.launcher.launcher_files import Config, check, fill_in, findings, place
from tests.launcher.local_faults import LOCAL_FAULTS

PLANTED = [
    pytest.param(file, *fault, id=f"{file}-{name}")
    for file, faults in (("cluster.yaml", LOCAL_FAULTS), ("deploy/cluster-aws.yaml", AWS_FAULTS))
    for name, fault in faults.items()
]


@pytest.fixture
def jobs(tmp_path: Path) -> Path:
    """The shipped jobs, and one that needs a GPU."""
    folder = tmp_path / "jobs"
    shutil.copytree(ROOT / "jobs", folder)
    body = {"name": "gpu", "kind": "score", "args": {"input": "x"}}
    (folder / "gpu.yaml").write_text(yaml.safe_dump(body | {"resources": {"gpus_per_worker": 1}}))
    return folder


@pytest.mark.parametrize(("shipped", "plant", "where", "problem"), PLANTED)
def test_each_planted_fault_is_named(
    shipped: str,
    plant: Callable[[Config], Any],
    where: str,
    problem: str,
    home: Path,
    tmp_path: Path,
    jobs: Path,
) -> None:
    config = fill_in(yaml.safe_load((ROOT / shipped).read_text()), home)
    plant(config)
    file = place(tmp_path, config)
    done = check(file)  # the jobs beside it, or one folder up
    assert done.exit_code == 2
    faults, _ = findings(file)
    named = [f for f in faults if f["where"].endswith(where) and problem in f["problem"]]
    assert named, faults
    assert all(fault["mend"] for fault in faults)
    lines = [line for line in done.stdout.splitlines() if line.startswith("error: ")]
    assert len(lines) == len(faults)


def test_many_faults_are_all_named_at_once(home: Path, tmp_path: Path, jobs: Path) -> None:
    config = fill_in(yaml.safe_load((ROOT / "cluster.yaml").read_text()), home)
    planted = ["unknown key", "resource typo", "token off", "dashboard open", "ssh key absent"]
    planted += ["environment not locked", "storage not mounted", "no autoscaler", "min over max"]
    for name in [*planted, "token not copied"]:
        LOCAL_FAULTS[name][0](config)
    faults, _ = findings(place(tmp_path, config))
    for name in planted:
        assert any(LOCAL_FAULTS[name][2] in fault["problem"] for fault in faults), name


def test_planted_faults_are_found_in_the_template_too(home: Path, tmp_path: Path) -> None:
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    config["auth"]["ssh_private_key"] = "~/.ssh/gone"
    assert check(place(tmp_path, config)).exit_code == 2


@pytest.mark.parametrize("mode", [0o644, 0o640])
def test_a_key_or_token_that_others_may_read_is_a_fault(
    mode: int, home: Path, tmp_path: Path
) -> None:
    config = fill_in(yaml.safe_load((ROOT / "cluster.yaml").read_text()), home)
    for name in (".ssh/id_xray", ".ray/auth_token"):
        (home / name).chmod(mode)
    faults, _ = findings(place(tmp_path, config))
    assert ["readable to others" in fault["problem"] for fault in faults] == [True, True]
