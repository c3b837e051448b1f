package stability_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/stability"
)

const storeDownID = "wa_store_unavailable_active"

// pairOf is two instances of one account, a paired and connected, b standing
// by, and one book for what both tell.
func (w *world) pairOf() (a, b *tended, all *book) {
	all = &book{}
	a = w.tended("a", stability.WithSink(all)).run().pair()
	b = w.tended("b", stability.WithSink(all)).run()
	b.reached(1, stability.EventStandby)
	time.Sleep(5 * time.Minute)
	return a, b, all
}

func TestOutageWithTwoInstancesIsToldOnce(t *testing.T) {
	t.Parallel()
	for name, server := range map[string]func(testing.TB) server{
		"memory":    newServer,
		"firestore": func(t testing.TB) server { return &firestoreServer{t: t} },
	} {
		for _, length := range []time.Duration{80 * time.Second, 5 * time.Minute, 3 * time.Hour} {
			t.Run(name+", "+length.String(), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					w := newWorld(t)
					w.memory = server(t)
					a, b, all := w.pairOf()
					var want []guard.Change
					for range 3 { // whoever holds the lock by then
						a.wire.fail(anyCall)
						b.wire.fail(anyCall)
						time.Sleep(length)
						want = append(want, opened)
						require.Equal(t, want, all.of(storeDownID))
						a.wire.heal()
						b.wire.heal()
						w.await("one is connected", func() bool { return a.m.Client() != nil || b.m.Client() != nil })
						time.Sleep(10 * time.Minute)
						want = append(want, resolved)
						require.Equal(t, want, all.of(storeDownID))
						require.False(t, w.incident(storeDownID).Active)
					}
					b.kill()
					a.kill()
					w.close()
				})
			})
		}
	}
}

// The instance that told is gone before the end of the outage is certain.
func TestOutageIsResolvedByTheNextHolder(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a, b, all := w.pairOf()
		a.wire.fail(anyCall)
		b.wire.fail(anyCall)
		time.Sleep(time.Hour)
		a.wire.heal()
		b.wire.heal()
		w.await("both were told that it answers", func() bool {
			return a.status().StoreUnavailable == nil && b.status().StoreUnavailable == nil
		})
		time.Sleep(5 * time.Second)
		a.kill()
		require.Equal(t, []guard.Change{opened}, all.of(storeDownID))
		b.ready()
		again := w.tended("a again", stability.WithSink(all)).run()
		time.Sleep(10 * time.Minute)
		require.Equal(t, []guard.Change{opened, resolved}, all.of(storeDownID))
		require.False(t, w.incident(storeDownID).Active)
		again.kill()
		b.kill()
		w.close()
	})
}

// A trouble that only one instance sees is not resolved by a holder that does
// not see it.
func TestHolderLeavesTheTroubleOfAnotherInstanceOpen(t *testing.T) {
	t.Parallel()
	const id = "wa_lock_flapping_active"
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a, b, all := w.pairOf()
		another := func() { // instance, not b, sees it
			_, _, err := w.look().Incidents.Raise(context.Background(), guard.Incident{
				ID: id, Type: guard.TypeLockFlapping, InstanceID: "c", DetectedAt: time.Now(), LastCheckedAt: time.Now(),
			})
			require.NoError(t, err)
		}
		another()
		a.stop() // b takes it over
		b.ready()
		for range 20 {
			time.Sleep(time.Minute)
			another()
		}
		require.True(t, w.incident(id).Active)
		require.Empty(t, all.of(id))
		time.Sleep(5 * time.Minute)
		require.Equal(t, []guard.Change{resolved}, all.of(id), "the other one is gone")
		b.stop()
		w.close()
	})
}
