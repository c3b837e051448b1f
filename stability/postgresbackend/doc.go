// Package postgresbackend keeps accounts in a schema of a Postgres database: a
// lock, a session, the state of the connection and the incidents of each. Many
// accounts live side by side, and many instances of a program share them.
//
//	db, err := postgresbackend.Open(ctx, "postgres://user:password@host/database")
//	err = db.Migrate(ctx)             // once, or at each start; explicit, never by itself
//	backend, err := db.Account("4915550001")
//	m, err := stability.New(stability.WithBackend(backend))
//
// A program that has a pool already passes it instead of the connection string.
// One that uses database/sql passes the string that it gave to sql.Open.
//
// # Who is authoritative for what
//
// The database's clock decides whether a lease has run out, at the moment of
// the decision (clock_timestamp). No clock of an instance is compared with
// another one.
//
// The row in locks says who holds the connection. The row in fences says who
// may write. They are two rows so that renewals and commits never wait for each
// other; they are written together when a term begins and when it is given
// back.
//
// # A commit
//
// A commit is one statement, one transaction and one round trip, whatever its
// size. It locks the fence's row against a takeover (FOR SHARE), and puts and
// deletes only if that row has the term's epoch, nonce and token. A takeover
// writes that row, so it waits for commits under way, and those that come
// later find another row. The lock on the row makes this sound: a statement
// may see rows from before a takeover, but the row that it has locked is not
// older.
//
// A cold start is two round trips: the record that names the device, then all
// that belongs to it. Reads are not prepared, so that this holds on a new
// connection too.
//
// Each commit waits for the disk (synchronous_commit), even where the server,
// the database or the role says otherwise: the statement sets it for itself.
//
// # Lost replies
//
// A statement whose reply was lost may still be at work, or not have begun:
// its connection is gone, the server need not know. Repeated later it could
// undo what was committed after it. So the token in the fence's row is moved
// before anything else is written. A statement that arrives under the old
// token then changes nothing. This costs one round trip after a lost reply,
// and nothing otherwise.
//
// An acquisition that is repeated with its nonce is the same term.
//
// # Failover and restored backups
//
// Postgres can lose acknowledged commits: when a standby that lagged is
// promoted (asynchronous replication), when a backup is restored, or with
// fsync off. A promoted standby may show an older epoch than the term that an
// instance holds. The instance then stops with a text that says so. A new term
// gets an epoch above every one that the database or the acquiring instance
// has seen. Its nonce tells it apart from a term of the same number that the
// standby never heard of.
//
// Such an instance may be connected until it learns that its term is gone, and
// the standby may have the lock as free. So each lock says on which timeline of
// the server it was written last. A promotion begins another timeline, and so
// does a restore to a point in time. A lock that was written on another timeline
// is given to nobody until a lease has passed since somebody first asked for it:
// by then no lost term is trusted any more. The record says "unknown" for the
// holder meanwhile. A holder whose term the standby has renews it as ever, and
// loses no time. The timeline comes from pg_walfile_name; a server that does not
// give it is used without this protection, and Check warns.
//
// Two servers that both take writes are two databases, and each gives the lock
// to somebody. Never start the old primary again as one.
//
// Lost commits of a session cannot be told by anybody: WhatsApp and the store
// disagree about ratchets then. Use a synchronous standby for accounts that
// matter, and pair again after restoring an old backup. Connection strings that
// name all servers and target_session_attrs=read-write find the new primary by
// themselves.
//
// # Connections
//
// All accounts of a DB share its pool. A statement holds a connection for one
// round trip, nothing is held in between, and there is no session state: a
// PgBouncer in transaction mode works. Add default_query_exec_mode=exec to the
// connection string there, since its server connections change under prepared
// statements.
//
// While an instance stands by, one further connection listens for locks that
// are given back (LISTEN), for all accounts. If it cannot, as behind a
// PgBouncer in transaction mode, the lock is polled.
//
// # Errors
//
// A server that is away, restarts, or has no free connection is an outage:
// calls fail, and repeating them helps. Missing tables are ErrNoSchema at
// once. A role without rights, or a wrong password, is permanent only when it
// has lasted for a minute, since grants and passwords are changed while
// instances run. Permanent means that lock.Lease returns it. Run and Activate
// go on trying, with the error in the log and in Status().StoreUnavailable:
// when a person has mended it, no restart is needed. Only ErrNewerSchema ends
// them. Texts say which grant or setting to look at.
//
// # Rights
//
// Migrate needs a role that may create the schema. Everything else needs USAGE
// on it, and SELECT, INSERT, UPDATE, DELETE on its tables.
package postgresbackend
