package authstore

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
	"go.mau.fi/whatsmeow/util/keys"
)

// A step of a decryption that begins a transaction of its own works on what the
// outer one holds and has written, and both are saved or neither is.
func TestNestedTransactionIsPartOfTheOuterOne(t *testing.T) {
	for _, fails := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			kv := newMapKV()
			c, d, _ := open(t, kv)
			require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)))
			read := func(ctx context.Context, addr string) uint32 {
				v, err := d.Sessions.GetSession(ctx, addr)
				require.NoError(t, err)
				return sessionCounter(t, v)
			}
			before := kv.commits.Load()
			err := d.EventBuffer.DoDecryptionTxn(bg, func(ctx context.Context) error {
				require.EqualValues(t, 1, read(ctx, "1:0"))
				require.NoError(t, d.Sessions.PutSession(ctx, "1:0", validSession(t, 2)))
				require.NoError(t, d.EventBuffer.DoDecryptionTxn(ctx, func(ctx context.Context) error {
					require.EqualValues(t, 2, read(ctx, "1:0"))
					require.NoError(t, d.Sessions.PutSession(ctx, "1:0", validSession(t, 3)))
					return d.Sessions.PutSession(ctx, "2:0", validSession(t, 4))
				}))
				require.Equal(t, before, kv.commits.Load(), "nothing is saved before the end")
				require.EqualValues(t, 3, read(ctx, "1:0"))
				require.EqualValues(t, 4, read(ctx, "2:0"))
				if fails {
					return errDown
				}
				return nil
			})
			require.Equal(t, fails, err != nil)
			_, d, _ = reopen(t, kv, c)
			if fails {
				require.EqualValues(t, 1, read(bg, "1:0"))
				require.Zero(t, read(bg, "2:0"))
			} else {
				require.EqualValues(t, 3, read(bg, "1:0"))
				require.EqualValues(t, 4, read(bg, "2:0"))
			}
		})
	}
}

// Of the keys that were made only those that the service took are not offered
// again, also across the wrap of their ids.
func TestOnlyUploadedPreKeysAreNotOfferedAgain(t *testing.T) {
	kv := newMapKV()
	c, d, _ := open(t, kv)
	for _, first := range []uint32{firstPreKey, lastPreKey - 4} {
		require.NoError(t, storeOf(d).submit("t", []change{put(tMisc, nextPreKey, []byte{byte(first), byte(first >> 8), byte(first >> 16), 0})}, Batch{}))
		before, err := d.PreKeys.UploadedPreKeyCount(bg)
		require.NoError(t, err)
		list, err := d.PreKeys.GetOrGenPreKeys(bg, 10)
		require.NoError(t, err)
		require.Equal(t, first, list[0].KeyID)
		ids := func(list []*keys.PreKey) (out []uint32) {
			for _, k := range list {
				out = append(out, k.KeyID)
			}
			return out
		}
		for _, upTo := range []int{2, 6, 9} { // the last passes the wrap
			require.NoError(t, d.PreKeys.MarkPreKeysAsUploaded(bg, list[upTo].KeyID))
			n, err := d.PreKeys.UploadedPreKeyCount(bg)
			require.NoError(t, err)
			require.Equal(t, before+upTo+1, n)
			c, d, _ = reopen(t, kv, c)
			next, err := d.PreKeys.GetOrGenPreKeys(bg, uint32(9-upTo))
			require.NoError(t, err)
			require.Equal(t, ids(list[upTo+1:]), ids(next))
			for i := range next {
				require.Equal(t, list[upTo+1+i].Priv, next[i].Priv, "the same key under the same id")
			}
		}
	}
}

// The last flush of a Close may hang. Whoever closes releases the lock next, so
// the device is over when Close has given up.
func TestCloseWhoseFlushHangsEndsTheDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		c, d, f := open(t, kv)
		require.NoError(t, d.Identities.PutIdentity(bg, "1:0", [32]byte{1}))
		release := kv.holdCommit("identity")
		ctx, cancel := context.WithTimeout(bg, time.Second)
		defer cancel()
		require.ErrorIs(t, c.Close(ctx), context.DeadlineExceeded)
		err := d.Sessions.PutSession(bg, "1:0", validSession(t, 1))
		require.ErrorIs(t, err, ErrSuperseded)
		require.ErrorIs(t, err, context.Canceled)
		require.EqualValues(t, 1, f.cuts.Load(), "nothing that it receives could be decrypted")
		release()
		synctest.Wait()
		require.Zero(t, kv.count("session"))
	})
}

// lent is bytes that a caller goes on to use for something else, as a pool of
// buffers does.
type lent struct{ all []([]byte) }

func (l *lent) take(b []byte) []byte {
	b = slices.Clone(b)
	l.all = append(l.all, b)
	return b
}

// got returns a copy, and spoils what was given.
func (l *lent) got(b []byte) []byte {
	out := bytes.Clone(b)
	l.all = append(l.all, b)
	return out
}

func (l *lent) spoil() {
	for _, b := range l.all {
		for i := range b {
			b[i] ^= 0xff
		}
	}
	l.all = nil
}

// What a caller does with bytes that it has given or was given changes nothing
// in the store: neither in memory nor what is saved later.
func TestCallersBytesAreNotTheStores(t *testing.T) {
	user, id := testJID(1), types.MessageID("ID")
	type table struct {
		put func(ctx context.Context, d *store.Device, l *lent, v []byte) error
		get func(ctx context.Context, d *store.Device, l *lent) []byte
	}
	must := func(b []byte, err error) []byte {
		t.Helper()
		require.NoError(t, err)
		return b
	}
	mac := bytes.Repeat([]byte{7}, 32)
	tables := map[string]table{
		"session": {
			func(ctx context.Context, d *store.Device, l *lent, v []byte) error {
				return d.Sessions.PutSession(ctx, "1:0", l.take(v))
			},
			func(ctx context.Context, d *store.Device, l *lent) []byte {
				return l.got(must(d.Sessions.GetSession(ctx, "1:0")))
			}},
		"sessions": {
			func(ctx context.Context, d *store.Device, l *lent, v []byte) error {
				return d.Sessions.PutManySessions(ctx, map[string][]byte{"1:0": l.take(v), "2:0": l.take(v)})
			},
			func(ctx context.Context, d *store.Device, l *lent) []byte {
				many, err := d.Sessions.GetManySessions(ctx, []string{"1:0", "2:0"})
				require.NoError(t, err)
				require.Equal(t, many["1:0"], many["2:0"])
				l.got(many["1:0"])
				return l.got(many["2:0"])
			}},
		"sender key": {
			func(ctx context.Context, d *store.Device, l *lent, v []byte) error {
				return d.SenderKeys.PutSenderKey(ctx, "g@g.us", "1:0", l.take(validSenderKey(v[:20])))
			},
			func(ctx context.Context, d *store.Device, l *lent) []byte {
				return l.got(must(d.SenderKeys.GetSenderKey(ctx, "g@g.us", "1:0")))
			}},
		"app state key": {
			func(ctx context.Context, d *store.Device, l *lent, v []byte) error {
				return d.AppStateKeys.PutAppStateSyncKey(ctx, l.take([]byte{0, 1}), store.AppStateSyncKey{Data: l.take(v), Fingerprint: l.take([]byte{4}), Timestamp: int64(v[0])})
			},
			func(ctx context.Context, d *store.Device, l *lent) []byte {
				k, err := d.AppStateKeys.GetAppStateSyncKey(ctx, []byte{0, 1})
				require.NoError(t, err)
				latest := l.got(must(d.AppStateKeys.GetLatestAppStateSyncKeyID(ctx)))
				require.Equal(t, []byte{0, 1}, latest)
				require.Equal(t, []byte{4}, l.got(k.Fingerprint))
				return l.got(k.Data)
			}},
		"MAC": {
			func(ctx context.Context, d *store.Device, l *lent, v []byte) error {
				if err := d.AppState.PutAppStateVersion(ctx, "regular", 1, [128]byte{1}); err != nil {
					return err
				}
				return d.AppState.PutAppStateMutationMACs(ctx, "regular", 1, []store.AppStateMutationMAC{{IndexMAC: l.take(mac), ValueMAC: l.take(v[:32])}})
			},
			func(ctx context.Context, d *store.Device, l *lent) []byte {
				return l.got(must(d.AppState.GetAppStateMutationMAC(ctx, "regular", mac)))
			}},
		"event": {
			func(ctx context.Context, d *store.Device, l *lent, v []byte) error {
				return d.EventBuffer.PutBufferedEvent(ctx, [32]byte{1}, l.take(v), time.Unix(1, 0))
			},
			func(ctx context.Context, d *store.Device, l *lent) []byte {
				e, err := d.EventBuffer.GetBufferedEvent(ctx, [32]byte{1})
				require.NoError(t, err)
				return l.got(e.Plaintext)
			}},
		"secret": {
			func(ctx context.Context, d *store.Device, l *lent, v []byte) error {
				return d.MsgSecrets.PutMessageSecret(ctx, user, user, id, l.take(v))
			},
			func(ctx context.Context, d *store.Device, l *lent) []byte {
				secret, _, err := d.MsgSecrets.GetMessageSecret(ctx, user, user, id)
				return l.got(must(secret, err))
			}},
		"token": {
			func(ctx context.Context, d *store.Device, l *lent, v []byte) error {
				return d.PrivacyTokens.PutPrivacyTokens(ctx, store.PrivacyToken{User: user, Token: l.take(v), Timestamp: time.Unix(int64(v[0]), 0)})
			},
			func(ctx context.Context, d *store.Device, l *lent) []byte {
				token, err := d.PrivacyTokens.GetPrivacyToken(ctx, user)
				require.NoError(t, err)
				return l.got(token.Token)
			}},
		"sent message": {
			func(ctx context.Context, d *store.Device, l *lent, v []byte) error {
				return storeOf(d).AddOutgoingEvent(ctx, user, id, "wa", l.take(v))
			},
			func(ctx context.Context, d *store.Device, l *lent) []byte {
				_, text, err := storeOf(d).GetOutgoingEvent(ctx, user, types.EmptyJID, id)
				return l.got(must(text, err))
			}},
		"salt": {
			func(ctx context.Context, d *store.Device, l *lent, v []byte) error {
				return storeOf(d).PutNCTSalt(ctx, l.take(v))
			},
			func(ctx context.Context, d *store.Device, l *lent) []byte {
				return l.got(must(storeOf(d).GetNCTSalt(ctx)))
			}},
	}
	for name, x := range tables {
		for _, inTxn := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, transaction %t", name, inTxn), func(t *testing.T) {
				kv := newMapKV()
				c, d, _ := open(t, kv)
				var l lent
				var want []byte
				use := func(ctx context.Context) error {
					require.NoError(t, x.put(ctx, d, &l, validSession(t, 1)))
					l.spoil()
					want = x.get(ctx, d, &l)
					require.NotEmpty(t, want)
					l.spoil()
					require.Equal(t, want, x.get(ctx, d, &l))
					l.spoil()
					return nil
				}
				if inTxn {
					require.NoError(t, d.EventBuffer.DoDecryptionTxn(bg, use))
				} else {
					require.NoError(t, use(bg))
				}
				for range 3 {
					require.Equal(t, want, x.get(bg, d, &l))
					l.spoil()
					require.Equal(t, want, x.get(bg, d, &l))
					l.spoil()
					c, d, _ = reopen(t, kv, c)
				}
			})
		}
	}
}
