package stability_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

func TestAStoreThatCannotTakeItDoesNotKeepTheIncidentSecret(t *testing.T) {
	const id = "wa_store_unavailable_active"
	for _, c := range []struct {
		name  string
		which func(string) bool
		kick  bool // the connection ends, so there is something to save
	}{
		{"everything, while connected", anyCall, false},
		{"everything, while connecting", anyCall, true},
		{"state and incidents", only("save state", "load state", "raise"), true},
		{"the lock alone", lockCalls, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				a := w.tended("a").run().pair()
				time.Sleep(5 * time.Minute)
				a.wire.fail(c.which)
				if c.kick {
					w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
				}
				time.Sleep(3 * time.Minute)
				require.Equal(t, []guard.Change{opened}, a.book.of(id))
				require.NotEmpty(t, a.book.last(id).Incident.Runbook)
				require.Error(t, a.status().StoreUnavailable)
				time.Sleep(2 * time.Hour)
				require.Equal(t, []guard.Change{opened}, a.book.of(id), "once")
				a.wire.heal()
				a.ready()
				time.Sleep(3 * time.Minute)
				require.Equal(t, []guard.Change{opened, resolved}, a.book.of(id))
				require.NoError(t, a.status().StoreUnavailable)
				require.False(t, w.incident(id).Active)

				// And the next time again.
				a.wire.fail(c.which)
				w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
				time.Sleep(5 * time.Minute)
				require.Equal(t, []guard.Change{opened, resolved, opened}, a.book.of(id))
				a.wire.heal()
				a.ready()
				a.stop()
				w.close()
			})
		})
	}
}

// rude is a sink that breaks its contract.
type rude struct {
	panics bool
	block  chan struct{}
}

func (r *rude) Notify(guard.Notification) {
	if r.panics {
		panic("a bug in the sink")
	}
	<-r.block
}

func TestASinkThatPanicsOrBlocksDoesNotHoldTheManager(t *testing.T) {
	for _, panics := range []bool{true, false} {
		t.Run(fmt.Sprint("panics=", panics), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				bad := &rude{panics: panics, block: make(chan struct{})}
				after := &book{}
				a := w.tended("a", stability.WithSink(bad), stability.WithSink(after)).run().pair()
				time.Sleep(5 * time.Minute)
				a.forget()
				stop := w.loops()
				a.reached(10, stability.EventDisconnected)
				start := time.Now()
				require.Equal(t, 1, <-a.exits, "the loop is broken all the same")
				require.Less(t, time.Since(start), 30*time.Second, "and in time")
				stop()
				a.ready()
				require.NotEmpty(t, a.book.of("wa_reconnect_loop_active"))
				if panics {
					require.NotEmpty(t, after.of("wa_reconnect_loop_active"), "the others are told")
				}
				nowait(t, "Status", func() { a.status() })
				w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
				w.await("it is off", func() bool { return a.status().WA != reconnect.StatusConnected })
				a.ready()
				start = time.Now()
				a.cancel()
				require.NoError(t, <-a.result)
				err := a.m.Close(t.Context())
				if panics {
					require.NoError(t, err)
				} else {
					require.EqualError(t, err, "stability: close: a sink or the store of incidents is still busy")
				}
				require.Less(t, time.Since(start), 11*time.Second, "and Close is bounded")
				close(bad.block)
				w.close()
				time.Sleep(time.Second)
			})
		})
	}
}

func TestIncidentsThatCannotBeListedAreToldAllTheSame(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		b := w.memory.Backend()
		b.Incidents = unlisted{b.Incidents}
		notes := &book{}
		a := w.healing(t, b, func(*stability.Manager) func(int) { return func(int) {} }, notes)
		a.run()
		a.pair()
		w.sim.Fault(wasim.DeviceRemoved()).For(w.account.JID()).Now()
		time.Sleep(time.Minute)
		require.Equal(t, []guard.Change{opened}, notes.of("wa_logged_out_requires_pairing_active"))
		a.stop()
		w.close()
	})
}

type unlisted struct{ guard.IncidentStore }

func (unlisted) List(context.Context) ([]guard.Incident, error) {
	return nil, errors.New("no permission to list")
}
