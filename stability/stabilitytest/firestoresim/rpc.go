package firestoresim

import (
	"context"
	"path"
	"time"

	pb "cloud.google.com/go/firestore/apiv1/firestorepb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Method is an RPC of Firestore's API.
type Method string

// The methods that the official client uses.
const (
	GetDocument         Method = "GetDocument"
	ListDocuments       Method = "ListDocuments"
	BatchGetDocuments   Method = "BatchGetDocuments"
	BeginTransaction    Method = "BeginTransaction"
	Commit              Method = "Commit"
	Rollback            Method = "Rollback"
	RunQuery            Method = "RunQuery"
	RunAggregationQuery Method = "RunAggregationQuery"
	ListCollectionIds   Method = "ListCollectionIds"
	BatchWrite          Method = "BatchWrite"
	Listen              Method = "Listen"
)

// RPC is one call, as WithObserver shows it.
type RPC struct {
	Client   string // as named by Name
	Method   Method
	Request  proto.Message // not to be changed; nil for Listen
	Begin    time.Time
	Duration time.Duration // with delays and latency
	Applied  bool          // false if a fault kept the request from being served
	Err      error         // what the client is told, a status error
	// Billed counts the documents of this call.
	Billed Billing
}

var errClosed = status.Error(codes.Unavailable, "firestoresim: the server is closed")

// call is what the handlers know about the RPC they serve.
type call struct {
	client string
	method Method
	rpc    RPC
	// again serves a copy of the request for nobody; nil for streams.
	again func(context.Context)
	// first takes a listener's first request. A fault answers behind it: a
	// client that cannot even send it ends its listener for good, with
	// iterator.Done.
	first func()
}

type callKey struct{}

func callOf(ctx context.Context) *call {
	c, _ := ctx.Value(callKey{}).(*call)
	return c
}

func newCall(ctx context.Context, method string) *call {
	c := &call{method: Method(path.Base(method))}
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		if v := md.Get(clientHeader); len(v) > 0 {
			c.client = v[0]
		}
	}
	c.rpc = RPC{Client: c.client, Method: c.method, Begin: time.Now()}
	return c
}

func (s *Server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	c := newCall(ctx, info.FullMethod)
	c.rpc.Request, _ = req.(proto.Message)
	c.again = func(ctx context.Context) {
		if s.checkRequest(c.rpc.Request) == nil {
			_, _ = handle(ctx, proto.Clone(c.rpc.Request))
		}
	}
	var res any
	err := s.serve(ctx, c, func(ctx context.Context, _ bool) (err error) {
		if err := s.checkRequest(c.rpc.Request); err != nil {
			return err
		}
		res, err = handle(ctx, req)
		return err
	})
	if err != nil {
		return nil, err
	}
	return res, nil
}

func (s *Server) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	c := newCall(ss.Context(), info.FullMethod)
	if c.method == Listen {
		c.first = func() { _ = ss.RecvMsg(&pb.ListenRequest{}) }
	}
	return s.serve(ss.Context(), c, func(ctx context.Context, mute bool) error {
		return handle(srv, &callStream{ServerStream: ss, ctx: ctx, s: s, c: c, mute: mute})
	})
}

// callStream carries the call, checks requests, and can lose the answers.
type callStream struct {
	grpc.ServerStream
	ctx  context.Context
	s    *Server
	c    *call
	mute bool
}

func (cs *callStream) Context() context.Context { return cs.ctx }

func (cs *callStream) RecvMsg(m any) error {
	if err := cs.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	msg, _ := m.(proto.Message)
	if cs.c.method != Listen {
		cs.c.rpc.Request = msg
	}
	return cs.s.checkRequest(msg)
}

func (cs *callStream) SendMsg(m any) error {
	if cs.mute {
		return nil
	}
	return cs.ServerStream.SendMsg(m)
}

// serve runs an RPC with the faults that strike it.
func (s *Server) serve(ctx context.Context, c *call, handle func(ctx context.Context, mute bool) error) (err error) {
	ctx = context.WithValue(ctx, callKey{}, c)
	s.mu.Lock()
	s.countRPC(c)
	struck := s.takeFaults(c)
	half := s.rtt / 2
	if struck.fault != nil && struck.fault.late > 0 {
		struck.again = append(struck.again, struck.fault.late)
	}
	if c.again != nil {
		for _, d := range struck.again {
			s.deliver(c, d)
		}
	}
	s.mu.Unlock()
	defer func() {
		if s.observer != nil {
			c.rpc.Err, c.rpc.Duration = err, time.Since(c.rpc.Begin)
			s.mu.Lock()
			rpc := c.rpc
			s.mu.Unlock()
			s.observer(rpc)
		}
	}()
	fail := func(e error) error { // what ends a wait, as the client is to see it
		if st, ok := status.FromError(e); ok {
			return st.Err()
		}
		return status.FromContextError(e).Err()
	}
	if err := s.wait(ctx, half+struck.before); err != nil {
		return fail(err)
	}
	for _, i := range struck.holds {
		if err := s.hold(ctx, i); err != nil {
			return fail(err)
		}
	}
	if f := struck.fault; f != nil && !f.applies {
		if c.first != nil {
			c.first()
		}
		return s.answer(ctx, f)
	}
	c.rpc.Applied = true
	mute := struck.fault != nil
	err = handle(ctx, mute)
	if f := struck.fault; f != nil {
		return s.answer(ctx, f)
	}
	if werr := s.wait(ctx, half+struck.after); werr != nil {
		return fail(werr)
	}
	return err
}

// deliver serves a copy of a request when d has passed. It is billed, and shown
// to nobody. The caller holds s.mu.
func (s *Server) deliver(c *call, d time.Duration) {
	select {
	case <-s.done:
		return
	default:
	}
	late := &call{client: c.client, method: c.method}
	s.late.Go(func() {
		if s.wait(context.Background(), d) == nil {
			c.again(context.WithValue(context.Background(), callKey{}, late))
		}
	})
}

// answer gives a fault's answer: an error, or silence until the client or the
// server gives up.
func (s *Server) answer(ctx context.Context, f *Fault) error {
	if f.err != nil {
		return f.err
	}
	select {
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	case <-s.done:
		return errClosed
	}
}

// checkRequest refuses what is too large, and what a newer client says that
// this server does not understand.
func (s *Server) checkRequest(m proto.Message) error {
	if m == nil {
		return nil
	}
	if n := proto.Size(m); n > s.requestLimit {
		return status.Errorf(codes.ResourceExhausted, "firestoresim: the request of %d bytes exceeds the limit of %d", n, s.requestLimit)
	}
	if name := unknownIn(m.ProtoReflect()); name != "" {
		return status.Errorf(codes.Unimplemented, "firestoresim: %s has fields that this server does not know", name)
	}
	return nil
}

var (
	documentMessage = (&pb.Document{}).ProtoReflect().Descriptor().FullName()
	writeMessage    = (&pb.Write{}).ProtoReflect().Descriptor().FullName()
)

// unknownIn names a message with unknown fields, m or one in it. It does not
// look into documents: a value of an unknown type has no type, which is
// refused anyway.
func unknownIn(m protoreflect.Message) (name protoreflect.Name) {
	if unknown := m.GetUnknown(); len(unknown) > 0 {
		if _, ok := verified(unknown); ok && m.Descriptor().FullName() == writeMessage {
			return ""
		}
		return m.Descriptor().Name()
	}
	if m.Descriptor().FullName() == documentMessage {
		return ""
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.Message() == nil || f.IsMap():
		case f.IsList():
			for i := 0; i < v.List().Len() && name == ""; i++ {
				name = unknownIn(v.List().Get(i).Message())
			}
		default:
			name = unknownIn(v.Message())
		}
		return name == ""
	})
	return name
}

func unimplemented(what string) error {
	return status.Error(codes.Unimplemented, "firestoresim: "+what+" is not implemented")
}

// service is the gRPC face of a Server. A method that it does not have answers
// UNIMPLEMENTED with the method's name.
type service struct {
	pb.UnimplementedFirestoreServer
	s *Server
}
