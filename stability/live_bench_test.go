//go:build linux || darwin

package stability_test

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/memorybackend"
	"github.com/wastability/wastability/stability/stabilitytest/child"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// BenchmarkLiveAccount is what a connected account takes in a process that holds
// many: its Manager, its whatsmeow client and its connection, with a session in
// memory. The service is in another process. Take -benchtime=100x for a hundred.
func BenchmarkLiveAccount(b *testing.B) {
	sim := wasim.New()
	defer sim.Close()
	require.NoError(b, sim.Listen())
	phones := make([]*wasim.Phone, b.N)
	for i := range phones {
		phones[i] = sim.NewAccount(fmt.Sprint(491530000000 + i)).Phone()
	}
	p := child.Start(b, liveEnv, live{Service: sim.Endpoint(), Accounts: b.N})
	for range b.N {
		number, code, _ := strings.Cut(p.Hears("qr"), " ")
		i, err := strconv.Atoi(number)
		require.NoError(b, err)
		require.NoError(b, phones[i].Scan(code))
	}
	var bytes, goroutines float64
	_, err := fmt.Sscan(p.Hears("live"), &bytes, &goroutines)
	require.NoError(b, err)
	p.Kill()
	b.ReportMetric(bytes, "B/account")
	b.ReportMetric(goroutines, "goroutines/account")
	b.ReportMetric(0, "ns/op")
}

const liveEnv = "WASTABILITY_TEST_LIVE"

// live is a process with many accounts.
type live struct {
	Service  wasim.Endpoint
	Accounts int
}

func (l live) play() error {
	before, was := inUse()
	managers := make([]*stability.Manager, l.Accounts)
	for i := range managers {
		transport, err := l.Service.Transport("child")
		if err != nil {
			return err
		}
		shown := false
		managers[i], err = stability.New(
			stability.WithBackend(memorybackend.New().Backend()), stability.WithTransport(transport), stability.WithLogger(slog.New(slog.DiscardHandler)),
			stability.WithQR(func(q stability.QR) {
				if !shown {
					shown = true
					fmt.Println("qr", i, q.Code)
				}
			}),
		)
		if err != nil {
			return err
		}
		go managers[i].Run(context.Background(), nil)
	}
	for _, m := range managers {
		if _, err := m.WaitReady(context.Background()); err != nil {
			return err
		}
	}
	after, is := inUse()
	fmt.Println("live", (after-before)/float64(l.Accounts), float64(is-was)/float64(l.Accounts))
	runtime.KeepAlive(managers)
	select {} // until it is killed
}

// inUse are the bytes of heap and stacks, and the goroutines.
func inUse() (bytes float64, goroutines int) {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc + m.StackInuse), runtime.NumGoroutine()
}
