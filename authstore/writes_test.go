package authstore

import (
	"bytes"
	"context"
	"reflect"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
)

// late makes the next commit of kv land only when the returned function is
// called, whatever becomes of its context.
func late(kv *mapKV) (land func()) {
	held := make(chan struct{})
	var next atomic.Bool
	next.Store(true)
	kv.before.set(func(op string, _ Batch) error {
		if op == "commit" && next.Swap(false) {
			<-held
		}
		return nil
	})
	return func() { close(held) }
}

// lostAnswer makes the next commit of kv fail, and land after the one that comes
// next: an error of a commit says nothing about its outcome, until the same
// batch was applied again. The repetitions of the commit fail until the returned
// function is called.
func lostAnswer(kv *mapKV) (answer func()) {
	var lost *Batch
	var up atomic.Bool
	kv.before.set(func(op string, b Batch) error {
		if op == "commit" && !up.Load() {
			lost = &b
			return errDown
		}
		return nil
	})
	kv.after.set(func(op string, b Batch) error {
		again := lost
		if lost = nil; again != nil && !reflect.DeepEqual(*again, b) {
			return kv.Commit(bg, kv.epoch, *again)
		}
		return nil
	})
	return func() { up.Store(true) }
}

func TestLateResealNeverUndoesAWrite(t *testing.T) {
	for name, after := range map[string]time.Duration{"in time": 15 * time.Second, "too late": time.Minute} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				kv := newMapKV()
				c, d, _ := open(t, kv)
				require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)))
				seal := []Option{WithAEAD(NewAESGCM(keyOf(1))), WithPlaintextAllowed()}
				c, d, f := reopen(t, kv, c, seal...)
				land := late(kv)
				time.AfterFunc(after, land)
				err := c.Reseal(bg, f, nil)
				if after < 30*time.Second {
					require.NoError(t, err, "one slow commit is waited for")
					require.Zero(t, f.cuts.Load())
				} else {
					require.ErrorIs(t, err, ErrUnavailable)
					require.EqualValues(t, 1, f.cuts.Load(), "the term ends, with a commit on its way")
				}
				want := uint32(1)
				if err := d.Sessions.PutSession(bg, "1:0", validSession(t, 2)); err == nil {
					want = 2
				} else {
					require.ErrorIs(t, err, context.Canceled)
				}
				time.Sleep(time.Hour)
				_, d, _ = reopen(t, kv, c, seal...)
				b, err := d.Sessions.GetSession(bg, "1:0")
				require.NoError(t, err)
				require.Equal(t, want, sessionCounter(t, b), "what was confirmed stands")
			})
		})
	}
}

func TestLatePurgeNeverTakesThePairedDevice(t *testing.T) {
	for name, after := range map[string]time.Duration{"in time": 15 * time.Second, "too late": time.Minute} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				kv := newMapKV()
				c, d, f := open(t, kv)
				require.NoError(t, d.Delete(bg))
				d, err := c.Device(bg, f)
				require.NoError(t, err)
				land := late(kv)
				time.AfterFunc(after, land)
				scanned := make(chan error, 1)
				go func() {
					time.Sleep(time.Second)
					jid := testJID(2)
					d.ID = &jid
					scanned <- d.Save(bg)
				}()
				err = c.PurgeDevice(bg, f)
				saved := <-scanned
				if after < 30*time.Second {
					require.NoError(t, err)
					require.NoError(t, saved)
				} else {
					require.ErrorIs(t, err, ErrUnavailable)
					require.ErrorIs(t, saved, context.Canceled, "who scanned is told, and can scan again")
				}
				time.Sleep(time.Hour)
				require.NoError(t, c.Close(bg))
				kv.setEpoch(2)
				c = New(kv)
				next, err := c.Device(bg, newFence(2))
				require.NoError(t, err)
				require.Equal(t, saved == nil, next.ID != nil, "a device that was saved is there")
				require.NoError(t, c.Close(bg))
			})
		})
	}
}

// Whoever ends a device on which a connection may live cuts that connection. It
// would stay up, and nothing that it receives could be decrypted.
func TestNoStoreOperationLeavesAConnectionDeaf(t *testing.T) {
	source := filled(t)
	var archive bytes.Buffer
	_, err := Export(bg, FromKV("a source", source, newFence(1)), &archive, keyOf(9))
	require.NoError(t, err)
	ops := map[string]func(c *Container, f Fence) error{
		"Restore":     func(c *Container, f Fence) error { return c.Restore(bg, f) },
		"PurgeDevice": func(c *Container, f Fence) error { return c.PurgeDevice(bg, f) },
		"PurgeRows":   func(c *Container, f Fence) error { return c.PurgeRows(bg, f) },
		"Reseal":      func(c *Container, f Fence) error { return c.Reseal(bg, f, nil) },
		"Close":       func(c *Container, _ Fence) error { return c.Close(bg) },
		"Close, in a hurry": func(c *Container, _ Fence) error {
			ctx, cancel := context.WithCancel(bg)
			cancel()
			return c.Close(ctx)
		},
		"a Device of a later term": func(c *Container, f Fence) error {
			_, err := c.Device(bg, newFence(f.Epoch()+1))
			return err
		},
		"DropImport": func(c *Container, f Fence) error { return DropImport(bg, c, f) },
		"a refused move": func(c *Container, f Fence) error {
			_, err := Import(bg, FromKV("s", source, newFence(1)), c, f)
			return err
		},
		"a move": func(c *Container, f Fence) error {
			_, err := Import(bg, FromKV("s", source, newFence(1)), c, f, ReplaceDevice())
			return err
		},
		"an archive": func(c *Container, f Fence) error {
			_, err := Restore(bg, bytes.NewReader(archive.Bytes()), keyOf(9), c, f, ReplaceDevice())
			return err
		},
		"an export": func(c *Container, _ Fence) error {
			_, err := Export(bg, FromContainer(c), &bytes.Buffer{}, keyOf(9))
			return err
		},
		"Quarantined": func(c *Container, _ Fence) error { _, err := c.Quarantined(bg); return err },
	}
	for name, op := range ops {
		t.Run(name+" beside a connection", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				kv := newMapKV()
				c, d, f := open(t, kv)
				f.onCut = func() { require.NoError(t, d.Sessions.PutSession(bg, "2:0", validSession(t, 1)), "cut first") }
				sessions := d.Sessions
				_ = op(c, f)
				synctest.Wait()
				f.onCut = nil
				if err := sessions.PutSession(bg, "1:0", validSession(t, 1)); err == nil {
					require.Zero(t, f.cuts.Load(), "nothing was ended")
				} else {
					require.ErrorIs(t, err, context.Canceled)
					require.EqualValues(t, 1, f.cuts.Load(), "connected, and deaf")
				}
			})
		})
		// The device is deleted and another waits to be paired. It can be saved,
		// or the operation has succeeded and taken its place.
		t.Run(name+" beside a pairing", func(t *testing.T) {
			for _, delay := range []time.Duration{0, 1, 2, 3, 4, 5, 6, 7, 8} {
				synctest.Test(t, func(t *testing.T) {
					kv := newMapKV()
					c, d, f := open(t, kv)
					require.NoError(t, d.Delete(bg))
					d, err := c.Device(bg, f)
					require.NoError(t, err)
					kv.before.set(func(string, Batch) error { time.Sleep(2 * time.Nanosecond); return nil })
					done := make(chan error, 1)
					go func() { done <- op(c, f) }()
					time.Sleep(delay)
					err, saved := save(d), <-done
					err, saved = saved, err // of the operation, of the pairing
					synctest.Wait()
					kv.before.set(nil)
					if saved != nil {
						require.ErrorIs(t, saved, context.Canceled)
						if name != "Close, in a hurry" {
							require.NoError(t, err, "neither happened")
						}
						if d.Sessions != nil {
							require.ErrorIs(t, d.Sessions.PutSession(bg, "1:0", nil), context.Canceled, "nothing lives on it")
						}
						return
					}
					require.False(t, name == "Restore" && err == nil, "a device was saved, and then another put in its place")
					if sent := d.Sessions.PutSession(bg, "1:0", validSession(t, 1)); sent != nil {
						require.EqualValues(t, 1, f.cuts.Load(), "paired, connected, and deaf")
						return
					}
					require.Zero(t, f.cuts.Load())
					require.NoError(t, c.Close(bg))
					kv.setEpoch(kv.epoch + 1)
					_, next, _ := open(t, kv)
					require.Equal(t, testJID(2), *next.ID)
				})
			}
		})
	}
}

func save(d *store.Device) error {
	jid := testJID(2)
	d.ID = &jid
	return d.Save(bg)
}

// After an error the account is as it was, and a scan finds its device.
func TestFailedRestoreLeavesThePairingAlive(t *testing.T) {
	kv := newMapKV()
	c, d, f := open(t, kv)
	require.NoError(t, d.Delete(bg))
	d, err := c.Device(bg, f)
	require.NoError(t, err)
	kv.before.set(func(op string, _ Batch) error {
		if op == "commit" {
			return ErrTooLarge
		}
		return nil
	})
	require.ErrorIs(t, c.Restore(bg, f), ErrTooLarge)
	kv.before.set(nil)
	pair(t, d, testJID(2))
	require.ErrorIs(t, c.Restore(bg, f), ErrNothingDeleted)
	require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)))
	require.Zero(t, f.cuts.Load())
}

func TestRetiredSourceIsCutOnceItIsMarked(t *testing.T) {
	kv := filled(t)
	kv.setEpoch(2)
	f := newFence(2)
	f.onCut = func() {
		h, err := New(kv).readHead(bg)
		require.NoError(t, err)
		require.Equal(t, stateDeleted, h.State)
	}
	_, err := Import(bg, FromKV("s", kv, f), New(newMapKV()), newFence(1), RetireSource())
	require.NoError(t, err)
	require.EqualValues(t, 1, f.cuts.Load())
}

// A device that could not be loaded writes nothing, though damaged rows were
// found on the way: the next one of the term is the only writer.
func TestDeviceThatFailedToLoadWritesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := filled(t)
		kv.data[Key{"session", "d0/1:0"}] = "\x01\x00damaged"
		good := kv.data[deviceKey()]
		kv.data[deviceKey()] = good[:len(good)-1]
		c := New(kv)
		before := kv.commits.Load()
		_, err := c.Device(bg, newFence(1))
		require.ErrorIs(t, err, ErrCorrupt)
		time.Sleep(time.Hour)
		require.Equal(t, before, kv.commits.Load())
		delete(kv.data, deviceKey())
		_, err = c.Device(bg, newFence(1))
		require.ErrorIs(t, err, ErrCorrupt)
		time.Sleep(time.Hour)
		require.Equal(t, before, kv.commits.Load())
		require.NoError(t, c.Close(bg))
	})
}

func TestCloseThatGivesUpEndsTheDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		c, d, f := open(t, kv, WithAEAD(NewAESGCM(keyOf(2), keyOf(1))))
		land := late(kv)
		sealed := make(chan error, 1)
		require.NoError(t, c.lock(bg))
		go func() { sealed <- c.Reseal(bg, f, nil) }()
		ctx, cancel := context.WithTimeout(bg, time.Second)
		defer cancel()
		require.ErrorIs(t, c.Close(ctx), context.DeadlineExceeded, "somebody is at work with it")
		require.ErrorIs(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)), context.Canceled)
		require.EqualValues(t, 1, f.cuts.Load())
		_, err := c.Device(ctx, f)
		require.Error(t, err)
		<-c.sem
		land()
		<-sealed
		_, err = c.Device(bg, f)
		require.ErrorIs(t, err, ErrSuperseded)
		require.NoError(t, c.Close(bg))
	})
}

// A KV that hangs and takes no notice of its context stops nothing but the call.
func TestEveryContainerCallEnds(t *testing.T) {
	for name, call := range map[string]func(c *Container, f Fence) error{
		"Device":      func(c *Container, f Fence) error { _, err := c.Device(bg, f); return err },
		"Info":        func(c *Container, _ Fence) error { _, err := c.Info(bg); return err },
		"Restore":     func(c *Container, f Fence) error { return c.Restore(bg, f) },
		"PurgeDevice": func(c *Container, f Fence) error { return c.PurgeDevice(bg, f) },
		"PurgeRows":   func(c *Container, f Fence) error { return c.PurgeRows(bg, f) },
		"Quarantined": func(c *Container, _ Fence) error { _, err := c.Quarantined(bg); return err },
		"Reseal":      func(c *Container, f Fence) error { return c.Reseal(bg, f, nil) },
		"DropImport":  func(c *Container, f Fence) error { return DropImport(bg, c, f) },
		"Import": func(c *Container, f Fence) error {
			_, err := Import(bg, FromKV("s", newMapKV(), newFence(1)), c, f)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				kv := newMapKV()
				hang := make(chan struct{})
				kv.before.set(func(string, Batch) error { <-hang; return nil })
				c, f, began := New(kv), newFence(1), time.Now()
				require.ErrorIs(t, call(c, f), context.DeadlineExceeded)
				require.Equal(t, 10*time.Second, time.Since(began))
				require.Zero(t, f.cuts.Load(), "nothing depends on it yet")
				close(hang)
				kv.before.set(nil)
				require.NoError(t, c.Close(bg))
			})
		})
	}
}

// endingFence is asked whether the lock is held just before a commit.
type endingFence struct {
	*testFence
	onHeld func()
}

func (f *endingFence) Held() bool {
	if f.onHeld != nil {
		f.onHeld()
	}
	return f.testFence.Held()
}

// The one that ended a device may be writing already: a commit that has not begun by then
// never begins.
func TestEndedDeviceBeginsNoCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		c, f := New(kv), &endingFence{testFence: newFence(1)}
		d, err := c.Device(bg, f)
		require.NoError(t, err)
		pair(t, d, testJID(1))
		before := kv.commits.Load()
		f.onHeld = func() { storeOf(d).retire(ErrSuperseded) }
		require.ErrorIs(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)), context.Canceled)
		synctest.Wait()
		require.Equal(t, before, kv.commits.Load())
		require.NoError(t, c.Close(bg))
	})
}
