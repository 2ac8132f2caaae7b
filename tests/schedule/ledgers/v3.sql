-- A ledger as version 3 of the schema left it, migrated from v2.sql; then a success with a job
-- that follows it, a pause after a failure, a trigger and a backfill.
PRAGMA application_id = 1869767528;
PRAGMA user_version = 3;
BEGIN TRANSACTION;
CREATE TABLE attempts (
    submission_id TEXT PRIMARY KEY,
    job TEXT NOT NULL,
    tick INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    state TEXT NOT NULL,
    reason TEXT,
    mark TEXT,                        -- of the run folder's status at the intent
    intent_at REAL NOT NULL,
    submitted_at REAL,
    ended_at REAL,
    token INTEGER NOT NULL,
    UNIQUE (job, tick, attempt),
    FOREIGN KEY (job, tick) REFERENCES runs (job, tick)
);
INSERT INTO "attempts" VALUES('nightly-20260302T020000Z-1','nightly',1772416800,1,'SUCCEEDED',NULL,NULL,1772418605.0,1772418605.0,1772418605.0,1);
INSERT INTO "attempts" VALUES('nightly-20260303T020000Z-1','nightly',1772503200,1,'SUCCEEDED',NULL,NULL,1772503205.0,1772503205.0,1772506800.0,2);
INSERT INTO "attempts" VALUES('failing-20260302T020000Z-1','failing',1772416800,1,'FAILED','failed on the cluster; its log and status.json say why',NULL,1772416805.0,1772416805.0,1772416805.0,1);
INSERT INTO "attempts" VALUES('told-20260302T020000Z-1','told',1772416800,1,'FAILED','failed on the cluster; its log and status.json say why',NULL,1772416805.0,1772416805.0,1772416805.0,1);
INSERT INTO "attempts" VALUES('waiting-20260303T020000Z-1','waiting',1772503200,1,'SUBMITTING',NULL,NULL,1772503205.0,NULL,NULL,1);
CREATE TABLE faults (
    source TEXT NOT NULL,             -- a job, or a file where its job is not known
    topic TEXT NOT NULL,
    problem TEXT,                     -- NULL: fixed
    since REAL NOT NULL,
    token INTEGER NOT NULL,
    PRIMARY KEY (source, topic)
);
CREATE TABLE "jobs" (
    name TEXT PRIMARY KEY,
    cron TEXT,                        -- or `after JOB`; NULL: its file is gone
    timezone TEXT,
    cursor INTEGER NOT NULL,          -- ticks up to here are decided
    high INTEGER NOT NULL,            -- greatest cursor ever: differs after the clock went back
    file TEXT,                        -- its name in the folder of jobs
    spec TEXT,                        -- its last good version, JSON
    registered_at REAL NOT NULL,      -- when its schedule began to count
    succeeded_at REAL,                -- when a run of it was last seen to have succeeded
    skips INTEGER NOT NULL DEFAULT 0, -- ticks skipped in a row
    token INTEGER NOT NULL
);
INSERT INTO "jobs" VALUES('nightly','0 2 * * *','UTC',1772503200,1772503200,NULL,NULL,1.79567843704553604129e+09,1772506800.0,0,2);
INSERT INTO "jobs" VALUES('failing','0 2 * * *','UTC',1772503200,1772503200,NULL,NULL,1.79567843704553604129e+09,NULL,0,1);
INSERT INTO "jobs" VALUES('waiting','0 2 * * *','UTC',1772503200,1772503200,NULL,NULL,1.79567843704553604129e+09,NULL,0,1);
INSERT INTO "jobs" VALUES('queued','0 2 * * *','UTC',1772503200,1772503200,NULL,NULL,1.79567843704553604129e+09,NULL,0,1);
INSERT INTO "jobs" VALUES('told','0 2 * * *','UTC',1772503200,1772503200,NULL,NULL,1.79567843704553604129e+09,NULL,0,1);
INSERT INTO "jobs" VALUES('never','0 2 * * *','UTC',1772503200,1772503200,NULL,NULL,1.79567843704553604129e+09,NULL,0,1);
INSERT INTO "jobs" VALUES('removed',NULL,NULL,1772330400,1772330400,NULL,NULL,1.79567843704553604129e+09,NULL,0,1);
INSERT INTO "jobs" VALUES('follower','after nightly','',1772506800,1772506800,NULL,NULL,1772506800.0,NULL,0,2);
CREATE TABLE lease (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    token INTEGER NOT NULL,           -- grows by one with every new leader
    holder TEXT NOT NULL,
    expires_at REAL NOT NULL          -- seconds since 1970, UTC, as all times here
);
INSERT INTO "lease" VALUES(1,2,'old-host-1-efgh',1772506815.0);
CREATE TABLE notices (
    job TEXT NOT NULL,
    tick INTEGER NOT NULL,
    kind TEXT NOT NULL,               -- one notice of a kind for each incident
    state TEXT NOT NULL,              -- this and the next three: what it says
    reason TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    submission_id TEXT NOT NULL,
    target TEXT NOT NULL,             -- who is notified: on_failure, JSON
    outcome TEXT NOT NULL,            -- pending, sent, or what went wrong
    raised_at REAL NOT NULL,
    token INTEGER NOT NULL,
    PRIMARY KEY (job, tick, kind)
);
INSERT INTO "notices" VALUES('failing',1772416800,'failure','FAILED','failed on the cluster; its log and status.json say why',1,'failing-20260302T020000Z-1','{"command": ["page-oncall"], "webhook": null}','pending',1772416805.0,1);
INSERT INTO "notices" VALUES('told',1772416800,'failure','FAILED','failed on the cluster; its log and status.json say why',1,'told-20260302T020000Z-1','{"command": ["page-oncall"], "webhook": null}','sent',1772416805.0,1);
INSERT INTO "notices" VALUES('waiting',1772503200,'failure','SUBMITTING','',1,'waiting-20260303T020000Z-1','{"command": ["page-oncall"], "webhook": null}','pending',1772503205.0,1);
CREATE TABLE pauses (
    job TEXT NOT NULL,
    paused_at REAL NOT NULL,
    resumed_at REAL
);
INSERT INTO "pauses" VALUES('never',1772330405.0,NULL);
INSERT INTO "pauses" VALUES('failing',1772506800.0,NULL);
CREATE TABLE "runs" (
    job TEXT NOT NULL,
    tick INTEGER NOT NULL,
    state TEXT NOT NULL,
    reason TEXT,
    attempt INTEGER NOT NULL DEFAULT 0,
    spec TEXT,                        -- the job as it was when the tick was decided, JSON
    folder TEXT,                      -- the run folder, where the job has one
    stop_reason TEXT,                 -- set before the cluster is asked to stop it
    decided_at REAL NOT NULL,
    ended_at REAL,
    origin TEXT NOT NULL,             -- cron, trigger, backfill, or `after JOB-TICK`
    token INTEGER NOT NULL,
    PRIMARY KEY (job, tick)
);
INSERT INTO "runs" VALUES('nightly',1772330400,'SKIPPED','paused',0,NULL,NULL,NULL,1772330405.0,1772330405.0,'cron',1);
INSERT INTO "runs" VALUES('nightly',1772416800,'SUCCEEDED',NULL,1,'{"name":"nightly","kind":"score","args":{"input":"/data/xrays","out":"/runs/nightly"},"resources":{"workers":null,"cpus_per_worker":null,"gpus_per_worker":"auto"},"retries":0,"timeout":null,"schedule":{"cron":"0 2 * * *","timezone":"UTC","overlap":"skip","catch_up":"once","window":"43200s"},"on_failure":null}','/runs/nightly',NULL,1772418605.0,1772418605.0,'cron',1);
INSERT INTO "runs" VALUES('nightly',1772503200,'SUCCEEDED',NULL,1,'{"name":"nightly","kind":"score","args":{"input":"/data/xrays","out":"/runs/nightly"},"resources":{"workers":null,"cpus_per_worker":null,"gpus_per_worker":"auto"},"retries":0,"timeout":null,"schedule":{"cron":"0 2 * * *","timezone":"UTC","overlap":"skip","catch_up":"once","window":"43200s"},"on_failure":null}','/runs/nightly',NULL,1772503205.0,1772506800.0,'cron',2);
INSERT INTO "runs" VALUES('failing',1772416800,'FAILED','failed on the cluster; its log and status.json say why',1,'{"name":"failing","kind":"score","args":{"input":"/data/xrays","out":"/runs/failing"},"resources":{"workers":null,"cpus_per_worker":null,"gpus_per_worker":"auto"},"retries":0,"timeout":null,"schedule":{"cron":"0 2 * * *","timezone":"UTC","overlap":"skip","catch_up":"once","window":"43200s"},"on_failure":{"command":["page-oncall"],"webhook":null}}','/runs/failing',NULL,1772416805.0,1772416805.0,'cron',1);
INSERT INTO "runs" VALUES('told',1772416800,'FAILED','failed on the cluster; its log and status.json say why',1,'{"name":"told","kind":"score","args":{"input":"/data/xrays","out":"/runs/told"},"resources":{"workers":null,"cpus_per_worker":null,"gpus_per_worker":"auto"},"retries":0,"timeout":null,"schedule":{"cron":"0 2 * * *","timezone":"UTC","overlap":"skip","catch_up":"once","window":"43200s"},"on_failure":{"command":["page-oncall"],"webhook":null}}','/runs/told',NULL,1772416805.0,1772416805.0,'cron',1);
INSERT INTO "runs" VALUES('waiting',1772503200,'SUBMITTING',NULL,1,'{"name":"waiting","kind":"score","args":{"input":"/data/xrays","out":"/runs/waiting"},"resources":{"workers":null,"cpus_per_worker":null,"gpus_per_worker":"auto"},"retries":0,"timeout":null,"schedule":{"cron":"0 2 * * *","timezone":"UTC","overlap":"skip","catch_up":"once","window":"43200s"},"on_failure":{"command":["page-oncall"],"webhook":null}}','/runs/waiting',NULL,1772503205.0,NULL,'cron',1);
INSERT INTO "runs" VALUES('queued',1772503200,'QUEUED',NULL,0,'{"name":"queued","kind":"score","args":{"input":"/data/xrays","out":"/runs/queued"},"resources":{"workers":null,"cpus_per_worker":null,"gpus_per_worker":"auto"},"retries":0,"timeout":null,"schedule":{"cron":"0 2 * * *","timezone":"UTC","overlap":"skip","catch_up":"once","window":"43200s"},"on_failure":null}','/runs/queued',NULL,1772503205.0,NULL,'cron',1);
INSERT INTO "runs" VALUES('follower',1772503200,'REQUESTED',NULL,0,NULL,NULL,NULL,1772506800.0,NULL,'after nightly-20260303T020000Z',2);
INSERT INTO "runs" VALUES('told',1772506801,'REQUESTED',NULL,0,NULL,NULL,NULL,1772506800.0,NULL,'trigger',2);
INSERT INTO "runs" VALUES('never',1772244000,'REQUESTED',NULL,0,NULL,NULL,NULL,1772506800.0,NULL,'backfill',2);
CREATE UNIQUE INDEX pauses_one_at_a_time ON pauses (job) WHERE resumed_at IS NULL;
CREATE TRIGGER lease_grows BEFORE UPDATE ON lease
WHEN NEW.token < OLD.token OR (NEW.token = OLD.token AND NEW.holder IS NOT OLD.holder)
BEGIN SELECT RAISE(ABORT, 'superseded'); END;
CREATE TRIGGER attempts_INSERT BEFORE INSERT ON attempts
WHEN NEW.token IS NOT (SELECT token FROM lease WHERE id = 1)
BEGIN SELECT RAISE(ABORT, 'superseded'); END;
CREATE TRIGGER attempts_UPDATE BEFORE UPDATE ON attempts
WHEN NEW.token IS NOT (SELECT token FROM lease WHERE id = 1)
BEGIN SELECT RAISE(ABORT, 'superseded'); END;
CREATE TRIGGER attempts_delete BEFORE DELETE ON attempts
BEGIN SELECT RAISE(ABORT, 'the ledger keeps every row'); END;
CREATE INDEX notices_pending ON notices (outcome) WHERE outcome = 'pending';
CREATE TRIGGER faults_INSERT BEFORE INSERT ON faults
WHEN NEW.token IS NOT (SELECT token FROM lease WHERE id = 1)
BEGIN SELECT RAISE(ABORT, 'superseded'); END;
CREATE TRIGGER faults_UPDATE BEFORE UPDATE ON faults
WHEN NEW.token IS NOT (SELECT token FROM lease WHERE id = 1)
BEGIN SELECT RAISE(ABORT, 'superseded'); END;
CREATE TRIGGER faults_delete BEFORE DELETE ON faults
BEGIN SELECT RAISE(ABORT, 'the ledger keeps every row'); END;
CREATE TRIGGER notices_INSERT BEFORE INSERT ON notices
WHEN NEW.token IS NOT (SELECT token FROM lease WHERE id = 1)
BEGIN SELECT RAISE(ABORT, 'superseded'); END;
CREATE TRIGGER notices_UPDATE BEFORE UPDATE ON notices
WHEN NEW.token IS NOT (SELECT token FROM lease WHERE id = 1)
BEGIN SELECT RAISE(ABORT, 'superseded'); END;
CREATE TRIGGER notices_delete BEFORE DELETE ON notices
BEGIN SELECT RAISE(ABORT, 'the ledger keeps every row'); END;
CREATE UNIQUE INDEX runs_after ON runs (job, origin) WHERE origin LIKE 'after %';
CREATE INDEX runs_open ON runs (state) WHERE state NOT IN
    ('SKIPPED', 'SUCCEEDED', 'FAILED', 'STOPPED');
CREATE INDEX runs_by_tick ON runs (tick);
CREATE TRIGGER jobs_INSERT BEFORE INSERT ON jobs
WHEN NEW.token IS NOT (SELECT token FROM lease WHERE id = 1)
BEGIN SELECT RAISE(ABORT, 'superseded'); END;
CREATE TRIGGER jobs_UPDATE BEFORE UPDATE ON jobs
WHEN NEW.token IS NOT (SELECT token FROM lease WHERE id = 1)
BEGIN SELECT RAISE(ABORT, 'superseded'); END;
CREATE TRIGGER jobs_delete BEFORE DELETE ON jobs
BEGIN SELECT RAISE(ABORT, 'the ledger keeps every row'); END;
CREATE TRIGGER runs_INSERT BEFORE INSERT ON runs
WHEN NEW.token IS NOT (SELECT token FROM lease WHERE id = 1)
BEGIN SELECT RAISE(ABORT, 'superseded'); END;
CREATE TRIGGER runs_UPDATE BEFORE UPDATE ON runs
WHEN NEW.token IS NOT (SELECT token FROM lease WHERE id = 1)
BEGIN SELECT RAISE(ABORT, 'superseded'); END;
CREATE TRIGGER runs_delete BEFORE DELETE ON runs
BEGIN SELECT RAISE(ABORT, 'the ledger keeps every row'); END;
COMMIT;
