package sqlcompare

import (
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	_ "github.com/lib/pq"
	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/store/sqlstore"
	"go.mau.fi/whatsmeow/types"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/stability/localbackend"
	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/postgrestest"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// contender is a client on one kind of store.
type contender struct {
	name  string
	way   *way
	host  *host
	group *wasim.Group
	d     *store.Device
	cold  func() // opens the store once more and gets a group of 256 ready
}

const (
	coldSessions = 5000
	crowdSize    = 256
)

// BenchmarkStore lets the same client run on different stores, in turns, in
// one process, with a round-trip time put before each call of the store. The
// result is a table on stdout. Take -benchtime=3x.
func BenchmarkStore(b *testing.B) {
	all := []*contender{sqliteStore(b), postgresStore(b), naiveStore(b), localStore(b), kvStore(b)}
	all = slices.DeleteFunc(all, func(c *contender) bool { return c == nil })
	for _, c := range all {
		others := append(c.host.sim.Ghosts(crowdSize-2), c.host.account, c.host.peer.Account())
		c.group = c.host.sim.NewGroup("crowd", others...)
		c.host.send(3)
		c.host.receive(3)
		c.host.send(3)
		fillSessions(b, c)
		for range 2 {
			_, err := c.host.client.SendMessage(b.Context(), c.group.JID(), text("hello"))
			require.NoError(b, err)
		}
	}
	rates := map[string][]float64{}
	note := func(rtt time.Duration, what string, c *contender, v float64) {
		k := fmt.Sprint(rtt, "|", what, "|", c.name)
		rates[k] = append(rates[k], v)
	}
	rtts := []time.Duration{0, 5 * time.Millisecond, 20 * time.Millisecond}
	// At 0 ms the disk decides, and it is not the same from one moment to the
	// next: five rounds for one of the others, which take their time.
	turns := []time.Duration{0, 0, 0, 0, 0, rtts[1], rtts[2]}
	for round := 0; b.Loop(); {
		for _, rtt := range turns {
			round++
			n, g := stabilitytest.Pick(60, 200), 4
			if rtt > 0 {
				n, g = stabilitytest.Pick(int(100*time.Millisecond/rtt), 100), 1
			}
			for turn := range all {
				c := all[(turn+round)%len(all)]
				measure := func(what string, n int, f func() float64) {
					before, bytes := c.way.trips.Load(), c.way.bytes.Load()
					c.way.rtt.Store(int64(rtt))
					v := f()
					c.way.rtt.Store(0)
					note(rtt, what, c, v)
					note(rtt, what+": round trips each", c, float64(c.way.trips.Load()-before)/float64(n))
					note(rtt, what+": bytes each", c, float64(c.way.bytes.Load()-bytes)/float64(n))
				}
				measure("received/s", n, func() float64 { return c.host.receive(n) })
				measure("sent/s", n, func() float64 { return c.host.send(n) })
				measure("sent to 256/s", g, func() float64 {
					start := time.Now()
					for range g {
						_, err := c.host.client.SendMessage(b.Context(), c.group.JID(), text("crowd"))
						require.NoError(b, err)
					}
					return float64(g) / time.Since(start).Seconds()
				})
				measure("cold starts/s", 1, func() float64 {
					start := time.Now()
					c.cold()
					return 1 / time.Since(start).Seconds()
				})
			}
		}
	}
	b.ReportMetric(0, "ns/op")
	var out strings.Builder
	spread := func(v []float64) string {
		v = slices.Sorted(slices.Values(v))
		return fmt.Sprintf("%.3g / %.3g / %.3g", v[0], v[len(v)/2], v[len(v)-1])
	}
	for _, rtt := range rtts {
		fmt.Fprintf(&out, "\nrtt %s\n", rtt)
		for _, what := range []string{"received/s", "sent/s", "sent to 256/s", "cold starts/s"} {
			for _, c := range all {
				k := func(s string) []float64 { return rates[fmt.Sprint(rtt, "|", what, s, "|", c.name)] }
				fmt.Fprintf(&out, "| %s | %s | %s | trips %s |", what, c.name, spread(k("")), spread(k(": round trips each")))
				fmt.Fprintf(&out, " bytes %s |", spread(k(": bytes each")))
				for _, ours := range all {
					// Like with like: both on disk, or both in memory.
					if memory := c.name == "naive"; strings.HasPrefix(ours.name, "authstore") && memory == (ours.name == "authstore, KV") && !strings.HasPrefix(c.name, "authstore") {
						var ratios []float64
						for i, v := range k("") {
							ratios = append(ratios, rates[fmt.Sprint(rtt, "|", what, "|", ours.name)][i]/v)
						}
						fmt.Fprintf(&out, " %s: %s times |", ours.name, spread(ratios))
					}
				}
				fmt.Fprintln(&out)
			}
		}
	}
	fmt.Println(out.String()) // a log would be cut off
}

func sqliteStore(b *testing.B) *contender {
	w := new(way)
	dsn := "file:" + filepath.Join(b.TempDir(), "wa.db") + "?_pragma=foreign_keys(1)&_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_txlock=immediate"
	db, err := openSlow(w, "sqlite", dsn)
	require.NoError(b, err)
	return sqlContender(b, "sqlstore, SQLite", "491520000011", w, db, "sqlite3")
}

func postgresStore(b *testing.B) *contender {
	s, err := postgrestest.Start(b.Context())
	if err != nil {
		b.Logf("without PostgreSQL: %v", err)
		return nil
	}
	b.Cleanup(func() { require.NoError(b, s.Close()) })
	w := new(way)
	db, err := openSlow(w, "postgres", s.DSN())
	require.NoError(b, err)
	return sqlContender(b, "sqlstore, PostgreSQL", "491520000012", w, db, "postgres")
}

func sqlContender(b *testing.B, name, number string, w *way, db *sql.DB, dialect string) *contender {
	b.Cleanup(func() { _ = db.Close() })
	open := func() *sqlstore.Container { return sqlstore.NewWithDB(db, dialect, nil) }
	stores := open()
	require.NoError(b, stores.Upgrade(b.Context()))
	h := newHost(b, number)
	device := stores.NewDevice()
	h.run(device)
	return &contender{name: name, way: w, host: h, d: device, cold: func() {
		d, err := open().GetFirstDevice(b.Context())
		require.NoError(b, err)
		getReady(b, d)
	}}
}

// authstore and its naive relative on the same KV.
func kvContender(b *testing.B, name, number string, kv authstore.KV, epoch int64, plain bool) *contender {
	c := &contender{name: name, way: new(way)}
	slow := slowKV{kv, c.way}
	var under authstore.KV = slow
	if plain {
		under = &mapKV{data: map[authstore.Key]string{}, epoch: epoch}
	}
	dress := func(d *store.Device) *store.Device {
		if plain {
			naiveOn(slow, epoch, d.Sessions.(store.AllStores)).Install(d)
		}
		return d
	}
	stores := authstore.New(under)
	device, err := stores.Device(b.Context(), fence{epoch})
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, stores.Close(context.Background())) })
	c.host = newHost(b, number)
	c.host.run(device)
	c.d = dress(device)
	c.cold = func() {
		again := authstore.New(under)
		d, err := again.Device(b.Context(), fence{epoch})
		require.NoError(b, err)
		if plain {
			slow.w.trip() // the credentials
		}
		getReady(b, dress(d))
		require.NoError(b, again.Close(b.Context()))
	}
	return c
}

func naiveStore(b *testing.B) *contender {
	return kvContender(b, "naive", "491520000013", &mapKV{data: map[authstore.Key]string{}, epoch: 1}, 1, true)
}

func kvStore(b *testing.B) *contender {
	return kvContender(b, "authstore, KV", "491520000014", &mapKV{data: map[authstore.Key]string{}, epoch: 1}, 1, false)
}

func localStore(b *testing.B) *contender {
	backend, err := localbackend.Open(filepath.Join(b.TempDir(), "wa.db"))
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, backend.Close()) })
	rec, granted, err := backend.Lock.Acquire(b.Context(), "bench", "1", time.Hour)
	require.NoError(b, err)
	require.True(b, granted)
	return kvContender(b, "authstore, local", "491520000015", backend.Auth, rec.Epoch, false)
}

// fillSessions adds sessions and identities of others.
func fillSessions(b *testing.B, c *contender) {
	var like []byte
	for _, jid := range []types.JID{c.host.peer.Account().LID(), c.host.peer.JID()} {
		jid.Device = c.host.peer.Account().Devices()[0].JID().Device
		v, err := c.d.Sessions.GetSession(b.Context(), jid.SignalAddress().String())
		require.NoError(b, err)
		if v != nil {
			like = v
		}
	}
	require.NotNil(b, like, "a session that exists")
	all := make(map[string][]byte)
	for i := range coldSessions {
		all[memberAddress(i)] = like
		require.NoError(b, c.d.Identities.PutIdentity(b.Context(), memberAddress(i), [32]byte{byte(i)}))
	}
	require.NoError(b, c.d.Sessions.PutManySessions(b.Context(), all))
}

// getReady asks for what a send to 256 others asks for.
func getReady(b *testing.B, d *store.Device) {
	var addresses []string
	for i := range crowdSize {
		addresses = append(addresses, memberAddress(i))
	}
	got, err := d.Sessions.GetManySessions(b.Context(), addresses)
	require.NoError(b, err)
	for _, v := range got {
		require.NotEmpty(b, v)
	}
	for i, a := range addresses {
		ok, err := d.Identities.IsTrustedIdentity(b.Context(), a, [32]byte{byte(i)})
		require.NoError(b, err)
		require.True(b, ok)
	}
	_, err = d.LIDs.GetLIDForPN(b.Context(), types.NewJID("1", types.DefaultUserServer))
	require.NoError(b, err)
}
