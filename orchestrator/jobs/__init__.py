"""Jobs on a Ray cluster: submit, follow, stop, plan."""

import orchestrator.cluster  # noqa: F401 - sets Ray's environment before ray is imported
