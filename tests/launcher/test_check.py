"""Launcher files that are in order, and values that no launcher file holds."""

import re
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from orchestrator.errors import SpecError
from orchestrator.launcher.file import load_launcher
from tests.conftest import ROOT
from tests.launcher.launcher_files import SHIPPED, check, fill_in, findings, head_start, place


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_files_are_accepted_and_say_what_to_fill_in(name: str, home: Path) -> None:
    done = check(ROOT / name)
    assert done.exit_code == 0, done.output
    assert "no fault" in done.stdout
    _, notes = findings(ROOT / name)
    assert any("reserved for examples" in note["problem"] for note in notes)
    assert any("there is no ~/.ray/auth_token" in note["problem"] for note in notes)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_filled_in_file_has_nothing_left(name: str, home: Path, tmp_path: Path) -> None:
    config = fill_in(yaml.safe_load((ROOT / name).read_text()), home)
    assert findings(place(tmp_path, config), "--jobs", str(ROOT / "jobs")) == ([], [])


@pytest.mark.parametrize("name", SHIPPED)
def test_ray_itself_prepares_the_shipped_files(name: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(yaml.safe_load((ROOT / name).read_text()))
    validate_config(prepared)
    assert prepared["max_workers"] >= 2


def test_of_rays_two_autoscalers_the_first_alone_starts_every_worker() -> None:
    """Holds what cluster.yaml says of the installed Ray; where it fails, the setting may go."""
    from ray.autoscaler._private.resource_demand_scheduler import _add_min_workers_nodes
    from ray.autoscaler._private.util import prepare_config
    from ray.autoscaler.v2.instance_manager.config import NodeTypeConfig
    from ray.autoscaler.v2.scheduler import ResourceDemandScheduler

    prepared = prepare_config(yaml.safe_load((ROOT / "cluster.yaml").read_text()))
    kinds, head = prepared["available_node_types"], prepared["head_node_type"]
    up = {head: 1}  # the head itself
    added = _add_min_workers_nodes([{}], dict(up), kinds, prepared["max_workers"], head, [], None)
    assert added[2] == {head: 2}
    least, most = kinds[head]["min_workers"], kinds[head]["max_workers"]
    started: list[Any] = []
    context = SimpleNamespace(
        get_cluster_shape=lambda: up,
        get_node_type_configs=lambda: {head: NodeTypeConfig(head, least, most)},
        get_nodes=list,
        update=started.extend,
    )
    ResourceDemandScheduler._enforce_min_workers_per_type(context)
    assert len(started) == 1


def test_the_header_tells_how_to_make_a_cluster_without_gpus(home: Path, tmp_path: Path) -> None:
    text = (ROOT / "cluster.yaml").read_text()
    header = text[: text.index("cluster_name")]
    assert re.search(
        r"CPU only: no GPU.* no `nvidia-smi`.*requirements\.lock in place", header, re.S
    )
    config = fill_in(
        yaml.safe_load(text.replace("requirements-cluster.lock", "requirements.lock")), home
    )
    config["metadata"]["worker"].pop("GPU")
    config["worker_setup_commands"] = []
    assert findings(place(tmp_path, config)) == ([], [])


@pytest.mark.parametrize(
    "names", [("head.ward.example", ["w1", "w-2.ward", "3com"]), ("fd00::1", ["fd00::2"])]
)
def test_names_and_both_kinds_of_address_are_taken(
    names: tuple[str, list[str]], home: Path, tmp_path: Path
) -> None:
    config = fill_in(yaml.safe_load((ROOT / "cluster.yaml").read_text()), home)
    head, workers = names
    config["provider"].update(head_ip=head.replace(".example", ".org"), worker_ips=workers)
    if ":" in head:
        head_start(config, "--node-ip-address=10.1.2.10", f"--node-ip-address={head}")
    assert findings(place(tmp_path, config)) == ([], [])


def test_a_second_storage_is_no_misspelt_one(home: Path, tmp_path: Path) -> None:
    config = fill_in(yaml.safe_load((ROOT / "cluster.yaml").read_text()), home)
    config["initialization_commands"].append(
        "mountpoint -q /mnt/models || sudo -n mount /mnt/models"
    )
    assert findings(place(tmp_path, config)) == ([], [])


def test_a_sudo_that_never_asks_is_no_fault(home: Path, tmp_path: Path) -> None:
    config = fill_in(yaml.safe_load((ROOT / "cluster.yaml").read_text()), home)
    config["initialization_commands"] += [
        "sudo -u root -n true && sudo -nE true",
        "if sudo --non-interactive -g ray true; then command -v sudo rsync; fi",
    ]
    head_start(config, "WAIT_S=31536000", "WAIT_S=86400")
    assert findings(place(tmp_path, config)) == ([], [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not valid YAML"),
        ("- a", "holds a list; expected a Ray cluster launcher file"),
        ("a: 1\na: 2", "line 2: the key 'a' stands twice"),
        ("a: !!python/object:os.system {}", "line 1: the tag .* is not taken"),
    ],
)
def test_what_is_no_launcher_file_is_one_error(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(SpecError, match=message):
        load_launcher(tmp_path / "c.yaml")


@pytest.mark.parametrize("key", ["provider", "auth", "available_node_types", "file_mounts"])
@pytest.mark.parametrize("value", [None, [], "x", {"x": None}, 3])
def test_no_value_of_a_wrong_kind_ends_in_a_traceback(
    key: str, value: Any, home: Path, tmp_path: Path
) -> None:
    for shipped in SHIPPED:
        config = yaml.safe_load((ROOT / shipped).read_text())
        config[key] = value
        done = check(place(tmp_path, config))
        assert isinstance(done.exception, SystemExit) and done.exit_code == 2, done.output


@pytest.mark.parametrize("value", [None, [1], "x", {"GPU": [2]}, 3, "x" * 5000, "~nobody-here/x"])
def test_no_nested_value_of_a_wrong_kind_does_either(
    value: Any, home: Path, tmp_path: Path
) -> None:
    local, aws = (yaml.safe_load((ROOT / shipped).read_text()) for shipped in SHIPPED)
    for config, keys in [
        (local, ("provider", "type")),
        (local, ("auth", "ssh_private_key")),
        (local, ("file_mounts", "~/weights.h5")),
        (local, ("metadata", "worker")),
        (aws, ("available_node_types", "worker", "resources")),
        (aws, ("available_node_types", "worker", "node_config")),
    ]:
        changed = section = deepcopy(config)
        for key in keys[:-1]:
            section = section[key]
        section[keys[-1]] = value
        done = check(place(tmp_path, changed))
        assert done.exception is None or isinstance(done.exception, SystemExit), keys
