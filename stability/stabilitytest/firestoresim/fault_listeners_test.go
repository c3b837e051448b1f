package firestoresim

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"cloud.google.com/go/firestore"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestListenersFallSilentAndAreCut(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, s *Server, c *firestore.Client) {
		ctx, cancel := context.WithCancel(t.Context())
		snaps := c.Doc("l/a").Snapshots(ctx)
		heard := make(chan any, 10)
		defer func() { // Stop must not be called beside Next
			cancel()
			for range heard {
			}
			snaps.Stop()
		}()
		go func() {
			for {
				snap, err := snaps.Next()
				if err != nil && status.Code(err) != codes.NotFound {
					close(heard)
					return
				}
				heard <- snap.Data()["n"]
			}
		}()
		set := func(n int) {
			_, err := c.Doc("l/a").Set(t.Context(), data{"n": n})
			require.NoError(t, err)
		}
		require.Nil(t, <-heard)
		set(1)
		require.EqualValues(t, 1, <-heard)
		f := s.Fault(SilentListener()).From("a").Now()
		set(2)
		time.Sleep(time.Hour)
		synctest.Wait()
		require.Empty(t, heard)
		require.Equal(t, 1, f.Fired())
		f.Stop()
		require.EqualValues(t, 2, <-heard)

		set(3)
		require.EqualValues(t, 3, <-heard)
		listens := s.Stats().RPCs[Listen]
		s.Fault(CutListener()).Now()
		set(4)
		require.EqualValues(t, 4, <-heard, "the client comes back by itself")
		require.Equal(t, listens+1, s.Stats().RPCs[Listen])

		// A document that was deleted while the listener was away is gone when it is back.
		gone := s.Fault(Unavailable()).On(Listen).Always().Now()
		s.Fault(CutListener()).Now()
		_, err := c.Doc("l/a").Delete(t.Context())
		require.NoError(t, err)
		time.Sleep(10 * time.Minute)
		require.Greater(t, gone.Fired(), 2)
		gone.Stop()
		require.Nil(t, <-heard)
	})
}

// A query's listener that resumes is told what was deleted meanwhile.
func TestAResumedQueryForgetsWhatIsGone(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, s *Server, c *firestore.Client) {
		for _, id := range []string{"a", "b"} {
			_, err := c.Doc("l/"+id).Set(t.Context(), data{"n": 1})
			require.NoError(t, err)
		}
		snaps := c.Collection("l").Snapshots(t.Context())
		defer snaps.Stop()
		snap, err := snaps.Next()
		require.NoError(t, err)
		require.Equal(t, 2, snap.Size)
		away := s.Fault(Unavailable()).On(Listen).Always().Now()
		s.Fault(CutListener()).Now()
		_, err = c.Doc("l/a").Delete(t.Context())
		require.NoError(t, err)
		time.AfterFunc(time.Minute, away.Stop)
		snap, err = snaps.Next()
		require.NoError(t, err)
		require.Equal(t, 1, snap.Size)
		require.Len(t, snap.Changes, 1)
	})
}

func TestSilentFromTheBeginning(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, s *Server, c *firestore.Client) {
		f := s.Fault(SilentListener()).Always().Now()
		snaps := c.Doc("l/a").Snapshots(within(t, time.Hour))
		defer snaps.Stop()
		begin := time.Now()
		_, err := snaps.Next()
		require.True(t, deadline(err), "%v", err)
		require.Equal(t, time.Hour, time.Since(begin))
		require.Equal(t, 1, f.Fired())
	})
}

// Listeners that are cut whenever they come keep trying, and get through when
// that ends. Many, because a client that cannot send its request gives up.
func TestCutAgainAndAgain(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, s *Server, c *firestore.Client) {
		f := s.Fault(CutListener()).Always().Now()
		time.AfterFunc(10*time.Minute, f.Stop)
		const listeners = 30
		errs := make(chan error, listeners)
		for range listeners {
			snaps := c.Collection("l").Snapshots(t.Context())
			go func() {
				defer snaps.Stop()
				_, err := snaps.Next()
				errs <- err
			}()
		}
		for range listeners {
			require.NoError(t, <-errs)
		}
		require.Greater(t, f.Fired(), 5*listeners)
	})
}
