package firestoresim

import (
	"encoding/binary"
	"io"
	"maps"
	"slices"
	"time"

	pb "cloud.google.com/go/firestore/apiv1/firestorepb"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// listenStream is one Listen RPC. Fields without another word are guarded by
// Server.mu. Commits only mark targets; the stream's own goroutine compares
// what was sent with what is there, so that a slow client delays nobody and
// sees several commits as one.
type listenStream struct {
	s       *Server
	call    *call
	targets map[int32]*target
	wake    chan struct{} // of capacity 1
	silent  map[*Injection]struct{}
	cut     error // set once, then wake
}

type target struct {
	id    int32
	db    *database
	docs  []string // a documents target, else
	query *query
	sent  map[string]*document // what the client has; nil for "known to be missing"
	fresh bool                 // its initial state is not sent yet
	reset bool                 // the client resumes: it may hold what is gone
	dirty bool
}

func (l *listenStream) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// touch marks the targets that a commit concerns; the caller holds s.mu.
func (l *listenStream) touch(db *database, paths []string) {
	for _, t := range l.targets {
		if t.db == db && !t.dirty && slices.ContainsFunc(paths, t.concerns) {
			t.dirty = true
			l.signal()
		}
	}
}

func (l *listenStream) touchAll(db *database) {
	for _, t := range l.targets {
		if t.db == db {
			t.dirty = true
			l.signal()
		}
	}
}

func (t *target) concerns(path string) bool {
	if t.query != nil {
		return t.query.concerns(path)
	}
	return slices.Contains(t.docs, path)
}

// strike and heal are called with s.mu held.
func (l *listenStream) strike(i *Injection) {
	if i.fault.kind == kindCut {
		l.cut = i.fault.err
	} else {
		l.silent[i] = struct{}{}
	}
	l.signal()
}

func (l *listenStream) heal(i *Injection) {
	if _, ok := l.silent[i]; ok {
		delete(l.silent, i)
		l.signal()
	}
}

func (v service) Listen(stream pb.Firestore_ListenServer) error {
	s := v.s
	l := &listenStream{s: s, call: callOf(stream.Context()), targets: map[int32]*target{},
		wake: make(chan struct{}, 1), silent: map[*Injection]struct{}{}}
	s.mu.Lock()
	for _, i := range slices.Clone(s.injections) {
		if i.fault.kind >= kindSilent && i.matches(l.call) && i.due() {
			l.strike(i)
		}
	}
	s.streams[l] = struct{}{}
	cut := l.cut
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.streams, l)
		s.mu.Unlock()
	}()

	if cut != nil {
		l.call.first()
		return cut
	}
	requests := make(chan *pb.ListenRequest)
	received := make(chan error, 1)
	go func() {
		for {
			r, err := stream.Recv()
			if err != nil {
				received <- err
				return
			}
			select {
			case requests <- r:
			case <-stream.Context().Done():
				return
			}
		}
	}()
	for {
		select {
		case r := <-requests:
			out, err := l.request(r)
			if err != nil {
				return err
			}
			s.mu.Lock()
			silent := len(l.silent) > 0
			s.mu.Unlock()
			if silent {
				continue
			}
			if err := l.send(stream, out); err != nil {
				return err
			}
		case err := <-received:
			if err == io.EOF {
				return nil
			}
			return err
		case <-l.wake:
		case <-stream.Context().Done():
			return status.FromContextError(stream.Context().Err()).Err()
		case <-s.done:
			return errClosed
		}
		out, cut := l.changes()
		if cut != nil {
			return cut
		}
		if err := l.send(stream, out); err != nil {
			return err
		}
	}
}

func (l *listenStream) send(stream pb.Firestore_ListenServer, out []*pb.ListenResponse) error {
	if len(out) == 0 {
		return nil
	}
	l.s.mu.Lock()
	half := l.s.rtt / 2
	l.s.mu.Unlock()
	if err := l.s.wait(stream.Context(), half); err != nil {
		if st, ok := status.FromError(err); ok {
			return st.Err()
		}
		return status.FromContextError(err).Err()
	}
	for _, r := range out {
		if err := stream.Send(r); err != nil {
			return err
		}
	}
	return nil
}

// request adds or removes a target.
func (l *listenStream) request(r *pb.ListenRequest) ([]*pb.ListenResponse, error) {
	if err := checkDatabase(r.GetDatabase()); err != nil {
		return nil, err
	}
	switch c := r.GetTargetChange().(type) {
	case *pb.ListenRequest_AddTarget:
		t, err := l.parseTarget(r.GetDatabase(), c.AddTarget)
		if err != nil {
			return []*pb.ListenResponse{
				targetChange(pb.TargetChange_ADD, c.AddTarget.GetTargetId()),
				{ResponseType: &pb.ListenResponse_TargetChange{TargetChange: &pb.TargetChange{
					TargetChangeType: pb.TargetChange_REMOVE, TargetIds: []int32{c.AddTarget.GetTargetId()}, Cause: status.Convert(err).Proto()}}},
			}, nil
		}
		l.s.mu.Lock()
		defer l.s.mu.Unlock()
		if l.targets[t.id] != nil {
			return nil, invalid("the target %d is added twice", t.id)
		}
		t.db = l.s.db(r.GetDatabase())
		l.targets[t.id] = t
		return nil, nil
	case *pb.ListenRequest_RemoveTarget:
		l.s.mu.Lock()
		defer l.s.mu.Unlock()
		if l.targets[c.RemoveTarget] == nil {
			return nil, invalid("there is no target %d to remove", c.RemoveTarget)
		}
		delete(l.targets, c.RemoveTarget)
		return []*pb.ListenResponse{targetChange(pb.TargetChange_REMOVE, c.RemoveTarget)}, nil
	}
	return nil, invalid("a listen request neither adds nor removes a target")
}

func (l *listenStream) parseTarget(db string, p *pb.Target) (*target, error) {
	t := &target{id: p.GetTargetId(), sent: map[string]*document{}, fresh: true, dirty: true, reset: p.GetResumeType() != nil}
	if p.GetOnce() {
		return nil, unimplemented("a target that is sent once")
	}
	switch k := p.GetTargetType().(type) {
	case *pb.Target_Documents:
		for _, name := range k.Documents.GetDocuments() {
			path, err := documentPath(db, name, false)
			if err != nil {
				return nil, err
			}
			if !slices.Contains(t.docs, path) {
				t.docs = append(t.docs, path)
			}
		}
	case *pb.Target_Query:
		q, err := parseQuery(k.Query.GetParent(), k.Query.GetStructuredQuery())
		if err != nil {
			return nil, err
		}
		if q.db != db {
			return nil, invalid("the query is not in %s", db)
		}
		t.query = q
	default:
		return nil, invalid("a target has neither documents nor a query")
	}
	return t, nil
}

func targetChange(kind pb.TargetChange_TargetChangeType, id int32) *pb.ListenResponse {
	return &pb.ListenResponse{ResponseType: &pb.ListenResponse_TargetChange{TargetChange: &pb.TargetChange{
		TargetChangeType: kind, TargetIds: []int32{id}}}}
}

// changes is what the client has to be told to be up to date.
func (l *listenStream) changes() (out []*pb.ListenResponse, cut error) {
	s := l.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.cut != nil {
		return nil, l.cut
	}
	if len(l.silent) > 0 {
		return nil, nil
	}
	at := s.readTime()
	ts := timestamppb.New(at)
	token := resumeToken(at)
	any := false
	for _, id := range slices.Sorted(maps.Keys(l.targets)) {
		t := l.targets[id]
		if !t.dirty {
			continue
		}
		any = true
		if t.fresh {
			out = append(out, targetChange(pb.TargetChange_ADD, id))
			if t.reset {
				out = append(out, targetChange(pb.TargetChange_RESET, id))
			}
		}
		out = l.diff(out, t, ts)
		if t.fresh {
			current := targetChange(pb.TargetChange_CURRENT, id)
			tc := current.GetTargetChange()
			tc.ReadTime, tc.ResumeToken = ts, token
			out = append(out, current)
		}
		t.fresh, t.dirty = false, false
	}
	if any {
		out = append(out, &pb.ListenResponse{ResponseType: &pb.ListenResponse_TargetChange{TargetChange: &pb.TargetChange{
			TargetChangeType: pb.TargetChange_NO_CHANGE, ReadTime: ts, ResumeToken: token}}})
	}
	return out, nil
}

// diff tells a target's changes and remembers them as sent.
func (l *listenStream) diff(out []*pb.ListenResponse, t *target, ts *timestamppb.Timestamp) []*pb.ListenResponse {
	ids := []int32{t.id}
	billed := 0
	changed := func(d *document) {
		billed++
		var m *mask
		if t.query != nil {
			m = t.query.selected
		}
		out = append(out, &pb.ListenResponse{ResponseType: &pb.ListenResponse_DocumentChange{DocumentChange: &pb.DocumentChange{
			Document: d.proto(t.db.name, m), TargetIds: ids}}})
	}
	deleted := func(path string) {
		out = append(out, &pb.ListenResponse{ResponseType: &pb.ListenResponse_DocumentDelete{DocumentDelete: &pb.DocumentDelete{
			Document: t.db.name + "/documents/" + path, RemovedTargetIds: ids, ReadTime: ts}}})
	}
	if t.query == nil {
		for _, path := range t.docs {
			d := t.db.get(path)
			old, known := t.sent[path]
			switch {
			case known && old == d:
			case d != nil:
				changed(d)
			default:
				if !known {
					billed++
				}
				deleted(path)
			}
			t.sent[path] = d
		}
	} else {
		docs, _ := t.query.run(t.db)
		now := make(map[string]*document, len(docs))
		for _, d := range docs {
			now[d.path] = d
			if t.sent[d.path] != d {
				changed(d)
			}
		}
		var gone []string
		for path := range t.sent {
			if now[path] == nil {
				gone = append(gone, path)
			}
		}
		slices.SortFunc(gone, comparePaths)
		for _, path := range gone {
			if t.db.get(path) == nil {
				deleted(path)
				continue
			}
			billed++
			out = append(out, &pb.ListenResponse{ResponseType: &pb.ListenResponse_DocumentRemove{DocumentRemove: &pb.DocumentRemove{
				Document: t.db.name + "/documents/" + path, RemovedTargetIds: ids, ReadTime: ts}}})
		}
		t.sent = now
		if t.fresh {
			billed = max(billed, 1)
		}
	}
	l.s.bill(l.call, Billing{ListenReads: billed})
	return out
}

func resumeToken(at time.Time) []byte {
	return binary.BigEndian.AppendUint64(nil, uint64(at.UnixMicro()))
}
