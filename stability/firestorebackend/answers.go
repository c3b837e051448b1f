package firestorebackend

import (
	"context"
	"errors"
	"io"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// answer is what the server said to the last request of one call. Firestore's
// client repeats some errors by itself, ten times and more in 5 s, and tells
// none of them when the time is up. The interceptors below note the error here
// and hand the client one that it does not repeat: the pauses are this
// package's then. Requests of the host on the same client carry no answer, so
// they stay as they are.
type answer struct {
	mu  sync.Mutex
	err error
}

type answerKey struct{}

func (a *answer) last() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.err
}

// note takes what a request ended with, and returns what the client is told.
func (a *answer) note(ctx context.Context, err error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.err = nil
	if err == nil || ctx.Err() != nil {
		return err
	}
	switch status.Code(err) {
	case codes.Unavailable, codes.ResourceExhausted, codes.Internal, codes.DeadlineExceeded:
		a.err = err
		return &ended{err.Error()}
	}
	return err
}

// ended has no code, so nobody repeats it. It keeps the text.
type ended struct{ text string }

func (e *ended) Error() string { return e.text }

func noteUnary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	err := invoke(ctx, method, req, reply, cc, opts...)
	if a, ok := ctx.Value(answerKey{}).(*answer); ok {
		return a.note(ctx, err)
	}
	return err
}

func noteStream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s, err := open(ctx, desc, cc, method, opts...)
	a, ok := ctx.Value(answerKey{}).(*answer)
	switch {
	case !ok:
		return s, err
	case err != nil:
		return nil, a.note(ctx, err)
	}
	return &notedStream{s, ctx, a}, nil
}

type notedStream struct {
	grpc.ClientStream
	ctx context.Context // the call's: the stream's own is over when the stream is
	a   *answer
}

func (s *notedStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	return s.a.note(s.ctx, err)
}

// noteOptions give a connection the interceptors.
func noteOptions() []grpc.DialOption {
	return []grpc.DialOption{grpc.WithChainUnaryInterceptor(noteUnary), grpc.WithChainStreamInterceptor(noteStream)}
}
