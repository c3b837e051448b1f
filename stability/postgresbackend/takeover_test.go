package postgresbackend

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/autoheal"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

func TestHealthyInstanceTakesOverFromASickOne(t *testing.T) {
	t.Parallel()
	for name, does := range map[string]func(*host, context.Context) error{"under Run": (*host).run, "by hand": (*host).byHand} {
		for _, ill := range []struct {
			name   string
			fault  wasim.Fault
			reason reconnect.Reason
		}{
			{"at once", wasim.Failure(405), reconnect.ReasonClientOutdated},
			{"in time", wasim.Refused(), reconnect.ReasonNetworkUnreachable},
		} {
			t.Run(name+", "+ill.name, func(t *testing.T) {
				t.Parallel()
				db := opened(t)
				s := newService(t)
				account, id := s.sim.NewAccount("491520000001"), anyAccount()
				from := func(label string) *host {
					return s.program(does, backend(t, db, id),
						stability.WithTransport(s.sim.Transport(label)), stability.WithInstanceID(label), stability.WithAutoHeal(autoheal.Policy{Disabled: true}),
						stability.WithReconnect(reconnect.Policy{
							InitialDelay: 20 * time.Millisecond, MaxDelay: 200 * time.Millisecond, YieldAfter: time.Second, YieldSpacing: time.Second,
						}))
				}
				a := from("a").pair(account)
				b := from("b")
				await(t, "b waits for the lock", func() bool { return len(b.saw(stability.EventStandby)) > 0 })
				dev := device(t, account)

				sick := s.sim.Fault(ill.fault).From("a").Always().Now()
				s.sim.Fault(wasim.Reset()).From("a").Now()
				b.ready()
				y := b.Status().Yield
				require.Equal(t, []any{"a", "b", ill.reason}, []any{y.By, y.To, y.Reason})
				a.Reconnect() // a person asks: it need not pause for half a minute before it looks
				await(t, "a stands by", func() bool { return a.Status().LockHolder == "b" })
				require.NotEqual(t, stability.ModeActive, a.Status().Mode)
				require.Contains(t, a.Status().Summary, "could not connect")
				require.Zero(t, dev.Stats().Replaced, "never two logins")

				// It takes the lock back when it is its turn, and is well again.
				sick.Stop()
				b.leave()
				a.ready()
				require.Same(t, dev, device(t, account), "the same session")
				a.leave()
			})
		}
	}
}
