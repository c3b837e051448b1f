package authstore

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
)

// The KV refuses for good to keep a damaged row aside. What is written over that row
// is kept all the same: else a peer's messages would be refused for ever.
func TestRowIsWrittenOverADamagedOneThatCannotBeKept(t *testing.T) {
	putSession := func(t *testing.T, d *store.Device) {
		require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 2)))
	}
	hasSession := func(t *testing.T, d *store.Device) {
		v, err := d.Sessions.GetSession(bg, "1:0")
		require.NoError(t, err)
		require.EqualValues(t, 2, sessionCounter(t, v))
	}
	later := func(*testing.T, *store.Device) { time.Sleep(time.Minute); synctest.Wait() }
	now := func(*testing.T, *store.Device) {}
	for name, c := range map[string]struct {
		table            tableID
		id               string
		wait, write, has func(*testing.T, *store.Device)
	}{
		"the refusal is known":      {tSession, "1:0", later, putSession, hasSession},
		"the refusal comes with it": {tSession, "1:0", now, putSession, hasSession},
		"what is written rides": {tIdentity, hashed(64)("1:0"), now, func(t *testing.T, d *store.Device) {
			require.NoError(t, d.Identities.PutIdentity(bg, "1:0", [32]byte{2}))
			require.NoError(t, d.Sessions.PutSession(bg, "2:0", validSession(t, 2)))
		}, func(t *testing.T, d *store.Device) {
			trusted, err := d.Identities.IsTrustedIdentity(bg, "1:0", [32]byte{3})
			require.NoError(t, err)
			require.False(t, trusted, "the identity is known")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				kv := newMapKV()
				old, d, _ := open(t, kv)
				require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)))
				require.NoError(t, d.Identities.PutIdentity(bg, "1:0", [32]byte{1}))
				key := storeOf(d).keyFor(c.table, c.id)
				require.NoError(t, old.Close(bg))
				require.Contains(t, kv.data, key)
				kv.data[key] = garbage
				refuse(kv, func(k Key) bool { return k.Kind == kindQuarantine })
				var told []IncidentKind
				_, d, _ = reopen(t, kv, old, WithOnIncident(func(i Incident) { told = append(told, i.Kind) }))
				c.wait(t, d)
				c.write(t, d)
				require.Equal(t, []IncidentKind{IncidentCorrupt, IncidentRefused}, told)
				require.NotEqual(t, garbage, kv.data[key])
				before := kv.commits.Load()
				require.NoError(t, d.Sessions.PutSession(bg, "3:0", validSession(t, 3)))
				require.EqualValues(t, 1, kv.commits.Load()-before)
				c.has(t, killed(t, kv))
			})
		})
	}
}

// A sender key whose content is damaged counts as missing, whether or not it can be
// kept aside: the sender is asked for a new one.
func TestSenderKeyThatCannotBeKeptAsideCountsAsMissing(t *testing.T) {
	kv := newMapKV()
	var told []IncidentKind
	_, d, _ := open(t, kv, WithOnIncident(func(i Incident) { told = append(told, i.Kind) }))
	require.NoError(t, storeOf(d).write(bg, "test", put(tSenderKey, senderKeyID("group", "1:0"), []byte("no sender key"))))
	s := storeOf(d)
	s.mu.Lock()
	clear(s.im.flat[tSenderKey]) // it was used long ago
	s.mu.Unlock()
	refuse(kv, func(k Key) bool { return k.Kind == kindQuarantine })
	key, err := d.SenderKeys.GetSenderKey(bg, "group", "1:0")
	require.NoError(t, err)
	require.Nil(t, key)
	require.Equal(t, []IncidentKind{IncidentCorrupt, IncidentRefused}, told)
	require.NoError(t, d.SenderKeys.PutSenderKey(bg, "group", "1:0", validSenderKey([]byte{1})))
}
