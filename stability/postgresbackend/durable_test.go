package postgresbackend

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/postgrestest"
)

func TestCommitsAreDurableWhateverTheServersSetting(t *testing.T) {
	t.Parallel()
	s := postgrestest.NeedOwn(t, postgrestest.WithSetting("synchronous_commit", "off"), postgrestest.WithSetting("wal_writer_delay", "10s"))
	db := openedOn(t, s.DSN())
	b := backend(t, db, anyAccount())
	rec := hold(t, b, "one")
	for i := range stabilitytest.Pick(2, 50) {
		retried(t, func() error { return b.State.Save(t.Context(), rec.Epoch, reconnect.State{RetryCount: i}) })
		require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, put("k", fmt.Sprint(i))))
		require.NoError(t, s.Kill())
		require.NoError(t, s.Resume(t.Context()))
		require.Equal(t, fmt.Sprint(i), value(t, b, "k"))
		retried(t, func() error {
			st, err := b.State.Load(t.Context())
			if err == nil {
				require.Equal(t, i, st.RetryCount)
			}
			return err
		})
	}
}

// Writers of many accounts commit while the server is killed, again and again.
// Each acknowledged write is there.
func TestAKilledServerLosesNothingAcknowledged(t *testing.T) {
	t.Parallel()
	s := postgrestest.NeedOwn(t)
	db := openedOn(t, s.DSN(), WithTimeout(2*time.Second))
	const writers = 4
	var (
		mu    sync.Mutex
		acked = map[string]map[string]string{}
		wg    sync.WaitGroup
	)
	ctx, stop := context.WithCancel(t.Context())
	for w := range writers {
		id := anyAccount()
		b := backend(t, db, id)
		rec := hold(t, b, "one")
		mu.Lock()
		acked[id] = map[string]string{}
		mu.Unlock()
		wg.Go(func() {
			// As authstore does: the same batch until its outcome is known.
			for i := 0; ctx.Err() == nil; i++ {
				k, v := fmt.Sprint("k", i%50), fmt.Sprint(w, "/", i)
				for {
					err := b.Auth.Commit(context.WithoutCancel(ctx), rec.Epoch, put(k, v))
					if err == nil {
						mu.Lock()
						acked[id][k] = v
						mu.Unlock()
						break
					}
					if errors.Is(err, authstore.ErrFenced) {
						t.Errorf("fenced within the term: %v", err)
						return
					}
					time.Sleep(5 * time.Millisecond)
				}
			}
		})
	}
	kills := stabilitytest.Pick(3, 200)
	for n := range kills {
		time.Sleep(time.Duration(20+n%7*15) * time.Millisecond)
		require.NoError(t, s.Kill())
		require.NoError(t, s.Resume(t.Context()))
	}
	stop()
	wg.Wait()
	total := 0
	for id, want := range acked {
		require.NotEmpty(t, want)
		got := values(t, backend(t, db, id))
		require.Equal(t, want, got)
		total += len(want)
	}
	t.Logf("%d kills, %d keys", kills, total)
}

// Connections are terminated at random under traffic.
func TestTerminatedConnectionsLoseNothing(t *testing.T) {
	t.Parallel()
	db := opened(t)
	b := backend(t, db, anyAccount())
	rec := hold(t, b, "one")
	named := openedOn(t, postgrestest.Need(t).DSN()+"&application_name="+t.Name())
	mine := backend(t, named, b.Auth.(keyValues).a.id)
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var commits atomic.Int64
	wg.Go(func() {
		admin, err := pgx.Connect(context.WithoutCancel(ctx), postgrestest.Need(t).DSN())
		if err != nil {
			t.Error(err)
			return
		}
		defer admin.Close(context.WithoutCancel(ctx))
		// From the making of a connection to its tenth commit, however slow the machine is.
		const round = 12
		for unit := time.Millisecond; ; {
			before := commits.Load()
			for n := range round {
				if ctx.Err() != nil {
					return
				}
				_, err := admin.Exec(context.WithoutCancel(ctx), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
					WHERE pid <> pg_backend_pid() AND backend_type = 'client backend' AND application_name = $1`, t.Name())
				if err != nil {
					t.Error(err)
					return
				}
				time.Sleep(time.Duration(1+n) * unit)
			}
			if commits.Load()-before < round {
				unit += unit / 2
			} else {
				unit = max(unit/2, time.Millisecond)
			}
		}
	})
	failed := 0
	for i := range stabilitytest.Pick(120, 5000) {
		for {
			err := mine.Auth.Commit(t.Context(), rec.Epoch, put("k", fmt.Sprint(i)))
			if err == nil {
				break
			}
			require.NotErrorIs(t, err, authstore.ErrFenced)
			failed++
		}
		commits.Add(1)
		require.Equal(t, fmt.Sprint(i), value(t, b, "k"))
	}
	stop()
	wg.Wait()
	require.Positive(t, failed, "the test has cut nothing")
	t.Logf("%d attempts failed", failed)
}
