package postgresbackend

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/wastability/wastability/stability"
)

// Defaults of the options.
const (
	DefaultSchema    = "wastability"
	DefaultTimeout   = 5 * time.Second
	DefaultRetention = 90 * 24 * time.Hour
)

// maxAccount bounds an account's id: it is part of every row, and the payload
// of a notification has to hold it.
const maxAccount = 500

// pingAfter is for how long a connection may be idle and still be trusted.
const pingAfter = 20 * time.Second

// Source is where the database is: its connection string, or a pool that the
// host has already.
type Source interface{ string | *pgxpool.Pool }

// Option changes a DB. A zero value means the default.
type Option func(*config)

type config struct {
	schema             string
	timeout, retention time.Duration
	log                *slog.Logger
}

// WithSchema sets the schema of the tables. Default DefaultSchema.
func WithSchema(name string) Option {
	return func(c *config) {
		if name != "" {
			c.schema = name
		}
	}
}

// WithTimeout bounds each request, the wait for a free connection included.
// Default 5 s. A shorter deadline of the caller's context counts.
func WithTimeout(d time.Duration) Option {
	return func(c *config) {
		if d != 0 {
			c.timeout = d
		}
	}
}

// WithRetention sets for how long a resolved incident is kept. Default 90 days.
// Older ones are deleted when an incident of the same account is resolved.
func WithRetention(d time.Duration) Option {
	return func(c *config) {
		if d != 0 {
			c.retention = d
		}
	}
}

// WithLogger sets where warnings about the database's settings go. Default
// slog.Default().
func WithLogger(l *slog.Logger) Option {
	return func(c *config) {
		if l != nil {
			c.log = l
		}
	}
}

// DB is a database with any number of accounts in it. All accounts share its
// pool, and one further connection that listens for hand-overs. Safe for
// concurrent use.
type DB struct {
	config
	pool   *pgxpool.Pool
	own    bool // the pool was made here
	q      *queries
	life   context.Context // ends with Close
	end    context.CancelFunc
	listen listener
	faults faults

	mu      sync.Mutex
	checked bool // the schema and the settings were found to be right
	blind   bool // the server does not say which timeline it writes
}

// Open prepares the use of a database. It does no I/O, so a database that is
// down at that moment is no error; one that cannot be used is reported by
// Check. Run and Activate wait until it can be used: the log and
// Status().StoreUnavailable say what is missing. An error names what is wrong
// with source or an option.
//
// A pool that is passed in stays the caller's: Close does not close it. One
// connection of it is taken out for listening while an instance stands by.
func Open[S Source](_ context.Context, source S, opts ...Option) (*DB, error) {
	c := config{schema: DefaultSchema, timeout: DefaultTimeout, retention: DefaultRetention, log: slog.Default()}
	for _, o := range opts {
		if o != nil {
			o(&c)
		}
	}
	switch {
	case c.timeout < 0:
		return nil, fmt.Errorf("postgresbackend: WithTimeout(%v): pass a positive duration, or 0 for the default", c.timeout)
	case c.retention < 0:
		return nil, fmt.Errorf("postgresbackend: WithRetention(%v): pass a positive duration, or 0 for the default", c.retention)
	case !validText(c.schema) || len(c.schema) > 48:
		return nil, fmt.Errorf("postgresbackend: WithSchema(%q): use 1 to 48 bytes of valid text", c.schema)
	}
	db := &DB{config: c, q: newQueries(c.schema)}
	switch source := any(source).(type) {
	case string:
		conf, err := pgxpool.ParseConfig(source)
		var pool *pgxpool.Pool
		if err == nil {
			// A ping before a request is a second round trip. One that fails on a
			// dead connection is repeated anyway.
			conf.ShouldPing = func(_ context.Context, p pgxpool.ShouldPingParams) bool { return p.IdleDuration > pingAfter }
			// The background checks of a pool outlive no request of ours: its own
			// context is not the caller's.
			pool, err = pgxpool.NewWithConfig(context.Background(), conf)
		}
		if err != nil {
			// pgx hides the password in it.
			return nil, fmt.Errorf("postgresbackend: the connection string: %w: pass one such as postgres://user:password@host:5432/database", err)
		}
		db.pool, db.own = pool, true
	case *pgxpool.Pool:
		if source == nil {
			return nil, errors.New("postgresbackend: the pool is nil: pass the one that pgxpool.New returns, or a connection string")
		}
		db.pool = source
	}
	db.life, db.end = context.WithCancel(context.Background())
	db.listen.init(db)
	return db, nil
}

// Close ends the listening, and the pool if Open made it. Close the Managers
// first: every call through their backends fails from then on.
func (db *DB) Close() {
	db.end()
	db.listen.wait()
	if db.own {
		db.pool.Close()
	}
}

// Account gives the backend of one account for one Manager: each Manager needs
// its own. The id is any valid text of up to 500 bytes; a new one becomes an
// account when its lock is taken first. Account does no I/O, and the backend's
// Close leaves the DB open.
func (db *DB) Account(id string) (stability.Backend, error) {
	if err := checkAccount(id); err != nil {
		return stability.Backend{}, err
	}
	a := &account{db: db, id: id, fenceSem: make(chan struct{}, 1)}
	a.life, a.end = context.WithCancel(db.life)
	return stability.Backend{
		Name: "postgres", Lock: lockStore{a}, Auth: keyValues{a}, State: stateStore{a}, Incidents: incidentStore{a},
		Close: func() error {
			a.end()
			return nil
		},
		Destroy: func(ctx context.Context) error { return db.destroy(ctx, id) },
	}, nil
}

// Accounts lists the accounts whose lock was ever taken, in the order of their
// ids' bytes. It ends after the first error.
func (db *DB) Accounts(ctx context.Context) iter.Seq2[string, error] {
	const page = 1000
	return func(yield func(string, error) bool) {
		for last := ""; ; {
			var ids []string
			err := db.do(ctx, "list the accounts", func(ctx context.Context) error {
				rows, err := db.pool.Query(ctx, db.q.accounts, last, page)
				if err != nil {
					return err
				}
				ids, err = pgx.CollectRows(rows, pgx.RowTo[string])
				return err
			})
			if err != nil {
				yield("", err)
				return
			}
			for _, id := range ids {
				if !yield(id, nil) {
					return
				}
			}
			if len(ids) < page {
				return
			}
			last = ids[len(ids)-1]
		}
	}
}

// account is one instance's view of an account.
type account struct {
	db   *DB
	id   string
	life context.Context // ends with the backend's Close, or the DB's
	end  context.CancelFunc

	fenceSem chan struct{} // held across I/O: who finds out the token
	mu       sync.Mutex    // held for moments only
	term     term
	seen     int64 // the highest epoch that was ever seen
}

// ErrClosed is what every call through a closed backend or DB returns.
var ErrClosed = errors.New("postgresbackend: closed")

// do runs one request of the account.
func (a *account) do(ctx context.Context, op string, f func(ctx context.Context) error) error {
	if a.life.Err() != nil {
		return fmt.Errorf("postgresbackend: %s: %w", op, ErrClosed)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(a.life, cancel)()
	err := a.db.do(ctx, op, f)
	if err != nil && a.life.Err() != nil {
		return fmt.Errorf("%w: %w", ErrClosed, err)
	}
	return err
}

// do runs one request within its time.
func (db *DB) do(ctx context.Context, op string, f func(ctx context.Context) error) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("postgresbackend: %s: %w", op, err)
	}
	if db.life.Err() != nil {
		return fmt.Errorf("postgresbackend: %s: %w", op, ErrClosed)
	}
	within, cancel := context.WithTimeout(ctx, db.timeout)
	defer cancel()
	err := f(within)
	if err == nil {
		db.faults.forget()
		return nil
	}
	if ctx.Err() == nil && within.Err() != nil {
		s := db.pool.Stat()
		err = fmt.Errorf("no answer within %v (%d of %d connections in use): %w", db.timeout, s.AcquiredConns(), s.MaxConns(), err)
	}
	return fmt.Errorf("postgresbackend: %s: %w", op, db.explain(err))
}

func validText(s string) bool {
	return s != "" && utf8.ValidString(s) && strings.IndexByte(s, 0) < 0
}

func checkAccount(id string) error {
	if !validText(id) || len(id) > maxAccount {
		return fmt.Errorf("postgresbackend: account %q: use 1 to %d bytes of valid UTF-8 without a zero byte", id, maxAccount)
	}
	return nil
}
