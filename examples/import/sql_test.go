package main

import (
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/store/sqlstore"
	"go.mau.fi/whatsmeow/types"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/stability/memorybackend"
)

func pn(n int) types.JID {
	return types.NewJID(fmt.Sprint(15550000+n), types.DefaultUserServer)
}

// furnish puts into the database what a chat does not.
func furnish(t *testing.T, d *store.Device, group types.JID) {
	ctx := t.Context()
	senderKey, err := d.SenderKeys.GetSenderKey(ctx, group.String(), d.GetLID().SignalAddress().String())
	require.NoError(t, err)
	require.NotEmpty(t, senderKey)
	never := func(err error) { t.Helper(); require.NoError(t, err) }
	for i := range 50 {
		never(d.Identities.PutIdentity(ctx, fmt.Sprintf("%d:0", i), [32]byte{byte(i)}))
		never(d.SenderKeys.PutSenderKey(ctx, "120363@g.us", fmt.Sprintf("%d_1:0", i), senderKey))
		never(d.MsgSecrets.PutMessageSecret(ctx, pn(i), pn(i+1), types.MessageID(fmt.Sprint("é ", i)), []byte{byte(i), 2}))
		never(d.ChatSettings.PutArchived(ctx, pn(i), i%2 == 0))
		never(d.ChatSettings.PutPinned(ctx, pn(i), i%3 == 0))
		never(d.AppStateKeys.PutAppStateSyncKey(ctx, []byte{0, byte(i)}, store.AppStateSyncKey{Data: []byte{1}, Fingerprint: []byte{2}, Timestamp: int64(i)}))
		never(d.PrivacyTokens.PutPrivacyTokens(ctx, store.PrivacyToken{User: pn(i), Token: []byte{byte(i)}, Timestamp: time.Unix(int64(1000+i), 0)}))
		never(d.LIDs.PutLIDMapping(ctx, types.NewJID(fmt.Sprint(900+i), types.HiddenUserServer), pn(i)))
		never(d.Contacts.PutManyRedactedPhones(ctx, []store.RedactedPhoneEntry{{JID: pn(i), RedactedPhone: "+1∙∙∙"}}))
		_, _, err := d.Contacts.PutPushName(ctx, pn(i), fmt.Sprint("push ", i))
		never(err)
		_, _, err = d.Contacts.PutBusinessName(ctx, pn(i), "business")
		never(err)
		never(d.Contacts.PutContactName(ctx, pn(i), "first", "full"))
		hash := [32]byte{byte(i), 1}
		never(d.EventBuffer.PutBufferedEvent(ctx, hash, []byte{byte(i)}, time.Unix(2000, 0)))
		if i%2 == 0 {
			never(d.EventBuffer.ClearBufferedEventPlaintext(ctx, hash))
		}
	}
	never(d.ChatSettings.PutMutedUntil(ctx, pn(1), store.MutedForever))
	never(d.ChatSettings.PutMutedUntil(ctx, pn(2), time.Unix(5_000_000_000, 0)))
	for version := uint64(1); version <= 3; version++ {
		never(d.AppState.PutAppStateVersion(ctx, "regular_low", version, [128]byte{byte(version)}))
		never(d.AppState.PutAppStateMutationMACs(ctx, "regular_low", version, []store.AppStateMutationMAC{
			{IndexMAC: make([]byte, 32), ValueMAC: append(make([]byte, 31), byte(version))}}))
	}
	_, err = d.PreKeys.GenOnePreKey(ctx)
	never(err)
}

// answers is what a device says when it is asked for everything.
func answers(t *testing.T, d *store.Device, peers ...types.JID) map[string]any {
	ctx := t.Context()
	out := make(map[string]any)
	note := func(name string, v any, err error) {
		t.Helper()
		require.NoError(t, err, name)
		out[name] = v
	}
	account := d.Account
	note("device", fmt.Sprint(d.ID, d.LID, d.RegistrationID, *d.NoiseKey.Priv, *d.NoiseKey.Pub, *d.IdentityKey.Priv, *d.SignedPreKey.Priv,
		d.SignedPreKey.KeyID, *d.SignedPreKey.Signature, d.AdvSecretKey, account.Details, account.AccountSignature, account.AccountSignatureKey,
		account.DeviceSignature, d.Platform, d.BusinessName, d.PushName, d.FacebookUUID, d.LIDMigrationTimestamp), nil)
	sessions := 0
	for _, peer := range peers {
		s, err := d.Sessions.GetSession(ctx, peer.SignalAddress().String())
		note("session "+peer.String(), s, err)
		if s != nil {
			sessions++
		}
	}
	require.Positive(t, sessions)
	for i := range 900 {
		k, err := d.PreKeys.GetPreKey(ctx, uint32(i))
		if k != nil {
			note(fmt.Sprint("prekey ", i), *k.Priv, err)
		}
	}
	n, err := d.PreKeys.UploadedPreKeyCount(ctx)
	note("uploaded", n, err)
	for i := range 60 {
		trusted, err := d.Identities.IsTrustedIdentity(ctx, fmt.Sprintf("%d:0", i), [32]byte{byte(i)})
		note(fmt.Sprint("identity ", i), trusted, err)
		other, err := d.Identities.IsTrustedIdentity(ctx, fmt.Sprintf("%d:0", i), [32]byte{200})
		note(fmt.Sprint("other identity ", i), other, err)
		key, err := d.SenderKeys.GetSenderKey(ctx, "120363@g.us", fmt.Sprintf("%d_1:0", i))
		note(fmt.Sprint("sender key ", i), key, err)
		secret, sender, err := d.MsgSecrets.GetMessageSecret(ctx, pn(i), pn(i+1), types.MessageID(fmt.Sprint("é ", i)))
		note(fmt.Sprint("secret ", i), fmt.Sprint(secret, sender), err)
		chat, err := d.ChatSettings.GetChatSettings(ctx, pn(i))
		note(fmt.Sprint("chat ", i), fmt.Sprint(chat.Found, chat.Archived, chat.Pinned, chat.MutedUntil.Unix()), err)
		app, err := d.AppStateKeys.GetAppStateSyncKey(ctx, []byte{0, byte(i)})
		note(fmt.Sprint("app key ", i), app, err)
		token, err := d.PrivacyTokens.GetPrivacyToken(ctx, pn(i))
		if note(fmt.Sprint("token ", i), "", err); token != nil {
			note(fmt.Sprint("token ", i), fmt.Sprint(token.User, token.Token, token.Timestamp.Unix()), err)
		}
		lid, err := d.LIDs.GetLIDForPN(ctx, pn(i))
		note(fmt.Sprint("lid ", i), lid, err)
		back, err := d.LIDs.GetPNForLID(ctx, types.NewJID(fmt.Sprint(900+i), types.HiddenUserServer))
		note(fmt.Sprint("pn ", i), back, err)
		contact, err := d.Contacts.GetContact(ctx, pn(i))
		note(fmt.Sprint("contact ", i), contact, err)
		event, err := d.EventBuffer.GetBufferedEvent(ctx, [32]byte{byte(i), 1})
		if note(fmt.Sprint("event ", i), "", err); event != nil {
			note(fmt.Sprint("event ", i), fmt.Sprint(event.Plaintext, event.Plaintext == nil, event.InsertTime.UnixMilli(), event.ServerTime.Unix()), err)
		}
	}
	latest, err := d.AppStateKeys.GetLatestAppStateSyncKeyID(ctx)
	note("latest app key", latest, err)
	version, hash, err := d.AppState.GetAppStateVersion(ctx, "regular_low")
	note("app state", fmt.Sprint(version, hash), err)
	mac, err := d.AppState.GetAppStateMutationMAC(ctx, "regular_low", make([]byte, 32))
	note("app MAC", mac, err)
	return out
}

func TestTheImportedDeviceGivesEveryAnswerThatSQLStoreGives(t *testing.T) {
	sqlite := sqliteFile(filepath.Join(t.TempDir(), "wa.db"))
	// A database may give the rows of a query that asks for no order in any.
	reversed := sqlite
	reversed.dsn += "&_pragma=reverse_unordered_selects(1)"
	for _, c := range []struct {
		name  string
		from  func(*testing.T) sqlSource
		again *sqlSource // the same rows, the other way round
	}{
		{"SQLite", func(*testing.T) sqlSource { return sqlite }, &reversed},
		{"Postgres", func(t *testing.T) sqlSource { return postgresDatabase(database(t)) }, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			from := c.from(t)
			w := newWorld(t)
			w.onSQLStore(from)
			db := from.open(t)
			theirs, err := sqlstore.NewWithDB(db, from.dialect(), nil).GetFirstDevice(t.Context())
			require.NoError(t, err)
			furnish(t, theirs, w.group)
			peers := []types.JID{*w.bob.Client().Store.ID, w.bob.Client().Store.LID}
			want := answers(t, theirs, peers...)

			mem := memorybackend.New()
			a := memory(t, mem)
			container := authstore.New(a.backend.Auth)
			r, err := authstore.Import(t.Context(), authstore.FromSQL(db, *theirs.ID), container, a.fence, authstore.SourceStopped())
			require.NoError(t, err)
			require.Empty(t, r.Warnings)
			ours, err := container.Device(t.Context(), a.fence)
			require.NoError(t, err)
			require.Equal(t, want, answers(t, ours, peers...))
			list, err := ours.PreKeys.GetOrGenPreKeys(t.Context(), 1)
			require.NoError(t, err)
			require.Greater(t, list[0].KeyID, uint32(4096), "no id is given out twice")
			require.NoError(t, container.Close(context.Background()))
			require.NoError(t, a.close())

			if c.again != nil {
				a := memory(t, memorybackend.New())
				container := authstore.New(a.backend.Auth)
				_, err := authstore.Import(t.Context(), authstore.FromSQL(c.again.open(t), *theirs.ID), container, a.fence, authstore.SourceStopped())
				require.NoError(t, err)
				ours, err := container.Device(t.Context(), a.fence)
				require.NoError(t, err)
				require.Equal(t, want, answers(t, ours, peers...))
				require.NoError(t, container.Close(context.Background()))
				require.NoError(t, a.close())
			}

			// A client that was not stopped.
			b := memory(t, memorybackend.New())
			defer b.close()
			_, err = authstore.Import(t.Context(), authstore.FromSQL(db, types.JID{}), authstore.New(b.backend.Auth), b.fence,
				authstore.SourceStopped(), authstore.OnProgress(func(p authstore.Progress) {
					if p.Phase == "copy" && p.Kind == "lid" && p.Done == p.Total {
						require.NoError(t, theirs.Identities.PutIdentity(context.Background(), "intruder:0", [32]byte{1}))
					}
				}))
			require.ErrorIs(t, err, authstore.ErrSourceChanged)
			info, err := authstore.New(b.backend.Auth).Info(t.Context())
			require.NoError(t, err)
			require.False(t, info.Exists)
			_, err = authstore.Import(t.Context(), authstore.FromSQL(db, pn(1)), authstore.New(b.backend.Auth), b.fence, authstore.DryRun())
			require.ErrorIs(t, err, authstore.ErrNoDevice)
		})
	}
}

// A database that is marked as moved more than once is marked as it says: one
// number off, and it can be used again.
func TestMarkOfAMovedDatabaseIsTakenOffInOneStep(t *testing.T) {
	db, err := sql.Open("sqlite", "file:"+filepath.Join(t.TempDir(), "old.db")+"?_pragma=foreign_keys(1)")
	require.NoError(t, err)
	defer db.Close()
	upgrade := func() error { return sqlstore.NewWithDB(db, "sqlite3", nil).Upgrade(t.Context()) }
	compat := func() (n int) {
		t.Helper()
		require.NoError(t, db.QueryRowContext(t.Context(), "SELECT compat FROM whatsmeow_version").Scan(&n))
		return n
	}
	require.NoError(t, upgrade())
	before := compat()
	for range 3 {
		require.NoError(t, authstore.RetireSQL(t.Context(), db))
		require.Error(t, upgrade(), "nothing logs in with it")
	}
	_, err = db.ExecContext(t.Context(), "UPDATE whatsmeow_version SET compat=compat-1000000")
	require.NoError(t, err)
	require.NoError(t, upgrade())
	require.Positive(t, compat())
	require.LessOrEqual(t, before, compat())
}
