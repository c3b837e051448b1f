package authstore

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/types"
)

// Everything that can stand in a store at once: a device in use, values that
// were split, rows that were set aside (whole and in pieces), what waits to be
// written, a device that was deleted, an import that is not finished. Sealing is
// turned on, the key is changed, and the old one is dropped; then all of it is
// read.
func TestNothingOfAStoreIsLeftUnderAnOldKey(t *testing.T) {
	one, two := WithAEAD(NewAESGCM(keyOf(1))), WithAEAD(NewAESGCM(keyOf(2)))
	both := WithAEAD(NewAESGCM(keyOf(2), keyOf(1)))
	kv := filled(t)
	kv.limits = Limits{MaxValue: 6000, MaxBatch: 12000, MaxKeys: 40}
	kv.setEpoch(kv.epoch + 1)

	// Plain, with damage.
	c, d, _ := open(t, kv)
	user := testJID(1)
	large := bytes.Repeat([]byte("large"), 4000)
	require.NoError(t, d.MsgSecrets.PutMessageSecret(bg, user, user, "LARGE", large))
	require.NoError(t, d.SenderKeys.PutSenderKey(bg, "many@g.us", "7:0", validSenderKey(large)))
	require.NoError(t, d.SenderKeys.PutSenderKey(bg, strings.Repeat("long", 200)+"@g.us", "7:0", validSenderKey([]byte{7})))
	require.NoError(t, d.Sessions.PutSession(bg, "damaged:0", validSession(t, 1)))
	require.NoError(t, d.Sessions.PutSession(bg, "large:0", validSession(t, 1)))
	require.NoError(t, c.Close(bg))
	require.Positive(t, kv.count(kindPart))
	kv.data[Key{"session", "d0/damaged:0"}] = "\x01\x00damaged"
	kv.data[Key{"session", "d0/large:0"}] = "\x01\x00" + strings.Repeat("x", 5990)
	kv.setEpoch(kv.epoch + 1)
	c, _, _ = open(t, kv)
	require.NoError(t, c.Close(bg))
	require.GreaterOrEqual(t, kv.count(kindQuarantine), 3, "one of them in pieces")

	// An import that broke off, of the same store's copy.
	from := newMapKV()
	for k, v := range kv.data {
		from.data[k] = v
	}
	from.epoch = kv.epoch
	calls := 0
	kv.before.set(func(op string, b Batch) error {
		if calls++; op == "commit" && calls > 6 {
			return fmt.Errorf("%w: it breaks off", ErrTooLarge)
		}
		return nil
	})
	_, err := Import(bg, FromKV("a copy", from, newFence(from.epoch)), New(kv), newFence(kv.epoch), ReplaceDevice())
	require.Error(t, err)
	kv.before.set(nil)
	require.Equal(t, 1, kv.count(kindImport))

	seal := func(opts ...Option) {
		t.Helper()
		kv.setEpoch(kv.epoch + 1)
		c, d, f := open(t, kv, opts...)
		for i := range 20 { // what is not written yet, of the kinds that may wait
			_, _, err := d.Contacts.PutPushName(bg, types.NewJID(fmt.Sprint(i), types.DefaultUserServer), fmt.Sprint(kv.epoch))
			require.NoError(t, err)
		}
		require.NoError(t, c.Reseal(bg, f, nil))
		require.NoError(t, c.Close(bg))
	}
	seal(one, WithPlaintextAllowed())
	for k, v := range kv.data {
		require.NotZero(t, v[1]&flagSealed, "%v is plain", k)
	}
	seal(both)

	// Without the old key, every row opens, and reads as it did.
	inner := codec{aead: NewAESGCM(keyOf(2)), opener: NewAESGCM(keyOf(2))}
	for k, v := range kv.data {
		_, err := inner.decode(k, k.ID, []byte(v))
		require.NoError(t, err, "%v", k)
	}
	kv.setEpoch(kv.epoch + 1)
	var incidents []Incident
	c, d, f := open(t, kv, two, WithOnIncident(func(i Incident) { incidents = append(incidents, i) }))
	useAll(t, d)
	got, _, err := d.MsgSecrets.GetMessageSecret(bg, user, user, "LARGE")
	require.NoError(t, err)
	require.Equal(t, large, got)
	key, err := d.SenderKeys.GetSenderKey(bg, "many@g.us", "7:0")
	require.NoError(t, err)
	require.Equal(t, validSenderKey(large), key)
	key, err = d.SenderKeys.GetSenderKey(bg, strings.Repeat("long", 200)+"@g.us", "7:0")
	require.NoError(t, err)
	require.Equal(t, validSenderKey([]byte{7}), key)
	q, err := c.Quarantined(bg)
	require.NoError(t, err)
	require.Len(t, q.Rows, 2)
	require.Empty(t, incidents)

	// The import goes on, and a device that is deleted comes back.
	r, err := Import(bg, FromKV("a copy", from, newFence(from.epoch)), c, f, ReplaceDevice())
	require.NoError(t, err)
	require.True(t, r.Resumed)
	d, err = c.Device(bg, f)
	require.NoError(t, err)
	c.cfg.background.Wait()
	useAll(t, d)
	require.NoError(t, d.Delete(bg))
	require.NoError(t, c.Close(bg))
	three := NewAESGCM(keyOf(3), keyOf(2))
	kv.setEpoch(kv.epoch + 1)
	c = New(kv, WithAEAD(three))
	require.NoError(t, c.Reseal(bg, newFence(kv.epoch), nil), "a deleted device is resealed too")
	kv.setEpoch(kv.epoch + 1)
	c = New(kv, WithAEAD(NewAESGCM(keyOf(3))))
	f = newFence(kv.epoch)
	require.NoError(t, c.Restore(bg, f))
	d, err = c.Device(bg, f)
	require.NoError(t, err)
	useAll(t, d)
	require.NoError(t, c.Close(bg))
}

// A device that may come back is moved to sealed names with the one in whose
// place it would come.
func TestDeviceThatCanComeBackIsMovedToo(t *testing.T) {
	kv := plainNames(t)
	want := content(t, kv)
	c, d, f := open(t, kv, nameSeal)
	require.NoError(t, c.DeleteDevice(bg, d))
	d, err := c.Device(bg, f)
	require.NoError(t, err)
	pair(t, d, testJID(2)) // and never logs in
	c, d, f = reopen(t, kv, c, nameSeal, WithSealedNames())
	require.Equal(t, testJID(2), *d.ID)
	c.cfg.background.Wait()
	require.Empty(t, telling(kv))
	require.False(t, moving(t, kv))
	require.NoError(t, d.Delete(bg))
	require.NoError(t, c.Restore(bg, f))
	require.Equal(t, want, content(t, kv))
	d, err = c.Device(bg, f)
	require.NoError(t, err)
	require.Equal(t, testJID(1), *d.ID)
	key, err := d.SenderKeys.GetSenderKey(bg, "120363@g.us", "15550104:0")
	require.NoError(t, err)
	require.NotNil(t, key)
	require.NoError(t, c.Close(bg))
}

// A value that the device writes in parts while Reseal looks at the rows keeps
// its parts.
func TestResealLeavesPartsOfNewValuesAlone(t *testing.T) {
	kv := newMapKV()
	kv.limits = Limits{MaxValue: 2000}
	seal := WithAEAD(foreignAEAD{NewAESGCM(keyOf(1))}) // so every value is sealed anew
	c, d, f := open(t, kv, seal)
	var written []string
	kv.before.set(func(op string, _ Batch) error {
		if op != "scan" {
			return nil
		}
		group := "g" + string(rune('a'+len(written))) + "@g.us"
		written = append(written, group)
		return d.SenderKeys.PutSenderKey(bg, group, "1:0", validSenderKey(make([]byte, 4000)))
	})
	require.NoError(t, c.Reseal(bg, f, nil))
	kv.before.set(nil)
	require.Greater(t, len(written), 15, "before each look")
	_, d, _ = reopen(t, kv, c, seal)
	for _, group := range written {
		v, err := d.SenderKeys.GetSenderKey(bg, group, "1:0")
		require.NoError(t, err)
		require.NotNil(t, v, group)
	}
	require.Zero(t, kv.count(kindQuarantine))
}

// Whatever writes the account's record of an account with sealed names, a
// library that does not know these finds a newer format there: it would miss
// every session.
func TestRecordOfSealedNamesStaysMarked(t *testing.T) {
	marked := func(kv *mapKV) bool { return kv.data[headKey()][1]&flagNames != 0 }
	for name, work := range map[string]func(c *Container, f Fence) error{
		"restored": func(c *Container, f Fence) error { return c.Restore(bg, f) },
		"purged":   func(c *Container, f Fence) error { return c.PurgeDevice(bg, f) },
	} {
		t.Run(name, func(t *testing.T) {
			kv := newMapKV()
			c, d, f := open(t, kv, nameSeal)
			require.True(t, marked(kv))
			require.NoError(t, d.Delete(bg))
			require.True(t, marked(kv))
			require.NoError(t, work(c, f))
			require.True(t, marked(kv))
		})
	}
}

// Reseal changes how a row is sealed and nothing of what the row says of itself:
// that it has its id inside, that it stands in parts, that names are sealed. A
// library that does not know these marks must find them.
func TestResealKeepsTheMarksOfEveryRow(t *testing.T) {
	old, both := NewAESGCM(keyOf(5)), NewAESGCM(keyOf(6), keyOf(5))
	marks := func(kv *mapKV) map[Key]byte {
		out := make(map[Key]byte)
		for k, v := range kv.data {
			if k.Kind != kindPart { // these get other names
				out[k] = v[1] &^ flagSealed
			}
		}
		return out
	}
	for name, way := range map[string][]Option{
		"another key": {WithAEAD(both)},
		"no key":      {WithSealingRemoved(old)},
		"again":       {WithAEAD(foreignAEAD{old})},
	} {
		t.Run(name, func(t *testing.T) {
			kv := newMapKV()
			kv.limits = nameTests
			c, d, _ := open(t, kv, WithAEAD(old))
			furnish(t, d)
			require.NoError(t, d.SenderKeys.PutSenderKey(bg, "large@g.us", "7:0", validSenderKey(make([]byte, 4000))))
			require.NoError(t, d.Sessions.PutSession(bg, "bad:0", []byte("no session")))
			require.NoError(t, c.Close(bg))
			kv.setEpoch(kv.epoch + 1)
			c, d, _ = open(t, kv, WithAEAD(old))
			require.NoError(t, second(d.Sessions.GetSession(bg, "bad:0")))
			require.NoError(t, c.Close(bg))
			for _, n := range []int64{2, 5} { // an import that has begun, one that has written something
				kv.setEpoch(kv.epoch + 1)
				from, f := source(t)
				commits := kv.commits.Load()
				kv.before.set(func(op string, _ Batch) error {
					if op == "commit" && kv.commits.Load() > commits+n {
						return fmt.Errorf("%w: it breaks off", ErrTooLarge)
					}
					return nil
				})
				require.Error(t, second(Import(bg, FromKV("old", from, f), New(kv, WithAEAD(old)), newFence(kv.epoch), ReplaceDevice())))
				kv.before.set(nil)
			}
			before, want := marks(kv), tables(t, FromKV("kv", kv, newFence(kv.epoch), WithAEAD(old)))
			found := make(map[byte]bool)
			for _, m := range before {
				for _, flag := range []byte{flagNames, flagLongID, flagSplit} {
					found[flag] = found[flag] || m&flag != 0
				}
			}
			require.Equal(t, map[byte]bool{flagNames: true, flagLongID: true, flagSplit: true}, found)
			require.Positive(t, kv.count(kindImport))
			require.Positive(t, kv.count(kindQuarantine))
			for range 2 {
				kv.setEpoch(kv.epoch + 1)
				require.NoError(t, New(kv, way...).Reseal(bg, newFence(kv.epoch), nil))
				require.Equal(t, before, marks(kv))
				require.Equal(t, want, tables(t, FromKV("kv", kv, newFence(kv.epoch), way...)))
			}
		})
	}
}
