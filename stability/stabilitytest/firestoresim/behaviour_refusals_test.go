package firestoresim

import (
	"fmt"
	"strings"
	"time"

	"cloud.google.com/go/firestore"
	pb "cloud.google.com/go/firestore/apiv1/firestorepb"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
)

var refusalBehaviours = []behaviour{
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
}
