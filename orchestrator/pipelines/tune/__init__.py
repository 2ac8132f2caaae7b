"""The search of training settings. The only importer of ray.tune."""

import orchestrator.cluster  # noqa: F401 - sets Ray's environment before ray is imported
