package authstoretest_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/authstore/authstoretest"
	"github.com/wastability/wastability/stability/memorybackend"
)

var k = authstore.Key{Kind: "session", ID: "1"}

func batch(v string) authstore.Batch {
	return authstore.Batch{Put: []authstore.Entry{{Key: k, Value: []byte(v)}}}
}

func faulty(t *testing.T) (*authstoretest.FaultyKV, int64) {
	b := memorybackend.New().Backend()
	t.Cleanup(func() { _ = b.Close() })
	rec, granted, err := b.Lock.Acquire(t.Context(), "one", "nonce", time.Hour)
	require.NoError(t, err)
	require.True(t, granted)
	return authstoretest.Faulty(b.Auth), rec.Epoch
}

func value(t *testing.T, f *authstoretest.FaultyKV) string {
	got, err := f.Get(t.Context(), k)
	require.NoError(t, err)
	return string(got[k])
}

func TestWithoutFaultsTheWrapperConforms(t *testing.T) {
	authstoretest.Run(t, func(t *testing.T) authstoretest.Account {
		b := memorybackend.New().Backend()
		t.Cleanup(func() { _ = b.Close() })
		return authstoretest.Account{KV: authstoretest.Faulty(b.Auth), Lock: b.Lock}
	})
}

func TestADroppedCommitIsNotAppliedAndALostReplyIs(t *testing.T) {
	f, epoch := faulty(t)
	f.DropNext(authstoretest.OpCommit, 1)
	require.ErrorIs(t, f.Commit(t.Context(), epoch, batch("dropped")), authstoretest.ErrInjected)
	require.Equal(t, "", value(t, f))
	f.LoseNext(authstoretest.OpCommit, 2)
	require.ErrorIs(t, f.Commit(t.Context(), epoch, batch("1")), authstoretest.ErrInjected)
	require.ErrorIs(t, f.Commit(t.Context(), epoch, batch("2")), authstoretest.ErrInjected)
	require.Equal(t, "2", value(t, f))
	require.NoError(t, f.Commit(t.Context(), epoch, batch("3")))
	require.Equal(t, "3", value(t, f))
	s := f.Reset()
	require.Equal(t, authstoretest.Stats{Gets: 3, Commits: 4, Failed: 3, KeysRead: 3, EntriesRead: 2, Puts: 3, BytesRead: 2, BytesWritten: 3}, s)
	require.Equal(t, 7, s.Calls())
	require.Zero(t, f.Stats())
}

func TestTheNthCallFails(t *testing.T) {
	f, epoch := faulty(t)
	mine := errors.New("mine")
	f.FailAt(authstoretest.OpCommit, 3, mine)
	for i := range 5 {
		_ = value(t, f) // other operations do not count
		err := f.Commit(t.Context(), epoch, batch("v"))
		require.Equal(t, i == 2, errors.Is(err, mine), "call %d: %v", i+1, err)
	}
}

func TestALostScanEndsInAnError(t *testing.T) {
	f, epoch := faulty(t)
	require.NoError(t, f.Commit(t.Context(), epoch, batch("v")))
	for _, lose := range []bool{false, true} {
		if lose {
			f.LoseNext(authstoretest.OpScan, 1)
		} else {
			f.DropNext(authstoretest.OpScan, 1)
		}
		entries, failures := 0, 0
		for _, err := range f.Scan(t.Context(), "session", "") {
			if err != nil {
				require.ErrorIs(t, err, authstoretest.ErrInjected)
				failures++
				continue
			}
			entries++
		}
		require.Equal(t, 1, failures)
		require.Equal(t, lose, entries == 1)
	}
}

func TestLatencyAndHangsObeyTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, epoch := faulty(t)
		f.Latency(authstoretest.OpAny, time.Second, 3*time.Second)
		start := time.Now()
		require.NoError(t, f.Commit(t.Context(), epoch, batch("slow")))
		took := time.Since(start)
		require.GreaterOrEqual(t, took, time.Second)
		require.Less(t, took, 3*time.Second)

		f.HangNext(authstoretest.OpCommit, 1)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		require.ErrorIs(t, f.Commit(ctx, epoch, batch("hung")), context.DeadlineExceeded)
		require.Equal(t, time.Minute, time.Since(start)-took)
		require.Equal(t, "slow", value(t, f))

		ctx, cancel = context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		require.ErrorIs(t, f.Commit(ctx, epoch, batch("late")), context.DeadlineExceeded)
		f.Heal()
		start = time.Now()
		require.Equal(t, "slow", value(t, f))
		require.Zero(t, time.Since(start))

		f.Inject(func(c authstoretest.Call) authstoretest.Fault {
			if c.Op == authstoretest.OpCommit && string(c.Batch.Put[0].Value) == "applied" {
				return authstoretest.Fault{Lose: authstoretest.ErrInjected, Hang: true}
			}
			return authstoretest.Fault{}
		})
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, f.Commit(ctx, epoch, batch("applied")), context.DeadlineExceeded)
		require.Equal(t, "applied", value(t, f))
	})
}
