"""Opens a session on a Ray of its own, writes what it got as JSON, and works until it is killed."""

import json
import time

from orchestrator.cluster.session import node_resources, open_session
from orchestrator.config.specs import Resources


def main() -> None:
    with open_session(Resources()) as session:
        import ray

        @ray.remote(num_cpus=1)
        def work() -> None:
            while True:
                sum(range(10**6))

        work.remote()
        folder = ray._private.worker._global_node.get_session_dir_path()
        (node,) = node_resources()
        found = {"cpus": node["CPU"], "each": session.cpus_per_worker, "folder": folder}
        print(json.dumps(found), flush=True)
        time.sleep(600)


if __name__ == "__main__":
    main()
