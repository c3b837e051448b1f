package firestoresim

import (
	"time"

	pb "cloud.google.com/go/firestore/apiv1/firestorepb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Edit changes a document as a person does in a console: edit gets its fields,
// nil if there is none, and returns those that it shall have, nil to remove it.
// Values are of the types that Get gives, or an int; references and places are
// not for documents that are edited. The update time is new even if nothing
// changed, listeners are told, no fault strikes and nothing is counted.
func (s *Server) Edit(project, path string, edit func(fields map[string]any) map[string]any, database ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	db := s.db(databaseName(project, database))
	before := db.get(path)
	var old map[string]any
	if before != nil {
		old = lookFields(before.fields)
	}
	fs := edit(old)
	at := s.commitTime()
	if fs == nil {
		db.put(path, nil)
	} else {
		d := &document{path: path, fields: makeFields(fs), created: at, updated: at}
		if before != nil {
			d.created = before.created
		}
		db.put(path, d)
	}
	for l := range s.streams {
		l.touch(db, []string{path})
	}
}

// Remove removes a document as a person does in a console.
func (s *Server) Remove(project, path string, database ...string) {
	s.Edit(project, path, func(map[string]any) map[string]any { return nil }, database...)
}

func makeFields(m map[string]any) fields {
	out := make(fields, len(m))
	for name, v := range m {
		out[name] = makeValue(v)
	}
	return out
}

// makeValue is the way back from lookValue, but for references and places.
func makeValue(v any) *pb.Value {
	switch x := v.(type) {
	case nil:
		return &pb.Value{ValueType: &pb.Value_NullValue{}}
	case bool:
		return &pb.Value{ValueType: &pb.Value_BooleanValue{BooleanValue: x}}
	case int:
		return makeValue(int64(x))
	case int64:
		return &pb.Value{ValueType: &pb.Value_IntegerValue{IntegerValue: x}}
	case float64:
		return &pb.Value{ValueType: &pb.Value_DoubleValue{DoubleValue: x}}
	case string:
		return &pb.Value{ValueType: &pb.Value_StringValue{StringValue: x}}
	case []byte:
		return &pb.Value{ValueType: &pb.Value_BytesValue{BytesValue: x}}
	case time.Time:
		return &pb.Value{ValueType: &pb.Value_TimestampValue{TimestampValue: timestamppb.New(x)}}
	case []any:
		vs := make([]*pb.Value, len(x))
		for i := range x {
			vs[i] = makeValue(x[i])
		}
		return &pb.Value{ValueType: &pb.Value_ArrayValue{ArrayValue: &pb.ArrayValue{Values: vs}}}
	case map[string]any:
		return &pb.Value{ValueType: &pb.Value_MapValue{MapValue: &pb.MapValue{Fields: makeFields(x)}}}
	}
	panic("firestoresim: Edit: a value of a type that Get does not give")
}
