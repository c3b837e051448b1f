package stability_test

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/memorybackend"
)

// importing is an instance whose host has the store in its hands, and another
// store from which a device could be moved in.
type importing struct {
	*tended
	store  *authstore.Container
	source authstore.Source
}

// hostFence is what a host gives for the term that its Manager has.
type hostFence struct{ epoch int64 }

func (f hostFence) Epoch() int64            { return f.epoch }
func (f hostFence) Held() bool              { return true }
func (f hostFence) TrustedUntil() time.Time { return time.Now().Add(time.Hour) }
func (f hostFence) Cut(error)               {}

func (x *importing) fence() authstore.Fence { return hostFence{x.status().LeaseEpoch} }

// importing makes another linked device of the account, which is stopped, and
// then the instance.
func (w *world) importing(t *testing.T) (x *importing, done func()) {
	t.Helper()
	w.memory = memorybackend.New()
	w.tended("old").run().pair().stop()
	old := w.memory.Backend()
	mover, err := lock.New(old.Lock, "mover", lock.WithLogger(slog.New(slog.DiscardHandler)))
	require.NoError(t, err)
	term, granted, err := mover.TryAcquire(t.Context())
	require.NoError(t, err)
	require.True(t, granted)

	w.memory = memorybackend.New()
	x = &importing{store: authstore.New(w.memory.Backend().Auth)}
	x.source = authstore.FromKV("the old store", old.Auth, hostFence{term.Epoch()})
	x.tended = w.tended("a", stability.WithAuthStore(x.store))
	return x, func() { require.NoError(t, mover.Close(context.WithoutCancel(t.Context()))) }
}

// hears proves that the client of the device that is in use now is not deaf.
func (x *importing) hears(t *testing.T, text string) {
	t.Helper()
	x.ready()
	_, err := x.w.say(text)
	require.NoError(t, err)
	x.w.await("it hears "+text, func() bool { return oneOf(x.texts(), text) })
	x.w.await("it answers for it", func() bool {
		auth := x.status().Auth
		if auth == nil {
			return false
		}
		for _, d := range x.w.account.Devices() {
			if d.JID() == auth.JID {
				return len(d.Pending()) == 0
			}
		}
		return false
	})
}

// A host may call what moves devices in on the store of a Manager that is at
// work, against all advice. What it ends is cut, and begun anew.
func TestImportLeavesNoClientDeaf(t *testing.T) {
	t.Parallel()
	calls := []struct {
		name string
		live error // what it answers where a device is in use
		do   func(ctx context.Context, x *importing) error
	}{
		{"Import", authstore.ErrTargetPaired, func(ctx context.Context, x *importing) error {
			_, err := authstore.Import(ctx, x.source, x.store, x.fence())
			return err
		}},
		{"Import, replacing", nil, func(ctx context.Context, x *importing) error {
			_, err := authstore.Import(ctx, x.source, x.store, x.fence(), authstore.ReplaceDevice())
			return err
		}},
		{"Import, broken off and dropped", nil, func(ctx context.Context, x *importing) error {
			part, cancel := context.WithCancel(ctx)
			defer cancel()
			_, err := authstore.Import(part, x.source, x.store, x.fence(), authstore.ReplaceDevice(), authstore.OnProgress(func(p authstore.Progress) {
				if p.Kind == "contact" {
					cancel()
				}
			}))
			if err == nil {
				return nil
			}
			return authstore.DropImport(ctx, x.store, x.fence())
		}},
		{"DropImport", nil, func(ctx context.Context, x *importing) error {
			return authstore.DropImport(ctx, x.store, x.fence())
		}},
	}
	for _, call := range calls {
		t.Run(call.name+", live", func(t *testing.T) {
			someUnderRace(t)
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				x, done := w.importing(t)
				x.run().pair()
				time.Sleep(time.Minute)
				x.hears(t, "before")
				require.ErrorIs(t, call.do(t.Context(), x), call.live)
				time.Sleep(time.Second)
				x.hears(t, "behind it")
				time.Sleep(time.Hour)
				x.hears(t, "later")
				x.stop()
				done()
				w.close()
			})
		})
		for _, late := range []time.Duration{0, 250 * time.Millisecond, time.Second} {
			t.Run(call.name+", pairing, "+late.String(), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					w := newWorld(t)
					x, done := w.importing(t)
					x.run().pair()
					time.Sleep(time.Minute)
					w.account.Phone().RemoveDevice(w.device())
					w.await("logged out", func() bool { return x.status().WA == reconnect.StatusNeedsPairing })
					for len(x.codes) > 0 {
						<-x.codes
					}
					q := <-x.codes
					ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
					defer cancel()
					result := make(chan error, 1)
					scan := func() { _ = w.account.Phone().Scan(q.Code) } // refused, where the code is no longer good
					if late > 0 {                                         // the call comes in the middle of the pairing
						scan()
						time.Sleep(late - 250*time.Millisecond)
					}
					go func() { result <- call.do(ctx, x) }()
					synctest.Wait()
					if late == 0 {
						scan()
					}
					<-result // it succeeds, or the pairing has won
					for end := time.Now().Add(20 * time.Minute); x.status().WA != reconnect.StatusConnected && time.Now().Before(end); {
						time.Sleep(15 * time.Second)
						if q, ok := x.m.QR(); ok {
							_ = w.account.Phone().Scan(q.Code)
						} else if x.status().Parked {
							x.m.Reconnect()
						}
					}
					time.Sleep(time.Second)
					x.hears(t, "behind it")
					x.stop()
					done()
					w.close()
				})
			})
		}
	}
}
