package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/wastability/wastability/autoheal"
	"github.com/wastability/wastability/examples/internal/demo"
	"github.com/wastability/wastability/keepalive"
	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/memorybackend"
	"github.com/wastability/wastability/stability/metrics"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// simulate plays two instances of one account through one trouble after the
// other, until ctx ends. Everything is quicker than in a real program.
func simulate(ctx context.Context, addr string) error {
	world, err := demo.New(ctx)
	if err != nil {
		return err
	}
	defer world.Close()
	p := &play{world: world, memory: memorybackend.New()}
	registry, provider, err := exporter()
	if err != nil {
		return err
	}
	// Two processes would have a series each. One process with two Managers has
	// them together.
	if _, err := metrics.RegisterAll(p.all, provider, metrics.WithAccountLabels(func(string) string { return "shop" })); err != nil {
		return err
	}
	stop, err := serve(addr, registry)
	if err != nil {
		return err
	}
	defer stop()

	troubles, quit := context.WithCancel(ctx)
	done := make(chan error, 2)
	for _, name := range []string{"one", "two"} {
		m, err := p.instance(name)
		if err != nil {
			quit()
			return err
		}
		go func() {
			err := m.Run(ctx, setup)
			done <- errors.Join(err, m.Close(context.Background()))
		}()
	}
	p.life(troubles)
	quit()
	return errors.Join(<-done, <-done)
}

type play struct {
	world  *demo.World
	memory *memorybackend.Memory
	shaky  shaky

	mu       sync.Mutex
	managers []*stability.Manager
}

func (p *play) instance(name string) (*stability.Manager, error) {
	m, err := stability.New(append(p.world.Options(name),
		stability.WithBackend(p.shaky.front(p.memory.Backend())),
		stability.WithAutoHeal(autoheal.Policy{InProcess: true}),
		stability.WithKeepalive(keepalive.Policy{ProbeAfter: time.Second, StaleAfter: 20 * time.Second}),
		stability.WithLockOptions(lock.WithLease(9*time.Second), lock.WithRefresh(3*time.Second), lock.WithMargin(time.Second)))...)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.managers = append(p.managers, m)
	return m, nil
}

// all yields the Managers that there are.
func (p *play) all(yield func(string, *stability.Manager) bool) {
	p.mu.Lock()
	managers := append([]*stability.Manager(nil), p.managers...)
	p.mu.Unlock()
	for _, m := range managers {
		if !yield("", m) {
			return
		}
	}
}

// life has Ada write every second, and strikes in between.
func (p *play) life(ctx context.Context) {
	var writing sync.WaitGroup
	defer writing.Wait()
	writing.Go(func() {
		for n := 1; pause(ctx, time.Second); n++ {
			_, _ = p.world.Ada.Send(ctx, p.world.Account.JID(), fmt.Sprintf("message %d", n))
		}
	})
	own := p.world.Account.JID()
	strike := func(what string, f wasim.Fault, lasting time.Duration) bool {
		demo.Say("trouble", "%s", what)
		armed := p.world.Service.Fault(f).For(own).Always().Now()
		defer armed.Stop()
		return pause(ctx, lasting)
	}
	for pause(ctx, 6*time.Second) {
		if !strike("WhatsApp refuses messages", wasim.MessageNack(429), 4*time.Second) || !pause(ctx, 3*time.Second) {
			return
		}
		demo.Say("trouble", "the backend is out of reach")
		p.shaky.down.Store(true)
		more := pause(ctx, 5*time.Second)
		p.shaky.down.Store(false)
		if !more || !pause(ctx, 6*time.Second) {
			return
		}
		demo.Say("trouble", "WhatsApp restarts")
		p.world.Service.Fault(wasim.StreamError("503")).For(own).Now()
	}
}

// pause waits; false when ctx has ended.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}
