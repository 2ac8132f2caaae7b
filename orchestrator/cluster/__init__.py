"""Ray: sessions, sharded stages, training, scoring and jobs. The only importer of ray."""

import os

# Ray reads its environment once, when it is first imported: token authentication must be on by
# then, or the processes it starts and this one disagree. The others silence notices on the
# terminal and the sending of usage statistics.
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
