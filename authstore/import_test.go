package authstore

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
)

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

// No row stays of a device whose place an import takes: they
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
