package firestoresim

import (
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"cloud.google.com/go/firestore"
	pb "cloud.google.com/go/firestore/apiv1/firestorepb"
	"github.com/stretchr/testify/require"
	"google.golang.org/api/iterator"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

var readBehaviours = []behaviour{
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
}

var queryBehaviours = []behaviour{
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
}
