// Package demo gives the examples a simulated service to run against: an
// account with a phone that scans, and a contact who writes.
package demo

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"time"

	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// Numbers that are reserved for fiction.
const (
	ownNumber = "12025550123"
	adaNumber = "12025550147"
)

// Quick shortens the delays of a demo, by public options only.
var Quick = reconnect.Policy{
	InitialDelay: 700 * time.Millisecond, MaxDelay: 3 * time.Second, StableAfter: 2 * time.Second,
	ServiceFloor: 2500 * time.Millisecond, StoreRetry: time.Second,
	ReplacedPause: 4 * time.Second, SlowRetry: 6 * time.Second, ReplacedWindow: 15 * time.Second,
}

// World is a simulated service with one account of ours.
type World struct {
	Service *wasim.Service
	Account *wasim.Account
	Ada     *wasim.Contact
}

// New starts a service, with which a pairing takes little time, and Ada with it.
// Close it.
func New(ctx context.Context) (*World, error) {
	s := wasim.New(wasim.WithFewKeys())
	w := &World{Service: s, Account: s.NewAccount(ownNumber)}
	var err error
	if w.Ada, err = s.NewContact(ctx, adaNumber); err != nil {
		s.Close()
		return nil, fmt.Errorf("the simulated contact: %w", err)
	}
	return w, nil
}

// Close ends the service and all who are connected to it.
func (w *World) Close() { w.Service.Close() }

// Options let a Manager run against the service: its network, a phone that
// scans each code after a moment, short delays, and one line per transition.
func (w *World) Options(name string) []stability.Option {
	return []stability.Option{
		stability.WithTransport(w.Service.Transport(name)),
		stability.WithReconnect(Quick),
		stability.WithLogger(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))),
		stability.WithQR(func(q stability.QR) {
			Say("phone", "scans the code that %s shows", name)
			if err := w.Account.Phone().Scan(q.Code); err != nil {
				Say("phone", "could not use it: %v", err)
			}
		}),
		stability.WithObserver(func(e stability.Event) { Tell(name, e) }),
	}
}

// EnvStart carries the start of a demo to its child processes, as Unix
// nanoseconds, so that all lines count from one instant.
const EnvStart = "WASTABILITY_DEMO_START"

// Start is when the demo began.
var Start = func() time.Time {
	if n, err := strconv.ParseInt(os.Getenv(EnvStart), 10, 64); err == nil {
		return time.Unix(0, n)
	}
	return time.Now()
}()

// Say prints one line: when, who, what.
func Say(who, format string, args ...any) {
	fmt.Printf("%6.1f s  %-9s %s\n", time.Since(Start).Seconds(), who, fmt.Sprintf(format, args...))
}

const standsBy = "stands by: another instance holds the lock"

// Tell prints a transition in plain words.
func Tell(who string, e stability.Event) {
	switch e.Kind {
	case stability.EventStandby:
		Say(who, standsBy)
	case stability.EventActivated:
		Say(who, "holds the lock (term %d)", e.Epoch)
	case stability.EventDeactivated:
		if e.Kept {
			Say(who, "has ended its term, and keeps the lock for a new one (%s)", e.Reason)
		} else {
			Say(who, "has handed over (%s)", e.Reason)
		}
	case stability.EventPaired:
		Say(who, "is paired")
	case stability.EventConnected:
		if e.Offline > 0 {
			Say(who, "is connected, after %s", e.Offline.Round(100*time.Millisecond))
			return
		}
		Say(who, "is connected")
	case stability.EventDisconnected, stability.EventReasonKnown:
		Say(who, "is off: %s", e.Reason.Text().Means)
		if e.Decision.ShouldReconnect {
			Say(who, "comes back %s", in(e.Decision.Delay))
		}
	case stability.EventNeedsPairing:
		Say(who, "needs a phone that scans")
	case stability.EventHealth:
		Say(who, "health: %s. %s", e.Health, e.Detail)
	case stability.EventStoreDown:
		Say(who, "cannot reach its backend: %s", e.Detail)
	case stability.EventIncidentOpened:
		Say(who, "INCIDENT %s: %s", e.Incident, e.Detail)
	case stability.EventIncidentResolved:
		Say(who, "resolved: %s", e.Incident)
	}
}

func in(d time.Duration) string {
	if d < 50*time.Millisecond {
		return "at once"
	}
	return "in " + d.Round(100*time.Millisecond).String()
}
