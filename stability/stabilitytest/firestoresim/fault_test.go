package firestoresim

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cloud.google.com/go/firestore"
	pb "cloud.google.com/go/firestore/apiv1/firestorepb"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// inBubble runs f with a server and a client named a, in virtual time.
func inBubble(t *testing.T, f func(t *testing.T, s *Server, c *firestore.Client), opts ...Option) {
	synctest.Test(t, func(t *testing.T) {
		s := New(opts...)
		defer s.Close()
		c, err := s.Client(t.Context(), "demo-x", Name("a"))
		require.NoError(t, err)
		defer c.Close()
		f(t, s, c)
	})
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func deadline(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || status.Code(err) == codes.DeadlineExceeded
}

func TestDroppedRequestsAreNotApplied(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, s *Server, c *firestore.Client) {
		f := s.Fault(DropRequest()).On(Commit).Now()
		begin := time.Now()
		_, err := c.Doc("a/b").Set(within(t, 7*time.Second), data{"n": 1})
		require.True(t, deadline(err), "%v", err)
		require.Equal(t, 7*time.Second, time.Since(begin))
		_, ok := s.Get("demo-x", "a/b")
		require.False(t, ok)
		require.Equal(t, 1, f.Fired())
		_, err = c.Doc("a/b").Set(t.Context(), data{"n": 1})
		require.NoError(t, err)
	})
}

// The client's repetition after a lost reply is why acquiring a lease needs a nonce.
func TestDroppedRepliesAreApplied(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, s *Server, c *firestore.Client) {
		f := s.Fault(DropReply()).On(Commit).Times(3)
		f.Now()
		_, err := c.Doc("a/create").Create(t.Context(), data{"n": 1})
		require.Equal(t, codes.AlreadyExists, status.Code(err))
		require.Equal(t, 3, f.Fired())
		d, ok := s.Get("demo-x", "a/create")
		require.True(t, ok)
		require.Equal(t, map[string]any{"n": int64(1)}, d.Fields)

		s.Fault(DropReply()).On(Commit).Now()
		_, err = c.Doc("a/create").Update(t.Context(), []firestore.Update{{Path: "n", Value: 2}}, firestore.LastUpdateTime(d.UpdateTime))
		require.Equal(t, codes.FailedPrecondition, status.Code(err))

		s.Fault(DropReply()).On(Commit).Now()
		_, err = c.Doc("a/create").Update(t.Context(), []firestore.Update{{Path: "n", Value: firestore.Increment(1)}})
		require.NoError(t, err)
		d, _ = s.Get("demo-x", "a/create")
		require.Equal(t, map[string]any{"n": int64(4)}, d.Fields)

		s.Fault(DropReply()).On(Commit).Now()
		err = c.RunTransaction(t.Context(), func(ctx context.Context, tx *firestore.Transaction) error {
			return tx.Set(c.Doc("a/tx"), data{"n": 1})
		})
		require.Equal(t, codes.InvalidArgument, status.Code(err))
		_, ok = s.Get("demo-x", "a/tx")
		require.True(t, ok)

		s.Fault(SilentReply()).On(Commit).Now()
		_, err = c.Doc("a/silent").Set(within(t, time.Second), data{})
		require.True(t, deadline(err), "%v", err)
		_, ok = s.Get("demo-x", "a/silent")
		require.True(t, ok)

		s.Fault(DropReply()).On(BatchGetDocuments).Now()
		snap, err := c.Doc("a/tx").Get(t.Context())
		require.NoError(t, err, "reads are asked again")
		require.True(t, snap.Exists())
	})
}

func TestErrorsReachTheClient(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, s *Server, c *firestore.Client) {
		for _, one := range []struct {
			f    Fault
			want codes.Code
		}{{Aborted(), codes.Aborted}, {PermissionDenied(), codes.PermissionDenied}, {NoDatabase(), codes.NotFound}, {Fail(codes.Internal, "x"), codes.Internal}} {
			s.Fault(one.f).Now()
			_, err := c.Doc("a/b").Set(t.Context(), data{})
			require.Equal(t, one.want, status.Code(err), one.f.String())
		}
		for _, f := range []Fault{Unavailable(), ResourceExhausted()} { // retried until the deadline
			i := s.Fault(f).Always().Now()
			_, err := c.Doc("a/b").Set(within(t, 20*time.Second), data{})
			require.Error(t, err)
			require.Greater(t, i.Fired(), 2)
			i.Stop()
		}
		require.Empty(t, s.Snapshot("demo-x"))
		s.Fault(Aborted()).On(Commit).Times(2).Now()
		require.NoError(t, c.RunTransaction(t.Context(), func(ctx context.Context, tx *firestore.Transaction) error {
			return tx.Set(c.Doc("a/b"), data{"n": 1})
		}))
		require.Len(t, s.Snapshot("demo-x"), 1)
	})
}

func TestFaultsAreAimed(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, s *Server, a *firestore.Client) {
		b, err := s.Client(t.Context(), "demo-x", Name("b"))
		require.NoError(t, err)
		defer b.Close()
		failed := func(c *firestore.Client, n int) (at []int) {
			for i := range n {
				if _, err := c.Doc("a/b").Set(t.Context(), data{"i": i}); err != nil {
					require.Equal(t, codes.Aborted, status.Code(err))
					at = append(at, i)
				}
			}
			return at
		}
		f := s.Fault(Aborted()).On(Commit).From("a").Always().Now()
		require.Empty(t, failed(b, 5))
		require.Len(t, failed(a, 5), 5)
		_, err = a.Doc("a/b").Get(t.Context())
		require.NoError(t, err, "another method")
		f.Stop()
		require.Empty(t, failed(a, 5))
		require.Equal(t, 5, f.Fired())

		s.Fault(Aborted()).After(2).Times(2).Now()
		require.Equal(t, []int{2, 3}, failed(a, 8))
		s.Fault(Aborted()).Every(3).Always().Now()
		require.Equal(t, []int{2, 5}, failed(a, 8))
		s.Heal()
		require.Empty(t, failed(a, 8))

		var runs [2][]int
		for i := range runs {
			f = s.Fault(Aborted()).Chance(0.3, 42).Always().Now()
			runs[i] = failed(a, 200)
			f.Stop()
		}
		require.Equal(t, runs[0], runs[1], "the same seed, the same faults")
		require.InDelta(t, 60, len(runs[0]), 30)
	})
}

func TestDelaysHangsAndLatency(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, s *Server, c *firestore.Client) {
		n := 0
		took := func(doc string) (d time.Duration, applied time.Time) {
			begin := time.Now()
			n++
			res, err := c.Doc(doc).Set(t.Context(), data{"n": n})
			require.NoError(t, err)
			return time.Since(begin), res.UpdateTime
		}
		d, _ := took("a/b")
		require.Zero(t, d)
		s.SetLatency(80 * time.Millisecond)
		begin := time.Now()
		d, at := took("a/b")
		require.Equal(t, 80*time.Millisecond, d)
		require.Equal(t, 40*time.Millisecond, at.Sub(begin).Truncate(time.Millisecond))
		s.SetLatency(0)
		s.Fault(Delay(time.Minute / 2)).Now()
		s.Fault(DelayReply(time.Minute / 4)).Now()
		begin = time.Now()
		d, at = took("a/b")
		require.Equal(t, 45*time.Second, d)
		require.Equal(t, 30*time.Second, at.Sub(begin).Truncate(time.Millisecond))

		f := s.Fault(Hang()).Now()
		done := make(chan error, 1)
		go func() { _, err := c.Doc("a/hung").Set(t.Context(), data{}); done <- err }()
		time.Sleep(20 * time.Second)
		synctest.Wait()
		require.Empty(t, done)
		_, ok := s.Get("demo-x", "a/hung")
		require.False(t, ok)
		f.Stop()
		require.NoError(t, <-done)
		_, ok = s.Get("demo-x", "a/hung")
		require.True(t, ok)
	})
}

func TestTheServersClock(t *testing.T) {
	t.Parallel()
	for _, off := range []time.Duration{time.Hour, -time.Hour} {
		inBubble(t, func(t *testing.T, s *Server, c *firestore.Client) {
			res, err := c.Doc("a/b").Set(t.Context(), data{})
			require.NoError(t, err)
			require.WithinDuration(t, time.Now().Add(off), res.UpdateTime, time.Second)
			snap, err := c.Doc("a/b").Get(t.Context())
			require.NoError(t, err)
			require.WithinDuration(t, time.Now().Add(off), snap.ReadTime, time.Second)

			s.SetClockOffset(off - time.Minute)
			again, err := c.Doc("a/b").Set(t.Context(), data{"n": 1})
			require.NoError(t, err)
			require.True(t, again.UpdateTime.After(res.UpdateTime), "a step back does not show")
			time.Sleep(2 * time.Minute)
			require.WithinDuration(t, time.Now().Add(off-time.Minute), s.Now(), time.Second)
		}, WithClockOffset(off))
	}
}

func TestCountersAndBilling(t *testing.T) {
	t.Parallel()
	var seen atomic.Int64
	inBubble(t, func(t *testing.T, s *Server, c *firestore.Client) {
		ctx := t.Context()
		b := c.Batch()
		for _, id := range []string{"a", "b", "c"} {
			b.Set(c.Doc("q/"+id), data{"n": 1})
		}
		_, err := b.Delete(c.Doc("q/none")).Commit(ctx)
		require.NoError(t, err)
		require.Equal(t, Billing{Writes: 3, Deletes: 1}, s.Stats().Billing)
		_, err = c.GetAll(ctx, []*firestore.DocumentRef{c.Doc("q/a"), c.Doc("q/none")})
		require.NoError(t, err)
		require.Equal(t, 2, s.Stats().Reads)
		_, err = c.Collection("q").Offset(1).Documents(ctx).GetAll()
		require.NoError(t, err)
		require.Equal(t, 5, s.Stats().Reads, "what an offset skips is read")
		_, err = c.Collection("none").Documents(ctx).GetAll()
		require.NoError(t, err)
		require.Equal(t, 6, s.Stats().Reads)
		_, err = c.Collection("q").NewAggregationQuery().WithCount("n").Get(ctx)
		require.NoError(t, err)
		require.Equal(t, 7, s.Stats().Reads)
		_, err = c.Doc("q/a").Update(ctx, noop)
		require.NoError(t, err)
		require.Equal(t, 4, s.Stats().Writes, "a no-op is billed")
		_, err = c.Doc("q/none").Update(ctx, noop)
		require.Error(t, err)
		require.Equal(t, 4, s.Stats().Writes)

		snaps := c.Collection("q").Snapshots(ctx)
		_, err = snaps.Next()
		require.NoError(t, err)
		_, err = c.Doc("q/a").Set(ctx, data{"n": 2})
		require.NoError(t, err)
		_, err = snaps.Next()
		require.NoError(t, err)
		snaps.Stop()
		st := s.Stats()
		require.Equal(t, 4, st.ListenReads)
		require.Equal(t, map[Method]int{Commit: 4, BatchGetDocuments: 1, RunQuery: 2, RunAggregationQuery: 1, Listen: 1}, st.RPCs)
		require.Equal(t, st, s.StatsOf("a"))
		s.ResetStats()
		require.Equal(t, Stats{RPCs: map[Method]int{}}, s.Stats())
		require.Equal(t, Stats{RPCs: map[Method]int{}}, s.StatsOf("a"))
		synctest.Wait()
		require.EqualValues(t, 9, seen.Load())
	}, WithObserver(func(r RPC) {
		seen.Add(1)
		if r.Method == Commit && r.Err == nil {
			if _, ok := r.Request.(*pb.CommitRequest); !ok || r.Billed.Writes == 0 || r.Client != "a" || !r.Applied {
				panic("the observer is shown too little")
			}
		}
	}))
}

func TestDatabasesShareNothing(t *testing.T) {
	t.Parallel()
	s := New()
	defer s.Close()
	var cs []*firestore.Client
	for _, one := range [][]string{{"demo-a", ""}, {"demo-a", "second"}, {"demo-b", ""}} {
		c, err := s.Client(t.Context(), one[0], Database(one[1]))
		require.NoError(t, err)
		defer c.Close()
		_, err = c.Doc("a/b").Create(t.Context(), data{"in": one[0] + one[1]})
		require.NoError(t, err)
		cs = append(cs, c)
	}
	d, ok := s.Get("demo-a", "a/b", "second")
	require.True(t, ok)
	require.Equal(t, "demo-asecond", d.Fields["in"])
	s.Reset("demo-a")
	require.Empty(t, s.Snapshot("demo-a"))
	require.Len(t, s.Snapshot("demo-a", "second"), 1)
	require.Len(t, s.Snapshot("demo-b"), 1)
	_, err := cs[0].Doc("a/b").Create(t.Context(), data{})
	require.NoError(t, err)
}

func TestATransactionForgottenLosesItsLocks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := New()
		defer s.Close()
		conn, err := s.Dial("")
		require.NoError(t, err)
		defer conn.Close()
		w := &world{T: t, ctx: t.Context(), raw: pb.NewFirestoreClient(conn), db: "projects/demo-x/databases/(default)"}
		tx := w.begin()
		w.readIn(tx, "t/a")
		_, err = w.commit(w.update("t/a", fields{}))
		w.code(codes.Aborted, err)
		time.Sleep(time.Minute)
		_, err = w.commit(w.update("t/a", fields{}))
		require.NoError(t, err)
		_, err = w.raw.Commit(w.ctx, &pb.CommitRequest{Database: w.db, Transaction: tx})
		w.code(codes.InvalidArgument, err)
	})
}

// The server refuses, by name, each thing that it does not know.
func TestUnknownIsRefused(t *testing.T) {
	t.Parallel()
	s := New()
	defer s.Close()
	conn, err := s.Dial("")
	require.NoError(t, err)
	defer conn.Close()
	w := &world{T: t, ctx: t.Context(), raw: pb.NewFirestoreClient(conn), db: "projects/demo-x/databases/(default)"}
	_, err = w.raw.PartitionQuery(w.ctx, &pb.PartitionQueryRequest{})
	w.code(codes.Unimplemented, err)
	require.ErrorContains(t, err, "PartitionQuery")
	req := &pb.CommitRequest{Database: w.db, Writes: []*pb.Write{w.update("a/b", fields{})}}
	req.ProtoReflect().SetUnknown([]byte{0xf8, 0x3f, 0x01})
	_, err = w.raw.Commit(w.ctx, req)
	w.code(codes.Unimplemented, err)
	req = &pb.CommitRequest{Database: w.db, Writes: []*pb.Write{w.update("a/b", fields{})}}
	req.Writes[0].ProtoReflect().SetUnknown([]byte{0xf8, 0x3f, 0x01})
	_, err = w.raw.Commit(w.ctx, req)
	w.code(codes.Unimplemented, err)
	require.Empty(t, s.Snapshot("demo-x"))
}

// Contenders with lost replies never grant one epoch twice.
func TestTwentyContendersWithLostReplies(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, s *Server, _ *firestore.Client) {
		s.SetLatency(20 * time.Millisecond)
		s.Fault(DropReply()).On(Commit).Chance(0.2, 1).Always().Now()
		s.Fault(DropRequest()).On(Commit).Chance(0.05, 2).Always().Now()
		const contenders, each = 20, 10
		done := make(chan struct{})
		for id := range contenders {
			c, err := s.Client(t.Context(), "demo-x")
			require.NoError(t, err)
			go func() {
				defer func() { c.Close(); done <- struct{}{} }()
				for n := 0; n < each; {
					ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
					snap, err := c.Doc("lock/l").Get(ctx)
					nonce := id*1000 + n + 1
					switch {
					case status.Code(err) == codes.NotFound:
						_, _ = c.Doc("lock/l").Create(ctx, data{"epoch": 1, "nonce": nonce})
					case err == nil && snap.Data()["nonce"] == int64(nonce):
						n++ // an ambiguous outcome, settled
					case err == nil:
						_, _ = c.Doc("lock/l").Update(ctx, []firestore.Update{{Path: "epoch", Value: snap.Data()["epoch"].(int64) + 1}, {Path: "nonce", Value: nonce}},
							firestore.LastUpdateTime(snap.UpdateTime))
						if again, err := c.Doc("lock/l").Get(ctx); err == nil && again.Data()["nonce"] == int64(nonce) {
							n++
						}
					}
					cancel()
				}
			}()
		}
		for range contenders {
			<-done
		}
		d, _ := s.Get("demo-x", "lock/l")
		require.GreaterOrEqual(t, d.Fields["epoch"], int64(contenders*each))
		require.EqualValues(t, d.Fields["epoch"], s.Stats().Writes)
	})
}
