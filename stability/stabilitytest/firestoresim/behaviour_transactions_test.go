package firestoresim

import (
	"context"
	"io"

	"cloud.google.com/go/firestore"
	pb "cloud.google.com/go/firestore/apiv1/firestorepb"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
)

var transactionBehaviours = []behaviour{
	{"transactions do not lose updates", func(w *world) {
		w.set("t/n", data{"n": 0})
		const clients, rounds = 3, 3
		errs := make(chan error, clients)
		for range clients {
			c := w.client()
			go func() {
				for range rounds {
					err := c.RunTransaction(w.ctx, func(ctx context.Context, tx *firestore.Transaction) error {
						snap, err := tx.Get(c.Doc("t/n"))
						if err != nil {
							return err
						}
						return tx.Set(c.Doc("t/n"), data{"n": snap.Data()["n"].(int64) + 1})
					}, firestore.MaxAttempts(30))
					if err != nil {
						errs <- err
						return
					}
				}
				errs <- nil
			}()
		}
		for range clients {
			require.NoError(w, <-errs)
		}
		require.EqualValues(w, clients*rounds, w.get("t/n").Data()["n"])
	}},
	{"what a transaction has read cannot be written by others", func(w *world) {
		w.set("t/a", data{"n": 1})
		tx := w.begin()
		w.readIn(tx, "t/a", "t/none")
		for _, p := range []string{"t/a", "t/none"} {
			_, err := w.commit(w.update(p, fields{"n": integer(2)}))
			w.code(codes.Aborted, err)
		}
		require.EqualValues(w, 1, w.get("t/a").Data()["n"], "reads are not locked out")
		w.set("t/b", data{"n": 1})
		res, err := w.raw.Commit(w.ctx, &pb.CommitRequest{Database: w.db, Transaction: tx, Writes: []*pb.Write{w.update("t/a", fields{"n": integer(3)})}})
		require.NoError(w, err)
		require.Len(w, res.WriteResults, 1)
		w.set("t/none", data{"n": 1})
	}},
	{"a writer goes on when the transaction ends", func(w *world) {
		w.set("t/a", data{"n": 1})
		tx := w.begin()
		w.readIn(tx, "t/a")
		done := make(chan error, 1)
		go func() {
			_, err := w.commit(w.update("t/a", fields{"n": integer(2)}))
			done <- err
		}()
		_, err := w.raw.Rollback(w.ctx, &pb.RollbackRequest{Database: w.db, Transaction: tx})
		require.NoError(w, err)
		require.NoError(w, <-done)
	}},
	{"of two transactions that read the same one commits", func(w *world) {
		w.set("t/a", data{"n": 1})
		one, two := w.begin(), w.begin()
		w.readIn(one, "t/a")
		w.readIn(two, "t/a")
		commit := func(tx []byte, n int64) error {
			_, err := w.raw.Commit(w.ctx, &pb.CommitRequest{Database: w.db, Transaction: tx, Writes: []*pb.Write{w.update("t/a", fields{"n": integer(n)})}})
			return err
		}
		w.code(codes.Aborted, commit(one, 2))
		require.NoError(w, commit(two, 3))
		require.EqualValues(w, 3, w.get("t/a").Data()["n"])
		w.code(codes.InvalidArgument, commit(one, 4))
		w.code(codes.InvalidArgument, commit(two, 4))
	}},
	{"a query in a transaction locks its results", func(w *world) {
		w.set("t/a", data{"n": 1})
		tx := w.begin()
		st, err := w.raw.RunQuery(w.ctx, &pb.RunQueryRequest{Parent: w.db + "/documents", ConsistencySelector: &pb.RunQueryRequest_Transaction{Transaction: tx},
			QueryType: &pb.RunQueryRequest_StructuredQuery{StructuredQuery: &pb.StructuredQuery{From: []*pb.StructuredQuery_CollectionSelector{{CollectionId: "t"}}}}})
		require.NoError(w, err)
		for err == nil {
			_, err = st.Recv()
		}
		require.ErrorIs(w, err, io.EOF)
		_, err = w.commit(w.update("t/a", fields{"n": integer(2)}))
		w.code(codes.Aborted, err)
		w.set("other/a", data{})
	}},
	{"ends of transactions", func(w *world) {
		commit := func(tx []byte, ws ...*pb.Write) error {
			_, err := w.raw.Commit(w.ctx, &pb.CommitRequest{Database: w.db, Transaction: tx, Writes: ws})
			return err
		}
		rollback := func(tx []byte) error {
			_, err := w.raw.Rollback(w.ctx, &pb.RollbackRequest{Database: w.db, Transaction: tx})
			return err
		}
		tx := w.begin()
		require.NoError(w, commit(tx))
		w.code(codes.InvalidArgument, commit(tx))
		require.NoError(w, rollback(tx))
		tx = w.begin()
		require.NoError(w, rollback(tx))
		require.NoError(w, rollback(tx))
		w.code(codes.InvalidArgument, commit(tx, w.update("a/b", fields{})))
		w.code(codes.InvalidArgument, commit([]byte("x")))
		w.code(codes.InvalidArgument, rollback([]byte("x")))
		ro, err := w.raw.BeginTransaction(w.ctx, &pb.BeginTransactionRequest{Database: w.db,
			Options: &pb.TransactionOptions{Mode: &pb.TransactionOptions_ReadOnly_{ReadOnly: &pb.TransactionOptions_ReadOnly{}}}})
		require.NoError(w, err)
		w.code(codes.InvalidArgument, commit(ro.Transaction, w.update("a/b", fields{})))
	}},
	{"a read-only transaction sees one moment and locks nothing", func(w *world) {
		w.set("t/a", data{"n": 1})
		w.set("t/b", data{"n": 1})
		err := w.c.RunTransaction(w.ctx, func(ctx context.Context, tx *firestore.Transaction) error {
			a, err := tx.Get(w.c.Doc("t/a"))
			if err != nil {
				return err
			}
			w.set("t/b", data{"n": a.Data()["n"].(int64) + 1})
			b, err := tx.Get(w.c.Doc("t/b"))
			if err == nil {
				require.EqualValues(w, 1, b.Data()["n"])
			}
			return err
		}, firestore.ReadOnly)
		require.NoError(w, err)
	}},
	{"a transaction begun by its first read is read-only unless asked", func(w *world) {
		w.set("t/a", data{"n": 1})
		for want, opts := range map[codes.Code]*pb.TransactionOptions{codes.InvalidArgument: {},
			codes.OK: {Mode: &pb.TransactionOptions_ReadWrite_{ReadWrite: &pb.TransactionOptions_ReadWrite{}}}} {
			st, err := w.raw.BatchGetDocuments(w.ctx, &pb.BatchGetDocumentsRequest{Database: w.db, Documents: []string{w.name("t/a")},
				ConsistencySelector: &pb.BatchGetDocumentsRequest_NewTransaction{NewTransaction: opts}})
			require.NoError(w, err)
			first, err := st.Recv()
			require.NoError(w, err)
			require.NotEmpty(w, first.Transaction)
			second, err := st.Recv()
			require.NoError(w, err)
			require.NotNil(w, second.GetFound())
			_, err = w.raw.Commit(w.ctx, &pb.CommitRequest{Database: w.db, Transaction: first.Transaction, Writes: []*pb.Write{w.update("t/a", fields{})}})
			w.code(want, err)
		}
	}},
}
