package authstore

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"

	"github.com/wastability/wastability/stability/stabilitytest"
)

var errDown = errors.New("the network is down")

// receiveMessage makes the store calls of one received message, event buffer
// on, first message of a session. acked tells whether whatsmeow would have
// acknowledged it, handled whether the host saw it.
func receiveMessage(t testing.TB, d *store.Device, n int, preKey uint32) (handled bool, err error) {
	hash := sha256.Sum256([]byte{byte(n), byte(n >> 8)})
	lid := types.NewJID("900", types.HiddenUserServer)
	pn := types.NewJID("1", types.DefaultUserServer)
	if err := d.LIDs.PutLIDMapping(bg, lid, pn); err != nil && !errors.Is(err, context.Canceled) {
		return false, fmt.Errorf("only logged by whatsmeow, and not cut: %w", err)
	}
	if err := d.Sessions.MigratePNToLID(bg, pn, lid); err != nil && !errors.Is(err, context.Canceled) {
		return false, fmt.Errorf("only logged by whatsmeow, and not cut: %w", err)
	}
	e, err := d.EventBuffer.GetBufferedEvent(bg, hash)
	if err != nil {
		return false, err
	}
	if e != nil && e.Plaintext == nil {
		return true, nil // already handled
	}
	if e == nil {
		err = d.EventBuffer.DoDecryptionTxn(bg, func(ctx context.Context) error {
			v, err := d.Sessions.GetSession(ctx, "900_1:0")
			if err != nil {
				return err
			}
			if err := d.Identities.PutIdentity(ctx, "900_1:0", [32]byte{byte(n)}); err != nil {
				return err
			}
			if err := d.Sessions.PutSession(ctx, "900_1:0", validSession(t, sessionCounter(t, v)+1)); err != nil {
				return err
			}
			if preKey != 0 {
				if err := d.PreKeys.RemovePreKey(ctx, preKey); err != nil {
					return err
				}
			}
			return d.EventBuffer.PutBufferedEvent(ctx, hash, []byte("plain"), time.Unix(5, 0))
		})
		if err != nil {
			return false, err
		}
	}
	_ = d.EventBuffer.ClearBufferedEventPlaintext(bg, hash)
	return true, nil
}

func TestAnOutageNeverBecomesALostMessage(t *testing.T) {
	for _, outage := range stabilitytest.Pick([]time.Duration{time.Second, 2 * time.Minute},
		[]time.Duration{time.Second, 29 * time.Second, 2 * time.Minute, time.Hour}) {
		for _, lostReply := range []bool{false, true} {
			for nth := int64(1); ; nth++ {
				reached := false
				name := fmt.Sprintf("%s from call %d, reply lost %v", outage, nth, lostReply)
				synctest.Test(t, func(t *testing.T) {
					kv := newMapKV()
					c, d, f := open(t, kv)
					_, err := d.PreKeys.GetOrGenPreKeys(bg, 10)
					require.NoError(t, err)
					require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 0)))
					var calls atomic.Int64
					var until atomic.Pointer[time.Time]
					fail := func(string, Batch) error {
						if calls.Add(1) == nth {
							reached = true
							end := time.Now().Add(outage)
							until.Store(&end)
						}
						if end := until.Load(); end != nil && time.Now().Before(*end) {
							return errDown
						}
						return nil
					}
					if lostReply {
						kv.after.set(fail)
					} else {
						kv.before.set(fail)
					}
					handled := 0
					for n := range 3 {
						ok, err := receiveMessage(t, d, n, uint32(n+1))
						if err != nil {
							require.ErrorIs(t, err, context.Canceled, name)
							require.ErrorIs(t, err, errDown, "the cause is told")
							require.EqualValues(t, 1, f.cuts.Load(), "cut first")
							break
						}
						require.True(t, ok)
						handled++
					}
					if outage < 30*time.Second {
						require.Equal(t, 3, handled, name)
						require.Zero(t, f.cuts.Load())
					}
					kv.before.set(nil)
					kv.after.set(nil)
					_ = c.Close(bg)
					kv.setEpoch(2)
					_, again, _ := open(t, kv)
					// The server delivers the unacknowledged ones again.
					v, err := again.Sessions.GetSession(bg, "900_1:0")
					require.NoError(t, err)
					require.GreaterOrEqual(t, int(sessionCounter(t, v)), handled, "acknowledged is durable")
					_ = again.Sessions.PutSession(bg, "900_1:0", v)
					for n := range 3 {
						ok, err := receiveMessage(t, again, n, uint32(n+1))
						require.NoError(t, err)
						require.True(t, ok)
					}
					v, err = again.Sessions.GetSession(bg, "900_1:0")
					require.NoError(t, err)
					require.EqualValues(t, 3, sessionCounter(t, v), "each message stepped the session once")
				})
				if !reached {
					break
				}
			}
		}
	}
}

// A KV that takes no notice of its context and hangs for ever stops nothing
// but the call.
func TestEveryStoreCallEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		_, d, f := open(t, kv)
		release := make(chan struct{})
		kv.before.set(func(string, Batch) error { <-release; return nil })
		start := time.Now()
		err := d.Sessions.PutSession(bg, "1:0", validSession(t, 1))
		require.ErrorIs(t, err, context.Canceled)
		require.ErrorIs(t, err, ErrUnavailable)
		require.ErrorContains(t, err, "put session")
		require.Equal(t, 30*time.Second, time.Since(start))
		require.EqualValues(t, 1, f.cuts.Load())
		for name, call := range map[string]func() error{
			"GetSession": func() error { _, err := d.Sessions.GetSession(bg, "1:0"); return err },
			"PutLID": func() error {
				return d.LIDs.PutLIDMapping(bg, types.NewJID("1", types.HiddenUserServer), types.NewJID("1", types.DefaultUserServer))
			},
			"GetLID":     func() error { _, err := d.LIDs.GetLIDForPN(bg, types.NewJID("1", types.DefaultUserServer)); return err },
			"IsTrusted":  func() error { _, err := d.Identities.IsTrustedIdentity(bg, "1:0", [32]byte{}); return err },
			"Save":       func() error { return d.Save(bg) },
			"Delete":     func() error { return d.Delete(bg) },
			"GenPreKeys": func() error { _, err := d.PreKeys.GetOrGenPreKeys(bg, 3); return err },
			"MAC":        func() error { _, err := d.AppState.GetAppStateMutationMAC(bg, "x", nil); return err },
			"Txn":        func() error { return d.EventBuffer.DoDecryptionTxn(bg, func(context.Context) error { return nil }) },
		} {
			require.ErrorIs(t, call(), context.Canceled, name)
		}
		close(release)
	})
}

// A commit that hangs and lands late is never run beside its repetition.
func TestAHangingCommitIsNotRepeatedBesideItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		_, d, f := open(t, kv)
		var running, most atomic.Int64
		first := true
		kv.before.set(func(op string, _ Batch) error {
			if n := running.Add(1); n > most.Load() {
				most.Store(n)
			}
			defer running.Add(-1)
			if first {
				first = false
				time.Sleep(15 * time.Second)
			}
			return nil
		})
		require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)))
		require.EqualValues(t, 1, most.Load())
		require.Zero(t, f.cuts.Load())
	})
}

func TestAPermanentErrorIsReturnedAndNeverCuts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		_, d, f := open(t, kv)
		kv.before.set(func(op string, b Batch) error {
			for _, e := range b.Put {
				if e.Key.Kind == "session" {
					return ErrTooLarge
				}
			}
			return nil
		})
		start := time.Now()
		err := d.Sessions.PutSession(bg, "1:0", validSession(t, 1))
		require.ErrorIs(t, err, ErrTooLarge)
		require.NotErrorIs(t, err, context.Canceled)
		require.Zero(t, f.cuts.Load())
		require.Zero(t, time.Since(start))
		v, err := d.Sessions.GetSession(bg, "1:0")
		require.NoError(t, err)
		require.Nil(t, v, "memory is what the disk is")
		require.NoError(t, d.SenderKeys.PutSenderKey(bg, "g", "1:0", []byte{1}), "others go on")
	})
}

func TestTheTermEndsWhenTrustDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		_, d, f := open(t, kv)
		f.setUntil(time.Now().Add(5 * time.Second))
		kv.before.set(func(string, Batch) error { return errDown })
		start := time.Now()
		require.ErrorIs(t, d.Sessions.PutSession(bg, "1:0", nil), context.Canceled)
		require.Equal(t, 5*time.Second, time.Since(start))
	})
}

// The lock is renewed during the outage, so patience is not the trust that was
// left when it began.
func TestARenewalDuringAnOutageProlongsPatience(t *testing.T) {
	for name, hang := range map[string]bool{"errors": false, "hangs": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				kv := newMapKV()
				_, d, f := open(t, kv)
				f.setUntil(time.Now().Add(15 * time.Second))
				end := time.Now().Add(25 * time.Second)
				time.AfterFunc(14*time.Second, func() { f.setUntil(time.Now().Add(time.Minute)) })
				kv.before.set(func(string, Batch) error {
					if hang {
						time.Sleep(time.Until(end))
					}
					if time.Now().Before(end) {
						return errDown
					}
					return nil
				})
				require.NoError(t, d.Sessions.PutSession(bg, "1:0", nil))
				require.Zero(t, f.cuts.Load())
			})
		})
	}
}

// A lock that is not trusted for a moment, as after a suspend, is waited for.
func TestAPauseInTrustIsWaitedThrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		_, d, f := open(t, kv)
		f.lost.Store(true)
		time.AfterFunc(2*time.Second, func() { f.lost.Store(false) })
		before := kv.commits.Load()
		require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)))
		require.EqualValues(t, 1, kv.commits.Load()-before, "nothing was tried meanwhile")
		require.Zero(t, f.cuts.Load())
	})
}

func TestALateWriterWritesNothing(t *testing.T) {
	kv := newMapKV()
	c1, old, f := open(t, kv)
	require.NoError(t, old.Sessions.PutSession(bg, "1:0", validSession(t, 1)))
	// Another instance takes over.
	kv.setEpoch(2)
	_, now, _ := open(t, kv)
	require.NoError(t, now.Sessions.PutSession(bg, "1:0", validSession(t, 2)))

	err := old.Sessions.PutSession(bg, "1:0", validSession(t, 9))
	require.ErrorIs(t, err, ErrFenced)
	require.ErrorIs(t, err, context.Canceled)
	require.EqualValues(t, 1, f.cuts.Load())
	// Even when this process holds the lock again, and in its own container.
	kv.setEpoch(3)
	d3, err := c1.Device(bg, newFence(3))
	require.NoError(t, err)
	for name, call := range map[string]func() error{
		"session": func() error { return old.Sessions.PutSession(bg, "1:0", validSession(t, 9)) },
		"save":    func() error { old.PushName = "x"; return old.Save(bg) },
		"delete":  func() error { return old.Delete(bg) },
		"name":    func() error { _, _, err := old.Contacts.PutPushName(bg, testJID(1), "x"); return err },
	} {
		require.ErrorIs(t, call(), ErrFenced, name)
	}
	v, err := d3.Sessions.GetSession(bg, "1:0")
	require.NoError(t, err)
	require.EqualValues(t, 2, sessionCounter(t, v))
}

func TestAReadErrorNeverYieldsAFreshDevice(t *testing.T) {
	kv := newMapKV()
	c, _, _ := open(t, kv)
	require.NoError(t, c.Close(bg))
	for nth := int64(1); ; nth++ {
		var calls atomic.Int64
		kv.before.set(func(op string, _ Batch) error {
			if calls.Add(1) == nth {
				return errDown
			}
			return nil
		})
		f := newFence(1)
		c := New(kv)
		d, err := c.Device(bg, f)
		require.NoError(t, c.Close(bg)) // waits for what was given up
		if calls.Load() < nth {
			require.NoError(t, err)
			require.NotNil(t, d.ID)
			return
		}
		require.ErrorIs(t, err, errDown)
		require.Nil(t, d)
		require.Zero(t, f.cuts.Load())
	}
}

// A read that hangs is repeated beside itself; whichever answers, late or not.
func TestAHangingReadIsRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		_, d, f := open(t, kv)
		var n atomic.Int64
		kv.before.set(func(op string, _ Batch) error {
			if op == "scan" && n.Add(1) == 1 {
				time.Sleep(20 * time.Second)
			}
			return nil
		})
		start := time.Now()
		_, err := d.AppState.GetAppStateMutationMAC(bg, "regular", []byte{1})
		require.NoError(t, err)
		require.Less(t, time.Since(start), 12*time.Second)
		require.Zero(t, f.cuts.Load())
	})
}

// However long a store is away, it is asked every few seconds and no more often.
func TestLongOutageIsNotHammered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		_, d, f := open(t, kv, WithOutagePatience(3*time.Hour))
		end := time.Now().Add(2 * time.Hour)
		var calls atomic.Int64
		const most = 2 * 3600
		kv.before.set(func(string, Batch) error {
			if calls.Add(1) > most || time.Now().After(end) {
				return nil
			}
			return errDown
		})
		require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)))
		require.LessOrEqual(t, calls.Load(), int64(most))
		require.WithinDuration(t, end, time.Now(), 5*time.Second)
		require.Zero(t, f.cuts.Load())
	})
}
