"""Faults to plant in `cluster.yaml`, the launcher file of machines of one's own."""

from tests.launcher.launcher_files import Config, Fault, head_start, reword


def worker_start(config: Config, old: str, new: str) -> None:
    reword(config, "worker_start_ray_commands", old, new)


def workers(config: Config, *addresses: str) -> None:
    config["provider"]["worker_ips"] = list(addresses)


def drop_setup(config: Config, key: str, word: str) -> None:
    kept = [command for command in config[key] if word not in command]
    assert len(kept) < len(config[key])
    config[key] = kept


LOCAL_FAULTS: dict[str, Fault] = {
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
        lambda c: head_start(c, "WAIT_S=31536000", "WAIT_S=3600"),
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
