package firestoresim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"

	"cloud.google.com/go/firestore"
	pb "cloud.google.com/go/firestore/apiv1/firestorepb"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/metadata"
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
