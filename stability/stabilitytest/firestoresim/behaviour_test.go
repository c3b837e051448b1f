package firestoresim

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cloud.google.com/go/firestore"
	pb "cloud.google.com/go/firestore/apiv1/firestorepb"
	"github.com/stretchr/testify/require"
	"google.golang.org/api/iterator"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// world is one empty project of a Firestore.
type world struct {
	*testing.T
	ctx    context.Context
	c      *firestore.Client
	raw    pb.FirestoreClient
	db     string
	client func() *firestore.Client // another one
}

type behaviour struct {
	name string
	test func(w *world)
}

// TestBehaviour runs every behaviour against this package's server, in virtual
// and in real time, and against the official emulator.
func TestBehaviour(t *testing.T) {
	t.Parallel()
	t.Run("sim in a bubble", func(t *testing.T) {
		for _, b := range behaviours {
			t.Run(b.name, func(t *testing.T) { synctest.Test(t, func(t *testing.T) { onSim(t, b) }) })
		}
	})
	t.Run("sim in real time", func(t *testing.T) {
		t.Parallel()
		for _, b := range behaviours {
			t.Run(b.name, func(t *testing.T) { t.Parallel(); onSim(t, b) })
		}
	})
	t.Run("emulator", func(t *testing.T) {
		t.Parallel()
		e := NeedEmulator(t)
		for _, b := range behaviours {
			t.Run(b.name, func(t *testing.T) { t.Parallel(); onEmulator(t, e, b) })
		}
	})
}

func onSim(t *testing.T, b behaviour) {
	s := New()
	t.Cleanup(s.Close)
	conn, err := s.Dial("")
	require.NoError(t, err)
	run(t, b, conn, func(ctx context.Context, project string) (*firestore.Client, error) { return s.Client(ctx, project) })
}

func onEmulator(t *testing.T, e *Emulator, b behaviour) {
	conn, err := e.Dial()
	require.NoError(t, err)
	run(t, b, conn, e.Client)
}

func project() string { return "demo-" + strings.ToLower(rand.Text()[:12]) }

func run(t *testing.T, b behaviour, conn *grpc.ClientConn, client func(context.Context, string) (*firestore.Client, error)) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	t.Cleanup(func() { conn.Close() })
	p := project()
	another := func() *firestore.Client {
		c, err := client(ctx, p)
		require.NoError(t, err)
		t.Cleanup(func() { c.Close() })
		return c
	}
	b.test(&world{T: t, ctx: ctx, c: another(), raw: pb.NewFirestoreClient(conn),
		db: "projects/" + p + "/databases/(default)", client: another})
}

type data = map[string]any

func (w *world) set(path string, d data) *firestore.WriteResult {
	w.Helper()
	res, err := w.c.Doc(path).Set(w.ctx, d)
	require.NoError(w, err)
	return res
}

func (w *world) get(path string) *firestore.DocumentSnapshot {
	w.Helper()
	all, err := w.c.GetAll(w.ctx, []*firestore.DocumentRef{w.c.Doc(path)})
	require.NoError(w, err)
	return all[0]
}

func (w *world) code(want codes.Code, err error) {
	w.Helper()
	require.Equal(w, want, status.Code(err), "%v", err)
}

func (w *world) ids(q firestore.Query) []string {
	w.Helper()
	docs, err := q.Documents(w.ctx).GetAll()
	require.NoError(w, err)
	ids := []string{}
	for _, d := range docs {
		ids = append(ids, d.Ref.ID)
	}
	return ids
}

// noop is the write of a fence: it deletes a field that is absent.
var noop = []firestore.Update{{Path: "_", Value: firestore.Delete}}

func (w *world) name(path string) string { return w.db + "/documents/" + path }

func (w *world) commit(writes ...*pb.Write) (*pb.CommitResponse, error) {
	return w.raw.Commit(w.ctx, &pb.CommitRequest{Database: w.db, Writes: writes})
}

func (w *world) update(path string, fs fields, mask ...string) *pb.Write {
	wr := &pb.Write{Operation: &pb.Write_Update{Update: &pb.Document{Name: w.name(path), Fields: fs}}}
	if mask != nil {
		wr.UpdateMask = &pb.DocumentMask{FieldPaths: mask}
	}
	return wr
}

func integer(n int64) *pb.Value {
	return &pb.Value{ValueType: &pb.Value_IntegerValue{IntegerValue: n}}
}

func blob(n int) *pb.Value {
	return &pb.Value{ValueType: &pb.Value_BytesValue{BytesValue: make([]byte, n)}}
}

func array(vs ...*pb.Value) *pb.Value {
	return &pb.Value{ValueType: &pb.Value_ArrayValue{ArrayValue: &pb.ArrayValue{Values: vs}}}
}

func nested(depth int) *pb.Value {
	v := integer(1)
	for range depth {
		v = &pb.Value{ValueType: &pb.Value_MapValue{MapValue: &pb.MapValue{Fields: fields{"d": v}}}}
	}
	return v
}

var behaviours = []behaviour{
	// Preconditions and write results.
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
	// Reads.
	{"a read time also for what is missing", func(w *world) {
		res := w.set("a/b", data{})
		snap := w.get("a/none")
		require.False(w, snap.Exists())
		require.False(w, snap.ReadTime.Before(res.UpdateTime))
		_, err := w.c.Doc("a/none").Get(w.ctx)
		w.code(codes.NotFound, err)
	}},
	{"several documents in their order, each once", func(w *world) {
		w.set("a/b", data{"n": 1})
		b, none := w.c.Doc("a/b"), w.c.Doc("a/none")
		all, err := w.c.GetAll(w.ctx, []*firestore.DocumentRef{none, b, b, none})
		require.NoError(w, err)
		require.Equal(w, []bool{false, true, true, false}, []bool{all[0].Exists(), all[1].Exists(), all[2].Exists(), all[3].Exists()})
		require.Equal(w, all[0].ReadTime, all[1].ReadTime)
	}},
	{"a mask selects fields", func(w *world) {
		w.set("a/b", data{"n": 1, "m": data{"x": 1, "y": 2}})
		for _, one := range []struct {
			mask []string
			want int
		}{{[]string{"m.x"}, 1}, {[]string{}, 0}, {[]string{"n", "m", "none"}, 2}} {
			st, err := w.raw.BatchGetDocuments(w.ctx, &pb.BatchGetDocumentsRequest{Database: w.db, Documents: []string{w.name("a/b")},
				Mask: &pb.DocumentMask{FieldPaths: one.mask}})
			require.NoError(w, err)
			res, err := st.Recv()
			require.NoError(w, err)
			require.Len(w, res.GetFound().GetFields(), one.want)
			_, err = st.Recv()
			require.ErrorIs(w, err, io.EOF)
		}
	}},
	{"values survive", func(w *world) {
		in := data{"nil": nil, "bool": true, "int": int64(math.MinInt64), "double": 0.1, "string": "ü😀", "bytes": []byte{}, "blob": []byte{0, 255},
			"time": time.Unix(7, 123456000).UTC(), "array": []any{int64(1), "x", data{"a": []any{}}}, "map": data{}, "a.b": int64(1), "`": int64(2)}
		w.set("a/b", in)
		require.Equal(w, in, w.get("a/b").Data())
	}},
	{"projects and clients", func(w *world) {
		other := w.client()
		w.set("a/b", data{"n": 1})
		snap, err := other.Doc("a/b").Get(w.ctx)
		require.NoError(w, err)
		require.EqualValues(w, 1, snap.Data()["n"])
	}},
	// Merges.
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
	// Transforms.
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
	// Validation.
	{"document names", func(w *world) {
		long := strings.Repeat("a", 1501)
		for path, want := range map[string]codes.Code{"a/.": 3, "a/..": 3, "a/__x__": 3, "__x__/a": 3, "a/__": 0, "a/___": 0, "a/____": 0, "a/__id7__": 0,
			"a/" + long: 3, "a/" + long[1:]: 0, "a/" + strings.Repeat("ä", 751): 3, "a": 3, "a/b/c": 3, "a//b/c": 3, "": 3, "a/b/": 3,
			"a/ü:@*`": 0, "a/\x00x": 0, "a/a b/c/😀": 0, "a/~.\u0301": 0} {
			_, err := w.commit(w.update(path, fields{"n": integer(1)}))
			require.Equal(w, want, status.Code(err), "%.20q: %v", path, err)
			st, err := w.raw.BatchGetDocuments(w.ctx, &pb.BatchGetDocumentsRequest{Database: w.db, Documents: []string{w.name(path)}})
			require.NoError(w, err)
			res, err := st.Recv()
			if len(path) > 1502 {
				require.NoError(w, err, "what is too long may be read: it is missing")
				require.Equal(w, w.name(path), res.GetMissing())
				continue
			}
			require.Equal(w, want, status.Code(err), "%.20q: %v", path, err)
			if want == codes.OK {
				require.Equal(w, w.name(path), res.GetFound().GetName())
			}
		}
	}},
	{"fields and values", func(w *world) {
		long := strings.Repeat("a", 1501)
		for name, want := range map[string]codes.Code{"": 3, "__x__": 3, "__": 0, "a.b": 0, "`": 0, ".": 0, "a b": 0, "0": 0, long: 3, long[1:]: 0} {
			_, err := w.commit(w.update("f/f", fields{name: integer(1)}))
			require.Equal(w, want, status.Code(err), "%.20q: %v", name, err)
			if len(name) < 1000 {
				_, err = w.commit(w.update("f/f", fields{"m": {ValueType: &pb.Value_MapValue{MapValue: &pb.MapValue{Fields: fields{name: integer(1)}}}}}))
				require.Equal(w, want, status.Code(err), "%.20q: %v", name, err)
			}
		}
		stamp := func(s int64, n int32) *pb.Value {
			return &pb.Value{ValueType: &pb.Value_TimestampValue{TimestampValue: &timestamppb.Timestamp{Seconds: s, Nanos: n}}}
		}
		ref := func(s string) *pb.Value {
			return &pb.Value{ValueType: &pb.Value_ReferenceValue{ReferenceValue: s}}
		}
		for i, one := range []struct {
			v    *pb.Value
			want codes.Code
		}{{array(array(integer(1))), 3}, {array(&pb.Value{ValueType: &pb.Value_MapValue{MapValue: &pb.MapValue{Fields: fields{"x": array(integer(1))}}}}), 0},
			{&pb.Value{}, 3}, {array(&pb.Value{}), 3}, {ref("x"), 3}, {ref(w.name("a")), 3}, {ref(w.name("a/b")), 0}, {stamp(5, -1), 3}, {stamp(253402300800, 0), 3},
			{stamp(5, 1999), 0}, {nested(20), 0}, {nested(21), 3}} {
			_, err := w.commit(w.update("f/v", fields{"a": one.v}))
			require.Equal(w, one.want, status.Code(err), "%d: %v", i, err)
		}
		_, err := w.commit(w.update("f/v", fields{"a": stamp(5, 1999)}))
		require.NoError(w, err)
		require.Equal(w, time.Unix(5, 1000).UTC(), w.get("f/v").Data()["a"])
	}},
	{"a document is at most 1 MiB", func(w *world) {
		_, err := w.commit(w.update("t/big", fields{"a": blob(1<<20 - 58 - 500000), "b": blob(500000)}))
		require.NoError(w, err)
		_, err = w.commit(w.update("t/big", fields{"a": blob(1<<20 - 57 - 500000), "b": blob(500000)}))
		w.code(codes.InvalidArgument, err)
		_, err = w.commit(w.update("f/v", fields{"a": blob(1<<20 - 89)}))
		require.NoError(w, err)
		_, err = w.commit(w.update("f/v", fields{"a": blob(1<<20 - 88)}))
		w.code(codes.InvalidArgument, err)
		// name t/bigggggggg 29, fields: a 2+n+1, bbbbb 6+500000, i 10, bool 6, n 3, map 4+10, and 32.
		text := &pb.Value{ValueType: &pb.Value_StringValue{StringValue: strings.Repeat("x", 1<<20-103-500000)}}
		fs := fields{"a": text, "bbbbb": blob(500000), "i": integer(3), "bool": {ValueType: &pb.Value_BooleanValue{}},
			"n": {ValueType: &pb.Value_NullValue{}}, "map": {ValueType: &pb.Value_MapValue{MapValue: &pb.MapValue{Fields: fields{"x": integer(3)}}}}}
		_, err = w.commit(w.update("t/bigggggggg", fs))
		require.NoError(w, err)
		_, err = w.commit(w.update("t/biggggggggg", fs))
		w.code(codes.InvalidArgument, err)
	}},
	{"a request is at most 4 MiB", func(w *world) {
		var ws []*pb.Write
		for i := range 8 {
			ws = append(ws, w.update(fmt.Sprintf("big/%d", i), fields{"a": blob(1 << 19)}))
		}
		_, err := w.commit(ws...)
		w.code(codes.ResourceExhausted, err)
		require.False(w, w.get("big/0").Exists())
		_, err = w.commit(ws[1:]...)
		require.NoError(w, err)
	}},
	{"malformed writes", func(w *world) {
		_, err := w.commit(&pb.Write{})
		w.code(codes.InvalidArgument, err)
		_, err = w.raw.Commit(w.ctx, &pb.CommitRequest{Database: "x"})
		w.code(codes.InvalidArgument, err)
		res, err := w.commit()
		require.NoError(w, err)
		require.Nil(w, res.CommitTime)
		inc := &pb.DocumentTransform_FieldTransform{FieldPath: "n", TransformType: &pb.DocumentTransform_FieldTransform_Increment{Increment: blob(1)}}
		wr := w.update("a/b", fields{})
		wr.UpdateTransforms = []*pb.DocumentTransform_FieldTransform{inc}
		_, err = w.commit(wr)
		w.code(codes.InvalidArgument, err)
		_, err = w.commit(&pb.Write{Operation: &pb.Write_Delete{Delete: w.name("a/b")}, UpdateTransforms: []*pb.DocumentTransform_FieldTransform{inc}})
		w.code(codes.InvalidArgument, err)
		_, err = w.commit(&pb.Write{Operation: &pb.Write_Transform{Transform: &pb.DocumentTransform{Document: w.name("a/b")}}})
		w.code(codes.InvalidArgument, err)
	}},
	{"batch writes are not atomic", func(w *world) {
		w.set("a/old", data{"n": 1})
		create := w.update("a/old", fields{})
		create.CurrentDocument = &pb.Precondition{ConditionType: &pb.Precondition_Exists{Exists: false}}
		change := w.update("a/none", fields{})
		change.CurrentDocument = &pb.Precondition{ConditionType: &pb.Precondition_Exists{Exists: true}}
		res, err := w.raw.BatchWrite(w.ctx, &pb.BatchWriteRequest{Database: w.db, Writes: []*pb.Write{w.update("a/new", fields{}), create, change}})
		require.NoError(w, err)
		require.Equal(w, []int32{0, 6, 5}, []int32{res.Status[0].Code, res.Status[1].Code, res.Status[2].Code})
		require.True(w, w.get("a/new").Exists())
		_, err = w.raw.BatchWrite(w.ctx, &pb.BatchWriteRequest{Database: w.db, Writes: []*pb.Write{w.update("a/new", fields{}), w.update("a/new", fields{})}})
		w.code(codes.InvalidArgument, err)
		_, err = w.raw.BatchWrite(w.ctx, &pb.BatchWriteRequest{Database: w.db, Writes: []*pb.Write{w.update("a/new2", fields{}), w.update("a/.", fields{})}})
		w.code(codes.InvalidArgument, err)
		require.False(w, w.get("a/new2").Exists())
	}},
	{"a bulk writer", func(w *world) {
		bw := w.c.BulkWriter(w.ctx)
		var jobs []*firestore.BulkWriterJob
		for i := range 45 {
			j, err := bw.Set(w.c.Doc(fmt.Sprintf("bulk/%02d", i)), data{"n": i})
			require.NoError(w, err)
			jobs = append(jobs, j)
		}
		bw.End()
		for _, j := range jobs {
			_, err := j.Results()
			require.NoError(w, err)
		}
		require.Len(w, w.ids(w.c.Collection("bulk").Query), 45)
	}},
	// Queries.
	{"names are ordered by bytes, numeric ids first", func(w *world) {
		want := []string{"__id-3__", "__id5__", "__id10__", " ", "!", "10", "9", "B", "_", "__", "a", "a b", "a.b", "session_123:0", "~", "é", "\uffee", "😀"}
		b := w.c.Batch()
		for _, id := range want {
			b.Set(w.c.Doc("o/"+id), data{"n": 1})
		}
		b.Set(w.c.Doc("o/a/o/sub"), data{"n": 1})
		_, err := b.Commit(w.ctx)
		require.NoError(w, err)
		o := w.c.Collection("o")
		require.Equal(w, want, w.ids(o.Query))
		require.Equal(w, want, w.ids(o.OrderBy(firestore.DocumentID, firestore.Asc)))
		require.Equal(w, want[10:], w.ids(o.Where(firestore.DocumentID, ">=", o.Doc("a"))))
		require.Equal(w, []string{"session_123:0"}, w.ids(o.Where(firestore.DocumentID, ">=", o.Doc("session_")).Where(firestore.DocumentID, "<", o.Doc("session`"))))
		require.Equal(w, []string{"9", "B"}, w.ids(o.OrderBy(firestore.DocumentID, firestore.Asc).StartAfter("10").Limit(2)))
		require.Equal(w, []string{"a", "a b"}, w.ids(o.OrderBy(firestore.DocumentID, firestore.Asc).StartAt("a").EndBefore("a.b")))
		require.Equal(w, []string{"a", "~"}, w.ids(o.Where(firestore.DocumentID, "in", []*firestore.DocumentRef{o.Doc("~"), o.Doc("a"), o.Doc("none")})))
		require.Equal(w, want[1:], w.ids(o.Where(firestore.DocumentID, "!=", o.Doc("__id-3__"))))
		require.Equal(w, []string{"sub"}, w.ids(w.c.CollectionGroup("o").Where(firestore.DocumentID, ">", w.c.Doc("o/a")).Limit(1)))
		require.Len(w, w.ids(w.c.CollectionGroup("o").Query), len(want)+1)
		_, err = o.OrderBy(firestore.DocumentID, firestore.Desc).Documents(w.ctx).GetAll()
		w.code(codes.FailedPrecondition, err)
	}},
	{"every operator on every type", func(w *world) {
		vals := data{"null": nil, "true": true, "false": false, "nan": math.NaN(), "i1": 1, "d1": 1.0, "i2": 2, "d15": 1.5, "neg0": math.Copysign(0, -1), "zero": 0,
			"ts": time.Unix(3, 0), "sa": "a", "sb": "b", "sempty": "", "su": "ü", "shigh": "\uffee", "ssurr": "😀", "bytes": []byte("a"), "bempty": []byte{},
			"ref": w.c.Doc("a/b"), "arr": []any{1, 2}, "arr2": []any{1}, "arrempty": []any{}, "map": data{"a": 1}, "mapb": data{"a": 2}, "mapempty": data{},
			"arrnull": []any{nil}, "arrnan": []any{math.NaN()}}
		b := w.c.Batch()
		for id, v := range vals {
			b.Set(w.c.Doc("q/"+id), data{"v": v, "w": len(id)})
		}
		b.Set(w.c.Doc("q/absent"), data{"w": 1})
		_, err := b.Commit(w.ctx)
		require.NoError(w, err)
		q := w.c.Collection("q")
		order := "null false true nan neg0 zero d1 i1 d15 i2 ts sempty sa sb su shigh ssurr bempty bytes ref arrempty arrnull arrnan arr2 arr mapempty map mapb"
		without := func(ids string, gone ...string) string {
			var kept []string
			for _, id := range strings.Fields(ids) {
				keep := true
				for _, g := range gone {
					keep = keep && id != g
				}
				if keep {
					kept = append(kept, id)
				}
			}
			return strings.Join(kept, " ")
		}
		notNull := without(order, "null")
		is := func(want string, q firestore.Query) {
			w.Helper()
			require.Equal(w, want, strings.Join(w.ids(q), " "))
		}
		is(order, q.OrderBy("v", firestore.Asc))
		rev := strings.Fields(order)
		for i, j := 0, len(rev)-1; i < j; i, j = i+1, j-1 {
			rev[i], rev[j] = rev[j], rev[i]
		}
		is(strings.Join(rev, " "), q.OrderBy("v", firestore.Desc))
		for _, one := range []struct {
			op    string
			v     any
			wants string
		}{
			{"<", 1, "neg0 zero"}, {"<=", 1.0, "neg0 zero d1 i1"}, {">", 1, "d15 i2"}, {">=", 1, "d1 i1 d15 i2"}, {"==", 1, "d1 i1"}, {"==", 1.0, "d1 i1"},
			{"<", true, "false"}, {">", true, ""}, {"<", "b", "sempty sa"}, {">=", "b", "sb su shigh ssurr"}, {"==", "b", "sb"},
			{"<", []any{1}, "arrempty arrnull arrnan"}, {">", []any{1}, "arr"}, {"==", []any{1}, "arr2"}, {"<=", data{"a": 1}, "mapempty map"}, {">", data{"a": 1}, "mapb"},
			{"==", nil, "null"}, {"==", math.NaN(), "nan"}, {"!=", nil, notNull}, {"!=", math.NaN(), without(notNull, "nan")},
			{"!=", 1, without(notNull, "d1", "i1")}, {"!=", "b", without(notNull, "sb")},
			{"in", []any{1, "a", nil}, "d1 i1 sa"}, {"in", []any{1, 1, 1.0}, "d1 i1"}, {"not-in", []any{1, "a"}, without(notNull, "d1", "i1", "sa")}, {"not-in", []any{nil}, ""},
			{"array-contains", 2, "arr"}, {"array-contains", 1.0, "arr arr2"}, {"array-contains-any", []any{2, 1.0}, "arr arr2"},
		} {
			w.Logf("v %s %v", one.op, one.v)
			is(one.wants, q.Where("v", one.op, one.v))
		}
		is("map", q.Where("v.a", "==", 1))
		is("d1 i1 i2 d15", q.Where("v", ">", 0).OrderBy("w", firestore.Asc))
		is("i2 d15 i1 d1", q.Where("v", ">", 0).OrderBy("v", firestore.Desc))
		is("d1 i1 i2 sa sb su ts", q.WhereEntity(firestore.OrFilter{Filters: []firestore.EntityFilter{
			firestore.PropertyFilter{Path: "v", Operator: "==", Value: 2}, firestore.PropertyFilter{Path: "w", Operator: "==", Value: 2}}}))
		is("d1 i1 d15 i2 sempty bempty arrempty arrnull arrnan mapempty", q.WhereEntity(firestore.OrFilter{Filters: []firestore.EntityFilter{
			firestore.PropertyFilter{Path: "v", Operator: ">", Value: 0}, firestore.PropertyFilter{Path: "w", Operator: ">", Value: 5}}}))
		is("d1 i1", q.WhereEntity(firestore.AndFilter{Filters: []firestore.EntityFilter{
			firestore.PropertyFilter{Path: "v", Operator: "==", Value: 1}, firestore.PropertyFilter{Path: "w", Operator: "<", Value: 5}}}))
		is("absent ts su sb", q.OrderBy("w", firestore.Asc).OrderBy(firestore.DocumentID, firestore.Desc).Limit(4))
		is("bytes false shigh ssurr", q.OrderBy("w", firestore.Asc).StartAt(5).EndBefore(6))
		is("arr2 mapb neg0 null true zero bytes false shigh ssurr", q.OrderBy("w", firestore.Asc).StartAfter(3).EndAt(5))
		is("true zero bytes", q.OrderBy("w", firestore.Asc).OrderBy(firestore.DocumentID, firestore.Asc).StartAt(4, "su").Limit(3))
		is("sa sb sempty", q.Offset(20).Limit(3))
		is("", q.Offset(200))
		is("", q.Limit(0).Offset(1))
	}},
	{"queries that are refused", func(w *world) {
		q := w.c.Collection("q")
		many := func(n int) []int { return make([]int, n) }
		distinct := func(n int) []int {
			a := many(n)
			for i := range a {
				a[i] = i
			}
			return a
		}
		for i, one := range []struct {
			q    firestore.Query
			want codes.Code
		}{
			{q.Where("v", "in", distinct(30)), 0}, {q.Where("v", "in", distinct(31)), 3}, {q.Where("v", "in", many(0)), 3},
			{q.Where("v", "not-in", distinct(10)), 0}, {q.Where("v", "not-in", distinct(11)), 3},
			{q.Where("v", "in", distinct(6)).Where("w", "in", distinct(5)), 0}, {q.Where("v", "in", distinct(6)).Where("w", "in", distinct(6)), 3},
			{q.Where("v", "array-contains", 1).Where("v", "array-contains", 2), 3},
			{q.OrderBy("v", firestore.Asc).OrderBy("v", firestore.Asc), 3}, {q.OrderBy(firestore.DocumentID, firestore.Asc).OrderBy("v", firestore.Asc), 3},
		} {
			_, err := one.q.Documents(w.ctx).GetAll()
			require.Equal(w, one.want, status.Code(err), "%d: %v", i, err)
		}
		raw := func(parent string, sq *pb.StructuredQuery) error {
			st, err := w.raw.RunQuery(w.ctx, &pb.RunQueryRequest{Parent: parent, QueryType: &pb.RunQueryRequest_StructuredQuery{StructuredQuery: sq}})
			require.NoError(w, err)
			_, err = st.Recv()
			return err
		}
		from := func(id string) []*pb.StructuredQuery_CollectionSelector {
			return []*pb.StructuredQuery_CollectionSelector{{CollectionId: id}}
		}
		root := w.db + "/documents"
		filter := func(f string, v *pb.Value) *pb.StructuredQuery_Filter {
			return &pb.StructuredQuery_Filter{FilterType: &pb.StructuredQuery_Filter_FieldFilter{FieldFilter: &pb.StructuredQuery_FieldFilter{
				Field: &pb.StructuredQuery_FieldReference{FieldPath: f}, Op: pb.StructuredQuery_FieldFilter_EQUAL, Value: v}}}
		}
		w.code(codes.InvalidArgument, raw(root+"/a", &pb.StructuredQuery{From: from("q")}))
		w.code(codes.InvalidArgument, raw(root, &pb.StructuredQuery{From: from("q/x")}))
		w.code(codes.InvalidArgument, raw(root, &pb.StructuredQuery{From: from("__x__")}))
		w.code(codes.InvalidArgument, raw(root, &pb.StructuredQuery{From: from("q"), Offset: -1}))
		w.code(codes.InvalidArgument, raw(root, &pb.StructuredQuery{From: from("q"), Where: filter("a b", integer(1))}))
		w.code(codes.InvalidArgument, raw(root, &pb.StructuredQuery{From: from("q"), Where: filter("__name__", integer(1))}))
		w.code(codes.InvalidArgument, raw(root, &pb.StructuredQuery{From: from("q"), StartAt: &pb.Cursor{Values: []*pb.Value{integer(1)}}}))
		require.NoError(w, raw(root, &pb.StructuredQuery{From: from("q")}))
	}},
	{"projections", func(w *world) {
		w.set("q/a", data{"v": 1, "m": data{"x": 1, "y": 2}})
		for _, one := range []struct {
			fields []string
			want   data
		}{{[]string{"v"}, data{"v": int64(1)}}, {[]string{"m.x"}, data{"m": data{"x": int64(1)}}}, {nil, data{}}, {[]string{"none"}, data{}}} {
			docs, err := w.c.Collection("q").Select(one.fields...).Documents(w.ctx).GetAll()
			require.NoError(w, err)
			require.Equal(w, one.want, docs[0].Data())
			require.False(w, docs[0].UpdateTime.IsZero())
		}
	}},
	{"an empty query has a read time", func(w *world) {
		res := w.set("a/b", data{})
		st, err := w.raw.RunQuery(w.ctx, &pb.RunQueryRequest{Parent: w.db + "/documents", QueryType: &pb.RunQueryRequest_StructuredQuery{
			StructuredQuery: &pb.StructuredQuery{From: []*pb.StructuredQuery_CollectionSelector{{CollectionId: "none"}}}}})
		require.NoError(w, err)
		r, err := st.Recv()
		require.NoError(w, err)
		require.Nil(w, r.Document)
		require.False(w, r.ReadTime.AsTime().Before(res.UpdateTime))
	}},
	{"counting", func(w *world) {
		for i := range 5 {
			w.set(fmt.Sprintf("q/%d", i), data{"n": i})
		}
		count := func(q firestore.Query) int64 {
			res, err := q.NewAggregationQuery().WithCount("all").Get(w.ctx)
			require.NoError(w, err)
			return res["all"].(*pb.Value).GetIntegerValue()
		}
		require.EqualValues(w, 5, count(w.c.Collection("q").Query))
		require.EqualValues(w, 2, count(w.c.Collection("q").Where("n", ">", 2)))
		require.EqualValues(w, 3, count(w.c.Collection("q").Limit(3)))
		require.EqualValues(w, 0, count(w.c.Collection("none").Query))
	}},
	{"collections and documents are listed", func(w *world) {
		for _, p := range []string{"b/1", "a/1", "a/2/sub/x", "a/1/sub/x", "c/1/d/2/e/3"} {
			w.set(p, data{"n": 1})
		}
		ids := func(it *firestore.CollectionIterator) (ids []string) {
			for {
				c, err := it.Next()
				if errors.Is(err, iterator.Done) {
					return ids
				}
				require.NoError(w, err)
				ids = append(ids, c.ID)
			}
		}
		require.Equal(w, []string{"a", "b", "c"}, ids(w.c.Collections(w.ctx)))
		require.Equal(w, []string{"sub"}, ids(w.c.Doc("a/2").Collections(w.ctx)))
		require.Empty(w, ids(w.c.Doc("b/1").Collections(w.ctx)))
		refs, err := w.c.Collection("a").DocumentRefs(w.ctx).GetAll()
		require.NoError(w, err)
		require.Len(w, refs, 2, "the missing parent a/2 too")
		require.Equal(w, []string{"1"}, w.ids(w.c.Collection("a").Query))
		page, err := w.raw.ListCollectionIds(w.ctx, &pb.ListCollectionIdsRequest{Parent: w.db + "/documents", PageSize: 2})
		require.NoError(w, err)
		rest, err := w.raw.ListCollectionIds(w.ctx, &pb.ListCollectionIdsRequest{Parent: w.db + "/documents", PageSize: 2, PageToken: page.NextPageToken})
		require.NoError(w, err)
		require.Equal(w, []string{"a", "b", "c"}, append(page.CollectionIds, rest.CollectionIds...))
	}},
	// Transactions.
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
	// Listeners.
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
