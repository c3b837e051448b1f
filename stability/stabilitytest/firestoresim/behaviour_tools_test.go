package firestoresim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"cloud.google.com/go/firestore"
	pb "cloud.google.com/go/firestore/apiv1/firestorepb"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func (w *world) begin() []byte {
	w.Helper()
	res, err := w.raw.BeginTransaction(w.ctx, &pb.BeginTransactionRequest{Database: w.db})
	require.NoError(w, err)
	return res.Transaction
}

// readIn reads documents in a transaction, to the end.
func (w *world) readIn(tx []byte, paths ...string) {
	w.Helper()
	var names []string
	for _, p := range paths {
		names = append(names, w.name(p))
	}
	st, err := w.raw.BatchGetDocuments(w.ctx, &pb.BatchGetDocumentsRequest{Database: w.db, Documents: names,
		ConsistencySelector: &pb.BatchGetDocumentsRequest_Transaction{Transaction: tx}})
	require.NoError(w, err)
	for err == nil {
		_, err = st.Recv()
	}
	if !errors.Is(err, io.EOF) {
		require.NoError(w, err)
	}
}

// listenContext has the headers without which the emulator refuses to listen.
func (w *world) listenContext() context.Context {
	return metadata.AppendToOutgoingContext(w.ctx, "google-cloud-resource-prefix", w.db, "x-goog-request-params", "database="+url.QueryEscape(w.db))
}

// queryListener follows l/a and l/b through a query for n > 2. It writes nothing
// after the listener has ended: the emulator may answer that with UNKNOWN.
func queryListener(w *world, q firestore.Query) {
	w.set("l/a", data{"n": 1})
	w.set("l/b", data{"n": 5})
	snaps := q.Snapshots(w.ctx)
	defer snaps.Stop()
	next := func() string {
		w.Helper()
		s, err := snaps.Next()
		require.NoError(w, err)
		docs, err := s.Documents.GetAll()
		require.NoError(w, err)
		var ids, changes []string
		for _, d := range docs {
			ids = append(ids, d.Ref.ID)
		}
		for _, c := range s.Changes {
			changes = append(changes, fmt.Sprint(int(c.Kind), c.Doc.Ref.ID))
		}
		return strings.Join(ids, " ") + " | " + strings.Join(changes, " ")
	}
	require.Equal(w, "b | 0b", next())
	w.set("l/a", data{"n": 4})
	require.Equal(w, "a b | 0a", next())
	w.set("l/b", data{"n": 6})
	require.Equal(w, "a b | 2b", next())
	w.set("l/a", data{"n": 0})
	require.Equal(w, "b | 1a", next())
	_, err := w.c.Doc("l/b").Delete(w.ctx)
	require.NoError(w, err)
	require.Equal(w, " | 1b", next())
}

// verify is a write that only has a precondition. The Go package of Firestore's
// messages has no name for it.
func (w *world) verify(path string, c *pb.Precondition) *pb.Write {
	out := &pb.Write{CurrentDocument: c}
	out.ProtoReflect().SetUnknown(protowire.AppendString(protowire.AppendTag(nil, 5, protowire.BytesType), w.name(path)))
	return out
}

func exists(b bool) *pb.Precondition {
	return &pb.Precondition{ConditionType: &pb.Precondition_Exists{Exists: b}}
}

func updatedAt(t time.Time) *pb.Precondition {
	return &pb.Precondition{ConditionType: &pb.Precondition_UpdateTime{UpdateTime: timestamppb.New(t)}}
}

func verifying(w *world) {
	first := w.set("a/b", data{"n": 1}).UpdateTime
	one := func(path string) *pb.Write { return w.update(path, fields{"n": integer(1)}) }
	res, err := w.commit(w.verify("a/b", updatedAt(first)), one("a/c"))
	require.NoError(w, err)
	require.Equal(w, first, res.WriteResults[0].UpdateTime.AsTime())
	require.Equal(w, res.CommitTime.AsTime(), res.WriteResults[1].UpdateTime.AsTime())
	_, err = w.commit(w.verify("a/b", exists(true)), w.verify("a/none", exists(false)))
	require.NoError(w, err)
	require.Equal(w, first, w.get("a/b").UpdateTime, "a verify changes nothing")
	for name, c := range map[string]struct {
		writes []*pb.Write
		want   codes.Code
	}{
		"changed since":          {[]*pb.Write{w.verify("a/b", updatedAt(first.Add(-time.Second))), one("a/x")}, codes.FailedPrecondition},
		"later than it is":       {[]*pb.Write{w.verify("a/b", updatedAt(first.Add(time.Second))), one("a/x")}, codes.InvalidArgument},
		"is there":               {[]*pb.Write{w.verify("a/b", exists(false)), one("a/x")}, codes.AlreadyExists},
		"is missing":             {[]*pb.Write{w.verify("a/none", exists(true)), one("a/x")}, codes.NotFound},
		"is missing, of a time":  {[]*pb.Write{w.verify("a/none", updatedAt(first)), one("a/x")}, codes.FailedPrecondition},
		"no precondition":        {[]*pb.Write{w.verify("a/b", nil), one("a/x")}, codes.InvalidArgument},
		"written, then verified": {[]*pb.Write{one("a/x"), w.verify("a/x", exists(true))}, codes.InvalidArgument},
		"verified, then written": {[]*pb.Write{w.verify("a/x", exists(false)), one("a/x")}, codes.InvalidArgument},
		"the same, at the end":   {[]*pb.Write{one("a/x"), w.verify("a/b", exists(false))}, codes.AlreadyExists},
	} {
		_, err := w.commit(c.writes...)
		require.Equal(w, c.want, status.Code(err), "%s: %v", name, err)
		_, err = w.c.Doc("a/x").Get(w.ctx)
		require.Equal(w, codes.NotFound, status.Code(err), "%s: nothing is written", name)
	}
}
