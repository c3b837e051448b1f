package firestoresim

import (
	"math"
	"time"

	"cloud.google.com/go/firestore"
	pb "cloud.google.com/go/firestore/apiv1/firestorepb"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
)

var writeBehaviours = []behaviour{
	{"create refuses an existing document", func(w *world) {
		_, err := w.c.Doc("a/b").Create(w.ctx, data{"n": 1})
		require.NoError(w, err)
		_, err = w.c.Doc("a/b").Create(w.ctx, data{"n": 2})
		w.code(codes.AlreadyExists, err)
		require.EqualValues(w, 1, w.get("a/b").Data()["n"])
	}},
	{"update and a delete that must exist refuse a missing document", func(w *world) {
		_, err := w.c.Doc("a/b").Update(w.ctx, []firestore.Update{{Path: "n", Value: 1}})
		w.code(codes.NotFound, err)
		_, err = w.c.Doc("a/b").Delete(w.ctx, firestore.Exists)
		w.code(codes.NotFound, err)
		_, err = w.c.Doc("a/b").Delete(w.ctx)
		require.NoError(w, err)
		require.False(w, w.get("a/b").Exists())
	}},
	{"compare and set by the update time", func(w *world) {
		first := w.set("a/b", data{"n": 1})
		second, err := w.c.Doc("a/b").Update(w.ctx, []firestore.Update{{Path: "n", Value: 2}}, firestore.LastUpdateTime(first.UpdateTime))
		require.NoError(w, err)
		require.True(w, second.UpdateTime.After(first.UpdateTime))
		_, err = w.c.Doc("a/b").Update(w.ctx, []firestore.Update{{Path: "n", Value: 3}}, firestore.LastUpdateTime(first.UpdateTime))
		w.code(codes.FailedPrecondition, err)
		_, err = w.c.Doc("a/b").Delete(w.ctx, firestore.LastUpdateTime(first.UpdateTime))
		w.code(codes.FailedPrecondition, err)
		snap := w.get("a/b")
		require.EqualValues(w, 2, snap.Data()["n"])
		require.Equal(w, second.UpdateTime, snap.UpdateTime)
		require.Equal(w, first.UpdateTime, snap.CreateTime)
		_, err = w.c.Doc("a/b").Delete(w.ctx, firestore.LastUpdateTime(second.UpdateTime))
		require.NoError(w, err)
	}},
	{"an update time later than the document's is invalid, for a missing one the precondition fails", func(w *world) {
		res := w.set("a/b", data{"n": 1})
		_, err := w.c.Doc("a/b").Update(w.ctx, noop, firestore.LastUpdateTime(res.UpdateTime.Add(time.Microsecond)))
		w.code(codes.InvalidArgument, err)
		_, err = w.c.Doc("a/none").Update(w.ctx, noop, firestore.LastUpdateTime(res.UpdateTime))
		w.code(codes.FailedPrecondition, err)
	}},
	{"preconditions are aligned to microseconds", func(w *world) {
		res := w.set("a/b", data{"n": 1})
		require.Zero(w, res.UpdateTime.Nanosecond()%1000)
		wr := w.update("a/b", fields{})
		wr.CurrentDocument = &pb.Precondition{ConditionType: &pb.Precondition_UpdateTime{UpdateTime: timestamppb.New(res.UpdateTime.Add(1))}}
		_, err := w.commit(wr)
		w.code(codes.InvalidArgument, err)
	}},
	{"a no-op keeps the update time", func(w *world) {
		first := w.set("a/b", data{"n": 1, "m": data{"x": []byte{1}}})
		for range 3 {
			res, err := w.c.Doc("a/b").Update(w.ctx, noop, firestore.LastUpdateTime(first.UpdateTime))
			require.NoError(w, err)
			require.Equal(w, first.UpdateTime, res.UpdateTime)
			require.Equal(w, first.UpdateTime, w.set("a/b", data{"n": 1, "m": data{"x": []byte{1}}}).UpdateTime)
		}
		require.Equal(w, first.UpdateTime, w.get("a/b").UpdateTime)
		require.NotEqual(w, first.UpdateTime, w.set("a/b", data{"n": 1.0, "m": data{"x": []byte{1}}}).UpdateTime)
	}},
	{"a fenced batch: all with the token, nothing with a stale one", func(w *world) {
		token := w.set("locks/fence", data{"epoch": 1}).UpdateTime
		w.set("keys/gone", data{"n": 1})
		res, err := w.c.Batch().Update(w.c.Doc("locks/fence"), noop, firestore.LastUpdateTime(token)).
			Set(w.c.Doc("keys/a"), data{"n": 1}).Delete(w.c.Doc("keys/gone")).Commit(w.ctx)
		require.NoError(w, err)
		require.Len(w, res, 3)
		require.Equal(w, token, res[0].UpdateTime)
		require.True(w, res[1].UpdateTime.After(token))
		require.False(w, w.get("keys/gone").Exists())

		w.set("locks/fence", data{"epoch": 2})
		_, err = w.c.Batch().Update(w.c.Doc("locks/fence"), noop, firestore.LastUpdateTime(token)).
			Set(w.c.Doc("keys/a"), data{"n": 2}).Set(w.c.Doc("keys/b"), data{"n": 2}).Commit(w.ctx)
		w.code(codes.FailedPrecondition, err)
		require.EqualValues(w, 1, w.get("keys/a").Data()["n"])
		require.False(w, w.get("keys/b").Exists())
	}},
	{"a verify only has a precondition", verifying},
	{"a failed precondition at the end undoes the whole batch", func(w *world) {
		_, err := w.c.Batch().Set(w.c.Doc("a/x"), data{"n": 1}).Update(w.c.Doc("a/y"), noop).Commit(w.ctx)
		w.code(codes.NotFound, err)
		require.False(w, w.get("a/x").Exists())
	}},
	{"writes of one commit to one document", func(w *world) {
		old := w.set("a/t", data{"n": 0}).UpdateTime
		res, err := w.commit(w.update("a/t", fields{"n": integer(1)}), w.update("a/t", fields{"n": integer(0)}))
		require.NoError(w, err)
		require.Equal(w, old, res.WriteResults[0].UpdateTime.AsTime(), "there and back is no change")
		res, err = w.commit(&pb.Write{Operation: &pb.Write_Delete{Delete: w.name("a/t")}}, w.update("a/t", fields{"n": integer(0)}))
		require.NoError(w, err)
		require.Equal(w, res.CommitTime.AsTime(), w.get("a/t").CreateTime)
		require.Equal(w, res.CommitTime.AsTime(), res.WriteResults[0].UpdateTime.AsTime())
		res, err = w.commit(w.update("a/t", fields{"n": integer(5)}), &pb.Write{Operation: &pb.Write_Delete{Delete: w.name("a/t")}})
		require.NoError(w, err)
		require.Nil(w, res.WriteResults[0].UpdateTime)
		create := func() *pb.Write {
			wr := w.update("a/t", fields{})
			wr.CurrentDocument = &pb.Precondition{ConditionType: &pb.Precondition_Exists{Exists: false}}
			return wr
		}
		_, err = w.commit(create(), create())
		w.code(codes.InvalidArgument, err)
	}},
	{"commit times rise strictly, and reads are between them", func(w *world) {
		var last time.Time
		for n := range 20 {
			res := w.set("a/b", data{"n": n})
			require.True(w, res.UpdateTime.After(last))
			snap := w.get("a/b")
			require.False(w, snap.ReadTime.Before(res.UpdateTime))
			last = snap.ReadTime
		}
	}},
}

var mergeBehaviours = []behaviour{
	{"merges with quoted paths", func(w *world) {
		w.set("a/b", data{"x.y": 1, "m": data{"a b": 1, "keep": 1}, "keep": 1})
		_, err := w.c.Doc("a/b").Update(w.ctx, []firestore.Update{
			{FieldPath: firestore.FieldPath{"x.y"}, Value: 2},
			{FieldPath: firestore.FieldPath{"m", "a b"}, Value: firestore.Delete},
			{FieldPath: firestore.FieldPath{"m", "é`\\"}, Value: 3}})
		require.NoError(w, err)
		require.Equal(w, data{"x.y": int64(2), "m": data{"keep": int64(1), "é`\\": int64(3)}, "keep": int64(1)}, w.get("a/b").Data())
		_, err = w.c.Doc("a/b").Set(w.ctx, data{"m": data{"new": 1}}, firestore.MergeAll)
		require.NoError(w, err)
		require.Len(w, w.get("a/b").Data()["m"], 3)
		_, err = w.c.Doc("a/b").Set(w.ctx, data{"m": data{"new": 2}}, firestore.Merge(firestore.FieldPath{"m"}))
		require.NoError(w, err)
		require.Equal(w, data{"new": int64(2)}, w.get("a/b").Data()["m"])
	}},
	{"masks: deletes, parents, what is no map", func(w *world) {
		_, err := w.commit(w.update("f/a", fields{}, "q.b.c"))
		require.NoError(w, err)
		require.Empty(w, w.get("f/a").Data(), "created, without the parents of what was not there")
		w.set("f/a", data{"a": 2})
		_, err = w.commit(w.update("f/a", fields{}, "a.b.c"))
		require.NoError(w, err)
		require.Equal(w, data{"a": int64(2)}, w.get("f/a").Data())
		_, err = w.commit(w.update("f/a", fields{"a": nested(1), "extra": integer(1)}, "a.d"))
		require.NoError(w, err)
		require.Equal(w, data{"a": data{"d": int64(1)}}, w.get("f/a").Data())
		_, err = w.commit(w.update("f/b", fields{"a": integer(1)}, []string{}...))
		require.NoError(w, err)
		for path, want := range map[string]codes.Code{"": 3, "a..b": 3, "a.": 3, ".a": 3, "`a": 3, "a`b": 3, "``": 3, "a b": 3, "0a": 3, "ä": 3,
			"a-b": 3, "a[0]": 3, "*": 3, "__x__": 3, "`a`": 0, "a.b": 0, "`a\\`b`": 0, "`a.b`.c": 0, "_1": 0} {
			_, err := w.commit(w.update("f/c", fields{}, path))
			require.Equal(w, want, status.Code(err), "%q: %v", path, err)
		}
	}},
	{"transforms", func(w *world) {
		tf := func(path string, ups ...firestore.Update) {
			w.Helper()
			_, err := w.c.Doc(path).Update(w.ctx, ups)
			require.NoError(w, err)
		}
		w.set("t/t", data{"n": 1, "s": "x", "max": math.MaxInt64})
		tf("t/t", firestore.Update{Path: "n", Value: firestore.Increment(2)}, firestore.Update{Path: "s", Value: firestore.Increment(1.5)},
			firestore.Update{Path: "max", Value: firestore.Increment(1)}, firestore.Update{Path: "new.deep", Value: firestore.Increment(7)},
			firestore.Update{Path: "arr", Value: firestore.ArrayUnion(1, 1, 1.0, "x")}, firestore.Update{Path: "none", Value: firestore.ArrayRemove(1)})
		require.Equal(w, data{"n": int64(3), "s": 1.5, "max": int64(math.MaxInt64), "new": data{"deep": int64(7)}, "arr": []any{int64(1), "x"}, "none": []any{}}, w.get("t/t").Data())
		tf("t/t", firestore.Update{Path: "n", Value: firestore.FieldTransformMaximum(3.0)}, firestore.Update{Path: "s", Value: firestore.FieldTransformMinimum(1)},
			firestore.Update{Path: "arr", Value: firestore.ArrayRemove(1.0)}, firestore.Update{Path: "max", Value: firestore.Increment(0.5)})
		got := w.get("t/t").Data()
		require.Equal(w, []any{int64(3), int64(1), []any{"x"}}, []any{got["n"], got["s"], got["arr"]})
		require.IsType(w, 0.0, got["max"])
		before := w.get("t/t").UpdateTime
		tf("t/t", firestore.Update{Path: "n", Value: firestore.Increment(0)})
		require.Equal(w, before, w.get("t/t").UpdateTime)
	}},
	{"the server's time", func(w *world) {
		_, err := w.c.Doc("t/t").Set(w.ctx, data{"at": firestore.ServerTimestamp, "too": firestore.ServerTimestamp})
		require.NoError(w, err)
		snap := w.get("t/t")
		at := snap.Data()["at"].(time.Time)
		require.Equal(w, at, snap.Data()["too"])
		require.Zero(w, at.Nanosecond()%1e6, "milliseconds")
		require.WithinDuration(w, snap.UpdateTime, at, 30*time.Second)
	}},
	{"a replayed increment counts twice, a replayed set once", func(w *world) {
		for range 2 {
			_, err := w.c.Batch().Set(w.c.Doc("t/set"), data{"n": 5}).Commit(w.ctx)
			require.NoError(w, err)
			_, err = w.c.Doc("t/inc").Set(w.ctx, data{"n": firestore.Increment(1)}, firestore.MergeAll)
			require.NoError(w, err)
		}
		require.EqualValues(w, 5, w.get("t/set").Data()["n"])
		require.EqualValues(w, 2, w.get("t/inc").Data()["n"])
	}},
}
