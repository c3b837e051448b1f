-- Version 1 of the schema. Run by DB.Migrate, or by hand: psql -1 -f FILE.
-- In a schema of another name, replace "wastability" everywhere below.
--
-- Every table has an account in its key: many accounts live side by side.
-- Texts are compared by their bytes (COLLATE "C"), whatever the database's
-- language is.

CREATE SCHEMA IF NOT EXISTS wastability;

-- Which migrations were run. A library works with every schema whose newest
-- "readable_by" is not above the version that the library knows.
CREATE TABLE wastability.versions (
    version     integer     PRIMARY KEY,
    readable_by integer     NOT NULL,
    applied_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Who holds an account's connection. A renewal writes this row and no other.
CREATE TABLE wastability.locks (
    account            text COLLATE "C" PRIMARY KEY,
    holder_instance_id text        NOT NULL, -- '' when the lock is free
    nonce              text        NOT NULL, -- of the attempt that began the term
    lease_epoch        bigint      NOT NULL, -- +1 with every new term
    lease_us           bigint      NOT NULL CHECK (lease_us > 0), -- microseconds
    acquired_at        timestamptz NOT NULL,
    renewed_at         timestamptz NOT NULL
) WITH (fillfactor = 50);

-- Who may write. Written with every new term and when one ends, never by a
-- renewal, so that renewals and commits do not wait for each other. A commit
-- names epoch and token; the token moves when the outcome of a commit was lost,
-- so that a late arrival of it changes nothing.
CREATE TABLE wastability.fences (
    account     text COLLATE "C" PRIMARY KEY,
    lease_epoch bigint  NOT NULL,
    nonce       text    NOT NULL,
    token       text    NOT NULL,
    released    boolean NOT NULL
) WITH (fillfactor = 50);

-- The session: keys and values of package authstore.
CREATE TABLE wastability.auth (
    account text COLLATE "C" NOT NULL,
    kind    text COLLATE "C" NOT NULL,
    id      bytea            NOT NULL,
    data    bytea            NOT NULL,
    PRIMARY KEY (account, kind, id)
);
-- What is sealed does not compress; trying costs time with every write.
ALTER TABLE wastability.auth ALTER COLUMN data SET STORAGE EXTERNAL;

-- The state of the connection. "state" is the truth; the columns repeat the
-- fields of it that people ask for.
CREATE TABLE wastability.state (
    account                text COLLATE "C" PRIMARY KEY,
    version                integer     NOT NULL,
    state                  json        NOT NULL,
    instance_id            text,
    wa_status              text,
    connected_at           timestamptz,
    last_disconnect_at     timestamptz,
    last_disconnect_reason text,
    retry_count            integer,
    next_retry_at          timestamptz,
    updated_at             timestamptz NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE wastability.incidents (
    account           text COLLATE "C" NOT NULL,
    id                text COLLATE "C" NOT NULL,
    version           integer NOT NULL,
    revision          bigint  NOT NULL, -- +1 with every change
    turned_by         text    NOT NULL, -- nonce of the call that opened or closed it
    type              text    NOT NULL,
    active            boolean NOT NULL,
    instance_id       text    NOT NULL,
    detected_at       timestamptz,
    first_detected_at timestamptz,
    last_checked_at   timestamptz,
    resolved_at       timestamptz,
    evidence          json,
    instructions      text    NOT NULL,
    runbook           text    NOT NULL,
    updated_at        timestamptz NOT NULL,
    PRIMARY KEY (account, id)
);

INSERT INTO wastability.versions (version, readable_by) VALUES (1, 1);
