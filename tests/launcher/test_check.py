import json
import re
import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from orchestrator.cli.app import app
from orchestrator.errors import SpecError
from orchestrator.launcher.file import load_launcher
from tests.conftest import ROOT

SHIPPED = ["cluster.yaml", "deploy/cluster-aws.yaml"]
WAIT = "AUTOSCALER_NODE_START_WAIT_S"
Config = dict[str, Any]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder: no token, no key."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def check(file: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["cluster", "check", str(file), *arguments])


def findings(file: Path, *arguments: str) -> tuple[list[Config], list[Config]]:
    body = json.loads(check(file, "--json", *arguments).stdout)
    return body["faults"], body["notes"]


def place(folder: Path, config: Config) -> Path:
    """Writes a launcher file where what it copies is found, below the project or in it."""
    for name in ("pyproject.toml", "README.md", "requirements-cluster.lock", "requirements.lock"):
        shutil.copy(ROOT / name, folder / name)
    for name in ("orchestrator", "deploy/systemd"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    mounts = config.get("file_mounts")
    is_below = isinstance(mounts, dict) and "../orchestrator" in mounts.values()
    file = folder / ("deploy/cluster.yaml" if is_below else "cluster.yaml")
    file.parent.mkdir(exist_ok=True)
    file.write_text(yaml.safe_dump(config))
    return file


def fill_in(config: Config, home: Path) -> Config:
    """A file as a team would fill it in, with the key and the token in place."""
    for name in (".ssh/id_xray", ".ray/auth_token"):
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).write_text("x" * 64)
        (home / name).chmod(0o600)
    text = yaml.safe_dump(config, width=1000)
    for example, own in {
        "192.0.2.": "10.1.2.",
        "198.51.100.0/24": "10.1.0.0/16",
        "ami-0123456789abcdef0": "ami-0fedcba9876543210",
        "fs-0123456789abcdef0": "fs-0fedcba9876543210",
        "example-key": "id_xray",
    }.items():
        text = text.replace(example, own)
    filled: Config = yaml.safe_load(text)
    return filled


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


def reword(config: Config, key: str, old: str, new: str) -> None:
    assert any(old in command for command in config[key])
    config[key] = [command.replace(old, new) for command in config[key]]


def head_start(config: Config, old: str, new: str) -> None:
    reword(config, "head_start_ray_commands", old, new)


def worker_start(config: Config, old: str, new: str) -> None:
    reword(config, "worker_start_ray_commands", old, new)


def workers(config: Config, *addresses: str) -> None:
    config["provider"]["worker_ips"] = list(addresses)


def drop_setup(config: Config, key: str, word: str) -> None:
    kept = [command for command in config[key] if word not in command]
    assert len(kept) < len(config[key])
    config[key] = kept


LOCAL_FAULTS: dict[str, tuple[Callable[[Config], Any], str, str]] = {
    "unknown key": (lambda c: c.update(workers=3), "top level", "unknown key workers"),
    "provider typo": (
        lambda c: c["provider"].update(worker_ip=["10.1.2.3"]),
        "provider",
        "unknown key worker_ip",
    ),
    "no such provider": (lambda c: c["provider"].update(type="slurm"), "provider.type", "slurm"),
    "wrong type": (lambda c: c.update(max_workers="two"), "max_workers", "'two' is not of type"),
    "resource typo": (
        lambda c: c["metadata"].update(worker={"CPU": 16, "GPUs": 2}),
        "metadata.worker",
        "unknown resource GPUs",
    ),
    "machine twice": (
        lambda c: c["provider"].update(worker_ips=["10.1.2.11", "10.1.2.11"]),
        "provider",
        "10.1.2.11 stands twice",
    ),
    "machines left out": (
        lambda c: c.update(max_workers=1),
        "max_workers",
        "1 of the 2 machines in worker_ips",
    ),
    "min over max": (lambda c: c.update(min_workers=3), "min_workers", "over max_workers 2"),
    "token off": (
        lambda c: head_start(c, "RAY_AUTH_MODE=token", ""),
        "head_start_ray_commands",
        "token authentication is off",
    ),
    "token not copied": (
        lambda c: c["file_mounts"].pop("~/.ray/auth_token"),
        "file_mounts",
        "no token reaches the machines",
    ),
    "token in the file": (
        lambda c: head_start(c, "RAY_AUTH_MODE=", "RAY_AUTH_TOKEN=0123 RAY_AUTH_MODE="),
        "head_start_ray_commands",
        "the token itself stands in the file",
    ),
    "dashboard open": (
        lambda c: head_start(c, "--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0"),
        "head_start_ray_commands",
        "listen on 0.0.0.0, open to the network",
    ),
    "no autoscaler": (
        lambda c: head_start(c, "--autoscaling-config=~/ray_bootstrap_config.yaml", ""),
        "head_start_ray_commands",
        "the autoscaler is off",
    ),
    "ssh key not named": (
        lambda c: c["auth"].pop("ssh_private_key"),
        "auth.ssh_private_key",
        "missing",
    ),
    "ssh key absent": (
        lambda c: c["auth"].update(ssh_private_key="~/.ssh/gone"),
        "auth.ssh_private_key",
        "there is no ~/.ssh/gone on this machine",
    ),
    "environment not locked": (
        lambda c: drop_setup(c, "setup_commands", "--require-hashes"),
        "setup_commands (worker)",
        "the environment is not locked",
    ),
    "loose package": (
        lambda c: c["worker_setup_commands"].append("pip install -U ray"),
        "setup_commands (worker)",
        "`pip install -U ray` installs whatever is newest",
    ),
    "storage not mounted": (
        lambda c: drop_setup(c, "initialization_commands", "mount"),
        "initialization_commands (worker)",
        "nothing mounts the shared storage /mnt/xray",
    ),
    "blank": (
        lambda c: c["provider"].update(worker_ips=["10.1.2.11", "<address>"]),
        "provider.worker_ips",
        "<address> is not filled in",
    ),
    "one example left": (
        lambda c: c["provider"].update(worker_ips=["10.1.2.11", "192.0.2.12"]),
        "provider.worker_ips",
        "192.0.2.12 is reserved for examples",
    ),
    "file not there": (
        lambda c: c["file_mounts"].update({"~/weights.h5": "weights.h5"}),
        "file_mounts.~/weights.h5",
        "there is no weights.h5",
    ),
    "v2 of the autoscaler": (
        lambda c: head_start(c, "RAY_enable_autoscaler_v2=0", ""),
        "head_start_ray_commands",
        "counts the head among the workers",
    ),
    "v2 asked for": (
        lambda c: head_start(c, "RAY_enable_autoscaler_v2=0", "RAY_enable_autoscaler_v2=1"),
        "head_start_ray_commands",
        "counts the head among the workers",
    ),
    "given up after 15 minutes": (
        lambda c: head_start(c, "AUTOSCALER_NODE_START_WAIT_S=31536000", ""),
        "head_start_ray_commands",
        "off for 900 s is left out",
    ),
    "given up after an hour": (
        lambda c: head_start(c, "AUTOSCALER_NODE_START_WAIT_S=31536000", f"{WAIT}=3600"),
        "head_start_ray_commands",
        "off for 3600 s is left out",
    ),
    "jobs do not wait": (
        lambda c: head_start(c, "ORCHESTRATOR_CLUSTER=", "CLUSTER="),
        "head_start_ray_commands",
        "jobs are refused, not kept waiting",
    ),
    "head's address left to Ray": (
        lambda c: head_start(c, "--node-ip-address=10.1.2.10", ""),
        "head_start_ray_commands",
        "may take 127.0.1.1",
    ),
    "head's address differs": (
        lambda c: head_start(c, "--node-ip-address=10.1.2.10", "--node-ip-address=10.1.2.1"),
        "head_start_ray_commands",
        "--node-ip-address=10.1.2.1 is not the head_ip 10.1.2.10",
    ),
    "start tried once": (
        lambda c: c.update(
            worker_start_ray_commands=[
                "mountpoint -q /mnt/xray || sudo -n mount /mnt/xray",
                "RAY_AUTH_MODE=token ray start --address=$RAY_HEAD_IP:6379",
            ]
        ),
        "worker_start_ray_commands",
        "whose start fails once is left out",
    ),
    "storage gone after a reboot": (
        lambda c: drop_setup(c, "worker_start_ray_commands", "mount"),
        "worker_start_ray_commands",
        "after a reboot nothing mounts /mnt/xray",
    ),
    "head's storage gone after a reboot": (
        lambda c: drop_setup(c, "head_start_ray_commands", "mount"),
        "head_start_ray_commands",
        "after a reboot nothing mounts /mnt/xray",
    ),
    "sudo that asks": (
        lambda c: worker_start(c, "sudo -n mount", "sudo mount"),
        "worker_start_ray_commands",
        "`sudo mount -t nfs 10.1.2.5:/export/xray /mnt/xray` may ask for a password",
    ),
    "sudo that asks as another user": (
        lambda c: worker_start(c, "sudo -n mount", "sudo -u root mount -n"),
        "worker_start_ray_commands",
        "`sudo -u root mount -n -t nfs 10.1.2.5:/export/xray /mnt/xray` may ask for a password",
    ),
    "no ray in shells": (
        lambda c: drop_setup(c, "setup_commands", ".bashrc"),
        "setup_commands (head)",
        "`ray down` and `ray exec` find no `ray`",
    ),
    "a letter in an address": (
        lambda c: workers(c, "10.77.0.1O", "10.77.0.12"),
        "provider.worker_ips",
        "'10.77.0.1O' is not an address",
    ),
    "a number too large": (
        lambda c: workers(c, "10.77.0.11", "10.77.0.300"),
        "provider.worker_ips",
        "'10.77.0.300' is not an address",
    ),
    "a missing comma": (
        lambda c: workers(c, "10.77.0.11 10.77.0.12"),
        "provider.worker_ips",
        "'10.77.0.11 10.77.0.12' is not an address",
    ),
    "two addresses merged": (
        lambda c: workers(c, "10.77.0.1110.77.0.12"),
        "provider.worker_ips",
        "'10.77.0.1110.77.0.12' is not an address",
    ),
    "half an address of the head": (
        lambda c: c["provider"].update(head_ip="10.77.0"),
        "provider.head_ip",
        "'10.77.0' is not an address",
    ),
    "every machine's own address": (
        lambda c: workers(c, "127.0.0.1"),
        "provider.worker_ips",
        "127.0.0.1 is to each machine that machine itself",
    ),
    "another path in the mount": (
        lambda c: reword(c, "initialization_commands", "-p /mnt/xray", "-p /mnt/xary"),
        "initialization_commands",
        "/mnt/xary is not the shared storage",
    ),
    "another path where jobs run": (
        lambda c: worker_start(c, "cd /mnt/xray", "cd /mnt/xary"),
        "worker_start_ray_commands",
        "/mnt/xary is not the shared storage",
    ),
    "no GPU to show": (
        lambda c: c["metadata"].update(worker={"CPU": 16}),
        "setup_commands (worker)",
        "nvidia-smi, which fails on every machine",
    ),
    "no CUDA": (
        lambda c: reword(c, "setup_commands", "requirements-cluster", "requirements"),
        "setup_commands (worker)",
        "requirements.lock has no CUDA libraries",
    ),
    "no GPU for a job": (
        lambda c: c["metadata"].update(worker={"CPU": 16}),
        "gpu.yaml",
        "asked for 1 GPU per worker",
    ),
}

AWS_FAULTS: dict[str, tuple[Callable[[Config], Any], str, str]] = {
    "node config typo": (
        lambda c: c["available_node_types"]["worker"]["node_config"].update(InstanceTyp="g5.large"),
        "available_node_types.worker.node_config",
        "unknown key InstanceTyp",
    ),
    "resource typo": (
        lambda c: c["available_node_types"]["worker"].update(resources={"CPU": 16, "gpu": 1}),
        "available_node_types.worker.resources",
        "unknown resource gpu",
    ),
    "node type typo": (
        lambda c: c["available_node_types"]["worker"].update(min_worker=1),
        "available_node_types.worker",
        "unknown key min_worker",
    ),
    "head type unknown": (
        lambda c: c.update(head_node_type="haed"),
        "head_node_type",
        "'haed' is none of available_node_types",
    ),
    "min over max": (
        lambda c: c["available_node_types"]["worker"].update(min_workers=5),
        "available_node_types.worker",
        "min_workers 5 is over max_workers 4",
    ),
    "sum over max": (
        lambda c: c["available_node_types"]["worker"].update(min_workers=5, max_workers=5),
        "max_workers",
        "4, under the sum 5",
    ),
    "no such GPU": (
        lambda c: c["available_node_types"]["worker"]["node_config"].update(
            InstanceType="m7i.4xlarge"
        ),
        "available_node_types.worker.resources",
        "GPU 1, but m7i.4xlarge has none",
    ),
    "Ray's own start commands": (
        lambda c: c.pop("head_start_ray_commands"),
        "head_start_ray_commands",
        "listen on 0.0.0.0 (Ray's default where the key is left out)",
    ),
    "port open": (
        lambda c: c["provider"]["security_group"]["IpPermissions"].append(
            {
                "IpProtocol": "tcp",
                "FromPort": 8000,
                "ToPort": 9000,
                "IpRanges": [{"CidrIp": "0.0.0.0/0"}],
            }
        ),
        "provider.security_group",
        "ports 8000 to 9000 are open to 0.0.0.0/0",
    ),
    "Ray's own setup": (
        lambda c: c.pop("head_setup_commands"),
        "setup_commands (head)",
        "installs whatever is newest",
    ),
    "jobs do not wait": (
        lambda c: head_start(c, "ORCHESTRATOR_CLUSTER=", "CLUSTER="),
        "head_start_ray_commands",
        "jobs are refused, not kept waiting",
    ),
    "image may change": (
        lambda c: c.update(docker={"image": "xray:latest", "container_name": "xray"}),
        "docker",
        "the image xray:latest may change",
    ),
    "too few GPUs": (
        lambda c: c["available_node_types"]["worker"].update(max_workers=1),
        "train-paper.yaml",
        "asked for 2 workers",
    ),
}

PLANTED = [("cluster.yaml", name, *rest) for name, rest in LOCAL_FAULTS.items()] + [
    ("deploy/cluster-aws.yaml", name, *rest) for name, rest in AWS_FAULTS.items()
]


@pytest.fixture
def jobs(tmp_path: Path) -> Path:
    """The shipped jobs, and one that needs a GPU."""
    folder = tmp_path / "jobs"
    shutil.copytree(ROOT / "jobs", folder)
    body = {"name": "gpu", "kind": "score", "args": {"input": "x"}}
    (folder / "gpu.yaml").write_text(yaml.safe_dump(body | {"resources": {"gpus_per_worker": 1}}))
    return folder


@pytest.mark.parametrize(
    ("shipped", "plant", "where", "problem"),
    [(file, plant, where, problem) for file, _, plant, where, problem in PLANTED],
    ids=[f"{file}-{name}" for file, name, *_ in PLANTED],
)
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
    head_start(config, f"{WAIT}=31536000", f"{WAIT}=86400")
    assert findings(place(tmp_path, config)) == ([], [])


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
