package authstore

import (
	"bytes"
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/types"
)

// schemaDB answers like a database of sqlstore with a schema of that version: a
// table or a column that came later is an error. It has the rows that the test
// puts into it, each a value by column.
type schemaDB struct {
	version, compat int
	rows            map[string][]map[string]any // by table, without "whatsmeow_"
	readOnly        error                       // what an update gets
	begin           []driver.TxOptions
	plainOnly       bool // no isolation levels, as SQLite
	open            int  // results that nobody has closed
	executed        []string
	asked, failsAt  int
}

var errNoAnswer = errors.New("the database does not answer")

var sqlCame = map[string]int{
	"privacy_tokens.sender_timestamp": sqlSenderTimestamp, "retry_buffer": sqlRetryBuffer,
	"nct_salt": sqlNCTSalt, "device.companion_meta_nonce": sqlCompanionNonce,
}

func (d *schemaDB) Connect(context.Context) (driver.Conn, error) { return schemaConn{d}, nil }
func (d *schemaDB) Driver() driver.Driver                        { return nil }

type schemaConn struct{ db *schemaDB }

func (c schemaConn) Prepare(query string) (driver.Stmt, error) { return schemaStmt{c.db, query}, nil }
func (c schemaConn) Close() error                              { return nil }
func (c schemaConn) Begin() (driver.Tx, error)                 { return c, nil }
func (c schemaConn) Commit() error                             { return nil }
func (c schemaConn) Rollback() error                           { return nil }

func (c schemaConn) BeginTx(_ context.Context, o driver.TxOptions) (driver.Tx, error) {
	if c.db.asked++; c.db.asked == c.db.failsAt {
		c.db.failsAt++ // nor a second time
		return nil, errNoAnswer
	}
	if c.db.begin = append(c.db.begin, o); c.db.plainOnly && o.Isolation != 0 {
		return nil, errors.New("no such isolation level")
	}
	return c, nil
}

type schemaStmt struct {
	db    *schemaDB
	query string
}

func (s schemaStmt) Close() error  { return nil }
func (s schemaStmt) NumInput() int { return -1 }
func (s schemaStmt) Exec([]driver.Value) (driver.Result, error) {
	s.db.executed = append(s.db.executed, s.query)
	return driver.RowsAffected(1), s.db.readOnly
}

func (s schemaStmt) Query(args []driver.Value) (driver.Rows, error) {
	if s.db.asked++; s.db.asked == s.db.failsAt {
		return nil, errNoAnswer
	}
	list, table, _ := strings.Cut(strings.TrimPrefix(s.query, "SELECT "), " FROM whatsmeow_")
	table, _, _ = strings.Cut(table, " ")
	r := &schemaRows{db: s.db}
	if s.db.rows[table] == nil && table == "version" || sqlCame[table] > s.db.version {
		return nil, fmt.Errorf("no such table: %s", table)
	}
	for _, column := range strings.Split(list, ",") {
		column = strings.TrimSpace(column)
		if sqlCame[table+"."+column] > s.db.version {
			return nil, fmt.Errorf("no such column: %s", column)
		}
		r.columns = append(r.columns, column)
	}
	switch {
	case list == "COUNT(*)":
		r.rows = []map[string]any{{list: int64(len(s.db.rows[table]))}}
	case strings.HasPrefix(list, "MAX("):
		var most any
		for _, row := range s.db.rows[table] {
			most = row["key_id"]
		}
		r.rows = []map[string]any{{list: most}}
	default:
		r.rows = slices.Clone(s.db.rows[table])
	}
	s.db.open++
	return r, nil
}

type schemaRows struct {
	db      *schemaDB
	columns []string
	rows    []map[string]any
}

func (r *schemaRows) Columns() []string { return r.columns }
func (r *schemaRows) Close() error      { r.db.open--; return nil }

func (r *schemaRows) Next(dest []driver.Value) error {
	if len(r.rows) == 0 {
		return io.EOF
	}
	for i, name := range r.columns {
		switch name {
		case "''":
			dest[i] = ""
		case "NULL":
			dest[i] = nil
		default:
			dest[i] = r.rows[0][name]
		}
	}
	r.rows = r.rows[1:]
	return nil
}

func sqlDevice(jid string) map[string]any {
	return map[string]any{
		"jid": jid, "lid": "9000:1@lid", "facebook_uuid": "5f0c6d7a-0000-4000-8000-000000000001", "registration_id": int64(7),
		"noise_key": make([]byte, 32), "identity_key": make([]byte, 32), "signed_pre_key": make([]byte, 32),
		"signed_pre_key_id": int64(1), "signed_pre_key_sig": make([]byte, 64),
		"adv_key": make([]byte, 32), "adv_details": []byte("d"), "adv_account_sig": make([]byte, 64),
		"adv_account_sig_key": make([]byte, 32), "adv_device_sig": make([]byte, 64),
		"platform": "p", "business_name": "b", "push_name": "n", "lid_migration_ts": int64(0), "companion_meta_nonce": "nonce",
	}
}

const (
	sqlJID  = "15550001:1@s.whatsapp.net"
	sqlJID2 = "15550002:1@s.whatsapp.net"
)

// sqlSession is any: what libsignal makes of it is looked at elsewhere.
const sqlSession = "a session"

// sqlAt has something in each table.
func sqlAt(version int) *schemaDB {
	return &schemaDB{version: version, compat: sqlOldest, rows: map[string][]map[string]any{
		"version":             {{"version": int64(version), "compat": int64(sqlOldest)}},
		"device":              {sqlDevice(sqlJID)},
		"nct_salt":            {{"salt": []byte("salt")}},
		"pre_keys":            {{"key_id": int64(3), "key": make([]byte, 32), "uploaded": true}},
		"sessions":            {{"their_id": "15550009:0", "session": []byte(sqlSession)}},
		"identity_keys":       {{"their_id": "15550009:0", "identity": bytes.Repeat([]byte{7}, 32)}},
		"sender_keys":         {{"chat_id": "120363@g.us", "sender_id": "15550009:0", "sender_key": validSenderKey([]byte("mark"))}},
		"app_state_sync_keys": {{"key_id": []byte{0, 1}, "key_data": []byte("data"), "timestamp": int64(9), "fingerprint": []byte("print")}},
		"app_state_version":   {{"name": "regular", "version": int64(12), "hash": bytes.Repeat([]byte{5}, 128)}},
		"app_state_mutation_macs": {
			{"name": "regular", "version": int64(11), "index_mac": bytes.Repeat([]byte{6}, 32), "value_mac": []byte("before")},
			{"name": "regular", "version": int64(12), "index_mac": bytes.Repeat([]byte{6}, 32), "value_mac": []byte("now")},
		},
		"chat_settings":   {{"chat_jid": "15550009@s.whatsapp.net", "muted_until": int64(-1), "pinned": true, "archived": true}},
		"message_secrets": {{"chat_jid": "120363@g.us", "sender_jid": "15550009@s.whatsapp.net", "message_id": "ID", "key": []byte("secret")}},
		"contacts": {{"their_jid": "15550009@s.whatsapp.net", "first_name": "first", "full_name": "full", "push_name": "push",
			"business_name": "business", "redacted_phone": "+1∙∙∙∙9"}},
		"privacy_tokens": {{"their_jid": "15550009@s.whatsapp.net", "token": []byte("token"), "timestamp": int64(5), "sender_timestamp": int64(6)}},
		"retry_buffer":   {{"chat_jid": "15550009:4@s.whatsapp.net", "message_id": "ID", "format": "fb", "plaintext": []byte("sent"), "timestamp": int64(8)}},
		"lid_map":        {{"lid": "900", "pn": "15550009"}},
		"event_buffer": {
			{"ciphertext_hash": []byte{1}, "plaintext": []byte("text"), "server_timestamp": int64(1), "insert_timestamp": int64(2)},
			{"ciphertext_hash": []byte{2}, "plaintext": nil, "server_timestamp": int64(1), "insert_timestamp": int64(2)},
			{"ciphertext_hash": []byte{3}, "plaintext": nil, "server_timestamp": int64(1), "insert_timestamp": int64(2)},
		},
	}}
}

func (d *schemaDB) source(t *testing.T, device string) sqlSource {
	t.Helper()
	db := sql.OpenDB(d)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	var jid types.JID
	if device != "" {
		var err error
		jid, err = types.ParseJID(device)
		require.NoError(t, err)
	}
	return sqlSource{db, jid}
}

// From an old store of any version everything that it has moves, and nothing
// is asked for that it has not.
func TestEverySchemaOfSQLStoreMovesWithAllThatItHas(t *testing.T) {
	for version := sqlOldest; version <= sqlSchema; version++ {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			db := sqlAt(version)
			v, err := db.source(t, "").open(bg)
			require.NoError(t, err)
			defer v.close()
			require.Equal(t, driver.TxOptions{Isolation: driver.IsolationLevel(sql.LevelRepeatableRead), ReadOnly: true}, db.begin[0],
				"one look at the database, in which nothing is written")
			require.Equal(t, sqlJID, v.jid().String())
			require.Empty(t, v.warnings())
			get := func(table tableID, id string) []byte {
				im, err := v.table(bg, table)
				require.NoError(t, err)
				value, _ := im.get(table, id)
				return value
			}
			d, err := decodeDevice(get(tDevice, deviceID))
			require.NoError(t, err)
			require.Equal(t, "9000:1@lid", d.LID)
			require.Equal(t, "5f0c6d7a-0000-4000-8000-000000000001", d.FacebookUUID)
			require.Equal(t, version >= sqlCompanionNonce, strings.Contains(string(get(tDevice, deviceID)), `"nonce"`))
			require.Equal(t, version >= sqlNCTSalt, string(get(tMisc, nctSalt)) == "salt")
			tok, err := parseToken(get(tToken, "15550009@s.whatsapp.net"))
			require.NoError(t, err)
			require.Equal(t, "token", string(tok.bytes))
			require.EqualValues(t, 5, tok.at)
			if version >= sqlSenderTimestamp {
				require.EqualValues(t, 6, tok.sent)
			} else {
				require.Zero(t, tok.sent)
			}
			chat := types.NewJID("15550009", types.DefaultUserServer)
			sent := get(tOutgoing, outgoingID(chat, "ID"))
			require.Equal(t, version >= sqlRetryBuffer, string(sent) == string(outgoingValue(8, "fb", []byte("sent"))))
			require.Equal(t, "15550009", string(get(tLID, "l900")))
			require.Equal(t, "900", string(get(tLID, "p15550009")))
			require.Contains(t, string(get(tContact, "15550009@s.whatsapp.net")), "+1∙∙∙∙9")
			require.Contains(t, string(get(tEvent, hex.EncodeToString([]byte{1}))), "text")
			require.Nil(t, get(tEvent, hex.EncodeToString([]byte{2})), "it was handled")
			seen, err := v.table(bg, tSeen)
			require.NoError(t, err)
			require.Equal(t, 2, seen.count())
			require.Len(t, seen.rowsIn(tSeen), 1, "many share a row")
			require.Zero(t, db.open, "each result is closed")
		})
	}
}

// A database that cannot be moved is refused with the way out, before anything is written.
func TestDatabaseThatCannotMoveIsRefusedByName(t *testing.T) {
	refused := func(db *schemaDB, device string, is error, says ...string) {
		t.Helper()
		to := newMapKV()
		_, err := Import(bg, db.source(t, device), New(to), newFence(1), SourceStopped())
		require.Error(t, err)
		if is != nil {
			require.ErrorIs(t, err, is)
		}
		for _, s := range says {
			require.ErrorContains(t, err, s)
		}
		require.Zero(t, to.commits.Load())
		require.Zero(t, db.open)
	}
	with := func(version, compat int) *schemaDB {
		db := sqlAt(min(version, sqlSchema))
		db.rows["version"] = []map[string]any{{"version": int64(version), "compat": int64(compat)}}
		return db
	}
	refused(with(sqlSchema, sqlOldest+movedMark), "", ErrNoDevice, "has moved", fmt.Sprint(movedMark))
	refused(with(sqlOldest-1, 1), "", nil, "schema is version 10", "Upgrade")
	refused(with(sqlSchema+2, sqlSchema+1), "", ErrNewerFormat, "17")
	other := sqlAt(sqlSchema)
	delete(other.rows, "version")
	refused(other, "", ErrNoDevice, "no database of whatsmeow's sqlstore")
	refused(sqlAt(sqlSchema), sqlJID2, ErrNoDevice, "1 others")
	two := sqlAt(sqlSchema)
	two.rows["device"] = append(two.rows["device"], sqlDevice(sqlJID2))
	refused(two, "", ErrNoDevice, "2 devices", sqlJID, sqlJID2)
	odd := sqlAt(sqlSchema)
	odd.rows["device"][0]["registration_id"] = "no number"
	refused(odd, "", nil, "read whatsmeow_device")
	short := sqlAt(sqlSchema)
	short.rows["pre_keys"][0]["key"] = make([]byte, 31)
	_, err := Import(bg, short.source(t, ""), New(newMapKV()), newFence(1), SourceStopped())
	require.ErrorIs(t, err, ErrCorrupt)
	require.ErrorContains(t, err, "prekey 3 has 31 bytes")
	require.Zero(t, short.open)

	// And what can is not: a named one of two, without isolation levels, of a
	// schema with additions.
	for _, device := range []string{sqlJID, sqlJID2} {
		v, err := two.source(t, device).open(bg)
		require.NoError(t, err)
		require.Equal(t, device, v.jid().String())
		v.close()
	}
	lite := sqlAt(sqlSchema)
	lite.plainOnly = true
	v, err := lite.source(t, "").open(bg)
	require.NoError(t, err)
	v.close()
	for _, compat := range []int{sqlOldest, sqlSchema} {
		report, err := Import(bg, with(sqlSchema+1, compat).source(t, ""), New(newMapKV()), newFence(1), SourceStopped())
		require.NoError(t, err)
		require.Len(t, report.Warnings, 1)
		require.Contains(t, report.Warnings[0], "16")
	}
}

// The old service must not start again beside the new one: a database is marked, and
// where that cannot be, or would stop other devices, the report says so.
func TestOldDatabaseIsMarkedOrTheReportWarns(t *testing.T) {
	moved := func(db *schemaDB) Report {
		r, err := Import(bg, db.source(t, sqlJID), New(newMapKV()), newFence(1), SourceStopped(), RetireSource())
		require.NoError(t, err)
		return r
	}
	db := sqlAt(sqlSchema)
	r := moved(db)
	require.True(t, r.Retired)
	require.Empty(t, r.Warnings)
	require.Len(t, db.executed, 1)

	two := sqlAt(sqlSchema)
	two.rows["device"] = append(two.rows["device"], sqlDevice(sqlJID2))
	r = moved(two)
	require.False(t, r.Retired)
	require.Len(t, r.Warnings, 1)
	require.Contains(t, r.Warnings[0], "2 devices")
	require.Empty(t, two.executed)

	read := sqlAt(sqlSchema)
	read.readOnly = errors.New("the database is read-only")
	r = moved(read)
	require.False(t, r.Retired)
	require.Len(t, r.Warnings, 1)
	require.Contains(t, r.Warnings[0], "the database is read-only")
	require.ErrorIs(t, RetireSQL(bg, read.source(t, "").db), read.readOnly)
}

// A query that fails is no empty table: what is missing then is missing for good.
func TestQueryThatFailsIsNeverAnEmptyTable(t *testing.T) {
	for at := 1; ; at++ {
		db := sqlAt(sqlSchema)
		db.failsAt = at
		to := newMapKV()
		_, err := Import(bg, db.source(t, ""), New(to), newFence(1), SourceStopped())
		require.Zero(t, db.open)
		if db.asked < at {
			require.NoError(t, err)
			require.Greater(t, at, 2*int(numTables)-8)
			break
		}
		require.ErrorIs(t, err, errNoAnswer, "query %d", at)
		h, err := New(to).readHead(bg)
		require.NoError(t, err)
		require.Empty(t, h.Gen, "the target is as it was")
	}
	for table, rows := range sqlAt(sqlSchema).rows {
		for column := range rows[0] {
			if _, bytes := rows[0][column].([]byte); bytes || table == "version" {
				continue // any bytes, or looked at elsewhere
			}
			if s, ok := rows[0][column].(string); ok && s != "" || table == "device" {
				continue
			}
			db := sqlAt(sqlSchema)
			db.rows[table][0][column] = "no number"
			v, err := db.source(t, "").open(bg)
			require.NoError(t, err)
			for _, id := range importOrder() {
				if _, err = v.table(bg, id); err != nil {
					break
				}
			}
			require.ErrorContains(t, err, "read whatsmeow_"+table, column)
			require.Zero(t, db.open)
			v.close()
		}
	}
}
