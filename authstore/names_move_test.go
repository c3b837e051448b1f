package authstore

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/types"

	"github.com/wastability/wastability/stability/stabilitytest"
)

func TestPlainNamesAreMovedWhileTheDeviceWorks(t *testing.T) {
	kv := plainNames(t)
	want := content(t, kv)
	c, d, _ := open(t, kv, nameSeal, WithSealedNames())
	for i := range 30 {
		key, err := d.SenderKeys.GetSenderKey(bg, "120363@g.us", fmt.Sprintf("%d:0", 15550100+i))
		require.NoError(t, err)
		require.NotNil(t, key)
		secret, _, err := d.MsgSecrets.GetMessageSecret(bg, testJID(i), testJID(2), fmt.Sprint("M", i))
		require.NoError(t, err)
		require.NotNil(t, secret)
	}
	c.cfg.background.Wait()
	require.Empty(t, telling(kv))
	require.False(t, moving(t, kv))
	require.Equal(t, want, content(t, kv))
	commits := kv.Commits()
	c, d, _ = reopen(t, kv, c, nameSeal) // the option is not needed any more
	c.cfg.background.Wait()
	require.Equal(t, commits, kv.Commits(), "done is done")
	key, err := d.SenderKeys.GetSenderKey(bg, "120363@g.us", "15550104:0")
	require.NoError(t, err)
	require.Equal(t, validSenderKey([]byte{1, 4}), key)
	format, text, err := storeOf(d).GetOutgoingEvent(bg, testJID(5), types.EmptyJID, "OUT")
	require.NoError(t, err)
	require.Equal(t, "wa sent", format+" "+string(text))
	require.NoError(t, c.Close(bg))
	require.Equal(t, want, content(t, kv))
}

// A kill at every commit of the move, before it or after it: nothing is lost,
// and the next term goes on.
func TestMoveKilledAnywhereLosesNothing(t *testing.T) {
	whole := plainNames(t)
	want := content(t, whole)
	for _, lost := range []bool{false, true} {
		for at := int64(1); ; at++ {
			kv := newMapKV()
			kv.data, kv.limits, kv.epoch = maps.Clone(whole.data), whole.limits, whole.epoch
			died := false
			hook := func(op string, _ Batch) error {
				if op == "commit" && kv.commits.Load() >= at {
					died = true
					return ErrFenced
				}
				return nil
			}
			if lost {
				kv.after.set(hook)
			} else {
				kv.before.set(hook)
			}
			c := New(kv, nameSeal, WithSealedNames())
			_, err := c.Device(bg, newFence(kv.epoch))
			if err == nil {
				c.cfg.background.Wait()
			}
			_ = c.Close(bg)
			kv.before.set(nil)
			kv.after.set(nil)
			require.Equal(t, want, content(t, kv), "killed at commit %d", at)
			kv.setEpoch(kv.epoch + 1)
			c = New(kv, nameSeal, WithSealedNames())
			_, err = c.Device(bg, newFence(kv.epoch))
			require.NoError(t, err)
			c.cfg.background.Wait()
			require.NoError(t, c.Close(bg))
			require.Empty(t, telling(kv))
			require.False(t, moving(t, kv))
			require.Equal(t, want, content(t, kv))
			if !died {
				require.Greater(t, at, int64(5))
				break
			}
		}
	}
}

// Writes, deletes and migrations while rows move, with kills at random: what
// was acknowledged is what the next term reads.
func TestWritesDuringAMoveSurviveKills(t *testing.T) {
	t.Parallel()
	whole := plainNames(t)
	for seed := range uint64(stabilitytest.Pick(40, 1000)) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		kv := newMapKV()
		kv.data, kv.limits, kv.epoch = maps.Clone(whole.data), whole.limits, whole.epoch
		sessions, keys := make(map[string]uint32), make(map[string]byte)
		for i := range 30 {
			addr := fmt.Sprintf("%d:0", 15550100+i)
			sessions[addr], keys[addr] = uint32(i+1), byte(i)
		}
		for range 4 {
			dieAt := kv.commits.Load() + 1 + rnd.Int64N(12)
			dead := func(op string, _ Batch) error {
				if op == "commit" && kv.commits.Load() >= dieAt {
					return ErrFenced
				}
				return nil
			}
			kv.before.set(dead)
			unsure, migrated := make(map[string]bool), make(map[string]bool)
			c := New(kv, nameSeal, WithSealedNames())
			d, err := c.Device(bg, newFence(kv.epoch))
			for err == nil {
				addr := fmt.Sprintf("%d:0", 15550100+rnd.IntN(30))
				switch n := rnd.Uint32N(1000) + 100; rnd.IntN(4) {
				case 0:
					if err = d.Sessions.PutSession(bg, addr, validSession(t, n)); err == nil {
						sessions[addr] = n
					}
				case 1:
					if err = d.Sessions.DeleteSession(bg, addr); err == nil {
						delete(sessions, addr)
					}
				case 2:
					if err = d.SenderKeys.PutSenderKey(bg, "120363@g.us", addr, validSenderKey([]byte{1, byte(n)})); err == nil {
						keys[addr] = byte(n)
					}
				case 3:
					pn := types.NewJID(strings.TrimSuffix(addr, ":0"), types.DefaultUserServer)
					lid := types.NewJID("8"+pn.User, types.HiddenUserServer)
					to := lid.SignalAddress().String()
					if migrated[addr] {
						continue // once a term
					}
					if err = d.Sessions.MigratePNToLID(bg, pn, lid); err == nil {
						migrated[addr] = true
						if v, ok := sessions[addr]; ok {
							sessions[to] = v
						}
						delete(sessions, addr)
						// A key without a session or an identity beside it may stay.
						if left, e := d.SenderKeys.GetSenderKey(bg, "120363@g.us", addr); e == nil && left == nil {
							if v, ok := keys[addr]; ok {
								keys[to] = v
							}
							delete(keys, addr)
						} else if e != nil {
							unsure[addr], unsure[to] = true, true
						}
					} else {
						unsure[to] = true
					}
				}
				if err != nil {
					unsure[addr] = true
				}
			}
			require.ErrorIs(t, err, ErrFenced)
			_ = c.Close(bg)
			kv.before.set(nil)
			kv.setEpoch(kv.epoch + 1)

			c = New(kv, nameSeal)
			d, err = c.Device(bg, newFence(kv.epoch))
			require.NoError(t, err)
			all := maps.Clone(sessions)
			for i := range 30 {
				all[fmt.Sprintf("%d:0", 15550100+i)] = 0
				all[fmt.Sprintf("8%d_1:0", 15550100+i)] = 0
			}
			for addr := range all {
				if unsure[addr] {
					continue
				}
				v, err := d.Sessions.GetSession(bg, addr)
				require.NoError(t, err)
				require.Equal(t, sessions[addr], sessionCounter(t, v), "seed %d: session %s", seed, addr)
				k, err := d.SenderKeys.GetSenderKey(bg, "120363@g.us", addr)
				require.NoError(t, err)
				if want, ok := keys[addr]; ok {
					require.Equal(t, string(validSenderKey([]byte{1, want})), string(k), "seed %d: key of %s", seed, addr)
				} else {
					require.Nil(t, k, "seed %d: key of %s", seed, addr)
				}
			}
			for addr := range unsure {
				v, err := d.Sessions.GetSession(bg, addr)
				require.NoError(t, err)
				delete(sessions, addr)
				if v != nil {
					sessions[addr] = sessionCounter(t, v)
				}
				k, err := d.SenderKeys.GetSenderKey(bg, "120363@g.us", addr)
				require.NoError(t, err)
				delete(keys, addr)
				for mark := range 256 {
					if bytes.Equal(k, validSenderKey([]byte{1, byte(mark)})) {
						keys[addr] = byte(mark)
					}
				}
			}
			require.NoError(t, c.Close(bg))
			kv.setEpoch(kv.epoch + 1)
		}
	}
}

// Readers never miss a row that is on its way.
func TestRowsAreFoundWhileTheyMove(t *testing.T) {
	kv := newMapKV()
	c, d, _ := open(t, kv)
	key := func(i int) (group, sender string) { return fmt.Sprint(i, "@g.us"), "1555:0" }
	for i := range 400 {
		group, sender := key(i)
		require.NoError(t, d.SenderKeys.PutSenderKey(bg, group, sender, validSenderKey([]byte{byte(i)})))
	}
	require.NoError(t, c.Close(bg))
	_, err := reseal(t, kv, nameSeal, WithPlaintextAllowed())
	require.NoError(t, err)
	kv.setEpoch(2)
	c, d, _ = open(t, kv, nameSeal, WithSealedNames(), WithSenderKeyCache(1))
	var wg sync.WaitGroup
	for part := range 4 {
		wg.Go(func() {
			for i := part; i < 400; i += 4 {
				group, sender := key(i)
				got, err := d.SenderKeys.GetSenderKey(bg, group, sender)
				if err != nil || got == nil {
					t.Errorf("key %d: %v, %v", i, got, err)
				}
				if i%40 == part {
					all, err := storeOf(d).senderKeysOf(bg, "test", "1555:")
					if err != nil || len(all) != 400 {
						t.Errorf("%d keys, %v", len(all), err)
					}
				}
			}
		})
	}
	wg.Wait()
	c.cfg.background.Wait()
	require.Empty(t, telling(kv))
	all, err := storeOf(d).senderKeysOf(bg, "test", "1555:")
	require.NoError(t, err)
	require.Len(t, all, 400)
}

func TestResealMovesNamesWithoutADevice(t *testing.T) {
	kv := plainNames(t)
	want := content(t, kv)
	// A damaged row, set aside under a plain name by an earlier library, and a
	// device that can be restored.
	c, d, f := open(t, kv, nameSeal)
	kept, err := storeOf(d).aside(Key{"session", "d0/15550199:0"}, []byte("damaged"), errors.New("test"))
	require.NoError(t, err)
	require.NoError(t, storeOf(d).submit("test", nil, Batch{Put: kept}))
	require.NoError(t, c.DeleteDevice(bg, d))
	require.NoError(t, c.Close(bg))

	c = New(kv, nameSeal, WithSealedNames())
	require.NoError(t, c.Reseal(bg, f, nil))
	require.Empty(t, telling(kv))
	require.False(t, moving(t, kv))
	q, err := c.Quarantined(bg)
	require.NoError(t, err)
	require.Len(t, q.Rows, 1)
	require.Equal(t, "d0/15550199:0", q.Rows[0].ID, "the operator is told")
	require.NoError(t, c.Restore(bg, f))
	require.Equal(t, want, content(t, kv))
	require.NoError(t, c.PurgeRows(bg, f))
	require.Zero(t, kv.count(kindQuarantine))
}

func TestReplacedDeviceIsPurgedWhileItsRowsMove(t *testing.T) {
	kv := plainNames(t)
	c, d, f := open(t, kv, nameSeal)
	require.NoError(t, c.DeleteDevice(bg, d))
	require.NoError(t, c.Close(bg))
	c = New(kv, nameSeal, WithSealedNames())
	d, err := c.Device(bg, f)
	require.NoError(t, err)
	require.Nil(t, d.ID)
	pair(t, d, testJID(2))
	require.NoError(t, d.Sessions.PutSession(bg, "15550111:0", validSession(t, 4)))
	login(t, d) // lets the old one go, beside the move of its rows
	c.cfg.background.Wait()
	require.NoError(t, c.Close(bg))
	require.Empty(t, telling(kv))
	for k := range kv.data {
		require.False(t, strings.HasPrefix(k.ID, "d0/"), "%v", k)
	}
	require.Equal(t, 1, kv.count("session"))
}
