package authstore

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/types"
)

var errBrokeOff = errors.New("the connection to the database broke off")

// brokenDB answers like a database of sqlstore with two rows in each table. The
// result of a query with breaks in it ends after its first row, with an error.
type brokenDB struct{ breaks string }

func (d *brokenDB) Connect(context.Context) (driver.Conn, error) { return brokenConn{d}, nil }
func (d *brokenDB) Driver() driver.Driver                        { return nil }

type brokenConn struct{ db *brokenDB }

func (c brokenConn) Prepare(query string) (driver.Stmt, error) { return brokenStmt{c.db, query}, nil }
func (c brokenConn) Close() error                              { return nil }
func (c brokenConn) Begin() (driver.Tx, error)                 { return c, nil }
func (c brokenConn) Commit() error                             { return nil }
func (c brokenConn) Rollback() error                           { return nil }

type brokenStmt struct {
	db    *brokenDB
	query string
}

func (s brokenStmt) Close() error                               { return nil }
func (s brokenStmt) NumInput() int                              { return -1 }
func (s brokenStmt) Exec([]driver.Value) (driver.Result, error) { return nil, errors.ErrUnsupported }

// Query makes as many columns as are asked for, with a value that fits each.
func (s brokenStmt) Query([]driver.Value) (driver.Rows, error) {
	list, table, _ := strings.Cut(strings.TrimPrefix(s.query, "SELECT "), " FROM whatsmeow_")
	r := &brokenRows{left: 2, breaks: s.db.breaks != "" && strings.HasPrefix(table, s.db.breaks)}
	for _, column := range strings.Split(list, ",") {
		r.columns = append(r.columns, strings.TrimSpace(column))
	}
	if r.device = strings.HasPrefix(table, "device"); r.device && !r.breaks || strings.HasPrefix(table, "version") || strings.HasPrefix(list, "MAX") {
		r.left = 1
	}
	return r, nil
}

type brokenRows struct {
	columns        []string
	left           int
	breaks, device bool
	begun          bool
}

func (r *brokenRows) Columns() []string { return r.columns }
func (r *brokenRows) Close() error      { return nil }

func (r *brokenRows) Next(dest []driver.Value) error {
	switch {
	case r.breaks && r.begun:
		return errBrokeOff
	case r.left == 0:
		return io.EOF
	}
	r.left--
	r.begun = true
	for i, name := range r.columns {
		n := int64(r.left + 1)
		switch name {
		case "version":
			dest[i] = int64(sqlOldest)
			if strings.Contains(strings.Join(r.columns, ","), "index_mac") {
				dest[i] = n
			}
		case "compat":
			dest[i] = int64(sqlOldest)
		case "jid", "their_jid", "chat_jid", "sender_jid":
			dest[i] = "1555000" + string(rune('0'+n)) + ":1@s.whatsapp.net"
		case "noise_key", "identity_key", "signed_pre_key", "key", "identity", "adv_account_sig_key":
			dest[i] = make([]byte, 32)
		case "signed_pre_key_sig", "adv_account_sig", "adv_device_sig":
			dest[i] = make([]byte, 64)
		case "hash":
			dest[i] = make([]byte, 128)
		case "registration_id", "signed_pre_key_id", "lid_migration_ts", "timestamp", "muted_until", "server_timestamp",
			"insert_timestamp", "MAX(key_id)":
			dest[i] = n
		case "key_id":
			dest[i] = n
		case "uploaded", "pinned", "archived":
			dest[i] = true
		case "lid", "facebook_uuid", "''":
			dest[i] = ""
			if !r.device {
				dest[i] = string(rune('0' + n))
			}
		case "NULL":
			dest[i] = nil
		default:
			dest[i] = []byte{byte('a' + n)}
		}
	}
	return nil
}

// A result set that ends early looks like a shorter one. What is missing then
// would be missing for good: sessions, keys, the other of two devices.
func TestBrokenOffQueryIsNeverAShorterTable(t *testing.T) {
	from := func(breaks string) Source {
		db := sql.OpenDB(&brokenDB{breaks: breaks})
		t.Cleanup(func() { require.NoError(t, db.Close()) })
		return FromSQL(db, types.JID{})
	}
	whole := from("")
	v, err := whole.open(bg)
	require.NoError(t, err)
	for table, name := range map[tableID]string{
		tSession: "sessions", tIdentity: "identity_keys", tPreKey: "pre_keys", tSenderKey: "sender_keys", tAppKey: "app_state_sync_keys",
		tAppState: "app_state_version", tAppMAC: "app_state_mutation_macs", tContact: "contacts", tChat: "chat_settings",
		tToken: "privacy_tokens", tLID: "lid_map", tEvent: "event_buffer", tSecret: "message_secrets",
	} {
		im, err := v.table(bg, table)
		require.NoError(t, err, name)
		require.GreaterOrEqual(t, im.count(), 1, name)
		src := from(name)
		broken, err := src.open(bg)
		require.NoError(t, err)
		_, err = broken.table(bg, table)
		require.ErrorIs(t, err, errBrokeOff, name)
		broken.close()
		target := newMapKV()
		_, err = Import(bg, src, New(target), newFence(1), SourceStopped())
		require.ErrorIs(t, err, errBrokeOff, name)
		h, err := New(target).readHead(bg)
		require.NoError(t, err)
		require.Empty(t, h.Gen, "the target is as it was")
	}
	v.close()
	_, err = from("device").open(bg)
	require.ErrorIs(t, err, errBrokeOff, "which devices there are is not known")
}
