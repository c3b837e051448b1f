package firestorebackend

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability/stabilitytest/firestoresim"
)

// The client repeats by itself what broke off. The first request may be kept
// somewhere and arrive when newer commits have landed.
func TestALateFirstAttemptUndoesNothing(t *testing.T) {
	t.Parallel()
	large := strings.Repeat("x", 40_000) // a document of its own
	for name, values3 := range map[string][3]string{
		"in a bucket":              {"1", "2", "3"},
		"to a document of its own": {"1", "2", large},
		"to the bucket":            {large, "2", large + "3"},
	} {
		for how, fault := range map[string]firestoresim.Fault{
			"late": firestoresim.Late(time.Second), "duplicate": firestoresim.Duplicate(time.Second), "past its deadline": firestoresim.PastDeadline(time.Minute),
		} {
			t.Run(name+", "+how, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := sim(t)
					b := opened(t, onSim(t, s))
					rec := hold(t, b)
					commit := func(v string) { require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, put("a", v))) }
					commit(values3[0])
					f := s.Fault(fault).On(firestoresim.Commit).Now()
					commit(values3[1])
					require.Equal(t, 1, f.Fired())
					commit(values3[2])
					s.Fault(fault).On(firestoresim.Commit).Now()
					require.NoError(t, b.State.Save(t.Context(), rec.Epoch, reconnect.State{RetryCount: 1}))
					require.NoError(t, b.State.Save(t.Context(), rec.Epoch, reconnect.State{RetryCount: 2}))
					time.Sleep(2 * time.Minute)
					require.Equal(t, map[string]string{"g1/a": values3[2]}, values(t, b))
					got, err := b.Auth.Get(t.Context(), key("a"))
					require.NoError(t, err)
					require.Equal(t, values3[2], string(got[key("a")]))
					state, err := b.State.Load(t.Context())
					require.NoError(t, err)
					require.Equal(t, 2, state.RetryCount)
					commit("4")
					require.Equal(t, map[string]string{"g1/a": "4"}, values(t, b))
				})
			})
		}
	}
}

// The same on the official emulator, below the client's own repetition.
func TestALateFirstAttemptIsRefusedByTheEmulator(t *testing.T) {
	t.Parallel()
	c, w := onWire(t)
	b := opened(t, c, patient)
	rec := hold(t, b)
	require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, put("a", "0")))
	w.fail(func(method string, nth int) fault { return fault{late: nth == 1} })
	require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, put("a", "1")))
	w.fail(nil)
	require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, put("a", "2")))
	require.Equal(t, codes.FailedPrecondition, w.arrive(t))
	require.Equal(t, map[string]string{"g1/a": "2"}, values(t, b))
}

// The second request of a commit is refused when the first has landed. That is
// no takeover, and costs a read.
func TestACommitKnowsItsOwnLanding(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := sim(t)
		b := opened(t, onSim(t, s))
		rec := hold(t, b)
		require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, put("a", "0")))
		s.Fault(firestoresim.DropReply()).On(firestoresim.Commit).Now()
		s.ResetStats()
		require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, put("a", "1")))
		st := s.Stats()
		require.Equal(t, 2, st.RPCs[firestoresim.Commit], "the client's own")
		require.Equal(t, 1, st.Reads)
		s.ResetStats()
		require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, put("a", "2")))
		require.Equal(t, firestoresim.Billing{Writes: 2}, s.Stats().Billing, "the next one costs what it always does")
		require.Equal(t, map[string]string{"g1/a": "2"}, values(t, b))

		// A takeover meanwhile is one.
		other := opened(t, onSim(t, s))
		next := hold(t, other)
		require.ErrorIs(t, b.Auth.Commit(t.Context(), rec.Epoch, put("a", "3")), authstore.ErrFenced)
		require.NoError(t, other.Auth.Commit(t.Context(), next.Epoch, put("a", "4")))
	})
}

// Session and state share the fence: side by side, each of their writes is one
// request.
func TestSessionAndStateCommitInOneOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := sim(t, firestoresim.WithLatency(30*time.Millisecond))
		b := opened(t, onSim(t, s))
		rec := hold(t, b)
		require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, put("a", "0")))
		require.NoError(t, b.State.Save(t.Context(), rec.Epoch, reconnect.State{}))
		s.ResetStats()
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() { assert.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, put("a", fmt.Sprint(i)))) })
			wg.Go(func() { assert.NoError(t, b.State.Save(t.Context(), rec.Epoch, reconnect.State{RetryCount: i})) })
		}
		wg.Wait()
		require.Equal(t, map[firestoresim.Method]int{firestoresim.Commit: 40}, s.Stats().RPCs)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		s.Fault(firestoresim.DropRequest()).On(firestoresim.Commit).Times(4).Now()
		go func() { _ = b.State.Save(t.Context(), rec.Epoch, reconnect.State{RetryCount: 1}) }()
		time.Sleep(time.Millisecond)
		require.ErrorIs(t, b.Auth.Commit(ctx, rec.Epoch, put("a", "late")), context.DeadlineExceeded, "whoever waits for its turn heeds its context")
		synctest.Wait()
		time.Sleep(time.Minute)
	})
}

// An answer whose read time rises is as good as one that has one time, for the
// session, and for others.
func TestAnAccountWorksWithRisingReadTimes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := sim(t, firestoresim.WithRisingReadTimes())
		c := onSim(t, s)
		b := opened(t, c)
		rec := hold(t, b)
		s.ResetStats()
		require.NoError(t, b.Auth.Commit(t.Context(), rec.Epoch, put("a", "1", "b", "1")))
		got, err := b.Auth.Get(t.Context(), key("a"), key("b"))
		require.NoError(t, err)
		require.Len(t, got, 2)
		require.Equal(t, map[string]string{"g1/a": "1", "g1/b": "1"}, values(t, b))
		require.Zero(t, s.Stats().RPCs[firestoresim.BeginTransaction], "who writes alone reads once")
		other := opened(t, c)
		got, err = other.Auth.Get(t.Context(), key("a"), key("b"))
		require.NoError(t, err)
		require.Len(t, got, 2)
		require.Equal(t, 1, s.Stats().RPCs[firestoresim.BeginTransaction])
		require.NoError(t, b.Lock.Release(t.Context(), rec))

		fresh := opened(t, c, WithRoot("accounts/fresh"))
		_, d := paired(t, fresh)
		require.NoError(t, d.Sessions.PutSession(t.Context(), "1:0", random(900)))
		next := authstore.New(opened(t, c, WithRoot("accounts/fresh")).Auth)
		defer func() { _ = next.Close(context.Background()) }()
		d, err = next.Device(t.Context(), heldTerm{hold(t, fresh)})
		require.NoError(t, err)
		require.NotNil(t, d.ID)
	})
}
