package firestoresim

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	pb "cloud.google.com/go/firestore/apiv1/firestorepb"
	"github.com/stretchr/testify/require"
	"github.com/wastability/wastability/stability/stabilitytest"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"
)

// TestSameAnswers gives this package's server and the official emulator the
// same random writes, reads and queries; their answers are the same, but for
// the texts of errors and the times, of which the order is compared.
func TestSameAnswers(t *testing.T) {
	t.Parallel()
	e := NeedEmulator(t)
	s := New()
	defer s.Close()
	simConn, err := s.Dial("")
	require.NoError(t, err)
	defer simConn.Close()
	emuConn, err := e.Dial()
	require.NoError(t, err)
	defer emuConn.Close()
	sim, emu := pb.NewFirestoreClient(simConn), pb.NewFirestoreClient(emuConn)

	steps := stabilitytest.Pick(150, 4000)
	const perRun = 50
	left := steps
	for left > 0 {
		seed := steps - left
		project := project()
		a := &side{c: sim, db: "projects/" + project + "/databases/(default)", ranks: map[string]time.Time{}}
		b := &side{c: emu, db: a.db, ranks: map[string]time.Time{}}
		ops := rapid.Custom(genOps(perRun)).Example(seed)
		for i, op := range ops {
			x, y := op.run(t.Context(), a), op.run(t.Context(), b)
			if x != y {
				t.Fatalf("after %d operations of seed %d: %v\nsim:      %s\nemulator: %s\nerrors: %v / %v\nbefore: %v", i, seed, op, x, y, a.err, b.err, ops[max(0, i-4):i])
			}
		}
		left -= perRun
	}
}

// side is one of the two, with the update times of its documents.
type side struct {
	c     pb.FirestoreClient
	db    string
	ranks map[string]time.Time
	err   error // the last one, for its text
}

type op struct {
	kind   string
	writes []opWrite
	paths  []string
	query  *pb.StructuredQuery
	parent string
	fields []string
}

func (o op) String() string {
	return fmt.Sprintf("%s %v %v %v %v %v", o.kind, o.writes, o.paths, o.parent, o.query, o.fields)
}

type opWrite struct {
	kind  string
	path  string
	value fields
	mask  []string
	pre   string
	field string
	n     *pb.Value
}

func (s *side) name(path string) string { return s.db + "/documents/" + path }

func (s *side) write(w opWrite) *pb.Write {
	out := &pb.Write{}
	switch w.kind {
	case "delete":
		out.Operation = &pb.Write_Delete{Delete: s.name(w.path)}
	case "transform":
		ft := &pb.DocumentTransform_FieldTransform{FieldPath: w.mask[0]}
		switch w.field {
		case "inc":
			ft.TransformType = &pb.DocumentTransform_FieldTransform_Increment{Increment: w.n}
		case "max":
			ft.TransformType = &pb.DocumentTransform_FieldTransform_Maximum{Maximum: w.n}
		case "min":
			ft.TransformType = &pb.DocumentTransform_FieldTransform_Minimum{Minimum: w.n}
		case "union":
			ft.TransformType = &pb.DocumentTransform_FieldTransform_AppendMissingElements{AppendMissingElements: &pb.ArrayValue{Values: []*pb.Value{w.n}}}
		case "remove":
			ft.TransformType = &pb.DocumentTransform_FieldTransform_RemoveAllFromArray{RemoveAllFromArray: &pb.ArrayValue{Values: []*pb.Value{w.n}}}
		}
		out.Operation = &pb.Write_Update{Update: &pb.Document{Name: s.name(w.path)}}
		out.UpdateMask = &pb.DocumentMask{}
		out.UpdateTransforms = []*pb.DocumentTransform_FieldTransform{ft}
	default:
		out.Operation = &pb.Write_Update{Update: &pb.Document{Name: s.name(w.path), Fields: w.value}}
		if w.kind == "merge" {
			out.UpdateMask = &pb.DocumentMask{FieldPaths: w.mask}
		}
	}
	at := s.ranks[w.path]
	switch w.pre {
	case "exists", "absent":
		out.CurrentDocument = &pb.Precondition{ConditionType: &pb.Precondition_Exists{Exists: w.pre == "exists"}}
	case "time":
		if at.IsZero() {
			at = time.Unix(1, 0)
		}
		out.CurrentDocument = &pb.Precondition{ConditionType: &pb.Precondition_UpdateTime{UpdateTime: timestamppb.New(at)}}
	case "stale":
		out.CurrentDocument = &pb.Precondition{ConditionType: &pb.Precondition_UpdateTime{UpdateTime: timestamppb.New(time.Unix(1, 0))}}
	}
	return out
}

// wrote describes what a write did to the update time, and remembers it.
func (s *side) wrote(path string, r *pb.WriteResult, commit time.Time) string {
	how := "new"
	switch at := r.GetUpdateTime(); {
	case at == nil:
		how = "none"
		delete(s.ranks, path)
	case at.AsTime().Equal(s.ranks[path]):
		how = "kept"
	default:
		if !commit.IsZero() && !at.AsTime().Equal(commit) {
			how = "odd"
		}
		s.ranks[path] = at.AsTime()
	}
	for _, v := range r.GetTransformResults() {
		how += " " + show(v)
	}
	return how
}

func (o op) run(ctx context.Context, s *side) string {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var out []string
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	end := func(err error) string {
		if err != nil && err != io.EOF {
			s.err = err
			say("%v", status.Code(err))
		}
		return strings.Join(out, "; ")
	}
	switch o.kind {
	case "commit", "transaction", "batchwrite":
		var ws []*pb.Write
		for _, w := range o.writes {
			ws = append(ws, s.write(w))
		}
		if o.kind == "batchwrite" {
			res, err := s.c.BatchWrite(ctx, &pb.BatchWriteRequest{Database: s.db, Writes: ws})
			for i := range res.GetStatus() {
				if c := res.Status[i].GetCode(); c != 0 {
					say("%d", c)
					continue
				}
				say("%s", s.wrote(o.writes[i].path, res.WriteResults[i], time.Time{}))
			}
			return end(err)
		}
		req := &pb.CommitRequest{Database: s.db, Writes: ws}
		if o.kind == "transaction" {
			tx, err := s.c.BeginTransaction(ctx, &pb.BeginTransactionRequest{Database: s.db})
			if err != nil {
				return end(err)
			}
			req.Transaction = tx.Transaction
		}
		res, err := s.c.Commit(ctx, req)
		for i, r := range res.GetWriteResults() {
			say("%s", s.wrote(o.writes[i].path, r, res.CommitTime.AsTime()))
		}
		return end(err)
	case "get":
		req := &pb.BatchGetDocumentsRequest{Database: s.db}
		for _, p := range o.paths {
			req.Documents = append(req.Documents, s.name(p))
		}
		if o.fields != nil {
			req.Mask = &pb.DocumentMask{FieldPaths: o.fields}
		}
		st, err := s.c.BatchGetDocuments(ctx, req)
		for err == nil {
			var r *pb.BatchGetDocumentsResponse
			if r, err = st.Recv(); err == nil {
				say("%s%s", r.GetMissing(), s.showDocument(r.GetFound()))
			}
		}
		slices.Sort(out) // the order is nobody's promise
		return end(err)
	case "list":
		parent := strings.TrimSuffix(s.name(o.parent), "/")
		res, err := s.c.ListCollectionIds(ctx, &pb.ListCollectionIdsRequest{Parent: parent})
		return fmt.Sprint(res.GetCollectionIds()) + end(err)
	case "count":
		st, err := s.c.RunAggregationQuery(ctx, &pb.RunAggregationQueryRequest{Parent: strings.TrimSuffix(s.name(o.parent), "/"),
			QueryType: &pb.RunAggregationQueryRequest_StructuredAggregationQuery{StructuredAggregationQuery: &pb.StructuredAggregationQuery{
				QueryType:    &pb.StructuredAggregationQuery_StructuredQuery{StructuredQuery: o.query},
				Aggregations: []*pb.StructuredAggregationQuery_Aggregation{{Alias: "n", Operator: &pb.StructuredAggregationQuery_Aggregation_Count_{Count: &pb.StructuredAggregationQuery_Aggregation_Count{}}}}}}})
		for err == nil {
			var r *pb.RunAggregationQueryResponse
			if r, err = st.Recv(); err == nil {
				say("%s", show(r.GetResult().GetAggregateFields()["n"]))
			}
		}
		return end(err)
	}
	st, err := s.c.RunQuery(ctx, &pb.RunQueryRequest{Parent: strings.TrimSuffix(s.name(o.parent), "/"), QueryType: &pb.RunQueryRequest_StructuredQuery{StructuredQuery: o.query}})
	for err == nil {
		var r *pb.RunQueryResponse
		if r, err = st.Recv(); err == nil && r.Document != nil {
			say("%s", s.showDocument(r.Document))
		}
	}
	return end(err)
}

func (s *side) showDocument(d *pb.Document) string {
	if d == nil {
		return ""
	}
	path := strings.TrimPrefix(d.Name, s.db+"/documents/")
	return fmt.Sprintf("%s=%s known:%v created first:%v", path, showFields(d.Fields), d.UpdateTime.AsTime().Equal(s.ranks[path]), !d.CreateTime.AsTime().After(d.UpdateTime.AsTime()))
}

func showFields(fs fields) string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(fs)) {
		fmt.Fprintf(&b, "%q:%s,", k, show(fs[k]))
	}
	return "{" + b.String() + "}"
}

func show(v *pb.Value) string {
	switch t := v.GetValueType().(type) {
	case *pb.Value_IntegerValue:
		return fmt.Sprintf("int %d", t.IntegerValue)
	case *pb.Value_DoubleValue:
		return fmt.Sprintf("double %v", t.DoubleValue)
	case *pb.Value_MapValue:
		return showFields(t.MapValue.GetFields())
	case *pb.Value_ArrayValue:
		var vs []string
		for _, e := range t.ArrayValue.GetValues() {
			vs = append(vs, show(e))
		}
		return fmt.Sprint(vs)
	}
	j, _ := json.Marshal(lookValue(v))
	return fmt.Sprintf("%T %s", v.GetValueType(), j)
}
