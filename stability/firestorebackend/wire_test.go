package firestorebackend

import (
	"context"
	"crypto/rand"
	"path"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cloud.google.com/go/firestore"
	"cloud.google.com/go/firestore/apiv1/firestorepb"
	"github.com/stretchr/testify/require"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/firestoresim"
)

// fault is what happens to one request. The zero fault lets it pass.
type fault struct {
	drop error // it never arrives
	lose error // it is carried out, this is the answer
	hang bool  // with drop or lose: no answer at all until the caller gives up
	cut  bool  // of a read: its answer breaks off after the first document
	late bool  // of a write: UNAVAILABLE now, and it arrives with wire.arrive
}

// wire is a connection to the official emulator that counts what goes over it
// and fails as the test says.
type wire struct {
	mu     sync.Mutex
	counts counts
	decide func(method string, nth int) fault
	nth    int
	late   []func() error // requests that have not arrived yet
}

// arrive lets the one late request arrive, and tells what became of it.
func (w *wire) arrive(t testing.TB) codes.Code {
	t.Helper()
	w.mu.Lock()
	late := w.late
	w.late = nil
	w.mu.Unlock()
	require.Len(t, late, 1)
	return status.Code(late[0]())
}

// counts are requests by method, and documents.
type counts struct {
	rpcs          map[string]int
	reads, writes int
}

func (c counts) total() (n int) {
	for _, k := range c.rpcs {
		n += k
	}
	return n
}

// reset returns the counts and begins anew.
func (w *wire) reset() counts {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := w.counts
	w.counts = counts{rpcs: map[string]int{}}
	return c
}

// fail makes decide choose for every request from now on, counted from 1.
func (w *wire) fail(decide func(method string, nth int) fault) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.decide, w.nth = decide, 0
}

func (w *wire) request(method string, req any) fault {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counts.rpcs[method]++
	if c, ok := req.(*firestorepb.CommitRequest); ok {
		w.counts.writes += len(c.Writes)
	}
	w.nth++
	if w.decide == nil {
		return fault{}
	}
	return w.decide(method, w.nth)
}

func (f fault) answer(ctx context.Context, err error) error {
	if f.hang {
		<-ctx.Done()
		return status.FromContextError(ctx.Err()).Err()
	}
	return err
}

func (w *wire) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	f := w.request(path.Base(method), req)
	if f.late {
		req, reply := proto.Clone(req.(proto.Message)), proto.Clone(reply.(proto.Message))
		w.mu.Lock()
		defer w.mu.Unlock()
		w.late = append(w.late, func() error { return invoke(context.WithoutCancel(ctx), method, req, reply, cc, opts...) })
		return unavailable
	}
	if f.drop != nil {
		return f.answer(ctx, f.drop)
	}
	if err := invoke(ctx, method, req, reply, cc, opts...); err != nil {
		return err
	}
	if f.lose != nil {
		return f.answer(ctx, f.lose)
	}
	return nil
}

func (w *wire) stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	f := w.request(path.Base(method), nil)
	if f.drop == nil && f.lose == nil {
		s, err := open(ctx, desc, cc, method, opts...)
		return &counted{ClientStream: s, w: w, cut: f.cut}, err
	}
	err := f.drop
	if err == nil {
		err = f.lose // a read that is carried out and not answered
	}
	return broken{ctx: ctx, fault: f, err: err}, nil
}

// counted counts the documents of answers.
type counted struct {
	grpc.ClientStream
	w    *wire
	cut  bool
	came int
}

func (s *counted) RecvMsg(m any) error {
	if s.cut && s.came > 0 {
		for s.ClientStream.RecvMsg(m) == nil { // or the stream would stay
		}
		return unavailable
	}
	err := s.ClientStream.RecvMsg(m)
	if err == nil {
		s.came++
		n := 0
		switch r := m.(type) {
		case *firestorepb.BatchGetDocumentsResponse:
			n = 1
		case *firestorepb.RunQueryResponse:
			if r.Document != nil {
				n = 1
			}
		case *firestorepb.ListenResponse:
			if r.GetDocumentChange() != nil || r.GetDocumentDelete() != nil {
				n = 1
			}
		}
		s.w.mu.Lock()
		s.w.counts.reads += n
		s.w.mu.Unlock()
	}
	return err
}

// broken is a stream whose first answer is an error.
type broken struct {
	ctx   context.Context
	fault fault
	err   error
}

func (s broken) Header() (metadata.MD, error) { return nil, nil }
func (s broken) Trailer() metadata.MD         { return nil }
func (s broken) CloseSend() error             { return nil }
func (s broken) Context() context.Context     { return s.ctx }
func (s broken) SendMsg(any) error            { return nil }
func (s broken) RecvMsg(any) error            { return s.fault.answer(s.ctx, s.err) }

// onWire gives a client of the emulator over a wire of its own. The project is
// new unless one is named.
func onWire(t testing.TB, project ...string) (*firestore.Client, *wire) {
	t.Helper()
	e := emulator(t)
	w := &wire{counts: counts{rpcs: map[string]int{}}}
	conn, err := grpc.NewClient("passthrough:///"+e.Addr(),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithPerRPCCredentials(owner{}),
		grpc.WithChainUnaryInterceptor(w.unary), grpc.WithChainStreamInterceptor(w.stream))
	require.NoError(t, err)
	name := "demo-" + strings.ToLower(rand.Text()[:20])
	if len(project) > 0 {
		name = project[0]
	}
	c, err := firestore.NewClient(t.Context(), name, option.WithGRPCConn(conn), option.WithTelemetryDisabled())
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	_, err = c.Doc("warm/up").Set(t.Context(), map[string]any{}) // the emulator's first answers take seconds
	require.NoError(t, err)
	w.reset()
	return c, w
}

// wired runs a test over a wire: to the simulator, in a bubble, or at full size
// to the emulator in real time. Both give the same answers, see firestoresim.
func wired(t *testing.T, test func(t *testing.T, c *firestore.Client, w *wire)) {
	t.Helper()
	if stabilitytest.Full() {
		c, w := onWire(t)
		test(t, c, w)
		return
	}
	synctest.Test(t, func(t *testing.T) {
		w := &wire{counts: counts{rpcs: map[string]int{}}}
		test(t, foreignOnSim(t, sim(t, firestoresim.WithLatency(2*time.Millisecond)), firestoresim.DialOptions(
			grpc.WithChainUnaryInterceptor(w.unary), grpc.WithChainStreamInterceptor(w.stream))), w)
	})
}

type owner struct{}

func (owner) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer owner"}, nil
}
func (owner) RequireTransportSecurity() bool { return false }

var (
	unavailable = status.Error(codes.Unavailable, "the connection broke")
	internal    = status.Error(codes.Internal, "the stream was reset")
)
