"""Faults to plant in `deploy/cluster-aws.yaml`, the launcher file for AWS."""

from tests.launcher.launcher_files import Fault, head_start

AWS_FAULTS: dict[str, Fault] = {
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
