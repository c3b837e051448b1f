package firestoresim

import (
	"context"
	"errors"
	"fmt"
	"io"

	"cloud.google.com/go/firestore"
	pb "cloud.google.com/go/firestore/apiv1/firestorepb"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

var listenerBehaviours = []behaviour{
	{"a document's listener", func(w *world) {
		snaps := w.c.Doc("l/a").Snapshots(w.ctx)
		defer snaps.Stop()
		next := func() *firestore.DocumentSnapshot {
			w.Helper()
			s, err := snaps.Next()
			if status.Code(err) == codes.NotFound && s != nil {
				err = nil
			}
			require.NoError(w, err)
			return s
		}
		first := next()
		require.False(w, first.Exists())
		require.False(w, first.ReadTime.IsZero())
		res := w.set("l/a", data{"n": 1})
		w.set("l/other", data{"n": 1})
		s := next()
		require.EqualValues(w, 1, s.Data()["n"])
		require.Equal(w, res.UpdateTime, s.UpdateTime)
		_, err := w.c.Doc("l/a").Update(w.ctx, noop)
		require.NoError(w, err)
		w.set("l/a", data{"n": 2})
		require.EqualValues(w, 2, next().Data()["n"], "a no-op is no news")
		_, err = w.c.Doc("l/a").Delete(w.ctx)
		require.NoError(w, err)
		require.False(w, next().Exists())
		w.set("l/a", data{"n": 3})
		require.EqualValues(w, 3, next().Data()["n"])
	}},
	{"a query's listener", func(w *world) { queryListener(w, w.c.Collection("l").Where("n", ">", 2)) }},
	{"a limited query's listener", func(w *world) { queryListener(w, w.c.Collection("l").Where("n", ">", 2).Limit(2)) }},
	{"the order of a listener's messages", func(w *world) {
		w.set("l/a", data{"n": 1})
		ctx := w.listenContext()
		l, err := w.raw.Listen(ctx)
		require.NoError(w, err)
		require.NoError(w, l.Send(&pb.ListenRequest{Database: w.db, TargetChange: &pb.ListenRequest_AddTarget{AddTarget: &pb.Target{TargetId: 7,
			TargetType: &pb.Target_Documents{Documents: &pb.Target_DocumentsTarget{Documents: []string{w.name("l/a"), w.name("l/none")}}}}}}))
		kinds := func(until string) (out []string) {
			w.Helper()
			for {
				r, err := l.Recv()
				require.NoError(w, err)
				k := ""
				switch t := r.ResponseType.(type) {
				case *pb.ListenResponse_TargetChange:
					k = fmt.Sprintf("%v%v", t.TargetChange.TargetChangeType, t.TargetChange.TargetIds)
					if t.TargetChange.TargetChangeType == pb.TargetChange_NO_CHANGE {
						require.NotNil(w, t.TargetChange.ReadTime)
						require.NotEmpty(w, t.TargetChange.ResumeToken)
					}
				case *pb.ListenResponse_DocumentChange:
					require.Equal(w, []int32{7}, t.DocumentChange.TargetIds)
					k = "change " + idOf(t.DocumentChange.Document.Name)
				case *pb.ListenResponse_DocumentDelete:
					k = "delete " + idOf(t.DocumentDelete.Document)
				}
				if out = append(out, k); k == until {
					return out
				}
			}
		}
		require.Equal(w, []string{"ADD[7]", "change a", "delete none", "CURRENT[7]", "NO_CHANGE[]"}, kinds("NO_CHANGE[]"))
		w.set("l/none", data{"n": 1})
		later := kinds("NO_CHANGE[]")
		require.Contains(w, later, "change none")
		require.NoError(w, l.Send(&pb.ListenRequest{Database: w.db, TargetChange: &pb.ListenRequest_RemoveTarget{RemoveTarget: 7}}))
		require.Equal(w, []string{"REMOVE[7]"}, kinds("REMOVE[7]"))
		require.NoError(w, l.Send(&pb.ListenRequest{Database: w.db, TargetChange: &pb.ListenRequest_AddTarget{AddTarget: &pb.Target{TargetId: 8,
			TargetType: &pb.Target_Documents{Documents: &pb.Target_DocumentsTarget{Documents: []string{w.name("l")}}}}}}))
		for {
			r, err := l.Recv()
			require.NoError(w, err)
			if tc := r.GetTargetChange(); tc.GetTargetChangeType() == pb.TargetChange_REMOVE {
				require.Equal(w, int32(codes.InvalidArgument), tc.GetCause().GetCode())
				break
			}
		}
		require.NoError(w, l.CloseSend())
		_, err = l.Recv()
		require.ErrorIs(w, err, io.EOF)
	}},
	{"deadlines", func(w *world) {
		ctx, cancel := context.WithCancel(w.ctx)
		cancel()
		_, err := w.c.Doc("a/b").Set(ctx, data{})
		require.True(w, errors.Is(err, context.Canceled) || status.Code(err) == codes.Canceled, "%v", err)
		require.False(w, w.get("a/b").Exists())
	}},
}
