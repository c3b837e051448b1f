package authstore

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"

	"github.com/wastability/wastability/stability/stabilitytest"
)

// A send as whatsmeow does it: read many, ask the network, write what changed.
func sendStep(t testing.TB, d *store.Device, addrs []string, network time.Duration) error {
	got, err := d.Sessions.GetManySessions(bg, addrs)
	if err != nil {
		return err
	}
	time.Sleep(network)
	out := make(map[string][]byte)
	for a, v := range got {
		out[a] = validSession(t, sessionCounter(t, v)+1)
	}
	return d.Sessions.PutManySessions(bg, out)
}

// A receive: one transaction.
func receiveStep(t testing.TB, d *store.Device, addr string, work time.Duration) error {
	return d.EventBuffer.DoDecryptionTxn(bg, func(ctx context.Context) error {
		if _, err := d.Sessions.HasSession(ctx, addr); err != nil {
			return err
		}
		v, err := d.Sessions.GetSession(ctx, addr)
		if err != nil {
			return err
		}
		time.Sleep(work)
		return d.Sessions.PutSession(ctx, addr, validSession(t, sessionCounter(t, v)+1))
	})
}

// A retry receipt: one session, no transaction.
func retryStep(t testing.TB, d *store.Device, addr string, work time.Duration) error {
	v, err := d.Sessions.GetSession(bg, addr)
	if err != nil {
		return err
	}
	time.Sleep(work)
	return d.Sessions.PutSession(bg, addr, validSession(t, sessionCounter(t, v)+1))
}

// slowKV makes every commit take up to most, in the bubble's time.
func slowKV(most time.Duration) *mapKV {
	kv := newMapKV()
	kv.before.set(func(op string, _ Batch) error {
		time.Sleep(rand.N(most))
		return nil
	})
	return kv
}

// Every step that was accepted counts exactly once: that is what "no lost
// update" means. Sends are serial, as under whatsmeow's lock; receives and
// retry receipts are not.
func TestNoUpdateIsLostBetweenSendsReceivesAndRetries(t *testing.T) {
	for seed := range stabilitytest.Pick(15, 1000) {
		synctest.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(uint64(seed), 7))
			kv := slowKV(5 * time.Millisecond)
			c, d, f := open(t, kv)
			addrs := []string{"1_1:0", "2_1:0", "3_1:0"}
			var mu sync.Mutex
			accepted := make(map[string]uint32)
			broken := 0
			note := func(err error, addrs ...string) {
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					for _, a := range addrs {
						accepted[a]++
					}
				case errors.Is(err, ErrWindowBroken):
					broken++
				default:
					t.Errorf("a step failed: %v", err)
				}
			}
			var wg sync.WaitGroup
			run := func(n int, step func(r *rand.Rand)) {
				r := rand.New(rand.NewPCG(rng.Uint64(), 1))
				wg.Go(func() {
					for range n {
						step(r)
						time.Sleep(time.Duration(r.Int64N(int64(20 * time.Millisecond))))
					}
				})
			}
			sendLock := make(chan struct{}, 1)
			for range 2 {
				run(15, func(r *rand.Rand) {
					sendLock <- struct{}{}
					defer func() { <-sendLock }()
					to := addrs[:1+r.IntN(3)]
					network := time.Duration(r.Int64N(int64(10 * time.Millisecond)))
					if r.IntN(5) == 0 {
						network = time.Duration(r.Int64N(int64(10 * time.Second))) // a slow prekey fetch
					}
					note(sendStep(t, d, to, network), to...)
				})
			}
			run(60, func(r *rand.Rand) {
				a := addrs[r.IntN(3)]
				note(receiveStep(t, d, a, time.Duration(r.Int64N(int64(5*time.Millisecond)))), a)
			})
			for range 2 {
				run(20, func(r *rand.Rand) {
					a := addrs[r.IntN(3)]
					work := time.Duration(r.Int64N(int64(5 * time.Millisecond)))
					if r.IntN(8) == 0 {
						work = time.Duration(r.Int64N(int64(6 * time.Second)))
					}
					note(retryStep(t, d, a, work), a)
				})
			}
			wg.Wait()
			for _, a := range addrs {
				v, err := d.Sessions.GetSession(bg, a)
				require.NoError(t, err)
				require.Equal(t, accepted[a], sessionCounter(t, v), "%s, seed %d, %d broken", a, seed, broken)
			}
			require.Zero(t, f.cuts.Load())
			_, again, _ := reopen(t, kv, c)
			for _, a := range addrs {
				v, err := again.Sessions.GetSession(bg, a)
				require.NoError(t, err)
				require.Equal(t, accepted[a], sessionCounter(t, v), "on disk")
			}
		})
	}
}
