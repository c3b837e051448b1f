package main

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/binary"
	"fmt"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/stability/memorybackend"
)

// The tables of sqlstore as versions 11 to 15 of its schema have them, as far
// as a reader can tell: names and types.
var tablesOf11 = map[string]string{
	"version": "version INTEGER, compat INTEGER",
	"device": `jid TEXT PRIMARY KEY, lid TEXT, facebook_uuid TEXT, registration_id BIGINT, noise_key BYTEA, identity_key BYTEA,
		signed_pre_key BYTEA, signed_pre_key_id INTEGER, signed_pre_key_sig BYTEA, adv_key BYTEA, adv_details BYTEA,
		adv_account_sig BYTEA, adv_account_sig_key BYTEA, adv_device_sig BYTEA, platform TEXT DEFAULT '',
		business_name TEXT DEFAULT '', push_name TEXT DEFAULT '', lid_migration_ts BIGINT DEFAULT 0`,
	"identity_keys":           "our_jid TEXT, their_id TEXT, identity BYTEA",
	"pre_keys":                "jid TEXT, key_id INTEGER, key BYTEA, uploaded BOOLEAN",
	"sessions":                "our_jid TEXT, their_id TEXT, session BYTEA",
	"sender_keys":             "our_jid TEXT, chat_id TEXT, sender_id TEXT, sender_key BYTEA",
	"app_state_sync_keys":     "jid TEXT, key_id BYTEA, key_data BYTEA, timestamp BIGINT, fingerprint BYTEA",
	"app_state_version":       "jid TEXT, name TEXT, version BIGINT, hash BYTEA",
	"app_state_mutation_macs": "jid TEXT, name TEXT, version BIGINT, index_mac BYTEA, value_mac BYTEA",
	"contacts":                "our_jid TEXT, their_jid TEXT, first_name TEXT, full_name TEXT, push_name TEXT, business_name TEXT, redacted_phone TEXT",
	"chat_settings":           "our_jid TEXT, chat_jid TEXT, muted_until BIGINT, pinned BOOLEAN, archived BOOLEAN",
	"message_secrets":         "our_jid TEXT, chat_jid TEXT, sender_jid TEXT, message_id TEXT, key BYTEA",
	"privacy_tokens":          "our_jid TEXT, their_jid TEXT, token BYTEA, timestamp BIGINT",
	"lid_map":                 "lid TEXT PRIMARY KEY, pn TEXT",
	"event_buffer":            "our_jid TEXT, ciphertext_hash BYTEA, plaintext BYTEA, server_timestamp BIGINT, insert_timestamp BIGINT",
}

// What each later version adds.
var upgradesTo = map[int]string{
	12: "ALTER TABLE whatsmeow_privacy_tokens ADD COLUMN sender_timestamp BIGINT",
	13: "CREATE TABLE whatsmeow_retry_buffer (our_jid TEXT, chat_jid TEXT, message_id TEXT, format TEXT, plaintext BYTEA, timestamp BIGINT)",
	14: "CREATE TABLE whatsmeow_nct_salt (our_jid TEXT PRIMARY KEY, salt BYTEA)",
	15: "ALTER TABLE whatsmeow_device ADD COLUMN companion_meta_nonce TEXT DEFAULT ''",
	16: "CREATE TABLE whatsmeow_nobody_knows_yet (our_jid TEXT)",
}

const (
	fixtureTokenAt   = 1_760_000_000
	fixtureTokenSent = 1_750_000_000
)

// writeSchema fills an empty database as a whatsmeow of that schema version
// would have.
func writeSchema(t *testing.T, db *sql.DB, version int) (jid types.JID) {
	t.Helper()
	run := func(query string, args ...any) {
		t.Helper()
		_, err := db.ExecContext(t.Context(), query, args...)
		require.NoError(t, err, query)
	}
	for name, columns := range tablesOf11 {
		run("CREATE TABLE whatsmeow_" + name + " (" + columns + ")")
	}
	for v := 12; v <= version; v++ {
		run(upgradesTo[v])
	}
	run("INSERT INTO whatsmeow_version (version, compat) VALUES ($1, 8)", version)
	jid = types.JID{User: "15550001", Device: 4, Server: types.DefaultUserServer}
	fill := func(n int, b byte) []byte { return bytes.Repeat([]byte{b}, n) }
	run(`INSERT INTO whatsmeow_device (jid, lid, registration_id, noise_key, identity_key, signed_pre_key, signed_pre_key_id, signed_pre_key_sig,
		adv_key, adv_details, adv_account_sig, adv_account_sig_key, adv_device_sig, platform, push_name, lid_migration_ts)
		VALUES ($1, $2, 77, $3, $4, $5, 1, $6, $7, $8, $9, $10, $11, 'android', 'Ann', 99)`,
		jid.String(), "900001:4@lid", fill(32, 1), fill(32, 2), fill(32, 3), fill(64, 4), fill(32, 5), fill(10, 6), fill(64, 7), fill(32, 8), fill(64, 9))
	our := jid.String()
	run("INSERT INTO whatsmeow_identity_keys VALUES ($1, '15550002:0', $2)", our, fill(32, 11))
	run("INSERT INTO whatsmeow_pre_keys VALUES ($1, 9, $2, true)", our, fill(32, 12))
	run("INSERT INTO whatsmeow_privacy_tokens (our_jid, their_jid, token, timestamp) VALUES ($1, '900002@lid', $2, $3)", our, []byte("token-one"), int64(fixtureTokenAt))
	run("INSERT INTO whatsmeow_privacy_tokens (our_jid, their_jid, token, timestamp) VALUES ($1, '900003@lid', $2, $3)", our, []byte("token-two"), int64(fixtureTokenAt))
	for i := range 3 {
		run("INSERT INTO whatsmeow_app_state_sync_keys VALUES ($1, $2, $3, $4, $5)", our, []byte{0, byte(i)}, []byte{byte(i)}, int64(10+i), []byte{1})
	}
	if version >= 12 {
		run("UPDATE whatsmeow_privacy_tokens SET sender_timestamp=$1 WHERE their_jid='900002@lid'", int64(fixtureTokenSent))
	}
	sentAt := time.Now().Add(-time.Hour).UnixMilli()
	if version >= 13 {
		run("INSERT INTO whatsmeow_retry_buffer VALUES ($1, '900002@lid', 'SENT1', 'wa', $2, $3)", our, []byte("what was sent"), sentAt)
		run("INSERT INTO whatsmeow_retry_buffer VALUES ($1, '120363@g.us', 'SENT2', 'fb', $2, $3)", our, []byte("to a group"), sentAt)
	}
	if version >= 14 {
		run("INSERT INTO whatsmeow_nct_salt VALUES ($1, $2)", our, []byte("the salt"))
	}
	if version >= 15 {
		run("UPDATE whatsmeow_device SET companion_meta_nonce='the nonce'")
	}
	// Another device's rows are not ours.
	run("INSERT INTO whatsmeow_privacy_tokens (our_jid, their_jid, token, timestamp) VALUES ('other', '900009@lid', $1, 5)", []byte("not ours"))
	return jid
}

func dropSchema(t *testing.T, db *sql.DB) {
	names := []string{"retry_buffer", "nct_salt", "nobody_knows_yet"}
	for name := range tablesOf11 {
		names = append(names, name)
	}
	for _, name := range names {
		_, err := db.ExecContext(context.Background(), "DROP TABLE IF EXISTS whatsmeow_"+name)
		require.NoError(t, err)
	}
}

// row is the only stored value of that kind which contains text.
func row(t *testing.T, kv authstore.KV, kind authstore.Kind, text []byte) []byte {
	t.Helper()
	var found []byte
	for e, err := range kv.Scan(t.Context(), kind, "") {
		require.NoError(t, err)
		if bytes.Contains(e.Value, text) {
			require.Nil(t, found)
			found = e.Value
		}
	}
	require.NotNil(t, found, "no %s has %q", kind, text)
	return found
}

// checkImported asks for what schemas after 11 added, through the store where
// this whatsmeow has a way to ask, and of the stored rows where it has not.
func checkImported(t *testing.T, kv authstore.KV, d *store.Device, version int) {
	ctx := t.Context()
	require.Equal(t, "15550001:4@s.whatsapp.net", d.ID.String())
	require.Equal(t, "Ann", d.PushName)
	tokenRow := func(text string, sent int64) []byte {
		head := binary.AppendVarint(binary.AppendVarint(nil, fixtureTokenAt), sent)
		return row(t, kv, "token", append(head, text...))
	}
	sent := int64(0)
	if version >= 12 {
		sent = fixtureTokenSent
	}
	tokenRow("token-one", sent)
	tokenRow("token-two", 0)
	got, err := d.PrivacyTokens.GetPrivacyToken(ctx, types.NewJID("900002", types.HiddenUserServer))
	require.NoError(t, err)
	require.Equal(t, "token-one", string(got.Token))
	if f := reflect.ValueOf(got).Elem().FieldByName("SenderTimestamp"); f.IsValid() && sent != 0 {
		require.Equal(t, time.Unix(sent, 0), f.Interface())
	}
	newer := any(d.EventBuffer).(interface {
		GetAllAppStateSyncKeys(context.Context) ([]*store.AppStateSyncKey, error)
		GetNCTSalt(context.Context) ([]byte, error)
		GetOutgoingEvent(ctx context.Context, chat, altChat types.JID, id types.MessageID) (string, []byte, error)
		DeleteOldOutgoingEvents(context.Context) error
	})
	keys, err := newer.GetAllAppStateSyncKeys(ctx)
	require.NoError(t, err)
	require.Len(t, keys, 3)
	require.EqualValues(t, 12, keys[0].Timestamp)
	require.NoError(t, newer.DeleteOldOutgoingEvents(ctx), "they are young")
	for id, want := range map[string]string{"SENT1": "wa what was sent", "SENT2": "fb to a group"} {
		if version < 13 {
			want = " "
		}
		chat := types.NewJID("900002", types.HiddenUserServer)
		if id == "SENT2" {
			chat = types.NewJID("120363", types.GroupServer)
		}
		format, text, err := newer.GetOutgoingEvent(ctx, chat, types.EmptyJID, id)
		require.NoError(t, err)
		require.Equal(t, want, format+" "+string(text))
	}
	salt, err := newer.GetNCTSalt(ctx)
	require.NoError(t, err)
	require.Equal(t, version >= 14, string(salt) == "the salt")
	if version >= 15 {
		row(t, kv, "device", []byte(`"CompanionMetaNonce":"the nonce"`))
		if f := reflect.ValueOf(d).Elem().FieldByName("CompanionMetaNonce"); f.IsValid() {
			require.Equal(t, "the nonce", f.String())
		}
		// And it is still there after a save by a whatsmeow that knows it or not.
		d.PushName = "Ann B."
		require.NoError(t, d.Save(ctx))
		row(t, kv, "device", []byte(`"CompanionMetaNonce":"the nonce"`))
		d.PushName = "Ann"
		require.NoError(t, d.Save(ctx))
	}
}

func TestEverySQLSchemaIsImportedWhole(t *testing.T) {
	sqlite := func(t *testing.T) *sql.DB {
		db, err := sql.Open("sqlite", "file:"+filepath.Join(t.TempDir(), "wa.db"))
		require.NoError(t, err)
		t.Cleanup(func() { _ = db.Close() })
		return db
	}
	for name, connect := range map[string]func(*testing.T) *sql.DB{"SQLite": sqlite, "Postgres": startPostgres} {
		t.Run(name, func(t *testing.T) {
			db := connect(t)
			for version := 11; version <= 16; version++ {
				t.Run(fmt.Sprint("schema ", version), func(t *testing.T) {
					jid := writeSchema(t, db, version)
					defer dropSchema(t, db)
					a := memory(t, memorybackend.New())
					c := authstore.New(a.backend.Auth)
					r, err := authstore.Import(t.Context(), authstore.FromSQL(db, jid), c, a.fence, authstore.SourceStopped())
					require.NoError(t, err)
					require.Equal(t, version > 15, len(r.Warnings) == 1, r.Warnings)
					if version > 15 {
						require.True(t, strings.Contains(r.Warnings[0], "version 16"), r.Warnings)
					}
					d, err := c.Device(t.Context(), a.fence)
					require.NoError(t, err)
					checkImported(t, a.backend.Auth, d, version)
					require.NoError(t, c.Close(context.Background()))

					// An archive has all of it, too.
					var archive bytes.Buffer
					_, err = authstore.Export(t.Context(), authstore.FromKV("memory", a.backend.Auth, a.fence), &archive, [32]byte{1})
					require.NoError(t, err)
					b := memory(t, memorybackend.New())
					c = authstore.New(b.backend.Auth)
					_, err = authstore.Restore(t.Context(), &archive, [32]byte{1}, c, b.fence)
					require.NoError(t, err)
					d, err = c.Device(t.Context(), b.fence)
					require.NoError(t, err)
					checkImported(t, b.backend.Auth, d, version)
					require.NoError(t, c.Close(context.Background()))
					require.NoError(t, a.close())
					require.NoError(t, b.close())
				})
			}
		})
	}
}
