package firestoresim

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"net"
	"sync"
	"time"

	"cloud.google.com/go/firestore"
	pb "cloud.google.com/go/firestore/apiv1/firestorepb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const (
	// defaultRequestLimit is the emulator's; production allows 10 MiB.
	defaultRequestLimit = 4 << 20
	// defaultLockWait is how long the emulator waits for a transaction's lock.
	defaultLockWait = 2 * time.Second
	clientHeader    = "firestoresim-client"
)

// Server is Firestore's gRPC API in this process. Its methods may be called
// concurrently. Make one with New and end it with Close.
type Server struct {
	requestLimit int
	lockWait     time.Duration
	rising       bool
	observer     func(RPC)

	listener *pipes
	grpc     *grpc.Server
	served   chan struct{}
	done     chan struct{} // closed when Close begins
	closing  sync.Once
	late     sync.WaitGroup // requests that arrive later; none begins after done is closed

	mu     sync.Mutex // never held while anything waits
	offset time.Duration
	rtt    time.Duration
	last   time.Time // of the newest read or commit: server time never steps back
	dbs    map[string]*database
	txs    map[string]*transaction
	txSeq  uint64
	// unlocked is closed and replaced whenever a transaction ends.
	unlocked   chan struct{}
	streams    map[*listenStream]struct{}
	injections []*Injection
	stats      Stats
	byClient   map[string]*Stats
	conns      map[*grpc.ClientConn]struct{}
	wires      map[*wire]struct{}
	dials      map[string]int // connections made, by the client's name
}

// Option is an option of New.
type Option func(*Server)

// WithClockOffset sets the server's clock ahead of time.Now by d, or behind it
// if d is negative. Default 0.
func WithClockOffset(d time.Duration) Option { return func(s *Server) { s.offset = d } }

// WithLatency makes every answer take a round trip of d; see SetLatency.
func WithLatency(d time.Duration) Option { return func(s *Server) { s.rtt = d } }

// WithRequestLimit sets the largest request in bytes. Default 4 MiB, the
// emulator's limit; production has 10 MiB.
func WithRequestLimit(n int) Option { return func(s *Server) { s.requestLimit = n } }

// WithLockWait sets how long a commit waits for another transaction's locks
// before it is ABORTED. Default 2 s, as the emulator's.
func WithLockWait(d time.Duration) Option { return func(s *Server) { s.lockWait = d } }

// WithRisingReadTimes gives each document of an answer a later time than the one
// before it, by a microsecond. So may Firestore: its API only promises that the
// earlier documents have not changed until then. The emulator never does.
func WithRisingReadTimes() Option { return func(s *Server) { s.rising = true } }

// WithObserver calls f for each RPC when its outcome is known, before the
// answer goes out. It is called from many goroutines, under no lock.
func WithObserver(f func(RPC)) Option { return func(s *Server) { s.observer = f } }

// New starts a server. In a testing/synctest bubble, make it, its clients and
// its end inside that bubble.
func New(opts ...Option) *Server {
	s := &Server{
		requestLimit: defaultRequestLimit,
		lockWait:     defaultLockWait,
		listener:     newPipes(),
		served:       make(chan struct{}),
		done:         make(chan struct{}),
		dbs:          map[string]*database{},
		txs:          map[string]*transaction{},
		unlocked:     make(chan struct{}),
		streams:      map[*listenStream]struct{}{},
		byClient:     map[string]*Stats{},
		conns:        map[*grpc.ClientConn]struct{}{},
		wires:        map[*wire]struct{}{},
		dials:        map[string]int{},
	}
	for _, o := range opts {
		o(s)
	}
	s.grpc = grpc.NewServer(
		grpc.WaitForHandlers(true),
		grpc.MaxRecvMsgSize(math.MaxInt32), // ours is checked by the interceptors
		grpc.MaxSendMsgSize(math.MaxInt32),
		grpc.UnaryInterceptor(s.unary),
		grpc.StreamInterceptor(s.stream),
	)
	pb.RegisterFirestoreServer(s.grpc, service{s: s})
	go func() {
		defer close(s.served)
		_ = s.grpc.Serve(s.listener)
	}()
	return s
}

type clientConfig struct {
	name     string
	database string
	dial     []grpc.DialOption
}

// ClientOption is an option of Server.Client.
type ClientOption func(*clientConfig)

// Name names a client, for faults (Injection.From) and counters (StatsOf).
// Several clients may share a name.
func Name(name string) ClientOption { return func(c *clientConfig) { c.name = name } }

// Database selects a database of the project. Default "(default)".
func Database(id string) ClientOption { return func(c *clientConfig) { c.database = id } }

// DialOptions are added to those of the client's connection, for example
// interceptors or keepalives.
func DialOptions(opts ...grpc.DialOption) ClientOption {
	return func(c *clientConfig) { c.dial = append(c.dial, opts...) }
}

// Client is a new official client of a project, on a connection of its own in
// memory. The caller closes it, before Server.Close. Projects and databases
// exist as soon as they are named and share nothing.
func (s *Server) Client(ctx context.Context, project string, opts ...ClientOption) (*firestore.Client, error) {
	select {
	case <-s.done:
		return nil, errors.New("firestoresim: the server is closed")
	default:
	}
	var cfg clientConfig
	for _, o := range opts {
		o(&cfg)
	}
	conn, err := s.Dial(cfg.name, cfg.dial...)
	if err != nil {
		return nil, err
	}
	return newClient(ctx, project, cfg.database, conn)
}

// Dial is a new gRPC connection to the server, for what the official client
// does not send. Its name is as in Name; empty for none. More options may follow.
func (s *Server) Dial(name string, more ...grpc.DialOption) (*grpc.ClientConn, error) {
	tag := func(ctx context.Context) context.Context {
		if name == "" {
			return ctx
		}
		return metadata.AppendToOutgoingContext(ctx, clientHeader, name)
	}
	opts := []grpc.DialOption{
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			conn, err := s.listener.Dial(ctx)
			if err != nil {
				return nil, err
			}
			return s.wire(name, conn), nil
		}),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32), grpc.MaxCallSendMsgSize(math.MaxInt32)),
		grpc.WithUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			return invoke(tag(ctx), method, req, reply, cc, opts...)
		}),
		grpc.WithStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, stream grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			return stream(tag(ctx), desc, cc, method, opts...)
		}),
	}
	conn, err := grpc.NewClient("passthrough:///firestoresim", append(opts, more...)...)
	if err != nil {
		return nil, fmt.Errorf("firestoresim: connecting: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.conns, func(c *grpc.ClientConn, _ struct{}) bool { return c.GetState() == connectivity.Shutdown })
	s.conns[conn] = struct{}{}
	return conn, nil
}

// Close ends all RPCs, waits for them, and ends the server; connections that
// are still open end too. It may be called more than once.
func (s *Server) Close() {
	s.closing.Do(func() {
		s.mu.Lock()
		close(s.done)
		conns := s.conns
		s.conns = map[*grpc.ClientConn]struct{}{}
		s.mu.Unlock()
		for c := range conns {
			_ = c.Close()
		}
		s.grpc.Stop()
		_ = s.listener.Close()
		s.late.Wait()
	})
	<-s.served
}

// SetClockOffset moves the server's clock to time.Now plus d. Times that it
// gives out never step back: after a step back it stands still, but for the
// microsecond that separates two commits, until it has caught up.
func (s *Server) SetClockOffset(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.offset = d
}

// SetLatency makes every answer from now on take a round trip of d: half of it
// passes before the request is applied, half behind it. A listener's messages
// take half.
func (s *Server) SetLatency(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rtt = d
}

// Now is the server's time: time.Now plus the offset, in microseconds.
func (s *Server) Now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.readTime()
}

// readTime is the time of a read; the caller holds s.mu.
func (s *Server) readTime() time.Time {
	if now := time.Now().Add(s.offset).UTC().Truncate(time.Microsecond); now.After(s.last) {
		s.last = now
	}
	return s.last
}

// readTimes are the times of n documents of an answer; the caller holds s.mu.
// A time that rises counts as given out: a commit is behind it.
func (s *Server) readTimes(at time.Time, n int) []*timestamppb.Timestamp {
	out := make([]*timestamppb.Timestamp, n)
	for i := range out {
		if out[i] = timestamppb.New(at); s.rising && i < n-1 {
			at = at.Add(time.Microsecond)
		}
	}
	if at.After(s.last) {
		s.last = at
	}
	return out
}

// commitTime is behind every time given out before; the caller holds s.mu.
func (s *Server) commitTime() time.Time {
	prev := s.last
	if now := s.readTime(); now.After(prev) {
		return now
	}
	s.last = prev.Add(time.Microsecond)
	return s.last
}

// wait lets d pass, or the RPC or the server end.
func (s *Server) wait(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-s.done:
		return errClosed
	}
}
