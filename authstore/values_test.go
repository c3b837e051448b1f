package authstore

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
)

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

// A change that a caller makes to bytes that it has given or was given changes nothing
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
