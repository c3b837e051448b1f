package stability_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/autoheal"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// method is one exported method of Manager with arguments that make sense.
type method struct {
	call func(ctx context.Context, m *stability.Manager) error
	// before is the error before the lock was taken, after the one after
	// Close; nil where there is none.
	before, after error
	// waits: before the lock was taken it waits for ctx.
	waits bool
}

func ignore[T any](_ T, err error) error { return err }

func noConnect(context.Context) error { return errors.New("the host does not connect") }

// methods is every exported method.
func methods() map[string]method {
	notActive, closed := stability.ErrNotActive, stability.ErrClosed
	return map[string]method{
		"Activate": {func(ctx context.Context, m *stability.Manager) error { return m.Activate(ctx) }, nil, closed, false},
		"TryActivate": {func(ctx context.Context, m *stability.Manager) error {
			return ignore(m.TryActivate(ctx))
		}, nil, closed, false},
		"Attach": {func(_ context.Context, m *stability.Manager) error {
			return m.Attach(whatsmeow.NewClient(wasim.NewMemoryDevice(), m.Logger(nil)))
		}, notActive, closed, false},
		"AuthState": {func(ctx context.Context, m *stability.Manager) error { return ignore(m.AuthState(ctx)) }, notActive, closed, false},
		"NewClient": {func(_ context.Context, m *stability.Manager) error {
			return ignore(m.NewClient(wasim.NewMemoryDevice()))
		}, notActive, closed, false},
		"Changed":         {func(_ context.Context, m *stability.Manager) error { m.Changed(); return nil }, nil, nil, false},
		"Counts":          {func(_ context.Context, m *stability.Manager) error { m.Counts(); return nil }, nil, nil, false},
		"Client":          {func(_ context.Context, m *stability.Manager) error { m.Client(); return nil }, nil, nil, false},
		"Close":           {func(ctx context.Context, m *stability.Manager) error { return m.Close(ctx) }, nil, nil, false},
		"HandleConnected": {func(ctx context.Context, m *stability.Manager) error { return m.HandleConnected(ctx) }, notActive, closed, false},
		"HandleDisconnected": {func(ctx context.Context, m *stability.Manager) error {
			return ignore(m.HandleDisconnected(ctx, &events.Disconnected{}))
		}, notActive, closed, false},
		"Incidents":   {func(_ context.Context, m *stability.Manager) error { m.Incidents(); return nil }, nil, nil, false},
		"Logger":      {func(_ context.Context, m *stability.Manager) error { m.Logger(nil).Sub("x").Debugf("x"); return nil }, nil, nil, false},
		"Logout":      {func(ctx context.Context, m *stability.Manager) error { return m.Logout(ctx) }, notActive, closed, true},
		"Observe":     {func(_ context.Context, m *stability.Manager) error { m.Observe(func(stability.Event) {})(); return nil }, nil, nil, false},
		"PairPhone":   {func(ctx context.Context, m *stability.Manager) error { return ignore(m.PairPhone(ctx, "491520000001")) }, notActive, closed, true},
		"PurgeDevice": {func(ctx context.Context, m *stability.Manager) error { return m.PurgeDevice(ctx) }, notActive, closed, false},
		"Messages":    {func(_ context.Context, m *stability.Manager) error { _ = m.Messages(); return nil }, nil, nil, false},
		"Redeliver":   {func(ctx context.Context, m *stability.Manager) error { return m.Redeliver(ctx, "none") }, notActive, closed, false},
		"PurgeMessage": {func(ctx context.Context, m *stability.Manager) error {
			return m.PurgeMessage(ctx, "none")
		}, notActive, closed, false},
		"PurgeRows":   {func(ctx context.Context, m *stability.Manager) error { return m.PurgeRows(ctx) }, notActive, closed, false},
		"Quarantine":  {func(ctx context.Context, m *stability.Manager) error { return ignore(m.Quarantine(ctx)) }, notActive, closed, false},
		"Reseal":      {func(ctx context.Context, m *stability.Manager) error { return m.Reseal(ctx, nil) }, notActive, closed, false},
		"QR":          {func(_ context.Context, m *stability.Manager) error { m.QR(); return nil }, nil, nil, false},
		"Reconnect":   {func(_ context.Context, m *stability.Manager) error { m.Reconnect(); return nil }, nil, nil, false},
		"RecordEvent": {func(_ context.Context, m *stability.Manager) error { m.RecordEvent(&events.Message{}); return nil }, nil, nil, false},
		"RestoreDevice": {func(ctx context.Context, m *stability.Manager) error {
			return m.RestoreDevice(ctx)
		}, notActive, closed, false},
		"Resume": {func(_ context.Context, m *stability.Manager) error { return ignore(m.Resume()) }, notActive, closed, false},
		"Run":    {func(ctx context.Context, m *stability.Manager) error { return m.Run(ctx, nil) }, nil, closed, true},
		"ScheduleReconnect": {func(_ context.Context, m *stability.Manager) error {
			m.ScheduleReconnect(reconnect.Decision{ShouldReconnect: true, NextRetryAt: time.Now()}, noConnect)
			return nil
		}, nil, nil, false},
		"Send": {func(ctx context.Context, m *stability.Manager) error {
			return ignore(m.Send(ctx, types.NewJID("491520000009", types.DefaultUserServer), text("from inside")))
		}, notActive, closed, false},
		"Status":    {func(_ context.Context, m *stability.Manager) error { _ = m.Status().Summary; return nil }, nil, nil, false},
		"WaitQR":    {func(ctx context.Context, m *stability.Manager) error { return ignore(m.WaitQR(ctx)) }, notActive, closed, true},
		"WaitReady": {func(ctx context.Context, m *stability.Manager) error { return ignore(m.WaitReady(ctx)) }, context.DeadlineExceeded, closed, true},
	}
}

// nilCalls are the same with nothing where something should be.
func nilCalls() map[string]func(ctx context.Context, m *stability.Manager) error {
	return map[string]func(ctx context.Context, m *stability.Manager) error{
		"Attach":             func(_ context.Context, m *stability.Manager) error { return m.Attach(nil) },
		"Attach empty":       func(_ context.Context, m *stability.Manager) error { return m.Attach(new(whatsmeow.Client)) },
		"NewClient":          func(_ context.Context, m *stability.Manager) error { return ignore(m.NewClient(nil)) },
		"NewClient empty":    func(_ context.Context, m *stability.Manager) error { return ignore(m.NewClient(new(store.Device))) },
		"HandleDisconnected": func(ctx context.Context, m *stability.Manager) error { return ignore(m.HandleDisconnected(ctx, nil)) },
		"HandleDisconnected typed": func(ctx context.Context, m *stability.Manager) error {
			return errors.Join(
				ignore(m.HandleDisconnected(ctx, (*events.LoggedOut)(nil))),
				ignore(m.HandleDisconnected(ctx, (*events.StreamError)(nil))),
				ignore(m.HandleDisconnected(ctx, (*events.TemporaryBan)(nil))),
				ignore(m.HandleDisconnected(ctx, reconnect.Reason(""))),
				ignore(m.HandleDisconnected(ctx, error(nil))))
		},
		"Observe":     func(_ context.Context, m *stability.Manager) error { m.Observe(nil)(); return nil },
		"PairPhone":   func(ctx context.Context, m *stability.Manager) error { return ignore(m.PairPhone(ctx, "")) },
		"Send":        func(ctx context.Context, m *stability.Manager) error { return ignore(m.Send(ctx, types.JID{}, nil)) },
		"RecordEvent": func(_ context.Context, m *stability.Manager) error { m.RecordEvent(nil); return nil },
		"ScheduleReconnect": func(_ context.Context, m *stability.Manager) error {
			m.ScheduleReconnect(reconnect.Decision{}, nil)
			return nil
		},
		"ScheduleReconnect now": func(_ context.Context, m *stability.Manager) error {
			m.ScheduleReconnect(reconnect.Decision{ShouldReconnect: true}, nil)
			return nil
		},
	}
}

func TestNoMethodIsForgotten(t *testing.T) {
	all := methods()
	typ := reflect.TypeFor[*stability.Manager]()
	for i := range typ.NumMethod() {
		require.Contains(t, all, typ.Method(i).Name)
	}
	require.Len(t, all, typ.NumMethod())
}

// within runs f and fails the test if it does not return in time. What it
// does after a panic is the test's end anyway.
func within(t *testing.T, name string, limit time.Duration, f func() error) error {
	t.Helper()
	result := make(chan error, 1)
	go func() { result <- f() }()
	select {
	case err := <-result:
		return err
	case <-time.After(limit):
		require.Fail(t, "it hangs", name)
		return nil
	}
}

func TestEveryMethodBeforeActivationAfterCloseAndTwiceIsAnErrorOrANoOp(t *testing.T) {
	for name, x := range methods() {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				do := func(m *stability.Manager, want error) {
					t.Helper()
					for range 2 {
						ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
						err := within(t, name, time.Minute, func() error { return x.call(ctx, m) })
						cancel()
						if want == nil {
							require.NoError(t, err)
						} else {
							require.ErrorIs(t, err, want)
						}
					}
				}
				fresh := w.named("fresh")
				do(fresh.m, x.before)

				// With a context that is over already: it returns, whatever it says.
				over, cancel := context.WithCancel(t.Context())
				cancel()
				again := w.named("over")
				_ = within(t, name, time.Minute, func() error { return x.call(over, again.m) })
				require.NoError(t, again.m.Close(t.Context()))

				if name != "Close" {
					require.NoError(t, fresh.m.Close(t.Context()))
				}
				do(fresh.m, x.after)
				require.NoError(t, fresh.m.Close(t.Context()))
				require.Equal(t, stability.ModePassive, fresh.m.Status().Mode)

				// Active, and nothing attached; then at work.
				active := w.named("active")
				ok, err := active.m.TryActivate(t.Context())
				require.NoError(t, err)
				require.True(t, ok)
				for range 2 {
					ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
					_ = within(t, name, time.Minute, func() error { return x.call(ctx, active.m) })
					cancel()
					_ = within(t, name, time.Minute, func() error { return x.call(over, active.m) })
				}
				require.NoError(t, active.m.Close(t.Context()))
				w.close()
			})
		})
	}
}

func TestNothingWhereSomethingShouldBeIsAnErrorOrANoOp(t *testing.T) {
	for name, call := range nilCalls() {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				try := func(m *stability.Manager) {
					for range 2 {
						ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
						_ = within(t, name, time.Minute, func() error { return call(ctx, m) })
						cancel()
					}
				}
				h := w.byHand()
				try(h.m)
				ok, err := h.m.TryActivate(t.Context())
				require.NoError(t, err)
				require.True(t, ok)
				try(h.m)
				h.activate()
				try(h.m)
				time.Sleep(time.Minute)
				require.NoError(t, h.m.Close(t.Context()))
				try(h.m)
				r := w.named("run").run()
				r.pair()
				time.Sleep(time.Minute)
				if name != "HandleDisconnected" && name != "HandleDisconnected typed" {
					try(r.m)
					require.Equal(t, reconnect.StatusConnected, r.status().WA)
				}
				r.stop()
				w.close()
			})
		})
	}
}

// Every method from inside every whatsmeow event, observer and QR callback.
func TestEveryMethodMayBeCalledFromInsideEveryCallback(t *testing.T) {
	t.Parallel()
	all := methods()
	for i, name := range slices.Sorted(maps.Keys(all)) {
		x := all[name]
		for _, hand := range []bool{false, true} {
			run := name == "Run" || name == "Close"
			if hand && run {
				continue // Run takes the account from the host's hands
			}
			if !stabilitytest.Full() && !run && hand != (i%2 == 0) {
				continue // the other way is the full size's
			}
			t.Run(fmt.Sprintf("%s,byHand=%v", name, hand), func(t *testing.T) {
				someUnderRace(t)
				bubble(t, func(t *testing.T) {
					w := newWorld(t)
					heal := stability.WithAutoHeal(autoheal.Policy{Disabled: true})
					var n *named
					calls := map[string]int{}
					in, out := 0, 0
					call := func(where string) {
						n.mu.Lock()
						calls[where]++
						again := calls[where] > 2
						if !again {
							in++
						}
						n.mu.Unlock()
						if again {
							return
						}
						ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
						defer cancel()
						_ = x.call(ctx, n.m)
						n.mu.Lock()
						out++
						n.mu.Unlock()
					}
					n = w.named("n", heal, stability.WithQR(func(stability.QR) { call("qr") }))
					n.onEvent = func(evt any) { call(fmt.Sprintf("%T", evt)) }
					n.onChange = func(e stability.Event) { call(string(e.Kind)) }
					if hand {
						h := &byHand{named: n}
						h.activate()
					} else {
						n.instance.run()
					}
					scan := func() {
						select {
						case q := <-n.codes:
							_ = w.account.Phone().Scan(q.Code)
						case <-time.After(time.Minute):
						}
						time.Sleep(time.Minute)
					}
					scan()
					if len(w.account.Devices()) == 0 {
						scan()
					}
					for _, f := range []wasim.Fault{wasim.FIN(), wasim.StreamError("500"), wasim.Replaced(), wasim.BlackHole()} {
						if len(w.account.Devices()) > 0 {
							_, _ = w.say("hello")
						}
						time.Sleep(time.Second)
						w.flood(3, time.Millisecond)
						time.Sleep(time.Second)
						injected := w.sim.Fault(f).For(w.account.JID())
						injected.Now()
						time.Sleep(2 * time.Minute)
						injected.Stop()
					}
					w.sim.Fault(wasim.DeviceRemoved()).For(w.account.JID()).Now()
					time.Sleep(10 * time.Minute)
					_ = within(t, "Close", 5*time.Minute, func() error { return n.m.Close(context.Background()) })
					time.Sleep(5 * time.Minute)
					n.mu.Lock()
					require.Equal(t, in, out, "a call did not return: %v", calls)
					require.GreaterOrEqual(t, in, 3, "%v", calls) // a Close at the first leaves two more
					n.mu.Unlock()
					require.ErrorIs(t, n.m.Activate(t.Context()), stability.ErrClosed)
					w.close()
				})
			})
		}
	}
}

// Close and Logout end what they are called from, so each place has its turn.
func TestCloseAndLogoutFromInsideEachCallback(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"Close", "Logout"} {
		for _, place := range []string{
			"qr", "activated", "connecting", "connected", "disconnected", "needs_pairing", "paired",
			"*events.QR", "*events.PairSuccess", "*events.Connected", "*events.Message", "*events.Receipt", "*events.OfflineSyncCompleted",
			"*events.Disconnected", "*events.StreamError", "*events.StreamReplaced", "*events.KeepAliveTimeout",
		} {
			t.Run(name+" in "+place, func(t *testing.T) {
				someUnderRace(t)
				bubble(t, func(t *testing.T) {
					w := newWorld(t)
					var n *named
					in, out := 0, 0
					call := func(where string) {
						if where != place {
							return
						}
						n.mu.Lock()
						in++
						n.mu.Unlock()
						ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
						defer cancel()
						_ = methods()[name].call(ctx, n.m)
						n.mu.Lock()
						out++
						n.mu.Unlock()
					}
					n = w.named("n", stability.WithAutoHeal(autoheal.Policy{Disabled: true}), stability.WithQR(func(stability.QR) { call("qr") }))
					n.onEvent = func(evt any) { call(fmt.Sprintf("%T", evt)) }
					n.onChange = func(e stability.Event) { call(string(e.Kind)) }
					n.instance.run()
					select {
					case q := <-n.codes:
						_ = w.account.Phone().Scan(q.Code)
					case <-time.After(time.Minute):
					}
					time.Sleep(time.Minute)
					for _, f := range []wasim.Fault{wasim.FIN(), wasim.StreamError("500"), wasim.BlackHole(), wasim.Replaced()} {
						if len(w.account.Devices()) > 0 {
							_, _ = w.say("hello")
						}
						w.flood(3, time.Millisecond)
						time.Sleep(time.Second)
						injected := w.sim.Fault(f).For(w.account.JID())
						injected.Now()
						time.Sleep(3 * time.Minute)
						injected.Stop()
					}
					require.NoError(t, within(t, "Close", 5*time.Minute, func() error { return n.m.Close(context.Background()) }))
					time.Sleep(5 * time.Minute)
					n.mu.Lock()
					require.Equal(t, in, out)
					require.Positive(t, in, "it was never called there")
					n.mu.Unlock()
					w.close()
				})
			})
		}
	}
}
