"""Ray and nothing else: sessions, nodes, sharded stages, distributed training."""

import os

# Ray reads its environment once, when it is first imported: token authentication must be on by
# then, or the processes it starts and this one disagree. The others silence notices on the
# terminal and the sending of usage statistics.
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

# Ray Train begins a group where there is room for it; after its 60 s a busy machine would count as
# a failure.
os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "300")
# A worker waits at the end of an epoch until it is next looked at, by default every 2 s: longer
# than an epoch of a head takes.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")

# Ray Tune: its loggers would write three files a trial, its Ctrl-C handler would return half a
# search as if it were whole, a trial that failed reports no metric, the search's own ledger is what
# it resumes from, and its new output cannot be silenced.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "1e9")
os.environ.setdefault("TUNE_PRINT_ALL_TRIAL_ERRORS", "0")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
