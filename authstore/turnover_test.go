package authstore

import (
	"context"
	"maps"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
)

// A migration is done once a term: one that failed must not count, or the
// contact's sessions stay where no answer is looked for.
func TestFailedMigrationIsTriedAgain(t *testing.T) {
	kv := newMapKV()
	_, d, _ := open(t, kv)
	pn, lid := testJID(2), types.JID{User: "902", Device: 1, Server: types.HiddenUserServer}
	require.NoError(t, d.Sessions.PutSession(bg, pn.SignalAddress().String(), validSession(t, 7)))
	kv.refuse("session")
	require.ErrorIs(t, d.Sessions.MigratePNToLID(bg, pn, lid), ErrTooLarge)
	kv.before.set(nil)
	require.NoError(t, d.Sessions.MigratePNToLID(bg, pn, lid))
	v, err := d.Sessions.GetSession(bg, lid.SignalAddress().String())
	require.NoError(t, err)
	require.EqualValues(t, 7, sessionCounter(t, v))
	has, err := d.Sessions.HasSession(bg, pn.SignalAddress().String())
	require.NoError(t, err)
	require.False(t, has)
}

func macs(value byte, index ...byte) (list []store.AppStateMutationMAC) {
	for _, i := range index {
		list = append(list, store.AppStateMutationMAC{IndexMAC: []byte{i}, ValueMAC: []byte{value}})
	}
	return list
}

// A full sync may bring an older version of a MAC after a newer one.
func TestNewestMACOfAnIndexIsKept(t *testing.T) {
	kv := newMapKV()
	c, d, _ := open(t, kv)
	require.NoError(t, d.AppState.PutAppStateVersion(bg, "regular", 6, [128]byte{}))
	require.NoError(t, d.AppState.PutAppStateMutationMACs(bg, "regular", 5, macs(5, 1, 2)))
	require.NoError(t, d.AppState.PutAppStateMutationMACs(bg, "regular", 3, macs(3, 1)))
	require.NoError(t, d.AppState.PutAppStateMutationMACs(bg, "regular", 6, macs(6, 2)))
	look := func(index, want byte) {
		t.Helper()
		v, err := d.AppState.GetAppStateMutationMAC(bg, "regular", []byte{index})
		require.NoError(t, err)
		require.Equal(t, []byte{want}, v)
	}
	look(1, 5)
	look(2, 6)
	_, d, _ = reopen(t, kv, c)
	look(1, 5)
	look(2, 6)
}

// New patches are encrypted with the newest key, and every device must choose
// the same one.
func TestNewestAppStateKeyIsTheLatest(t *testing.T) {
	kv := newMapKV()
	_, d, _ := open(t, kv)
	for _, k := range []struct {
		id byte
		at int64
	}{{3, 5}, {1, 9}, {2, 9}, {4, 7}} {
		require.NoError(t, d.AppStateKeys.PutAppStateSyncKey(bg, []byte{k.id}, store.AppStateSyncKey{Data: []byte{k.id}, Timestamp: k.at}))
	}
	for range 20 { // whatever the order in memory is
		id, err := d.AppStateKeys.GetLatestAppStateSyncKeyID(bg)
		require.NoError(t, err)
		require.Equal(t, []byte{2}, id)
	}
	list, err := storeOf(d).GetAllAppStateSyncKeys(bg)
	require.NoError(t, err)
	var ids []byte
	for _, k := range list {
		ids = append(ids, k.Data...)
	}
	require.Equal(t, []byte{2, 1, 4, 3}, ids)
}

// Of a patch the version comes first, then what it removes, then what it adds. One
// that is cut off before the last of these calls is dropped whole, and fetched again
// by the next term: a version without its MACs makes a later patch fail.
func TestPatchIsOneStepWhateverEndsIt(t *testing.T) {
	patch := func(t *testing.T, d *store.Device) {
		require.NoError(t, d.AppState.PutAppStateVersion(bg, "regular", 7, [128]byte{7}))
		require.NoError(t, d.AppState.DeleteAppStateMutationMACs(bg, "regular", [][]byte{{1}}))
	}
	version := func(t *testing.T, d *store.Device) uint64 {
		v, _, err := d.AppState.GetAppStateVersion(bg, "regular")
		require.NoError(t, err)
		return v
	}
	for name, end := range map[string]func(t *testing.T, kv *mapKV, c *Container, old *store.Device, f *testFence) *store.Device{
		"the next device": func(t *testing.T, kv *mapKV, c *Container, _ *store.Device, f *testFence) *store.Device {
			d, err := c.Device(bg, f)
			require.NoError(t, err)
			return d
		},
		"the end of the term": func(t *testing.T, kv *mapKV, c *Container, _ *store.Device, _ *testFence) *store.Device {
			require.NoError(t, c.EndTerm(bg))
			_, d, _ := reopen(t, kv, c)
			return d
		},
		"a deletion that is taken back": func(t *testing.T, kv *mapKV, c *Container, old *store.Device, f *testFence) *store.Device {
			require.NoError(t, c.DeleteDevice(bg, old))
			require.NoError(t, c.Restore(bg, f))
			d, err := c.Device(bg, f)
			require.NoError(t, err)
			return d
		},
		"a flush and a kill": func(t *testing.T, kv *mapKV, _ *Container, d *store.Device, _ *testFence) *store.Device {
			require.NoError(t, storeOf(d).flush("test"))
			return killed(t, kv)
		},
		"a second without the rest": func(t *testing.T, kv *mapKV, _ *Container, _ *store.Device, _ *testFence) *store.Device {
			time.Sleep(2*soon + 1)
			synctest.Wait()
			return killed(t, kv) // it is durable by then
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				kv := newMapKV()
				c, d, f := open(t, kv)
				require.NoError(t, d.AppState.PutAppStateVersion(bg, "regular", 5, [128]byte{5}))
				require.NoError(t, d.AppState.PutAppStateMutationMACs(bg, "regular", 5, macs(5, 1, 2)))
				patch(t, d)
				d = end(t, kv, c, d, f)
				wantVersion, removed := 5, []byte{5}
				if strings.HasPrefix(name, "a second") { // then it counts as complete
					wantVersion, removed = 7, nil
				}
				require.EqualValues(t, wantVersion, version(t, d))
				for index, want := range map[byte][]byte{1: removed, 2: {5}} {
					v, err := d.AppState.GetAppStateMutationMAC(bg, "regular", []byte{index})
					require.NoError(t, err)
					require.Equal(t, want, v)
				}
			})
		})
	}
	t.Run("a deletion of the collection", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			kv := newMapKV()
			_, d, _ := open(t, kv)
			patch(t, d)
			require.NoError(t, d.AppState.DeleteAppStateVersion(bg, "regular"))
			time.Sleep(2 * soon)
			synctest.Wait()
			require.Zero(t, version(t, d), "what was on its way does not come back")
			require.Zero(t, kv.count("appstate"))
		})
	})
}

// A read whose write never came holds a receive up for three seconds from the
// read, not from the moment at which somebody wants the session.
func TestReadWithoutWriteIsGivenUpAfterThreeSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, d, _ := open(t, newMapKV())
		require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)))
		var wg sync.WaitGroup
		wg.Go(func() {
			_, err := d.Sessions.GetSession(bg, "1:0")
			require.NoError(t, err)
		})
		wg.Wait()
		time.Sleep(2 * time.Second)
		asked := time.Now()
		require.NoError(t, receiveStep(t, d, "1:0", 0))
		require.Equal(t, time.Second, time.Since(asked))
	})
}

// More in the target than in the source is as wrong as less.
func TestRowTooManyIsNoVerifiedImport(t *testing.T) {
	for name, damaged := range map[string]bool{"a whole row": false, "a damaged row": true} {
		t.Run(name, func(t *testing.T) {
			kv, f := source(t)
			to := newMapKV()
			c := New(to)
			added := 0
			_, err := Import(bg, FromKV("old", kv, f), c, newFence(1), OnProgress(func(p Progress) {
				if p.Phase != "copy" || p.Kind != "session" || p.Done != p.Total || added > 0 {
					return
				}
				to.mu.Lock()
				defer to.mu.Unlock()
				for k, v := range maps.Clone(to.data) {
					if gen, id, _ := strings.Cut(k.ID, "/"); k.Kind == "session" && added == 0 {
						more := Key{k.Kind, gen + "/9" + id}
						if !damaged {
							b, err := c.cfg.codec.encode(more, "9"+id, false, validSession(t, 1))
							require.NoError(t, err)
							v = string(b)
						}
						to.data[more] = v
						added++
					}
				}
			}))
			require.Equal(t, 1, added)
			require.ErrorIs(t, err, ErrNotVerified)
			info, err := New(to).Info(bg)
			require.NoError(t, err)
			require.False(t, info.Exists, "the target is what it was")
		})
	}
}

// Nothing of a device is the next one's, not even in memory.
func TestDeviceOfAnotherNumberStartsAfresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		c, d, _ := open(t, kv)
		pn, lid := testJID(2), types.JID{User: "902", Device: 1, Server: types.HiddenUserServer}
		secret := func() []byte {
			v, _, err := d.MsgSecrets.GetMessageSecret(bg, pn, pn, "M")
			require.NoError(t, err)
			return v
		}
		live := func(counter uint32) {
			t.Helper()
			require.NoError(t, d.Sessions.PutSession(bg, pn.SignalAddress().String(), validSession(t, counter)))
			require.NoError(t, d.Sessions.MigratePNToLID(bg, pn, lid))
			require.NoError(t, d.MsgSecrets.PutMessageSecret(bg, pn, pn, "M", []byte{byte(counter)}))
			require.NoError(t, d.AppState.PutAppStateMutationMACs(bg, "regular", uint64(counter), macs(byte(counter), 1)))
			require.NoError(t, d.SenderKeys.PutSenderKey(bg, "1@g.us", pn.SignalAddress().String(), validSenderKey([]byte{byte(counter)})))
			require.NoError(t, d.EventBuffer.PutBufferedEvent(bg, [32]byte{byte(counter)}, []byte("hello"), time.Unix(1, 0)))
			require.NoError(t, d.EventBuffer.ClearBufferedEventPlaintext(bg, [32]byte{byte(counter)}))
			v, err := d.Sessions.GetSession(bg, lid.SignalAddress().String())
			require.NoError(t, err)
			require.NotNil(t, v, "the sessions have moved")
			require.EqualValues(t, counter, sessionCounter(t, v))
			require.Equal(t, []byte{byte(counter)}, secret())
		}
		live(7)
		pair(t, d, testJID(5))
		for _, addr := range []string{pn.SignalAddress().String(), lid.SignalAddress().String()} {
			v, err := d.Sessions.GetSession(bg, addr)
			require.NoError(t, err)
			require.Nil(t, v)
			key, err := d.SenderKeys.GetSenderKey(bg, "1@g.us", addr)
			require.NoError(t, err)
			require.Nil(t, key)
		}
		require.Nil(t, secret())
		mac, err := d.AppState.GetAppStateMutationMAC(bg, "regular", []byte{1})
		require.NoError(t, err)
		require.Nil(t, mac)
		e, err := d.EventBuffer.GetBufferedEvent(bg, [32]byte{7})
		require.NoError(t, err)
		require.Nil(t, e)
		live(3)

		_, d, _ = reopen(t, kv, c)
		require.Equal(t, testJID(5), *d.ID)
		require.Equal(t, []byte{3}, secret())
		e, err = d.EventBuffer.GetBufferedEvent(bg, [32]byte{3})
		require.NoError(t, err)
		require.NotNil(t, e)
		require.NoError(t, storeOf(d).gate.check(""))
	})
}

// A write that is on its way to the store when a term ends has landed before the lock is
// released: afterwards it would be refused.
func TestEndOfTermWaitsForWhatIsOnItsWay(t *testing.T) {
	for name, end := range map[string]func(c *Container, f *testFence) error{
		"EndTerm":         func(c *Container, _ *testFence) error { return c.EndTerm(bg) },
		"Close":           func(c *Container, _ *testFence) error { return c.Close(bg) },
		"the next device": func(c *Container, f *testFence) error { return second(c.Device(bg, f)) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				kv := newMapKV()
				c, _, _ := open(t, kv)
				c, d, f := reopen(t, kv, c) // which has no numbers to store at its end
				release := kv.holdCommit("identity")
				require.NoError(t, d.Identities.PutIdentity(bg, "1:0", [32]byte{1}))
				time.Sleep(soon + 1) // it is being saved now
				synctest.Wait()
				done := make(chan error, 1)
				go func() { done <- end(c, f) }()
				time.Sleep(time.Second)
				synctest.Wait()
				require.Empty(t, done)
				release()
				require.NoError(t, <-done)
				require.Equal(t, 1, kv.count("identity"))
			})
		})
	}
}

// A session that is written without having been read has no read to protect, but
// it does not land in the middle of somebody else's work, which would write over
// it.
func TestWriteWithoutAReadWaitsForOthers(t *testing.T) {
	works := map[string]func(t *testing.T, d *store.Device) error{
		"a send":    func(t *testing.T, d *store.Device) error { return sendStep(t, d, []string{"1:0", "2:0"}, time.Second) },
		"a receive": func(t *testing.T, d *store.Device) error { return receiveStep(t, d, "1:0", time.Second) },
	}
	writes := map[string]func(t *testing.T, d *store.Device) error{
		"one": func(t *testing.T, d *store.Device) error {
			return d.Sessions.PutSession(bg, "1:0", validSession(t, 100))
		},
		"in a transaction": func(t *testing.T, d *store.Device) error {
			return d.EventBuffer.DoDecryptionTxn(bg, func(ctx context.Context) error {
				return d.Sessions.PutSession(ctx, "1:0", validSession(t, 100))
			})
		},
		"some in a transaction": func(t *testing.T, d *store.Device) error {
			return d.EventBuffer.DoDecryptionTxn(bg, func(ctx context.Context) error {
				return d.Sessions.PutManySessions(ctx, map[string][]byte{"1:0": validSession(t, 100), "3:0": validSession(t, 100)})
			})
		},
	}
	for work, begin := range works {
		for name, write := range writes {
			t.Run(name+" during "+work, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					kv := newMapKV()
					c, d, _ := open(t, kv)
					require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)))
					began := time.Now()
					done := make(chan error, 1)
					go func() { done <- begin(t, d) }()
					synctest.Wait()
					require.NoError(t, write(t, d))
					require.Equal(t, time.Second, time.Since(began), "it waits, and no longer than it must")
					require.NoError(t, <-done)
					for range 2 {
						v, err := d.Sessions.GetSession(bg, "1:0")
						require.NoError(t, err)
						require.EqualValues(t, 100, sessionCounter(t, v), "what was written last stands")
						c, d, _ = reopen(t, kv, c)
					}
				})
			})
		}
	}
}
