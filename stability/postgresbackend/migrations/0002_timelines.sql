-- Version 2 of the schema. Run by DB.Migrate, or by hand: psql -1 -f FILE.
-- In a schema of another name, replace "wastability" everywhere below.
--
-- A server that was promoted from a standby, or restored to a point in time,
-- writes on a new timeline. Then a lock that looks free may have been taken in
-- transactions that are gone. So each lock says on which timeline it was
-- written last; a lock of another one is given to nobody before "not_before".
-- An older library goes on working beside this, without that protection.

ALTER TABLE wastability.locks
    ADD COLUMN timeline   bigint NOT NULL DEFAULT 0, -- 0: not known
    ADD COLUMN not_before timestamptz;

INSERT INTO wastability.versions (version, readable_by) VALUES (2, 1);
