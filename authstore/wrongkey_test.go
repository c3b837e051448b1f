package authstore

import (
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
)

// Rows of tables that are read on demand may be sealed with a key that was not
// given, after a Reseal that was broken off. They are an error, and are not damage:
// with that key all is there again.
func TestRowsUnderAMissingKeyStayAsTheyAre(t *testing.T) {
	ours, missing := NewAESGCM(keyOf(1)), NewAESGCM(keyOf(2))
	for name, use := range map[string]func(d *store.Device) error{
		"get sender key": func(d *store.Device) error {
			_, err := d.SenderKeys.GetSenderKey(bg, "1@g.us", "1:0")
			return err
		},
		"put sender key": func(d *store.Device) error {
			return d.SenderKeys.PutSenderKey(bg, "1@g.us", "1:0", validSenderKey([]byte{2}))
		},
		"get secret": func(d *store.Device) error {
			_, _, err := d.MsgSecrets.GetMessageSecret(bg, testJID(1), testJID(2), "M")
			return err
		},
		"get MAC": func(d *store.Device) error {
			_, err := d.AppState.GetAppStateMutationMAC(bg, "regular", []byte{1})
			return err
		},
		"put version": func(d *store.Device) error {
			return d.AppState.PutAppStateVersion(bg, "regular", 2, [128]byte{2})
		},
		"migrate to LID": func(d *store.Device) error {
			return d.Sessions.MigratePNToLID(bg, types.NewJID("1", types.DefaultUserServer), types.NewJID("7", types.HiddenUserServer))
		},
		"get outgoing event": func(d *store.Device) error {
			_, _, err := storeOf(d).GetOutgoingEvent(bg, testJID(1), types.EmptyJID, "OUT")
			return err
		},
		"look for a sent message": func(d *store.Device) error {
			_, err := storeOf(d).Sent(bg, testJID(1), types.EmptyJID, "other")
			return err
		},
		"export": func(d *store.Device) error {
			_, err := Export(bg, FromContainer(storeOf(d).c), io.Discard, archiveKey)
			return err
		},
		"old ones are looked for": func(d *store.Device) error { // beside, so nobody is told
			time.Sleep(200 * aDay)
			if err := d.EventBuffer.DeleteOldBufferedHashes(bg); err != nil {
				return err
			}
			if err := storeOf(d).DeleteOldOutgoingEvents(bg); err != nil {
				return err
			}
			time.Sleep(time.Minute)
			return ErrWrongKey
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				kv := newMapKV()
				c, d, _ := open(t, kv, WithAEAD(ours))
				require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)))
				require.NoError(t, d.SenderKeys.PutSenderKey(bg, "1@g.us", "1:0", validSenderKey([]byte{1})))
				require.NoError(t, d.MsgSecrets.PutMessageSecret(bg, testJID(1), testJID(2), "M", []byte("secret")))
				require.NoError(t, d.AppState.PutAppStateVersion(bg, "regular", 1, [128]byte{1}))
				require.NoError(t, d.AppState.PutAppStateMutationMACs(bg, "regular", 1, macs(1, 1)))
				require.NoError(t, storeOf(d).AddOutgoingEvent(bg, testJID(1), "OUT", "fb", []byte("sent")))
				require.NoError(t, c.Close(bg))
				want := make(map[Key]string)
				for _, table := range []tableID{tSenderKey, tSecret, tAppMAC, tOutgoing} {
					require.Equal(t, 1, kv.count(specOf(table).kind), specOf(table).kind)
					for k, raw := range kv.data {
						if k.Kind != specOf(table).kind {
							continue
						}
						_, body, err := codec{aead: ours, opener: ours}.openForReseal(kv, func(string, func(context.Context) error) error { return nil }, k, []byte(raw))
						require.NoError(t, err)
						sealed, err := codec{aead: missing}.wrap(k, body.flags, body.data)
						require.NoError(t, err)
						kv.data[k], want[k] = string(sealed), string(sealed)
					}
				}
				c, d, f := reopen(t, kv, c, WithAEAD(ours))
				require.ErrorIs(t, use(d), ErrWrongKey)
				time.Sleep(time.Minute)
				require.NoError(t, d.Sessions.PutSession(bg, "2:0", validSession(t, 1)), "it goes on")
				require.NoError(t, c.Close(bg))
				require.Zero(t, f.cuts.Load()-1, "only Close has cut")
				require.Zero(t, kv.count(kindQuarantine))
				for k, v := range want {
					require.Equal(t, v, kv.data[k], k.Kind)
				}
				to := New(newMapKV())
				_, err := Import(bg, FromKV("old", kv, newFence(kv.epoch), WithAEAD(ours)), to, newFence(1))
				require.ErrorIs(t, err, ErrWrongKey, "nor does it move without them")
				_, d, _ = reopen(t, kv, c, WithAEAD(NewAESGCM(keyOf(1), keyOf(2))))
				_, _, err = d.MsgSecrets.GetMessageSecret(bg, testJID(1), testJID(2), "M")
				require.NoError(t, err)
			})
		})
	}
}

// A row that does not open may be the owner of parts. They stay, and so the value
// is whole when the row can be read again.
func TestPartsOfARowThatDoesNotOpenStay(t *testing.T) {
	for name, broken := range map[string]string{"of a newer format": "\x09", "damaged": "\x01"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				kv := newMapKV()
				kv.limits = nameTests
				c, d, _ := open(t, kv)
				require.NoError(t, d.MsgSecrets.PutMessageSecret(bg, testJID(1), testJID(2), "M", make([]byte, 5000)))
				require.NoError(t, c.Close(bg))
				var row Key
				for k, v := range kv.data {
					if k.Kind == specOf(tSecret).kind && v[1]&flagSplit != 0 {
						row = k
					}
				}
				whole, parts := kv.data[row], kv.count(kindPart)
				require.NotZero(t, parts)
				kv.data[row] = broken + whole[1:len(whole)-1]
				c, _, _ = reopen(t, kv, c)
				time.Sleep(time.Minute)
				require.NoError(t, c.Close(bg))
				require.Equal(t, parts, kv.count(kindPart))
				kv.data[row] = whole
				_, d, _ = reopen(t, kv, c)
				secret, _, err := d.MsgSecrets.GetMessageSecret(bg, testJID(1), testJID(2), "M")
				require.NoError(t, err)
				require.Len(t, secret, 5000)
			})
		})
	}
}
