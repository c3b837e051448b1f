package main

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/wastability/wastability/examples/internal/demo"
	"github.com/wastability/wastability/keepalive"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// simulate plays one round: pairing, a black hole, a logout with a second
// scan, then it ends. The session is thrown away. It is quiet for a while behind
// each step, so that somebody can read along.
func simulate(ctx context.Context, quiet time.Duration, extra ...stability.Option) error {
	dir, err := os.MkdirTemp("", "wastability-manual-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	world, err := demo.New(ctx)
	if err != nil {
		return err
	}
	defer world.Close()

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	connected := make(chan struct{}, 16)
	opts := append(world.Options("host"), stability.WithKeepalive(keepalive.Policy{StaleAfter: 50 * time.Second}),
		stability.WithObserver(func(e stability.Event) {
			if e.Kind == stability.EventConnected {
				connected <- struct{}{}
			}
		}))
	opts = append(opts, extra...)
	served := make(chan error, 1)
	go func() { served <- serve(ctx, filepath.Join(dir, "session.db"), opts...) }()

	for _, step := range []struct {
		told   string
		strike func()
	}{
		{"", func() {}},
		{"resets the connection", func() { world.Service.Fault(wasim.Reset()).For(world.Account.JID()).Now() }},
		{"refuses the next two connections", func() {
			world.Service.Fault(wasim.Refused()).From("host").Times(2).OnNextLogin()
			world.Service.Fault(wasim.FIN()).For(world.Account.JID()).Now()
		}},
		{"the owner removes the device on the phone", func() {
			for _, d := range world.Account.Devices() {
				world.Account.Phone().RemoveDevice(d)
			}
		}},
	} {
		if step.told != "" {
			demo.Say("service", "%s", step.told)
		}
		step.strike()
		select {
		case <-connected:
		case err := <-served:
			return err
		case <-ctx.Done():
			return <-served
		}
		if _, err := world.Ada.Send(ctx, world.Account.JID(), "hello"); err != nil {
			return err
		}
		time.Sleep(quiet)
	}
	demo.Say("host", "ends")
	cancel()
	return <-served
}
