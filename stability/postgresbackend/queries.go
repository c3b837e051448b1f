package postgresbackend

import (
	"strings"

	"github.com/jackc/pgx/v5"
)

// queries are the statements, with the schema's name in them. Each is one
// round trip and a transaction of its own, so that nothing depends on which
// connection of a pool, or of a PgBouncer in transaction mode, carries it.
type queries struct {
	locks, blind                lockQueries
	release                     string
	fence, bump                 string
	commit, save                string
	get, scan, ranges           string
	loadState                   string
	incident, incidents, change string
	sweep                       string
	accounts, version           string
	destroy, wipe               string
}

// lockQueries are those that look at the server's timeline.
type lockQueries struct{ acquire, renew, guard, load string }

func newQueries(schema string) *queries {
	name := pgx.Identifier{schema}.Sanitize()
	q := func(text string) string { return strings.ReplaceAll(text, "{schema}", name) }
	locking := func(timeline string) lockQueries {
		on := func(text string) string { return q(strings.ReplaceAll(text, "{timeline}", timeline)) }
		return lockQueries{acquire: on(acquireSQL), renew: on(renewSQL), guard: on(guardSQL), load: on(loadSQL)}
	}
	return &queries{
		locks: locking(timelineSQL), blind: locking("0::bigint"), release: q(releaseSQL),
		fence: q(fenceSQL), bump: q(bumpSQL),
		commit: q(commitSQL), save: q(saveSQL),
		get: q(getSQL), scan: q(scanSQL), ranges: q(rangesSQL),
		loadState: q(loadStateSQL),
		incident:  q(incidentSQL + ` AND id = $2`), incidents: q(incidentSQL), change: q(changeSQL),
		sweep:    q(sweepSQL),
		accounts: q(accountsSQL), version: q(versionSQL),
		destroy: q(destroySQL), wipe: q(wipeSQL),
	}
}

// durable makes this transaction wait for the disk even where the server, the
// database or the role says that commits need not. It has to be read by the
// statement, or Postgres would not run it.
const durable = `durable AS MATERIALIZED (
	SELECT CASE WHEN current_setting('synchronous_commit') = 'off' THEN set_config('synchronous_commit', 'on', true) END AS setting
)`

// timelineSQL is the timeline that the server writes. Each promotion of a standby
// begins another one, and so does each restore to a point in time.
const timelineSQL = `('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::bigint`

const server = `server AS MATERIALIZED (SELECT {timeline} AS timeline)`

// moved says of a lock that a server on another timeline wrote it last: there
// may be a later term that this server does not have.
const moved = `(l.timeline <> 0 AND s.timeline <> 0 AND l.timeline <> s.timeline)`

// heldSQL is a lock for people, and for those who wait. Of one that looks free
// and may be held it says so.
const heldSQL = `CASE WHEN l.holder_instance_id = '' AND (` + moved + ` OR l.not_before > clock_timestamp())
		THEN 'unknown, since the server was promoted or restored' ELSE l.holder_instance_id END,
	l.nonce, l.lease_epoch, l.lease_us, l.acquired_at, GREATEST(l.renewed_at, l.not_before - l.lease_us * interval '1 microsecond')`

// Expiry is judged by the server's clock at the moment of the decision. The
// epoch is above every one that the rows or this instance have seen: a standby
// that was promoted may have missed some. An attempt that was granted before is
// the same term, counted from now: the row's lock shows that nobody else was
// granted one in between. The last SELECT is for people: who holds it instead.
const acquireSQL = `WITH ` + durable + `, ` + server + `, grant_ AS (
	INSERT INTO {schema}.locks AS l (account, holder_instance_id, nonce, lease_epoch, lease_us, acquired_at, renewed_at, timeline)
	SELECT $1, $2, $3, GREATEST($5::bigint, COALESCE((SELECT f.lease_epoch FROM {schema}.fences f WHERE f.account = $1), 0)) + 1,
		$4::bigint, clock_timestamp(), clock_timestamp(), server.timeline FROM durable, server
	ON CONFLICT (account) DO UPDATE SET
		holder_instance_id = excluded.holder_instance_id, nonce = excluded.nonce, lease_us = excluded.lease_us,
		lease_epoch = CASE WHEN l.nonce = excluded.nonce THEN l.lease_epoch ELSE GREATEST(l.lease_epoch + 1, excluded.lease_epoch) END,
		acquired_at = CASE WHEN l.nonce = excluded.nonce THEN l.acquired_at ELSE clock_timestamp() END,
		renewed_at = clock_timestamp(), timeline = excluded.timeline, not_before = NULL
	WHERE (l.timeline = 0 OR excluded.timeline = 0 OR l.timeline = excluded.timeline)
		AND (l.not_before IS NULL OR l.not_before <= clock_timestamp())
		AND CASE WHEN l.nonce = excluded.nonce THEN l.holder_instance_id = excluded.holder_instance_id
			ELSE l.holder_instance_id IN ('', excluded.holder_instance_id)
				OR l.renewed_at + l.lease_us * interval '1 microsecond' <= clock_timestamp() END
	RETURNING l.*
), fence AS (
	INSERT INTO {schema}.fences AS f (account, lease_epoch, nonce, token, released)
	SELECT account, lease_epoch, nonce, $6, false FROM grant_
	ON CONFLICT (account) DO UPDATE SET lease_epoch = excluded.lease_epoch, nonce = excluded.nonce, token = excluded.token, released = false
	RETURNING f.account
)
SELECT true, false, g.holder_instance_id, g.nonce, g.lease_epoch, g.lease_us, g.acquired_at, g.renewed_at FROM grant_ g JOIN fence USING (account)
UNION ALL
SELECT false, ` + moved + `, ` + heldSQL + `
FROM {schema}.locks l, server s WHERE l.account = $1 AND NOT EXISTS (SELECT FROM grant_)`

// guardSQL keeps a lock that was written on another timeline from everybody, for
// as long as a term may be trusted that this server has lost. $2 is the lease of
// those who ask.
const guardSQL = `WITH ` + durable + `, ` + server + `
UPDATE {schema}.locks l SET timeline = s.timeline, not_before = clock_timestamp() + GREATEST(l.lease_us, $2::bigint) * interval '1 microsecond'
FROM server s, durable WHERE l.account = $1 AND ` + moved + `
RETURNING ` + heldSQL + `, l.not_before`

// A lease that has run out is renewed if nobody has taken it, unless somebody
// may have, in what this server has lost.
const renewSQL = `WITH ` + durable + `, ` + server + `
UPDATE {schema}.locks l SET renewed_at = clock_timestamp(), lease_us = $4::bigint, timeline = s.timeline
FROM server s WHERE account = $1 AND lease_epoch = $2::bigint AND holder_instance_id = $3 AND ($5 = '' OR nonce = $5) AND EXISTS (SELECT setting FROM durable)
	AND (l.renewed_at + l.lease_us * interval '1 microsecond' > clock_timestamp()
		OR NOT ` + moved + ` AND (l.not_before IS NULL OR l.not_before <= clock_timestamp()))
RETURNING holder_instance_id, nonce, lease_epoch, lease_us, acquired_at, renewed_at`

const releaseSQL = `WITH ` + durable + `, freed AS (
	UPDATE {schema}.locks SET holder_instance_id = ''
	WHERE account = $1 AND lease_epoch = $2::bigint AND holder_instance_id = $3 AND ($4 = '' OR nonce = $4) AND EXISTS (SELECT setting FROM durable)
	RETURNING account, lease_epoch
), closed AS (
	UPDATE {schema}.fences f SET released = true FROM freed WHERE f.account = freed.account AND f.lease_epoch = freed.lease_epoch
)
SELECT pg_notify($5, account)::text FROM freed`

const loadSQL = `WITH ` + server + ` SELECT ` + heldSQL + ` FROM {schema}.locks l, server s WHERE account = $1`

const fenceSQL = `SELECT lease_epoch, nonce, token, released FROM {schema}.fences WHERE account = $1`

const bumpSQL = `WITH ` + durable + `
UPDATE {schema}.fences SET token = $5
WHERE account = $1 AND lease_epoch = $2::bigint AND nonce = $3 AND token = $4 AND NOT released AND EXISTS (SELECT setting FROM durable)`

// fenced locks the fence's row against a takeover until this statement is
// committed. The lock is what makes it sound: the snapshot may be older than a
// takeover, the locked row is not.
const fenced = durable + `, fence AS MATERIALIZED (
	SELECT account FROM {schema}.fences, durable
	WHERE account = $1 AND lease_epoch = $2::bigint AND nonce = $3 AND token = $4 AND NOT released
	FOR SHARE OF fences
)`

const commitSQL = `WITH ` + fenced + `, put AS (
	INSERT INTO {schema}.auth (account, kind, id, data)
	SELECT $1, p.kind, p.id, p.data FROM unnest($5::text[], $6::bytea[], $7::bytea[]) AS p (kind, id, data) WHERE EXISTS (SELECT FROM fence)
	ON CONFLICT (account, kind, id) DO UPDATE SET data = excluded.data
), deleted AS (
	DELETE FROM {schema}.auth a USING unnest($8::text[], $9::bytea[]) AS d (kind, id)
	WHERE a.account = $1 AND a.kind = d.kind AND a.id = d.id AND EXISTS (SELECT FROM fence)
)
SELECT count(*) FROM fence`

// A state of a newer format stays: the second number tells.
const saveSQL = `WITH ` + fenced + `, saved AS (
	INSERT INTO {schema}.state AS s (account, version, state, instance_id, wa_status, connected_at, last_disconnect_at,
		last_disconnect_reason, retry_count, next_retry_at, updated_at)
	SELECT $1, $5::integer, $6::json, $7, $8, $9::timestamptz, $10::timestamptz, $11, $12::integer, $13::timestamptz, clock_timestamp()
	WHERE EXISTS (SELECT FROM fence)
	ON CONFLICT (account) DO UPDATE SET version = excluded.version, state = excluded.state, instance_id = excluded.instance_id,
		wa_status = excluded.wa_status, connected_at = excluded.connected_at, last_disconnect_at = excluded.last_disconnect_at,
		last_disconnect_reason = excluded.last_disconnect_reason, retry_count = excluded.retry_count,
		next_retry_at = excluded.next_retry_at, updated_at = excluded.updated_at
	WHERE s.version <= excluded.version
	RETURNING s.account
)
SELECT (SELECT count(*) FROM fence), (SELECT count(*) FROM saved)`

const loadStateSQL = `SELECT version, state::text FROM {schema}.state WHERE account = $1`

const getSQL = `SELECT a.kind, a.id, a.data FROM {schema}.auth a
JOIN unnest($2::text[], $3::bytea[]) AS k (kind, id) ON a.kind = k.kind AND a.id = k.id WHERE a.account = $1`

// An id that begins with the prefix is at least the prefix and below its
// successor ($4); no successor is NULL.
const scanSQL = `SELECT kind, id, data FROM {schema}.auth
WHERE account = $1 AND kind = $2 AND id >= $3::bytea AND ($4::bytea IS NULL OR id < $4::bytea)`

// OFFSET 0 keeps each range a look into the index, whatever the planner thinks
// of the sizes.
const rangesSQL = `SELECT f.kind, f.id, f.data FROM unnest($2::text[], $3::bytea[], $4::bytea[]) AS r (kind, low, high), LATERAL (
	SELECT a.kind, a.id, a.data FROM {schema}.auth a
	WHERE a.account = $1 AND a.kind = r.kind AND a.id >= r.low AND (r.high IS NULL OR a.id < r.high) OFFSET 0
) f`

const incidentSQL = `SELECT version, revision, turned_by, id, type, active, instance_id, detected_at, first_detected_at,
	last_checked_at, resolved_at, evidence::text, instructions, runbook
FROM {schema}.incidents WHERE account = $1`

const changeSQL = `WITH ` + durable + `
INSERT INTO {schema}.incidents AS i (account, id, version, revision, turned_by, type, active, instance_id, detected_at,
	first_detected_at, last_checked_at, resolved_at, evidence, instructions, runbook, updated_at)
SELECT $1, $2, $3::integer, $4::bigint + 1, $5, $6, $7::boolean, $8, $9::timestamptz, $10::timestamptz, $11::timestamptz, $12::timestamptz,
	$13::json, $14, $15, clock_timestamp() FROM durable
ON CONFLICT (account, id) DO UPDATE SET version = excluded.version, revision = excluded.revision, turned_by = excluded.turned_by,
	type = excluded.type, active = excluded.active, instance_id = excluded.instance_id, detected_at = excluded.detected_at,
	first_detected_at = excluded.first_detected_at, last_checked_at = excluded.last_checked_at, resolved_at = excluded.resolved_at,
	evidence = excluded.evidence, instructions = excluded.instructions, runbook = excluded.runbook, updated_at = excluded.updated_at
WHERE i.revision = $4::bigint`

const sweepSQL = `DELETE FROM {schema}.incidents
WHERE account = $1 AND NOT active AND resolved_at < $3::timestamptz - $2::bigint * interval '1 microsecond'`

const accountsSQL = `SELECT account FROM {schema}.locks WHERE account > $1 ORDER BY account LIMIT $2`

const versionSQL = `SELECT max(version), max(readable_by), pg_is_in_recovery(), current_setting('fsync'), current_setting('full_page_writes')
FROM {schema}.versions`

// Only an account whose lock is free. Lock and fence go in a statement of their
// own: it waits for commits under way, and what deletes the rest then sees them.
const destroySQL = `WITH free AS (
	DELETE FROM {schema}.locks WHERE account = $1
		AND (holder_instance_id = '' OR renewed_at + lease_us * interval '1 microsecond' <= clock_timestamp())
	RETURNING account
), fence AS (DELETE FROM {schema}.fences WHERE account IN (SELECT account FROM free))
SELECT (SELECT count(*) FROM free), (SELECT holder_instance_id FROM {schema}.locks WHERE account = $1)`

const wipeSQL = `WITH ` + durable + `, auth AS (DELETE FROM {schema}.auth WHERE account = $1
), state AS (DELETE FROM {schema}.state WHERE account = $1
), incidents AS (DELETE FROM {schema}.incidents WHERE account = $1)
SELECT count(setting) FROM durable`
