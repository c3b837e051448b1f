package authstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
)

// furnish puts something into every table.
func furnish(t testing.TB, d *store.Device) {
	t.Helper()
	for i := range 30 {
		addr := fmt.Sprintf("%d:0", 15550100+i)
		require.NoError(t, d.Sessions.PutSession(bg, addr, validSession(t, uint32(i+1))))
		require.NoError(t, d.Identities.PutIdentity(bg, addr, [32]byte{byte(i)}))
		require.NoError(t, d.SenderKeys.PutSenderKey(bg, "120363@g.us", addr, validSenderKey([]byte{1, byte(i)})))
		require.NoError(t, d.MsgSecrets.PutMessageSecret(bg, testJID(i), testJID(2), types.MessageID(fmt.Sprint("M", i)), []byte{2, byte(i)}))
		_, _, err := d.Contacts.PutPushName(bg, testJID(i), fmt.Sprint("name ", i))
		require.NoError(t, err)
		require.NoError(t, d.LIDs.PutLIDMapping(bg, types.NewJID(fmt.Sprint(900+i), types.HiddenUserServer), types.NewJID(fmt.Sprint(15550100+i), types.DefaultUserServer)))
		require.NoError(t, d.EventBuffer.PutBufferedEvent(bg, [32]byte{byte(i)}, []byte("plain"), time.Unix(1000, 0)))
		if i%2 == 0 {
			require.NoError(t, d.EventBuffer.ClearBufferedEventPlaintext(bg, [32]byte{byte(i)}))
		}
	}
	own := d.GetLID().SignalAddress().String()
	require.NoError(t, d.SenderKeys.PutSenderKey(bg, "120363@g.us", own, validSenderKey([]byte("own"))))
	list, err := d.PreKeys.GetOrGenPreKeys(bg, 20)
	require.NoError(t, err)
	require.NoError(t, d.PreKeys.MarkPreKeysAsUploaded(bg, list[14].KeyID))
	require.NoError(t, d.AppStateKeys.PutAppStateSyncKey(bg, []byte{0, 1}, store.AppStateSyncKey{Data: []byte{3}, Fingerprint: []byte{4}, Timestamp: 5}))
	require.NoError(t, d.AppState.PutAppStateVersion(bg, "regular", 7, [128]byte{8}))
	require.NoError(t, d.AppState.PutAppStateMutationMACs(bg, "regular", 7, []store.AppStateMutationMAC{{IndexMAC: make([]byte, 32), ValueMAC: []byte{9}}}))
	require.NoError(t, d.ChatSettings.PutMutedUntil(bg, testJID(3), store.MutedForever))
	require.NoError(t, d.PrivacyTokens.PutPrivacyTokens(bg, store.PrivacyToken{User: testJID(4), Token: []byte("t"), Timestamp: time.Unix(6, 0)}))
	require.NoError(t, storeOf(d).AddOutgoingEvent(bg, testJID(5), "OUT", "wa", []byte("sent")))
	require.NoError(t, storeOf(d).c.PutMessageEntry(bg, "M", []byte("an entry"), true))
	require.NoError(t, storeOf(d).PutNCTSalt(bg, []byte("salt")))
	require.NoError(t, d.MsgSecrets.PutMessageSecret(bg, testJID(9), testJID(9), types.MessageID(strings.Repeat("é/", 700)), make([]byte, 5000)))
}

// source is a furnished account whose term goes on.
func source(t testing.TB, opts ...Option) (*mapKV, *testFence) {
	t.Helper()
	kv := newMapKV()
	kv.setEpoch(77)
	c, d, f := open(t, kv, opts...)
	furnish(t, d)
	require.NoError(t, c.Close(bg))
	return kv, f
}

// tables is everything that src gives.
func tables(t testing.TB, src Source) map[Kind]map[string][]byte {
	t.Helper()
	v, err := src.open(bg)
	require.NoError(t, err)
	defer v.close()
	out := make(map[Kind]map[string][]byte)
	for _, id := range importOrder() {
		im, err := v.table(bg, id)
		require.NoError(t, err)
		rows := maps.Clone(im.rowsIn(id))
		for k, v := range rows {
			if v == nil {
				rows[k] = []byte{}
			}
		}
		if len(rows) > 0 {
			out[specOf(id).kind] = rows
		}
	}
	return out
}

func TestAnImportedDeviceIsTheSameUnderAnotherSealAndOtherLimits(t *testing.T) {
	kv, f := source(t)
	src := FromKV("old", kv, f)
	want := tables(t, src)
	require.Len(t, want, int(numTables)-1, "every table has something in it")

	to := newMapKV()
	to.limits = Limits{MaxValue: 1000, MaxBatch: 3000, MaxKeys: 10}
	key := WithAEAD(NewAESGCM([32]byte{9}))
	c := New(to, key)
	var steps []Progress
	r, err := Import(bg, src, c, newFence(1), OnProgress(func(p Progress) { steps = append(steps, p) }))
	require.NoError(t, err)
	require.Equal(t, testJID(1), r.JID)
	require.False(t, r.Resumed)
	require.Equal(t, r.Rows, r.Written)
	require.Equal(t, r.Rows, r.Verified)
	require.Equal(t, 30, r.Entries["session"])
	require.Empty(t, r.Warnings)
	require.Equal(t, "verify", steps[len(steps)-1].Phase)
	require.Equal(t, importTables, steps[len(steps)-1].Table)
	require.Equal(t, r.Bytes, steps[len(steps)-1].Bytes)
	require.Positive(t, to.count(kindPart))
	require.Zero(t, to.count(kindImport))

	require.Equal(t, want, tables(t, FromKV("new", to, newFence(1), key)))
	d, err := c.Device(bg, newFence(1))
	require.NoError(t, err)
	defer c.Close(bg)
	require.Equal(t, testJID(1), *d.ID)
	s, err := d.Sessions.GetSession(bg, "15550105:0")
	require.NoError(t, err)
	require.EqualValues(t, 6, sessionCounter(t, s))
	// The first write of a secret wins, also over one in a term with a lower number.
	require.NoError(t, d.MsgSecrets.PutMessageSecret(bg, testJID(1), testJID(2), "M1", []byte("later")))
	secret, _, err := d.MsgSecrets.GetMessageSecret(bg, testJID(1), testJID(2), "M1")
	require.NoError(t, err)
	require.Equal(t, []byte{2, 1}, secret)
}

func TestAnImportKilledAnywhereIsNoDeviceAndCanGoOn(t *testing.T) {
	t.Parallel()
	kv, f := source(t)
	src := FromKV("old", kv, f)
	want := tables(t, src)
	limits := Limits{MaxValue: 2000, MaxBatch: 4000, MaxKeys: 20}
	for _, lost := range []bool{false, true} {
		for at := int64(1); ; at++ {
			to := newMapKV()
			to.limits = limits
			dead := errors.New("the process is gone")
			hook := func(op string, _ Batch) error {
				if op == "commit" && to.commits.Load() >= at {
					return fmt.Errorf("%w: %w", ErrFenced, dead)
				}
				return nil
			}
			if lost {
				to.after.set(hook)
			} else {
				to.before.set(hook)
			}
			_, err := Import(bg, src, New(to), newFence(1))
			if err == nil {
				require.Greater(t, at, int64(10))
				break
			}
			require.ErrorIs(t, err, dead)
			to.before.set(nil)
			to.after.set(nil)
			to.setEpoch(2)
			done := false
			next := New(to)
			d, err := next.Device(bg, newFence(2))
			require.NoError(t, err)
			if d.ID != nil {
				require.True(t, lost, "the last commit landed, only its answer is missing")
				done = true
			}
			require.NoError(t, next.Close(bg))
			if !done {
				r, err := Import(bg, src, New(to), newFence(2))
				require.NoError(t, err)
				require.Equal(t, at > 1 || lost, r.Resumed)
				require.Equal(t, r.Rows, r.Written+r.Kept)
			}
			require.Equal(t, want, tables(t, FromKV("new", to, newFence(2))))
		}
	}
}

func TestADryRunCountsAndWritesNothing(t *testing.T) {
	kv, f := source(t)
	to := newMapKV()
	r, err := Import(bg, FromKV("old", kv, f), New(to), newFence(1), DryRun())
	require.NoError(t, err)
	require.True(t, r.DryRun)
	require.Equal(t, 20, r.Entries["prekey"])
	require.Positive(t, r.Rows)
	require.Zero(t, r.Written)
	require.Zero(t, to.commits.Load())
}

func TestAPairedDeviceIsReplacedOnlyWhenTold(t *testing.T) {
	kv, f := source(t)
	src := FromKV("old", kv, f)
	to := newMapKV()
	c, d, tf := open(t, to)
	require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)))
	require.NoError(t, d.LIDs.PutLIDMapping(bg, types.NewJID("77", types.HiddenUserServer), types.NewJID("15550103", types.DefaultUserServer)))
	require.NoError(t, d.LIDs.PutLIDMapping(bg, types.NewJID("78", types.HiddenUserServer), types.NewJID("66", types.DefaultUserServer)))
	_, err := Import(bg, src, c, tf)
	require.ErrorIs(t, err, ErrTargetPaired)
	require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 2)), "the device goes on")

	_, err = Import(bg, src, c, tf, ReplaceDevice())
	require.NoError(t, err)
	require.ErrorIs(t, d.Sessions.PutSession(bg, "1:0", nil), ErrSuperseded)
	d, err = c.Device(bg, tf)
	require.NoError(t, err)
	s, err := d.Sessions.GetSession(bg, "1:0")
	require.NoError(t, err)
	require.Nil(t, s)
	// The LID map is joined, and each name stands in it once.
	for pn, lid := range map[string]string{"15550103": "903", "66": "78"} {
		got, err := d.LIDs.GetLIDForPN(bg, types.NewJID(pn, types.DefaultUserServer))
		require.NoError(t, err)
		require.Equal(t, lid, got.User)
	}
	old, err := d.LIDs.GetPNForLID(bg, types.NewJID("77", types.HiddenUserServer))
	require.NoError(t, err)
	require.True(t, old.IsEmpty())
	login(t, d)
	c.cfg.background.Wait()
	to.mu.Lock()
	defer to.mu.Unlock()
	for k := range to.data {
		require.False(t, strings.HasPrefix(k.ID, "d0/"), "the replaced device is purged: %v", k)
	}
}

func TestASourceThatMayBeInUseIsRefused(t *testing.T) {
	kv, f := source(t)
	to := newMapKV()
	_, err := Import(bg, FromKV("old", kv, nil), New(to), newFence(1))
	require.ErrorIs(t, err, ErrSourceInUse)
	_, err = Import(bg, FromSQL(nil, types.JID{}), New(to), newFence(1))
	require.ErrorIs(t, err, ErrSourceInUse)
	live, _, _ := open(t, newMapKV())
	_, err = Import(bg, FromContainer(live), New(to), newFence(1))
	require.ErrorIs(t, err, ErrSourceInUse)
	require.Zero(t, to.commits.Load())

	_, err = Import(bg, FromKV("old", kv, f), New(to), newFence(1), OnProgress(func(p Progress) {
		if p.Phase == "verify" && p.Kind == "session" {
			f.lost.Store(true)
		}
	}))
	require.ErrorIs(t, err, ErrSourceInUse)
	d, err := New(to).Device(bg, newFence(1))
	require.NoError(t, err)
	require.Nil(t, d.ID)
}

func TestASourceThatChangesIsNoticed(t *testing.T) {
	kv, f := source(t)
	to := newMapKV()
	c, d, _ := open(t, kv)
	src := FromKV("old", kv, f)
	_, err := Import(bg, src, New(to), newFence(1), OnProgress(func(p Progress) {
		if p.Phase == "verify" && p.Kind == "device" {
			require.NoError(t, d.Sessions.PutSession(bg, "15550100:0", validSession(t, 500)))
		}
	}))
	require.ErrorIs(t, err, ErrSourceChanged)
	fresh, err := New(to).Device(bg, newFence(1))
	require.NoError(t, err)
	require.Nil(t, fresh.ID)
	require.NoError(t, c.Close(bg))

	r, err := Import(bg, src, New(to), newFence(1))
	require.NoError(t, err)
	require.True(t, r.Resumed)
	require.Less(t, r.Written, 5)
	require.Equal(t, tables(t, src), tables(t, FromKV("new", to, newFence(1))))
}

func TestATargetThatKeepsSomethingElseIsNoticed(t *testing.T) {
	kv, f := source(t)
	for what, change := range map[string]func(to *mapKV, c *Container, k Key, v string){
		"nothing": func(to *mapKV, _ *Container, k Key, _ string) { delete(to.data, k) },
		"damage":  func(to *mapKV, _ *Container, k Key, v string) { to.data[k] = v[:len(v)-1] + "x" },
		"another session": func(to *mapKV, c *Container, k Key, _ string) {
			_, id, _ := strings.Cut(k.ID, "/")
			b, err := c.cfg.codec.encode(k, id, false, validSession(t, 99))
			require.NoError(t, err)
			to.data[k] = string(b)
		},
	} {
		to := newMapKV()
		c := New(to)
		_, err := Import(bg, FromKV("old", kv, f), c, newFence(1), OnProgress(func(p Progress) {
			if p.Phase != "verify" || p.Kind != "device" {
				return
			}
			to.mu.Lock()
			defer to.mu.Unlock()
			for k, v := range maps.Clone(to.data) {
				if k.Kind == "session" {
					change(to, c, k, v)
				}
			}
		}))
		require.ErrorIs(t, err, ErrNotVerified, what)
		d, err := New(to).Device(bg, newFence(1))
		require.NoError(t, err)
		require.Nil(t, d.ID)
	}
}

func TestAnUnfinishedImportCanBeDropped(t *testing.T) {
	kv, f := source(t)
	to := newMapKV()
	ctx, cancel := context.WithCancel(bg)
	_, err := Import(ctx, FromKV("old", kv, f), New(to), newFence(1), OnProgress(func(p Progress) {
		if p.Kind == "contact" {
			cancel()
		}
	}))
	require.ErrorIs(t, err, context.Canceled)
	require.Positive(t, to.count("session"))
	require.NoError(t, DropImport(bg, New(to), newFence(1)))
	to.mu.Lock()
	require.Empty(t, to.data)
	to.mu.Unlock()

	// And a device that is paired beside one is not mixed up with it.
	ctx, cancel = context.WithCancel(bg)
	_, err = Import(ctx, FromKV("old", kv, f), New(to), newFence(1), OnProgress(func(p Progress) {
		if p.Kind == "contact" {
			cancel()
		}
	}))
	require.ErrorIs(t, err, context.Canceled)
	c, d, tf := open(t, to)
	ok, err := d.Sessions.HasSession(bg, "15550100:0")
	require.NoError(t, err)
	require.False(t, ok)
	_, err = Import(bg, FromKV("old", kv, f), c, tf)
	require.ErrorIs(t, err, ErrTargetPaired)
}

func TestAnUnfinishedImportGoesOnUnderANewKey(t *testing.T) {
	kv, f := source(t)
	src := FromKV("old", kv, f)
	to := newMapKV()
	to.limits = Limits{MaxValue: 2000, MaxBatch: 4000, MaxKeys: 20}
	ctx, cancel := context.WithCancel(bg)
	_, err := Import(ctx, src, New(to, WithAEAD(NewAESGCM([32]byte{1}))), newFence(1), OnProgress(func(p Progress) {
		if p.Kind == "contact" {
			cancel()
		}
	}))
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, New(to, WithAEAD(NewAESGCM([32]byte{2}, [32]byte{1}))).Reseal(bg, newFence(1), nil))
	key := WithAEAD(NewAESGCM([32]byte{2}))
	r, err := Import(bg, src, New(to, key), newFence(1))
	require.NoError(t, err)
	require.True(t, r.Resumed)
	require.Positive(t, r.Kept)
	require.Equal(t, tables(t, src), tables(t, FromKV("new", to, newFence(1), key)))
}

func TestARetiredSourceLogsInNoMoreAndCanBeRestored(t *testing.T) {
	kv, f := source(t)
	src := FromKV("old", kv, f)
	want := tables(t, src)
	_, err := Import(bg, src, New(newMapKV()), newFence(1), RetireSource())
	require.NoError(t, err)
	c := New(kv)
	info, err := c.Info(bg)
	require.NoError(t, err)
	require.True(t, info.Deleted)
	require.Equal(t, "moved to another store", info.Reason)
	_, err = Import(bg, src, New(newMapKV()), newFence(1))
	require.ErrorIs(t, err, ErrNoDevice)
	require.NoError(t, c.Restore(bg, f))
	require.Equal(t, want, tables(t, src))
}

// An import that was dropped leaves nothing, and no part of a value either: the
// account is paired as if it had never been.
func TestDroppedImportLeavesNoParts(t *testing.T) {
	kv, f := source(t)
	to := newMapKV()
	to.limits = Limits{MaxValue: 2000, MaxBatch: 4000, MaxKeys: 20}
	ctx, cancel := context.WithCancel(bg)
	_, err := Import(ctx, FromKV("old", kv, f), New(to), newFence(1), OnProgress(func(p Progress) {
		if p.Kind == "outgoing" {
			cancel()
		}
	}))
	require.ErrorIs(t, err, context.Canceled)
	require.Positive(t, to.count(kindPart))
	require.NoError(t, DropImport(bg, New(to), newFence(1)))
	require.Empty(t, to.data)
	open(t, to)
}

// The account's LID map is not the import's to replace: a row of it that cannot
// be read stops the import, and stays as it is.
func TestImportDoesNotWriteOverAMapItCannotRead(t *testing.T) {
	kv, f := source(t)
	for name, c := range map[string]struct {
		spoil func(raw string) string
		want  error
	}{
		"newer":   {func(raw string) string { return "\x02" + raw[1:] }, ErrNewerFormat},
		"damaged": {func(raw string) string { return raw[:len(raw)-1] + "\x00" }, ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			to := newMapKV()
			tc, d, _ := open(t, to)
			require.NoError(t, d.LIDs.PutLIDMapping(bg, types.NewJID("901", types.HiddenUserServer), types.NewJID("1999", types.DefaultUserServer)))
			require.NoError(t, tc.DeleteDevice(bg, d))
			require.NoError(t, tc.Close(bg))
			before := make(map[Key]string)
			for k, raw := range to.data {
				if k.Kind == "lid" {
					before[k] = c.spoil(raw)
					to.data[k] = before[k]
				}
			}
			require.NotEmpty(t, before)
			_, err := Import(bg, FromKV("old", kv, f), New(to), newFence(1))
			require.ErrorIs(t, err, c.want)
			for k, raw := range before {
				require.Equal(t, raw, to.data[k])
			}
		})
	}
}

// Whatever device an import takes the place of, none of its rows stays: they
// have its keys, and nothing else would ever find them.
func TestImportLeavesNothingOfTheDevicesBeforeIt(t *testing.T) {
	ways := map[string]func(from *mapKV, f *testFence, c *Container, tf *testFence) error{
		"import": func(from *mapKV, f *testFence, c *Container, tf *testFence) error {
			return second(Import(bg, FromKV("old", from, f), c, tf, ReplaceDevice()))
		},
		"restore": func(from *mapKV, f *testFence, c *Container, tf *testFence) error {
			var archive bytes.Buffer
			if _, err := Export(bg, FromKV("old", from, f), &archive, archiveKey); err != nil {
				return err
			}
			return second(Restore(bg, &archive, archiveKey, c, tf, ReplaceDevice()))
		},
	}
	anew := func(t *testing.T, c *Container, d *store.Device, f *testFence) *store.Device {
		require.NoError(t, c.DeleteDevice(bg, d))
		d, err := c.Device(bg, f)
		require.NoError(t, err)
		pair(t, d, testJID(5))
		furnishSome(t, d)
		return d
	}
	states := map[string]func(t *testing.T, kv *mapKV, c *Container, d *store.Device, f *testFence){
		"a paired device": func(t *testing.T, _ *mapKV, _ *Container, d *store.Device, _ *testFence) { login(t, d) },
		"a deleted device": func(t *testing.T, _ *mapKV, c *Container, d *store.Device, _ *testFence) {
			require.NoError(t, c.DeleteDevice(bg, d))
		},
		"a deleted device, and a new one that has not logged in": func(t *testing.T, _ *mapKV, c *Container, d *store.Device, f *testFence) {
			anew(t, c, d, f)
		},
		"a pairing that came to nothing": func(t *testing.T, _ *mapKV, c *Container, d *store.Device, f *testFence) {
			d = anew(t, c, d, f)
			require.NoError(t, c.DeleteDevice(bg, d))
		},
		"a purge that broke off": func(t *testing.T, kv *mapKV, c *Container, d *store.Device, f *testFence) {
			require.NoError(t, c.DeleteDevice(bg, d))
			commits := 0
			kv.before.set(func(op string, b Batch) error {
				if op == "commit" {
					if commits++; commits > 1 {
						return ErrCorrupt
					}
				}
				return nil
			})
			require.Error(t, c.PurgeDevice(bg, f))
			kv.before.set(nil)
		},
		"two purges that broke off": func(t *testing.T, kv *mapKV, c *Container, d *store.Device, f *testFence) {
			kv.before.set(func(op string, b Batch) error {
				if op == "commit" && len(b.Delete) > 0 && len(b.Put) == 0 {
					return ErrCorrupt
				}
				return nil
			})
			require.NoError(t, c.DeleteDevice(bg, d))
			require.Error(t, c.PurgeDevice(bg, f))
			d, err := c.Device(bg, f)
			require.NoError(t, err)
			pair(t, d, testJID(5))
			furnishSome(t, d)
			require.NoError(t, c.DeleteDevice(bg, d))
			require.Error(t, c.PurgeDevice(bg, f))
			kv.before.set(nil)
		},
	}
	for state, prepare := range states {
		for way, move := range ways {
			t.Run(way+" over "+state, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					from, f := source(t)
					kv := newMapKV()
					c, d, tf := open(t, kv)
					furnishSome(t, d)
					prepare(t, kv, c, d, tf)
					require.NoError(t, move(from, f, c, tf))
					d, err := c.Device(bg, tf)
					require.NoError(t, err)
					login(t, d) // the one that it replaced is kept until then
					synctest.Wait()
					gens := make(map[string]int)
					for k := range kv.data {
						gen, _, _ := strings.Cut(k.ID, "/")
						gens[gen]++
					}
					s := storeOf(d)
					s.mu.Lock()
					h := s.head
					s.mu.Unlock()
					require.Positive(t, gens[h.Gen])
					delete(gens, h.Gen)
					delete(gens, globalGen)
					require.Empty(t, gens)
					require.Empty(t, h.Purge)
					// Should the service not know the device any more, it is the
					// one that can be restored.
					require.NoError(t, c.DeleteDevice(bg, d))
					info, err := c.Info(bg)
					require.NoError(t, err)
					require.True(t, info.Deleted)
					require.Equal(t, *d.ID, info.JID)
					require.NoError(t, c.Restore(bg, tf))
					require.NoError(t, second(c.Device(bg, tf)))
					require.NoError(t, c.Close(bg))
				})
			})
		}
	}
}

// furnishSome puts something into some tables.
func furnishSome(t *testing.T, d *store.Device) {
	t.Helper()
	require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)))
	require.NoError(t, d.SenderKeys.PutSenderKey(bg, "1@g.us", "1:0", validSenderKey([]byte{1})))
	require.NoError(t, d.MsgSecrets.PutMessageSecret(bg, testJID(1), testJID(2), "ID", []byte("secret")))
	require.NoError(t, storeOf(d).flush("test"))
}
