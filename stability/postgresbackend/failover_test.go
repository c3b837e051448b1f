package postgresbackend

import (
	"crypto/rand"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/autoheal"
	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/postgrestest"
)

// pair is a primary and a standby of it, under one connection string that finds
// whichever can be written to.
type pair struct {
	t                *testing.T
	primary, standby *postgrestest.Server
	dsn              string
}

func newPair(t *testing.T) *pair {
	p := &pair{t: t, primary: postgrestest.NeedOwn(t)}
	openedOn(t, p.primary.DSN())
	var err error
	p.standby, err = p.primary.Follow(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { _ = p.standby.Close() })
	p.dsn = "postgres://postgres@" + p.primary.Addr() + "," + p.standby.Addr() +
		"/postgres?sslmode=disable&target_session_attrs=read-write&pool_max_conns=4"
	return p
}

func (p *pair) one(dsn, sql string) (answer string) {
	p.t.Helper()
	conn, err := pgx.Connect(p.t.Context(), dsn+"&default_query_exec_mode=simple_protocol")
	require.NoError(p.t, err)
	defer conn.Close(p.t.Context())
	require.NoError(p.t, conn.QueryRow(p.t.Context(), sql).Scan(&answer))
	return answer
}

// lag ends the replication when the standby has everything up to now.
func (p *pair) lag() {
	p.t.Helper()
	here := p.one(p.primary.DSN(), `SELECT pg_current_wal_lsn()::text`)
	await(p.t, "the standby has it all", func() bool {
		return p.one(p.standby.DSN(), `SELECT (pg_last_wal_replay_lsn() >= '`+here+`')::text`) == "true"
	})
	conn, err := pgx.Connect(p.t.Context(), p.standby.DSN())
	require.NoError(p.t, err)
	defer conn.Close(p.t.Context())
	for _, sql := range []string{`ALTER SYSTEM SET primary_conninfo = ''`, `SELECT pg_reload_conf()`} {
		_, err := conn.Exec(p.t.Context(), sql)
		require.NoError(p.t, err)
	}
	await(p.t, "nothing is sent any more", func() bool {
		return p.one(p.primary.DSN(), `SELECT count(*)::text FROM pg_stat_replication`) == "0"
	})
}

func (p *pair) failOver() {
	p.t.Helper()
	require.NoError(p.t, p.primary.Kill())
	require.NoError(p.t, p.standby.Promote(p.t.Context()))
}

// ask acquires; a connection that died meanwhile is one more try.
func ask(t *testing.T, b stability.Backend, holder string, lease time.Duration) (rec lock.Record, granted bool) {
	t.Helper()
	nonce := rand.Text()
	retried(t, func() (err error) {
		rec, granted, err = b.Lock.Acquire(t.Context(), holder, nonce, lease)
		return err
	})
	return rec, granted
}

func renew(t *testing.T, b stability.Backend, held lock.Record) (err error) {
	t.Helper()
	retried(t, func() error {
		if _, err = b.Lock.Renew(t.Context(), held); lockLost(err) {
			return nil
		}
		return err
	})
	return err
}

func lockLost(err error) bool {
	return err != nil && strings.Contains(err.Error(), lock.ErrLost.Error())
}

// The standby that is promoted lacks the last transactions, so of some accounts
// it does not know who holds them.
func TestPromotedStandbyThatLaggedMakesNoTwoHolders(t *testing.T) {
	t.Parallel()
	const lease = 4 * time.Second
	p := newPair(t)
	db := openedOn(t, p.dsn)
	of := func(id string) stability.Backend { return backend(t, db, id) }
	kept, lost, fresh := anyAccount(), anyAccount(), anyAccount()

	keeper := of(kept)
	keeps, granted := ask(t, keeper, "keeper", time.Hour)
	require.True(t, granted)
	before := of(lost)
	first, granted := ask(t, before, "before", lease)
	require.True(t, granted)
	require.NoError(t, before.Auth.Commit(t.Context(), first.Epoch, put("k", "old")))
	require.NoError(t, before.Lock.Release(t.Context(), first))

	p.lag()
	holder := of(lost)
	holds, granted := ask(t, holder, "holder", lease)
	require.True(t, granted)
	require.NoError(t, holder.Auth.Commit(t.Context(), holds.Epoch, put("k", "lost with the failover")))
	young := of(fresh)
	youngs, granted := ask(t, young, "young", lease)
	require.True(t, granted)
	require.NoError(t, keeper.Auth.Commit(t.Context(), keeps.Epoch, put("k", "lost")))
	p.failOver()

	// The standby has the lock of this account as free. Somebody may hold it.
	other := of(lost)
	rec, granted := ask(t, other, "other", lease)
	require.False(t, granted, "the holder trusts its term, and could be connected")
	require.Contains(t, rec.Holder, "unknown")
	seen, err := other.Lock.Load(t.Context())
	require.NoError(t, err)
	require.Equal(t, rec.Holder, seen.Holder)
	free := seen.LeaseUntil
	_, granted = ask(t, before, "before", lease)
	require.False(t, granted, "whoever asks")

	// The holder learns that its term is gone, and writes no more.
	err = renew(t, holder, holds)
	require.ErrorIs(t, err, lock.ErrLost)
	require.ErrorContains(t, err, "standby that lagged was promoted")
	require.ErrorIs(t, holder.Auth.Commit(t.Context(), holds.Epoch, put("k", "of a lost term")), authstore.ErrFenced)
	require.ErrorIs(t, holder.State.Save(t.Context(), holds.Epoch, reconnect.State{}), reconnect.ErrFenced)

	// When no lost term can be trusted any more, the lock is given on.
	await(t, "the lock is given on", func() bool {
		rec, granted = ask(t, other, "other", lease)
		return granted
	})
	require.False(t, rec.AcquiredAt.Before(free))
	require.Greater(t, rec.Epoch, first.Epoch)
	require.Equal(t, "old", value(t, other, "k"), "what the holder wrote last is gone: a synchronous standby would have it")
	require.ErrorIs(t, holder.Auth.Commit(t.Context(), holds.Epoch, put("k", "of a lost term")), authstore.ErrFenced)
	require.NoError(t, other.Auth.Commit(t.Context(), rec.Epoch, put("k", "new")))
	require.Equal(t, "new", value(t, holder, "k"))
	require.NoError(t, other.Lock.Release(t.Context(), rec))
	again, granted := ask(t, holder, "holder", lease)
	require.True(t, granted, "once is enough")
	require.Greater(t, again.Epoch, holds.Epoch, "an instance takes no epoch that it has seen")

	// A holder whose term the standby knows goes on, and hands over at once.
	require.NoError(t, renew(t, keeper, keeps))
	require.NoError(t, keeper.Auth.Commit(t.Context(), keeps.Epoch, put("k", "kept")))
	next := of(kept)
	_, granted = ask(t, next, "next", time.Hour)
	require.False(t, granted)
	require.NoError(t, keeper.Lock.Release(t.Context(), keeps))
	rec, granted = ask(t, next, "next", time.Hour)
	require.True(t, granted)
	require.Equal(t, keeps.Epoch+1, rec.Epoch)
	require.Equal(t, "kept", value(t, next, "k"))

	// An account that the standby never heard of has no device there.
	require.ErrorIs(t, renew(t, young, youngs), lock.ErrLost)
	taken, granted := ask(t, of(fresh), "other", lease)
	require.True(t, granted)
	require.ErrorIs(t, young.Auth.Commit(t.Context(), youngs.Epoch, put("k", "of a lost term")), authstore.ErrFenced,
		"epoch %d again, and another term", taken.Epoch)
}

// The same with Managers and a real client: the connection of the lost term ends
// before another one begins, both say why, and messages arrive afterwards.
func TestManagersOutliveAFailoverToALaggingStandby(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	db := openedOn(t, p.dsn)
	s := newService(t)
	account, id := s.sim.NewAccount("491520000001"), anyAccount()
	short := []stability.Option{stability.WithLockOptions(lock.WithLease(5 * time.Second)), stability.WithAutoHeal(autoheal.Policy{InProcess: true}),
		stability.WithAuthStoreOptions(authstore.WithOutagePatience(time.Second)), stability.WithShutdownTimeout(500 * time.Millisecond)}
	first := s.host(backend(t, db, id), short...).pair(account)
	dev := device(t, account)
	first.leave()
	p.lag()
	holder := s.host(backend(t, db, id), short...).ready()
	other := s.host(backend(t, db, id), short...)
	stop := s.chatter(10*time.Millisecond, account)
	await(t, "some messages", func() bool { return len(holder.handled()) > 20 })
	lost := holder.Status().LeaseEpoch
	p.failOver()

	await(t, "the lost term ends", func() bool { return len(holder.saw(stability.EventDeactivated)) > 0 })
	over := holder.saw(stability.EventDeactivated)[0]
	require.Equal(t, lost, over.Epoch)
	await(t, "somebody takes over", func() bool {
		return holder.Status().WA == reconnect.StatusConnected || other.Status().WA == reconnect.StatusConnected
	})
	next := append(holder.saw(stability.EventActivated)[1:], other.saw(stability.EventActivated)...)
	require.NotEmpty(t, next)
	require.True(t, over.Time.Before(next[0].Time), "the term ended at %v, the next began at %v", over.Time, next[0].Time)
	require.Zero(t, dev.Stats().Replaced, "never two logins")
	stop()
	late := []string{s.say(account, "one"), s.say(account, "two")}
	await(t, "messages arrive", func() bool {
		mine, theirs := holder.handled(), other.handled()
		return mine[late[0]]+theirs[late[0]] > 0 && mine[late[1]]+theirs[late[1]] > 0
	})
	require.Same(t, dev, device(t, account), "the same session")
	require.Zero(t, dev.Stats().Replaced)
	for _, h := range []*host{first, holder, other} {
		require.Len(t, h.saw(stability.EventPaired), map[bool]int{true: 1}[h == first], "no code is asked for")
	}
	for _, h := range []*host{holder, other} {
		h.cancel()
		require.NoError(t, <-h.result)
		_ = h.Close(t.Context()) // says, of one, that its lost term was not released: the server was away
	}
}
