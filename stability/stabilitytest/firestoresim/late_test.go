package firestoresim

import (
	"testing"
	"time"

	"cloud.google.com/go/firestore"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
)

func number(s *Server) any {
	d, _ := s.Get("demo-x", "a/b")
	return d.Fields["n"]
}

func TestLateRequestsAreAppliedLater(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, s *Server, c *firestore.Client) {
		s.Fault(Late(10 * time.Second)).On(Commit).Now()
		_, err := c.Doc("a/b").Set(t.Context(), data{"n": 1}) // the client repeats it
		require.NoError(t, err)
		_, err = c.Doc("a/b").Set(t.Context(), data{"n": 2})
		require.NoError(t, err)
		require.Equal(t, int64(2), number(s))
		time.Sleep(11 * time.Second)
		require.Equal(t, int64(1), number(s))
		require.Equal(t, 3, s.Stats().RPCs[Commit], "what arrives late was counted when it was sent")
		require.Equal(t, 3, s.Stats().Writes)
	})
}

func TestRequestsPastTheirDeadlineAreApplied(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, s *Server, c *firestore.Client) {
		s.Fault(PastDeadline(10 * time.Second)).On(Commit).Now()
		_, err := c.Doc("a/b").Set(within(t, 5*time.Second), data{"n": 1})
		require.True(t, deadline(err), "%v", err)
		require.Nil(t, number(s))
		time.Sleep(6 * time.Second)
		require.Equal(t, int64(1), number(s))
	})
}

func TestDuplicatesAreAppliedTwice(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, s *Server, c *firestore.Client) {
		s.Fault(Duplicate(time.Second)).On(Commit).Now()
		_, err := c.Doc("a/b").Set(t.Context(), data{"n": firestore.Increment(1)}, firestore.MergeAll)
		require.NoError(t, err)
		require.Equal(t, int64(1), number(s))
		time.Sleep(2 * time.Second)
		require.Equal(t, int64(2), number(s))

		// Together with a fault that answers, and of a read: no effect.
		s.Fault(Duplicate(time.Second)).On(BatchGetDocuments).Now()
		s.Fault(Duplicate(time.Second)).On(Commit).Now()
		s.Fault(Fail(codes.Internal, "x")).On(Commit).Now()
		_, err = c.Doc("a/b").Get(t.Context())
		require.NoError(t, err)
		_, err = c.Doc("a/b").Set(t.Context(), data{"n": firestore.Increment(1)}, firestore.MergeAll)
		require.Equal(t, codes.Internal, status.Code(err))
		time.Sleep(2 * time.Second)
		require.Equal(t, int64(3), number(s), "the copy arrives")
		s.Fault(Duplicate(time.Hour)).On(Commit).Now() // Close does not wait for it
		_, err = c.Doc("a/b").Set(t.Context(), data{"n": 9})
		require.NoError(t, err)
	})
}

func TestReadTimesRiseWithinAnAnswer(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, s *Server, c *firestore.Client) {
		last := time.Time{}
		rises := func(snaps []*firestore.DocumentSnapshot, err error) {
			require.NoError(t, err)
			require.Len(t, snaps, 3)
			for i, d := range snaps {
				require.True(t, d.ReadTime.After(last) || i == 0 && d.ReadTime.Equal(last))
				last = d.ReadTime
			}
		}
		docs := []*firestore.DocumentRef{c.Doc("a/1"), c.Doc("a/2"), c.Doc("a/3")}
		for range 3 {
			for _, d := range docs {
				res, err := d.Set(t.Context(), data{"n": firestore.Increment(1)}, firestore.MergeAll)
				require.NoError(t, err)
				require.True(t, res.UpdateTime.After(last), "a commit is behind every read")
			}
			rises(c.GetAll(t.Context(), docs))
			rises(c.Collection("a").Documents(t.Context()).GetAll())
		}
	}, WithRisingReadTimes())
}

func TestAPersonEditsDocuments(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, s *Server, c *firestore.Client) {
		res, err := c.Doc("a/b").Set(t.Context(), data{"n": 1, "m": data{"t": time.Unix(5, 0), "b": []byte{1}, "l": []any{"x", nil, 1.5, true}}})
		require.NoError(t, err)
		was, _ := s.Get("demo-x", "a/b")
		before := s.Stats()
		s.Fault(Unavailable()).Always().Now()
		s.Edit("demo-x", "a/b", func(f map[string]any) map[string]any { return f })
		now, _ := s.Get("demo-x", "a/b")
		require.Equal(t, was.Fields, now.Fields)
		require.True(t, now.UpdateTime.After(res.UpdateTime))
		require.Equal(t, was.CreateTime, now.CreateTime)
		s.Edit("demo-x", "a/b", func(f map[string]any) map[string]any { f["n"] = "one"; return f })
		require.Equal(t, "one", number(s))
		s.Remove("demo-x", "a/b")
		_, ok := s.Get("demo-x", "a/b")
		require.False(t, ok)
		s.Edit("demo-x", "a/b", func(f map[string]any) map[string]any { require.Nil(t, f); return map[string]any{"n": 7} })
		require.Equal(t, int64(7), number(s))
		require.Equal(t, before, s.Stats())
	})
}

// A connection whose other end is gone without a word is replaced with
// keepalives, and never without.
func TestASilentConnectionIsReplacedWithKeepalives(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]grpc.DialOption{
		"none":       nil,
		"keepalives": {grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second})},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, s *Server, _ *firestore.Client) {
				c, err := s.Client(t.Context(), "demo-x", Name("b"), DialOptions(opts...))
				require.NoError(t, err)
				defer c.Close()
				_, err = c.Doc("a/b").Set(t.Context(), data{"n": 1})
				require.NoError(t, err)
				require.Equal(t, 1, s.Connections("b"))
				require.Equal(t, 1, s.Silence("b"))
				require.Zero(t, s.Silence("b"))
				begin := time.Now()
				for err = errClosed; err != nil && time.Since(begin) < 5*time.Minute; {
					_, err = c.Doc("a/b").Set(within(t, 5*time.Second), data{"n": 2})
				}
				if opts == nil {
					require.True(t, deadline(err), "%v", err)
					require.Equal(t, 1, s.Connections("b"))
					require.Equal(t, int64(1), number(s))
					return
				}
				require.NoError(t, err)
				require.LessOrEqual(t, time.Since(begin), 20*time.Second)
				require.Equal(t, 2, s.Connections("b"))
				require.Equal(t, int64(2), number(s))
			})
		})
	}
}
