package postgresbackend

import (
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/child"
	"github.com/wastability/wastability/stability/stabilitytest/postgrestest"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// Three processes look after all accounts, each over a pool of eight
// connections, with traffic on every account. One hands over, one is killed:
// nothing waits for ever, and nothing is lost.
func TestThreeProcessesShareManyAccountsAndFewConnections(t *testing.T) {
	t.Parallel()
	const pool = 8
	opened(t)
	s := newService(t)
	db := opened(t)
	prefix := anyAccount() + "/"
	p := part{
		DSN:    fmt.Sprintf("%s&pool_max_conns=%d&application_name=%s", postgrestest.Need(t).DSN(), pool, strings.ToLower(prefix[5:15])),
		Record: filepath.Join(t.TempDir(), "record"), Lease: stabilitytest.Pick(4*time.Second, 20*time.Second),
	}
	byID := map[string]*wasim.Account{}
	var accounts []*wasim.Account
	for i := range stabilitytest.Pick(6, 100) {
		a := s.sim.NewAccount(fmt.Sprint(491521000000 + i))
		id := prefix + fmt.Sprint(i)
		p.Accounts = append(p.Accounts, id)
		byID[id] = a
		accounts = append(accounts, a)
	}
	all := func(f func(*wasim.Device) bool) func() bool {
		return func() bool {
			for _, a := range accounts {
				if len(a.Devices()) != 1 || !f(a.Devices()[0]) {
					return false
				}
			}
			return true
		}
	}
	online := all((*wasim.Device).Online)
	first := s.start(p)
	for paired := 0; paired < len(accounts); {
		id, code, _ := strings.Cut(first.Hears("qr"), " ")
		if len(byID[id].Devices()) == 0 {
			require.NoError(t, byID[id].Phone().Scan(code))
			paired++
		}
	}
	await(t, "all are connected", online)

	stop := s.chatter(stabilitytest.Pick(10*time.Millisecond, time.Millisecond), accounts...)
	flows := func(what string) {
		t.Helper()
		before := map[*wasim.Device]int{}
		for _, a := range accounts {
			before[device(t, a)] = len(device(t, a).AckedMessages())
		}
		await(t, what, all(func(d *wasim.Device) bool { return d.Online() && len(d.AckedMessages()) > before[d]+2 }))
		var conns int
		require.NoError(t, db.pool.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity WHERE application_name = $1`, strings.ToLower(prefix[5:15])).Scan(&conns))
		require.LessOrEqual(t, conns, 3*(pool+1), "a pool each, and one that listens")
	}
	flows("messages flow on every account")
	second, third := s.start(p), s.start(p)
	second.Hears("standby")
	third.Hears("standby")
	require.NoError(t, first.Process.Signal(syscall.SIGTERM))
	require.NoError(t, first.Wait())
	flows("the others have taken over")
	first = s.start(p)
	first.Hears("standby", "activated")
	second.Kill()
	flows("the others have taken over once more")
	sent := stop()
	await(t, "everything is acknowledged", all(func(d *wasim.Device) bool { return len(d.Pending()) == 0 }))
	first.Leave()
	third.Leave()

	seen, twice := child.Recorded(t, p.Record), 0
	for _, id := range sent {
		require.Positive(t, seen[id], "lost")
		twice += seen[id] - 1
	}
	require.LessOrEqual(t, twice, len(accounts), "at most the one in flight at the kill")
	require.True(t, all(func(d *wasim.Device) bool { return d.Stats().Replaced == 0 })(), "never two logins")
	require.Zero(t, s.peer.Undecryptable())
	first.Silent("error")
	third.Silent("error")
	t.Logf("%d accounts, %d messages, %d handled twice", len(accounts), len(sent), twice)
}
