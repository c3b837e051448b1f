package firestoresim

import (
	"math"

	pb "cloud.google.com/go/firestore/apiv1/firestorepb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	"pgregory.net/rapid"
)

var simPaths = []string{"a/x", "a/y", "a/z", "a/x/b/1", "a/y/b/1", "b/1", "b/ü", "c/__id7__", "c/d.e"}
var simFields = []string{"n", "m.x", "m", "`a b`", "s"}

func genValue(depth int) *rapid.Generator[*pb.Value] {
	return rapid.Custom(func(t *rapid.T) *pb.Value {
		top := 9
		if depth > 1 {
			top = 7
		}
		switch rapid.IntRange(0, top).Draw(t, "type") {
		case 0:
			return &pb.Value{ValueType: &pb.Value_NullValue{}}
		case 1:
			return &pb.Value{ValueType: &pb.Value_BooleanValue{BooleanValue: rapid.Bool().Draw(t, "b")}}
		case 2, 3:
			return integer(rapid.Int64Range(-2, 3).Draw(t, "i"))
		case 4:
			return &pb.Value{ValueType: &pb.Value_DoubleValue{DoubleValue: rapid.SampledFrom([]float64{0.5, 1, 2, -1, math.Inf(1), math.NaN()}).Draw(t, "d")}}
		case 5:
			return &pb.Value{ValueType: &pb.Value_StringValue{StringValue: rapid.SampledFrom([]string{"", "a", "b", "ü", "\uffee", "😀"}).Draw(t, "s")}}
		case 6:
			return &pb.Value{ValueType: &pb.Value_BytesValue{BytesValue: []byte(rapid.SampledFrom([]string{"", "\x00", "z"}).Draw(t, "by"))}}
		case 7:
			return &pb.Value{ValueType: &pb.Value_TimestampValue{TimestampValue: &timestamppb.Timestamp{Seconds: rapid.Int64Range(0, 2).Draw(t, "ts"), Nanos: 1500}}}
		case 8:
			var vs []*pb.Value
			for range rapid.IntRange(0, 2).Draw(t, "len") {
				v := genValue(2).Draw(t, "e")
				vs = append(vs, v)
			}
			return array(vs...)
		}
		return &pb.Value{ValueType: &pb.Value_MapValue{MapValue: &pb.MapValue{Fields: genFields(depth+1).Draw(t, "m")}}}
	})
}

func genFields(depth int) *rapid.Generator[fields] {
	return rapid.Custom(func(t *rapid.T) fields {
		fs := fields{}
		for _, name := range []string{"n", "m", "a b", "s", "x"} {
			if rapid.IntRange(0, 2).Draw(t, "has "+name) == 0 {
				fs[name] = genValue(depth).Draw(t, name)
			}
		}
		return fs
	})
}

func genOps(n int) func(t *rapid.T) []op {
	return func(t *rapid.T) (ops []op) {
		for range n {
			ops = append(ops, genOp(t))
		}
		return ops
	}
}

func genOp(t *rapid.T) op {
	path := rapid.SampledFrom(simPaths)
	switch k := rapid.IntRange(0, 9).Draw(t, "op"); {
	case k < 5:
		o := op{kind: rapid.SampledFrom([]string{"commit", "commit", "commit", "batchwrite", "transaction"}).Draw(t, "how")}
		used := map[string]bool{}
		for range rapid.IntRange(1, 3).Draw(t, "writes") {
			w := opWrite{path: path.Draw(t, "path"), kind: rapid.SampledFrom([]string{"set", "set", "merge", "delete", "transform"}).Draw(t, "kind")}
			if used[w.path] {
				continue // several writes to one document have a test of their own
			}
			used[w.path] = true
			w.value = genFields(0).Draw(t, "value")
			w.pre = rapid.SampledFrom([]string{"", "", "", "exists", "absent", "time", "stale"}).Draw(t, "pre")
			switch w.kind {
			case "merge":
				w.mask = rapid.SliceOfN(rapid.SampledFrom(simFields), 0, 3).Draw(t, "mask")
			case "transform":
				w.field = rapid.SampledFrom([]string{"inc", "max", "min", "union", "remove"}).Draw(t, "transform")
				w.n = rapid.SampledFrom([]*pb.Value{integer(1), integer(-3), {ValueType: &pb.Value_DoubleValue{DoubleValue: 0.5}}}).Draw(t, "operand")
				w.mask = []string{rapid.SampledFrom(simFields).Draw(t, "field")}
			}
			o.writes = append(o.writes, w)
		}
		return o
	case k < 7:
		o := op{kind: "get", paths: rapid.SliceOfN(path, 1, 4).Draw(t, "paths")}
		if rapid.Bool().Draw(t, "masked") {
			o.fields = rapid.SliceOfN(rapid.SampledFrom(simFields), 1, 2).Draw(t, "mask")
		}
		return o
	case k == 7:
		return op{kind: "list", parent: rapid.SampledFrom([]string{"", "a/x", "a/y"}).Draw(t, "parent")}
	}
	return op{kind: rapid.SampledFrom([]string{"query", "query", "count"}).Draw(t, "how"),
		parent: rapid.SampledFrom([]string{"", "", "a/x"}).Draw(t, "parent"), query: genQuery(t)}
}

func fieldRef(f string) *pb.StructuredQuery_FieldReference {
	return &pb.StructuredQuery_FieldReference{FieldPath: f}
}

func genFilter(t *rapid.T, depth int) *pb.StructuredQuery_Filter {
	if depth < 2 && rapid.IntRange(0, 3).Draw(t, "composite") == 0 {
		c := &pb.StructuredQuery_CompositeFilter{Op: rapid.SampledFrom([]pb.StructuredQuery_CompositeFilter_Operator{1, 2}).Draw(t, "op")}
		for range rapid.IntRange(1, 2).Draw(t, "parts") {
			c.Filters = append(c.Filters, genFilter(t, depth+1))
		}
		return &pb.StructuredQuery_Filter{FilterType: &pb.StructuredQuery_Filter_CompositeFilter{CompositeFilter: c}}
	}
	f := rapid.SampledFrom([]string{"n", "m.x", "s"}).Draw(t, "f")
	if rapid.IntRange(0, 4).Draw(t, "unary") == 0 {
		return &pb.StructuredQuery_Filter{FilterType: &pb.StructuredQuery_Filter_UnaryFilter{UnaryFilter: &pb.StructuredQuery_UnaryFilter{
			Op: rapid.SampledFrom([]pb.StructuredQuery_UnaryFilter_Operator{2, 3}).Draw(t, "op"), OperandType: &pb.StructuredQuery_UnaryFilter_Field{Field: fieldRef(f)}}}}
	}
	ff := &pb.StructuredQuery_FieldFilter{Field: fieldRef(f), Value: genValue(0).Draw(t, "v"),
		Op: rapid.SampledFrom([]pb.StructuredQuery_FieldFilter_Operator{1, 2, 3, 4, 5}).Draw(t, "op")}
	return &pb.StructuredQuery_Filter{FilterType: &pb.StructuredQuery_Filter_FieldFilter{FieldFilter: ff}}
}

func genQuery(t *rapid.T) *pb.StructuredQuery {
	q := &pb.StructuredQuery{From: []*pb.StructuredQuery_CollectionSelector{{
		CollectionId: rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "coll"), AllDescendants: rapid.Bool().Draw(t, "all")}}}
	if rapid.Bool().Draw(t, "where") {
		q.Where = genFilter(t, 0)
	}
	for _, f := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"n", "s", "m.x"}), 0, 2, rapid.ID[string]).Draw(t, "orders") {
		q.OrderBy = append(q.OrderBy, &pb.StructuredQuery_Order{Field: fieldRef(f), Direction: pb.StructuredQuery_Direction(rapid.IntRange(1, 2).Draw(t, "dir"))})
	}
	if len(q.OrderBy) > 0 && rapid.Bool().Draw(t, "start") {
		q.StartAt = &pb.Cursor{Before: rapid.Bool().Draw(t, "before"), Values: []*pb.Value{genValue(0).Draw(t, "at")}}
	}
	if len(q.OrderBy) > 0 && rapid.IntRange(0, 3).Draw(t, "end") == 0 {
		q.EndAt = &pb.Cursor{Before: rapid.Bool().Draw(t, "before"), Values: []*pb.Value{genValue(0).Draw(t, "at")}}
	}
	if rapid.IntRange(0, 2).Draw(t, "limited") == 0 {
		q.Limit = wrapperspb.Int32(rapid.Int32Range(0, 3).Draw(t, "limit"))
		q.Offset = rapid.Int32Range(0, 2).Draw(t, "offset")
	}
	if rapid.IntRange(0, 2).Draw(t, "select") == 0 {
		q.Select = &pb.StructuredQuery_Projection{Fields: []*pb.StructuredQuery_FieldReference{fieldRef(rapid.SampledFrom(simFields).Draw(t, "sel"))}}
	}
	return q
}
