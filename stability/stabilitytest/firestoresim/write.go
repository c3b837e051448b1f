package firestoresim

import (
	"context"
	"math"
	"slices"
	"time"

	pb "cloud.google.com/go/firestore/apiv1/firestorepb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// write is a checked pb.Write.
type write struct {
	path       string
	isDelete   bool
	verify     bool // nothing is written, only the precondition counts
	keep       bool // a transform alone: the document's fields stay
	fields     fields
	mask       *mask
	transforms []transform
	exists     *bool
	updated    *time.Time
}

func parseWrite(db string, w *pb.Write) (out write, err error) {
	var name string
	pbTransforms := w.GetUpdateTransforms()
	switch op := w.GetOperation().(type) {
	case *pb.Write_Update:
		name, out.fields = op.Update.GetName(), op.Update.GetFields()
	case *pb.Write_Delete:
		name, out.isDelete = op.Delete, true
		if len(pbTransforms) > 0 || w.GetUpdateMask() != nil {
			return out, invalid("a delete has neither transforms nor a mask")
		}
	case *pb.Write_Transform:
		name, out.keep = op.Transform.GetDocument(), true
		pbTransforms = append(slices.Clone(op.Transform.GetFieldTransforms()), pbTransforms...)
		if len(pbTransforms) == 0 || w.GetUpdateMask() != nil {
			return out, invalid("a transform needs at least one field and no mask")
		}
	case nil:
		if name, out.verify = verified(w.ProtoReflect().GetUnknown()); !out.verify {
			return out, invalid("a write has no operation")
		}
		if w.GetCurrentDocument().GetConditionType() == nil {
			return out, invalid("a verify must contain a precondition")
		}
		if len(pbTransforms) > 0 || w.GetUpdateMask() != nil {
			return out, invalid("a verify has neither transforms nor a mask")
		}
	default:
		return out, unimplemented("this kind of write")
	}
	if out.path, err = documentPath(db, name, !out.isDelete && !out.verify); err != nil {
		return out, err
	}
	if err := checkFields(out.fields, 0); err != nil {
		return out, err
	}
	if out.mask, err = parseMask(w.GetUpdateMask()); err != nil {
		return out, err
	}
	for _, t := range pbTransforms {
		p, err := parseTransform(t)
		if err != nil {
			return out, err
		}
		out.transforms = append(out.transforms, p)
	}
	switch c := w.GetCurrentDocument().GetConditionType().(type) {
	case *pb.Precondition_Exists:
		out.exists = &c.Exists
	case *pb.Precondition_UpdateTime:
		if c.UpdateTime.CheckValid() != nil || c.UpdateTime.GetNanos()%1000 != 0 {
			return out, invalid("the update_time of a precondition has more than microseconds")
		}
		t := c.UpdateTime.AsTime()
		out.updated = &t
	}
	return out, nil
}

// verified is the document of a verify: field 5 of a write, which Firestore has
// and the Go package of its messages does not name.
func verified(unknown []byte) (name string, ok bool) {
	num, typ, n := protowire.ConsumeTag(unknown)
	if n < 0 || num != 5 || typ != protowire.BytesType {
		return "", false
	}
	name, m := protowire.ConsumeString(unknown[n:])
	return name, m >= 0 && n+m == len(unknown)
}

func parseWrites(db string, ws []*pb.Write) ([]write, error) {
	if err := checkDatabase(db); err != nil {
		return nil, err
	}
	out := make([]write, len(ws))
	for i, w := range ws {
		var err error
		if out[i], err = parseWrite(db, w); err != nil {
			return nil, err
		}
	}
	verifies := map[string]bool{}
	for _, w := range out {
		if was, seen := verifies[w.path]; seen && was != w.verify {
			return nil, invalid("the document %q is written and verified in one request", w.path)
		}
		verifies[w.path] = w.verify
	}
	return out, nil
}

// pending is a document during a commit.
type pending struct {
	before *document
	exists bool
	fields fields
	// fresh: created or deleted on the way, so it does not continue before.
	fresh   bool
	written bool
}

// apply commits writes, all or none. The caller holds s.mu, and nobody else's
// transaction is in the way.
func (s *Server) apply(db *database, ws []write) (*pb.CommitResponse, error) {
	docs := map[string]*pending{}
	now := time.Now().Add(s.offset).UTC().Truncate(time.Millisecond)
	results := make([]*pb.WriteResult, len(ws))
	for i, w := range ws {
		p := docs[w.path]
		if p == nil {
			p = &pending{before: db.get(w.path)}
			if p.before != nil {
				p.exists, p.fields = true, p.before.fields
			}
			docs[w.path] = p
		}
		if err := w.check(p); err != nil {
			return nil, err
		}
		results[i] = &pb.WriteResult{}
		if w.verify {
			continue
		}
		p.written = true
		if w.isDelete {
			p.exists, p.fields, p.fresh = false, nil, true
			continue
		}
		p.exists = true
		p.fields, results[i].TransformResults = w.apply(p.fields, now)
		if n := documentSize(w.path, p.fields); n > maxDocument {
			return nil, invalid("the document %q has %d bytes, more than %d", w.path, n, maxDocument)
		}
	}
	if len(ws) == 0 {
		return &pb.CommitResponse{}, nil
	}
	at := s.commitTime()
	var touched []string
	updated := map[string]*timestamppb.Timestamp{}
	for path, p := range docs {
		switch {
		case !p.written:
			if updated[path] = timestamppb.New(at); p.before != nil {
				updated[path] = timestamppb.New(p.before.updated)
			}
			continue
		case !p.exists:
			if p.before != nil {
				db.put(path, nil)
			}
		case p.before != nil && !p.fresh && equalFields(p.before.fields, p.fields):
			updated[path] = timestamppb.New(p.before.updated) // nothing changed
		default:
			d := &document{path: path, fields: p.fields, created: at, updated: at}
			if p.before != nil && !p.fresh {
				d.created = p.before.created
			}
			db.put(path, d)
			updated[path] = timestamppb.New(at)
		}
		touched = append(touched, path)
	}
	for i, w := range ws {
		results[i].UpdateTime = updated[w.path]
	}
	for l := range s.streams {
		l.touch(db, touched)
	}
	return &pb.CommitResponse{WriteResults: results, CommitTime: timestamppb.New(at)}, nil
}

// check checks the precondition.
func (w *write) check(p *pending) error {
	switch {
	case w.exists != nil && *w.exists && !p.exists:
		return status.Errorf(codes.NotFound, "firestoresim: no document to update: %q", w.path)
	case w.exists != nil && !*w.exists && p.exists:
		if p.written {
			return invalid("the document %q is created twice in one request", w.path)
		}
		return status.Errorf(codes.AlreadyExists, "firestoresim: the document already exists: %q", w.path)
	case w.updated != nil:
		if p.before == nil {
			return status.Errorf(codes.FailedPrecondition, "firestoresim: the document %q does not exist, it was required to be of %v", w.path, *w.updated)
		}
		switch p.before.updated.Compare(*w.updated) {
		case 1:
			return status.Errorf(codes.FailedPrecondition, "firestoresim: the document %q is of %v, newer than the required %v", w.path, p.before.updated, *w.updated)
		case -1:
			return invalid("the document %q is required to be of %v, later than it is (%v)", w.path, *w.updated, p.before.updated)
		}
	}
	return nil
}

// apply is the new content, and the results of the transforms.
func (w *write) apply(old fields, now time.Time) (fields, []*pb.Value) {
	fs := w.fields
	switch {
	case w.keep:
		fs = old
	case w.mask != nil:
		fs = old
		for _, path := range w.mask.paths {
			v, _ := lookup(w.fields, path)
			fs = withField(fs, path, v)
		}
	}
	var results []*pb.Value
	for _, t := range w.transforms {
		old, _ := lookup(fs, t.path)
		v, result := t.apply(old, now)
		fs = withField(fs, t.path, v)
		results = append(results, result)
	}
	return fs, results
}

type transform struct {
	path    []string
	kind    transformKind
	operand *pb.Value
	values  []*pb.Value
}

type transformKind int

const (
	requestTime transformKind = iota
	increment
	maximum
	minimum
	union
	remove
)

func parseTransform(t *pb.DocumentTransform_FieldTransform) (out transform, err error) {
	if out.path, err = fieldPath(t.GetFieldPath()); err != nil {
		return out, err
	}
	switch k := t.GetTransformType().(type) {
	case *pb.DocumentTransform_FieldTransform_SetToServerValue:
		if k.SetToServerValue != pb.DocumentTransform_FieldTransform_REQUEST_TIME {
			return out, invalid("unknown server value %v", k.SetToServerValue)
		}
		out.kind = requestTime
	case *pb.DocumentTransform_FieldTransform_Increment:
		out.kind, out.operand = increment, k.Increment
	case *pb.DocumentTransform_FieldTransform_Maximum:
		out.kind, out.operand = maximum, k.Maximum
	case *pb.DocumentTransform_FieldTransform_Minimum:
		out.kind, out.operand = minimum, k.Minimum
	case *pb.DocumentTransform_FieldTransform_AppendMissingElements:
		out.kind, out.values = union, k.AppendMissingElements.GetValues()
	case *pb.DocumentTransform_FieldTransform_RemoveAllFromArray:
		out.kind, out.values = remove, k.RemoveAllFromArray.GetValues()
	case nil:
		return out, invalid("a transform has no type")
	default:
		return out, unimplemented("this kind of transform")
	}
	if out.operand != nil && typeOrder(out.operand) != typeNumber {
		return out, invalid("the operand of a numerical transform is no number")
	}
	if out.values != nil {
		arr := &pb.Value{ValueType: &pb.Value_ArrayValue{ArrayValue: &pb.ArrayValue{Values: out.values}}}
		return out, checkValue(arr, len(out.path)-1)
	}
	return out, nil
}

// apply is the new value, and what the client is told.
func (t *transform) apply(old *pb.Value, now time.Time) (v, result *pb.Value) {
	number := old != nil && typeOrder(old) == typeNumber
	switch t.kind {
	case requestTime:
		v = &pb.Value{ValueType: &pb.Value_TimestampValue{TimestampValue: timestamppb.New(now)}}
	case increment:
		v = t.operand
		if number {
			v = add(old, t.operand)
		}
	case maximum, minimum:
		v = t.operand
		if number {
			c := compareNumbers(t.operand, old)
			if isNaN(old) || !isNaN(t.operand) && (t.kind == maximum && c <= 0 || t.kind == minimum && c >= 0) {
				v = old
			}
		}
	case union, remove:
		var kept []*pb.Value
		contains := func(vs []*pb.Value, e *pb.Value) bool {
			return slices.ContainsFunc(vs, func(o *pb.Value) bool { return compareValues(o, e) == 0 })
		}
		for _, e := range old.GetArrayValue().GetValues() {
			if t.kind == union || !contains(t.values, e) {
				kept = append(kept, e)
			}
		}
		if t.kind == union {
			for _, e := range t.values {
				if !contains(kept, e) {
					kept = append(kept, e)
				}
			}
		}
		v = &pb.Value{ValueType: &pb.Value_ArrayValue{ArrayValue: &pb.ArrayValue{Values: kept}}}
		return v, &pb.Value{ValueType: &pb.Value_NullValue{}}
	}
	return v, v
}

// add adds numbers; integers stop at their limits.
func add(a, b *pb.Value) *pb.Value {
	x, xInt := a.GetValueType().(*pb.Value_IntegerValue)
	y, yInt := b.GetValueType().(*pb.Value_IntegerValue)
	if !xInt || !yInt {
		return &pb.Value{ValueType: &pb.Value_DoubleValue{DoubleValue: asDouble(a) + asDouble(b)}}
	}
	sum := x.IntegerValue + y.IntegerValue
	switch {
	case x.IntegerValue > 0 && y.IntegerValue > 0 && sum < 0:
		sum = math.MaxInt64
	case x.IntegerValue < 0 && y.IntegerValue < 0 && sum >= 0:
		sum = math.MinInt64
	}
	return &pb.Value{ValueType: &pb.Value_IntegerValue{IntegerValue: sum}}
}

func asDouble(v *pb.Value) float64 {
	if n, ok := v.GetValueType().(*pb.Value_IntegerValue); ok {
		return float64(n.IntegerValue)
	}
	return v.GetDoubleValue()
}

// commit waits for the locks of others, applies, and bills.
func (s *Server) commit(ctx context.Context, dbName string, ws []write, own *transaction) (*pb.CommitResponse, error) {
	var timeout <-chan time.Time
	for {
		s.mu.Lock()
		db := s.db(dbName)
		blocked := s.blocked(db, ws, own)
		if !blocked {
			var res *pb.CommitResponse
			var err error
			if own != nil && own.closed {
				err = errTransactionClosed
			} else {
				res, err = s.apply(db, ws)
			}
			if err == nil {
				s.billWrites(ctx, ws)
			}
			s.end(own)
			s.mu.Unlock()
			return res, err
		}
		unlocked := s.unlocked
		s.mu.Unlock()
		if timeout == nil {
			t := time.NewTimer(s.lockWait)
			defer t.Stop()
			timeout = t.C
		}
		var err error
		select {
		case <-unlocked:
			continue
		case <-timeout:
			err = status.Error(codes.Aborted, "firestoresim: another transaction holds a lock; try again")
		case <-ctx.Done():
			err = status.FromContextError(ctx.Err()).Err()
		case <-s.done:
			err = errClosed
		}
		s.mu.Lock()
		s.end(own)
		s.mu.Unlock()
		return nil, err
	}
}

func (s *Server) billWrites(ctx context.Context, ws []write) {
	var b Billing
	for _, w := range ws {
		switch {
		case w.isDelete:
			b.Deletes++
		case w.verify:
			b.Reads++ // a guess: the public rules do not name it
		default:
			b.Writes++
		}
	}
	s.bill(callOf(ctx), b)
}

func (v service) Commit(ctx context.Context, r *pb.CommitRequest) (*pb.CommitResponse, error) {
	ws, err := parseWrites(r.GetDatabase(), r.GetWrites())
	if err != nil {
		return nil, err
	}
	own, err := v.s.transaction(r.GetDatabase(), r.GetTransaction())
	if err != nil {
		return nil, err
	}
	if own != nil && own.readOnly && len(ws) > 0 {
		return nil, invalid("a read-only transaction writes")
	}
	return v.s.commit(ctx, r.GetDatabase(), ws, own)
}

func (v service) BatchWrite(ctx context.Context, r *pb.BatchWriteRequest) (*pb.BatchWriteResponse, error) {
	ws, err := parseWrites(r.GetDatabase(), r.GetWrites())
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for _, w := range ws {
		if seen[w.path] {
			return nil, invalid("the document %q is written more than once in one request", w.path)
		}
		seen[w.path] = true
	}
	res := &pb.BatchWriteResponse{}
	for i := range ws {
		one, err := v.s.commit(ctx, r.GetDatabase(), ws[i:i+1], nil)
		result := &pb.WriteResult{}
		if err == nil {
			result = one.WriteResults[0]
		}
		res.WriteResults = append(res.WriteResults, result)
		res.Status = append(res.Status, status.Convert(err).Proto())
		if res.Status[i] == nil {
			res.Status[i] = okStatus
		}
	}
	return res, nil
}
