package sqlcompare

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"sync/atomic"
	"time"
)

// way is the distance to a store: a round-trip time that can be changed, and a
// count of round trips.
type way struct {
	rtt   atomic.Int64 // ns
	trips atomic.Int64
	bytes atomic.Int64 // handed over to be written: values of a KV, arguments of a statement
}

func (w *way) trip() {
	w.trips.Add(1)
	if d := time.Duration(w.rtt.Load()); d > 0 {
		time.Sleep(d)
	}
}

// openSlow opens a database behind w: each statement, begin and end of a
// transaction is a round trip. (A real PostgreSQL needs two for a statement
// with arguments that is not prepared.)
func openSlow(w *way, name, dsn string) (*sql.DB, error) {
	plain, err := sql.Open(name, dsn)
	if err != nil {
		return nil, err
	}
	d := plain.Driver()
	if err := plain.Close(); err != nil {
		return nil, err
	}
	db := sql.OpenDB(slowConnector{w, d, dsn})
	db.SetMaxIdleConns(10)
	return db, nil
}

type slowConnector struct {
	w   *way
	d   driver.Driver
	dsn string
}

func (c slowConnector) Driver() driver.Driver { return c.d }
func (c slowConnector) Connect(context.Context) (driver.Conn, error) {
	conn, err := c.d.Open(c.dsn)
	if err != nil {
		return nil, err
	}
	return slowConn{conn, c.w}, nil
}

type slowConn struct {
	driver.Conn
	w *way
}

func (c slowConn) QueryContext(ctx context.Context, q string, args []driver.NamedValue) (driver.Rows, error) {
	c.w.trip()
	return c.Conn.(driver.QueryerContext).QueryContext(ctx, q, args)
}

func (c slowConn) ExecContext(ctx context.Context, q string, args []driver.NamedValue) (driver.Result, error) {
	c.w.trip()
	for _, a := range args {
		switch v := a.Value.(type) {
		case []byte:
			c.w.bytes.Add(int64(len(v)))
		case string:
			c.w.bytes.Add(int64(len(v)))
		}
	}
	return c.Conn.(driver.ExecerContext).ExecContext(ctx, q, args)
}

func (c slowConn) BeginTx(ctx context.Context, o driver.TxOptions) (driver.Tx, error) {
	c.w.trip()
	tx, err := c.Conn.(driver.ConnBeginTx).BeginTx(ctx, o)
	return slowTx{tx, c.w}, err
}

func (c slowConn) CheckNamedValue(v *driver.NamedValue) error {
	if n, ok := c.Conn.(driver.NamedValueChecker); ok {
		return n.CheckNamedValue(v)
	}
	return driver.ErrSkip
}

func (c slowConn) ResetSession(ctx context.Context) error {
	if r, ok := c.Conn.(driver.SessionResetter); ok {
		return r.ResetSession(ctx)
	}
	return nil
}

type slowTx struct {
	driver.Tx
	w *way
}

func (t slowTx) Commit() error   { t.w.trip(); return t.Tx.Commit() }
func (t slowTx) Rollback() error { t.w.trip(); return t.Tx.Rollback() }
