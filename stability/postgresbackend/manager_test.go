package postgresbackend

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/child"
	"github.com/wastability/wastability/stability/stabilitytest/postgrestest"
)

// The Manager's scenarios with a real whatsmeow client and a real server. They
// run in real time: a server cannot be in a synctest bubble.

func TestManagerPairsChatsAndLogsOut(t *testing.T) {
	t.Parallel()
	db := opened(t)
	s := newService(t)
	account, id := s.sim.NewAccount("491520000001"), anyAccount()
	h := s.host(backend(t, db, id)).pair(account)
	first := device(t, account)
	ids := []string{s.say(account, "hello")}
	await(t, "it arrives", func() bool { return len(first.Pending()) == 0 && h.handled()[ids[0]] == 1 })
	_, err := h.Client().SendMessage(t.Context(), s.peer.JID(), textOf("hello yourself"))
	require.NoError(t, err)
	await(t, "the answer arrives", func() bool { return len(s.peer.Texts()) == 1 })
	st := h.Status()
	require.Equal(t, "postgres", st.AuthStore)
	require.Equal(t, stability.ModeActive, st.Mode)

	// An operator reads the same with psql.
	var status, instance string
	await(t, "the state is saved", func() bool {
		err := db.pool.QueryRow(t.Context(), `SELECT s.wa_status, l.holder_instance_id FROM wastability.state s
			JOIN wastability.locks l USING (account) WHERE account = $1`, id).Scan(&status, &instance)
		return err == nil && status == string(reconnect.StatusConnected)
	})
	require.Equal(t, st.InstanceID, instance)

	require.NoError(t, h.Logout(t.Context()))
	await(t, "the status says so", func() bool { return h.Status().WA == reconnect.StatusNeedsPairing })
	require.Empty(t, account.Devices())
	h.pair(account)
	require.NotEqual(t, first.JID(), device(t, account).JID())
	again := s.say(account, "hello again")
	await(t, "messages flow", func() bool { return h.handled()[again] == 1 })

	// The session outlives the process.
	h.leave()
	next := s.host(backend(t, db, id)).ready()
	require.Empty(t, next.codes)
	require.Equal(t, h.Status().LeaseEpoch+1, next.Status().LeaseEpoch)
	next.leave()
}

// start runs a program with one account, and returns it when it is connected.
func (s *service) start(p part) *child.Process {
	p.Service = s.sim.Endpoint()
	return child.Start(s.t, partEnv, p)
}

// A lease of ten minutes, and so a look at the lock once a minute: the standby
// is told, or this takes too long.
func TestSIGTERMHandsOverAtOnce(t *testing.T) {
	t.Parallel()
	opened(t)
	s := newService(t)
	account := s.sim.NewAccount("491520000001")
	p := part{DSN: postgrestest.Need(t).DSN(), Accounts: []string{anyAccount()}, Record: filepath.Join(t.TempDir(), "record"), Lease: 10 * time.Minute}
	a := s.start(p)
	require.NoError(t, account.Phone().Scan(lastWord(a.Hears("qr"))))
	a.Hears("paired")
	a.Hears("connected")
	dev := device(t, account)
	stop := s.chatter(stabilitytest.Pick(5*time.Millisecond, 2*time.Millisecond), account)
	for range 2 {
		b := s.start(p)
		b.Hears("standby")
		awaitListening(t)
		before := len(dev.AckedMessages())
		await(t, "some messages", func() bool { return len(dev.AckedMessages()) > before+20 })
		require.NoError(t, a.Process.Signal(syscall.SIGTERM))
		b.Hears("connected")
		require.NoError(t, a.Wait(), "it ends by itself")
		b.Silent("qr")
		a = b
	}
	sent := stop()
	drained(t, dev)
	a.Leave()
	seen := child.Recorded(t, p.Record)
	for _, id := range sent {
		require.Equal(t, 1, seen[id], "handled once")
	}
	require.Zero(t, dev.Stats().Replaced, "never two logins")
	require.Zero(t, s.peer.Undecryptable())
}

// awaitListening waits until somebody listens for hand-overs on the shared
// server.
func awaitListening(t *testing.T) {
	t.Helper()
	db := opened(t)
	await(t, "it listens", func() bool {
		var n int
		err := db.pool.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND state = 'idle'`).Scan(&n)
		return err == nil && n > 0
	})
}

// lastWord takes the text of a line, behind the account.
func lastWord(line string) string { return line[strings.LastIndex(line, " ")+1:] }

func TestKilledHolderIsFollowedByTheStandby(t *testing.T) {
	t.Parallel()
	opened(t)
	s := newService(t)
	account := s.sim.NewAccount("491520000001")
	p := part{DSN: postgrestest.Need(t).DSN(), Accounts: []string{anyAccount()}, Record: filepath.Join(t.TempDir(), "record"), Lease: 3 * time.Second}
	a := s.start(p)
	require.NoError(t, account.Phone().Scan(lastWord(a.Hears("qr"))))
	a.Hears("paired")
	a.Hears("connected")
	dev := device(t, account)
	stop := s.chatter(20*time.Millisecond, account) // behind a kill each message costs two commits
	kills := stabilitytest.Pick(1, 10)
	for range kills {
		b := s.start(p)
		b.Hears("standby")
		before := len(dev.AckedMessages())
		await(t, "some messages", func() bool { return len(dev.AckedMessages()) > before+20 })
		a.Kill()
		b.Silent("activated")
		seen := child.Recorded(t, p.Record)
		for _, id := range dev.AckedMessages() {
			require.Contains(t, seen, id, "acknowledged, and lost")
		}
		b.Hears("connected")
		b.Silent("qr")
		a = b
	}
	sent := stop()
	drained(t, dev)
	a.Leave()
	seen, twice := child.Recorded(t, p.Record), 0
	for _, id := range sent {
		require.Positive(t, seen[id], "lost")
		twice += seen[id] - 1
	}
	require.LessOrEqual(t, twice, kills, "at most the one in flight at each kill")
	require.Zero(t, dev.Stats().Replaced, "never two logins")
	require.Zero(t, s.peer.Undecryptable())
}

// The server is away for longer than anybody waits for it, under traffic and
// without: the connection ends before anything is confirmed that could not be
// saved, the status says so, and when the server is back so is the account.
func TestServerAwayForLongClosesTheGateUntilItIsBack(t *testing.T) {
	t.Parallel()
	patience := stabilitytest.Pick(300*time.Millisecond, 30*time.Second)
	for name, c := range map[string]struct {
		traffic bool
		end     func(*postgrestest.Server) error
		opt     stability.Option
	}{
		"killed under traffic": {true, (*postgrestest.Server).Kill, stability.WithAuthStoreOptions(authstore.WithOutagePatience(patience))},
		"stopped in silence":   {false, (*postgrestest.Server).Stop, stability.WithLockOptions(lock.WithLease(stabilitytest.Pick(2*time.Second, 30*time.Second)))},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			own := postgrestest.NeedOwn(t)
			db := openedOn(t, own.DSN(), WithTimeout(time.Second))
			s := newService(t)
			account := s.sim.NewAccount("491520000001")
			h := s.host(backend(t, db, anyAccount()), c.opt, stability.WithShutdownTimeout(2*time.Second)).pair(account)
			dev := device(t, account)
			var stop func() []string
			if c.traffic {
				stop = s.chatter(10*time.Millisecond, account)
				await(t, "some messages", func() bool { return len(h.handled()) > 20 })
			}
			require.NoError(t, c.end(own))
			await(t, "the connection ends", func() bool { return !dev.Online() })
			await(t, "the status says so", func() bool {
				st := h.Status()
				return st.StoreUnavailable != nil && st.WA != reconnect.StatusConnected && st.Summary != ""
			})
			if c.traffic {
				await(t, "the observers are told", func() bool { return len(h.saw(stability.EventStoreDown)) > 0 })
				await(t, "messages wait at the service", func() bool { return len(dev.Pending()) > 20 })
			}
			for acked, handled := dev.AckedMessages(), h.handled(); len(acked) > 0; acked = acked[1:] {
				require.Contains(t, handled, acked[0], "acknowledged, and lost")
			}
			logins := dev.Stats().Logins
			time.Sleep(2 * patience) // nothing happens meanwhile
			require.Equal(t, logins, dev.Stats().Logins, "no login where nothing could be saved")
			require.False(t, dev.Online())

			require.NoError(t, own.Resume(t.Context()))
			h.ready()
			var sent []string
			if c.traffic {
				sent = stop()
			}
			sent = append(sent, s.say(account, "all is well again"))
			drained(t, dev)
			once(t, sent, h)
			await(t, "the store is said to be well", func() bool { return h.Status().StoreUnavailable == nil })
			require.Same(t, dev, device(t, account), "the same session")
			require.Empty(t, h.codes)
			require.Zero(t, dev.Stats().RetryReceipts)
			require.Zero(t, s.peer.Undecryptable())
			h.leave()
		})
	}
}

func TestServerRestartWithinPatienceKeepsTheConnection(t *testing.T) {
	t.Parallel()
	own := postgrestest.NeedOwn(t)
	db := openedOn(t, own.DSN())
	s := newService(t)
	account := s.sim.NewAccount("491520000001")
	h := s.host(backend(t, db, anyAccount())).pair(account)
	dev := device(t, account)
	logins := dev.Stats().Logins
	stop := s.chatter(stabilitytest.Pick(5*time.Millisecond, 2*time.Millisecond), account)
	for range 2 {
		before := len(h.handled())
		await(t, "some messages", func() bool { return len(h.handled()) > before+20 })
		require.NoError(t, own.Stop())
		require.NoError(t, own.Resume(t.Context()))
	}
	sent := stop()
	drained(t, dev)
	once(t, sent, h)
	require.Equal(t, logins, dev.Stats().Logins, "it waited")
	require.Zero(t, dev.Stats().RetryReceipts)
	h.leave()
}
