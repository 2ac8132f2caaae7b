"""Schedules: cron ticks, the ledger that says what was decided, the loop that submits."""
