// Command manual keeps its own connect code and lets the Manager decide: the
// lock, the session, why a connection ended, whether and when to come back.
// With -simulate it runs against a simulated service, without a phone.
package main

import (
	"context"
	"errors"
	"flag"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/localbackend"
)

func main() {
	simulated := flag.Bool("simulate", false, "run against a simulated service; needs no phone and no network")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	run := func(ctx context.Context) error {
		return serve(ctx, "wastability.db", stability.WithQR(stability.PrintQR(os.Stdout)))
	}
	if *simulated {
		run = func(ctx context.Context) error { return simulate(ctx, time.Second) }
	}
	if err := run(ctx); err != nil {
		slog.Error("ended", "error", err)
		os.Exit(1)
	}
}

// serve holds the account in the file path until ctx ends.
func serve(ctx context.Context, path string, opts ...stability.Option) error {
	backend, err := localbackend.Open(path)
	if err != nil {
		return err
	}
	over := make(chan struct{}, 1) // a term ended, or its client is of no more use
	manager, err := stability.New(append(opts, stability.WithBackend(backend), stability.WithObserver(func(e stability.Event) {
		loggedOut := e.Kind == stability.EventNeedsPairing && e.Reason != ""
		if e.Kind == stability.EventDeactivated || loggedOut {
			select {
			case over <- struct{}{}:
			default:
			}
		}
	}))...)
	if err != nil {
		return errors.Join(err, backend.Close())
	}
	defer manager.Close(context.Background())

	for ctx.Err() == nil {
		active, err := manager.TryActivate(ctx)
		if err != nil || !active {
			slog.Info("standing by", "error", err)
			wait(ctx, nil, 2*time.Second)
			continue
		}
		if err := connect(ctx, manager); err != nil {
			slog.Warn("no client yet", "error", err)
			wait(ctx, nil, 2*time.Second)
			continue
		}
		wait(ctx, over, 0)
	}
	return nil
}

// connect makes a client on this term's device and connects it. Every end is
// handed to the Manager, and its Decision back to it.
func connect(ctx context.Context, manager *stability.Manager) error {
	device, err := manager.AuthState(ctx)
	if err != nil {
		return err
	}
	client := whatsmeow.NewClient(device, manager.Logger(nil))
	if err := manager.Attach(client); err != nil {
		return err
	}
	dial := func(ctx context.Context) error { return client.ConnectContext(ctx) }
	client.AddEventHandler(func(evt any) {
		switch evt := evt.(type) {
		case *events.Connected:
			_ = manager.HandleConnected(ctx)
		case *events.Message:
			slog.Info("message", "id", evt.Info.ID)
		case *events.Disconnected, *events.StreamReplaced, *events.LoggedOut, *events.TemporaryBan, *events.ConnectFailure,
			*events.ClientOutdated, *events.StreamError, *events.ManualLoginReconnect, *events.PairError:
			if decision, err := manager.HandleDisconnected(ctx, evt); err == nil {
				manager.ScheduleReconnect(decision, dial)
			}
		}
	})
	first, err := manager.Resume()
	if err != nil {
		return err
	}
	manager.ScheduleReconnect(first, dial)
	return nil
}

// wait returns when ctx or d ends, or something came. Zero d waits for ever.
func wait(ctx context.Context, something <-chan struct{}, d time.Duration) {
	var timer <-chan time.Time
	if d > 0 {
		timer = time.After(d)
	}
	select {
	case <-ctx.Done():
	case <-something:
	case <-timer:
	}
}
