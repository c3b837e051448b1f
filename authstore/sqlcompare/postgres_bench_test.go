package sqlcompare

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/store/sqlstore"
	"go.mau.fi/whatsmeow/types"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/stability/postgresbackend"
	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/postgrestest"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// poolSize is how many connections either store may open.
const poolSize = 20

// fleet is a number of clients on one kind of store, in one database.
type fleet struct {
	name   string
	way    *postgrestest.Proxy
	hosts  []*host
	ghosts []types.JID // somebody to write to, for each
	crowd  types.JID
	wal    func() int64 // bytes that the server has written so far
}

// newFleet pairs n clients on the devices that device makes.
func newFleet(b *testing.B, name string, way *postgrestest.Proxy, wal func() int64, n int, device func(i int) *store.Device) *fleet {
	f := &fleet{name: name, way: way, wal: wal}
	sim := wasim.New(wasim.WithTB(b))
	peer, err := sim.NewContact(b.Context(), "491520000009")
	require.NoError(b, err)
	for i := range n {
		h := &host{b: b, sim: sim, peer: peer, all: make(chan struct{}, 1), account: sim.NewAccount(fmt.Sprint(491521000000 + i))}
		h.run(device(i))
		f.hosts = append(f.hosts, h)
		f.ghosts = append(f.ghosts, sim.Ghosts(1)[0].JID())
	}
	f.crowd = sim.NewGroup("crowd", append(sim.Ghosts(crowdSize-2), f.hosts[0].account, peer.Account())...).JID()
	f.receive(2)
	f.send(2)
	f.sendToCrowd(2)
	f.receive(2)
	return f
}

// each runs f for all hosts at once, and returns how many of the n things that
// each of them does are done in a second, all together.
func (f *fleet) each(n int, do func(i int, h *host)) float64 {
	start := time.Now()
	var wg sync.WaitGroup
	for i, h := range f.hosts {
		wg.Go(func() { do(i, h) })
	}
	wg.Wait()
	return float64(n*len(f.hosts)) / time.Since(start).Seconds()
}

func (f *fleet) send(n int) float64 {
	return f.each(n, func(i int, h *host) {
		for k := range n {
			if _, err := h.client.SendMessage(h.b.Context(), f.ghosts[i], text(fmt.Sprint(k))); err != nil {
				h.b.Errorf("send: %v", err)
				return
			}
		}
	})
}

func (f *fleet) sendToCrowd(n int) float64 {
	start, h := time.Now(), f.hosts[0]
	for range n {
		_, err := h.client.SendMessage(h.b.Context(), f.crowd, text("crowd"))
		require.NoError(h.b, err)
	}
	return float64(n) / time.Since(start).Seconds()
}

// receive has n messages wait for each host, and counts from the moment at which
// the hosts are back: the one who wrote them does not slow it down. A login asks
// the store for a little, too.
func (f *fleet) receive(n int) float64 {
	for _, h := range f.hosts {
		h.off()
		h.got.Store(0)
		h.want.Store(int64(n))
		for k := range n {
			_, err := h.peer.Send(h.b.Context(), h.account.JID(), fmt.Sprint(k))
			require.NoError(h.b, err)
		}
	}
	return f.each(n, func(_ int, h *host) {
		h.on()
		<-h.all
		for len(h.device().Pending()) > 0 {
			time.Sleep(time.Millisecond)
		}
	})
}

func onSQLStore(b *testing.B, server *postgrestest.Server, wal func() int64, n int) *fleet {
	way := postgrestest.NewProxy(b, server.Addr())
	db, err := sql.Open("postgres", way.DSN())
	require.NoError(b, err)
	b.Cleanup(func() { _ = db.Close() })
	db.SetMaxOpenConns(poolSize)
	db.SetMaxIdleConns(poolSize)
	stores := sqlstore.NewWithDB(db, "postgres", nil)
	require.NoError(b, stores.Upgrade(b.Context()))
	return newFleet(b, "sqlstore", way, wal, n, func(int) *store.Device { return stores.NewDevice() })
}

func onBackend(b *testing.B, server *postgrestest.Server, wal func() int64, n int) *fleet {
	way := postgrestest.NewProxy(b, server.Addr())
	db, err := postgresbackend.Open(b.Context(), fmt.Sprintf("%s&pool_max_conns=%d", way.DSN(), poolSize))
	require.NoError(b, err)
	b.Cleanup(db.Close)
	require.NoError(b, db.Migrate(b.Context()))
	return newFleet(b, "postgresbackend", way, wal, n, func(i int) *store.Device {
		backend, err := db.Account(fmt.Sprint(n, "/", i))
		require.NoError(b, err)
		rec, granted, err := backend.Lock.Acquire(b.Context(), "bench", "1", 24*time.Hour)
		require.NoError(b, err)
		require.True(b, granted)
		container := authstore.New(backend.Auth)
		device, err := container.Device(b.Context(), fence{rec.Epoch})
		require.NoError(b, err)
		b.Cleanup(func() { _ = container.Close(context.Background()) })
		return device
	})
}

// BenchmarkPostgres compares postgresbackend with sqlstore on the same server,
// with a way between them and it, and 1, 10 and 100 clients at once. Both may
// open 20 connections. They take turns; ratios are per turn. The result is a
// table on stdout. Take -benchtime=1x; WASTABILITY_FULL=1 adds turns.
func BenchmarkPostgres(b *testing.B) {
	for _, n := range []int{1, 10, 100} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			server := postgrestest.NeedOwn(b, postgrestest.WithSetting("max_connections", "100"), postgrestest.WithSetting("autovacuum", "off"))
			admin, err := sql.Open("postgres", server.DSN())
			require.NoError(b, err)
			b.Cleanup(func() { _ = admin.Close() })
			wal := func() (at int64) {
				require.NoError(b, admin.QueryRow("SELECT pg_current_wal_insert_lsn() - '0/0'").Scan(&at))
				return at
			}
			var out strings.Builder
			fleets := []*fleet{onSQLStore(b, server, wal, n), onBackend(b, server, wal, n)}
			for b.Loop() {
				for _, rtt := range []time.Duration{0, 5 * time.Millisecond, 20 * time.Millisecond} {
					contest(b, &out, fleets, n, rtt)
				}
			}
			b.ReportMetric(0, "ns/op")
			fmt.Println(out.String()) // a log would be cut off
		})
	}
}

func contest(b *testing.B, out *strings.Builder, fleets []*fleet, n int, rtt time.Duration) {
	type figures struct{ rate, trips, wal, conns []float64 }
	messages := map[int]int{1: 60, 10: 20, 100: 6}[n]
	if rtt == 0 {
		messages *= 2
	}
	whats := []string{"received", "sent"}
	if n == 1 {
		whats = append(whats, "sent to 256")
	}
	all := map[string]*figures{}
	for turn := range stabilitytest.Pick(1, 3) {
		for _, what := range whats {
			if what == "sent to 256" && turn > 0 {
				continue // it takes sqlstore half a minute
			}
			for k := range fleets {
				f := fleets[(k+turn)%len(fleets)]
				count := messages
				f.way.SetRoundTrip(rtt)
				if what == "sent to 256" {
					count = max(messages/20, 2)
				}
				f.way.MostConnections()
				trips, before := f.way.Trips(), f.wal()
				rate := map[string]func(int) float64{"received": f.receive, "sent": f.send, "sent to 256": f.sendToCrowd}[what](count)
				done := float64(count * len(f.hosts))
				if what == "sent to 256" {
					done = float64(count)
				}
				g := all[what+f.name]
				if g == nil {
					g = &figures{}
					all[what+f.name] = g
				}
				g.rate = append(g.rate, rate)
				g.trips = append(g.trips, float64(f.way.Trips()-trips)/done)
				g.wal = append(g.wal, float64(f.wal()-before)/done)
				g.conns = append(g.conns, float64(f.way.MostConnections()))
				f.way.SetRoundTrip(0)
			}
		}
	}
	middle := func(v []float64) float64 { return slices.Sorted(slices.Values(v))[len(v)/2] }
	for _, what := range whats {
		theirs, ours := all[what+fleets[0].name], all[what+fleets[1].name]
		var ratios []float64
		for i := range ours.rate {
			ratios = append(ratios, ours.rate[i]/theirs.rate[i])
		}
		fmt.Fprintf(out, "| %d | %v | %s | %.3g | %.3g | %.1f (%.1f–%.1f) | %.2f | %.2f | %.2g | %.2g | %.0f | %.0f |\n", n, rtt, what,
			middle(theirs.rate), middle(ours.rate), middle(ratios), slices.Min(ratios), slices.Max(ratios),
			middle(theirs.trips), middle(ours.trips), middle(theirs.wal)/1000, middle(ours.wal)/1000, middle(theirs.conns), middle(ours.conns))
	}
}
