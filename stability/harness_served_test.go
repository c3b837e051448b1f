//go:build linux || darwin

package stability_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net"
	"net/rpc"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
)

// Account serves a backend to other processes, as a server on the network
// would. Its methods are those of net/rpc.
type Account struct {
	b stability.Backend

	mu      sync.Mutex
	commits []commit
}

// commit is one write that arrived.
type commit struct {
	at    time.Time
	epoch int64
	err   error
}

// Wired is every argument and every answer.
type Wired struct {
	Record        lock.Record
	Holder, Nonce string
	Lease         time.Duration
	Granted       bool
	Epoch         int64
	Keys          []authstore.Key
	Kind          authstore.Kind
	Prefix        string
	Entries       []authstore.Entry
	Deletes       []authstore.Key
	State         []byte
	Error         string
}

var sentinels = []error{lock.ErrLost, lock.ErrFenced}

func (w *Wired) fail(err error) {
	if err == nil {
		return
	}
	w.Error = "server: " + err.Error()
	for _, s := range sentinels {
		if errors.Is(err, s) {
			w.Error = s.Error()
		}
	}
}

func (w *Wired) err() error {
	if w.Error == "" {
		return nil
	}
	for _, s := range sentinels {
		if s.Error() == w.Error {
			return s
		}
	}
	return errors.New(w.Error)
}

func (a *Account) Acquire(in *Wired, out *Wired) (_ error) {
	var err error
	out.Record, out.Granted, err = a.b.Lock.Acquire(context.Background(), in.Holder, in.Nonce, in.Lease)
	out.fail(err)
	return
}

func (a *Account) Renew(in *Wired, out *Wired) (_ error) {
	var err error
	out.Record, err = a.b.Lock.Renew(context.Background(), in.Record)
	out.fail(err)
	return
}

func (a *Account) Release(in *Wired, out *Wired) (_ error) {
	out.fail(a.b.Lock.Release(context.Background(), in.Record))
	return
}

func (a *Account) Load(_ *Wired, out *Wired) (_ error) {
	var err error
	out.Record, err = a.b.Lock.Load(context.Background())
	out.fail(err)
	return
}

func (a *Account) Get(in *Wired, out *Wired) (_ error) {
	found, err := a.b.Auth.Get(context.Background(), in.Keys...)
	for k, v := range found {
		out.Entries = append(out.Entries, authstore.Entry{Key: k, Value: v})
	}
	out.fail(err)
	return
}

func (a *Account) Scan(in *Wired, out *Wired) (_ error) {
	for e, err := range a.b.Auth.Scan(context.Background(), in.Kind, in.Prefix) {
		if err != nil {
			out.fail(err)
			return
		}
		out.Entries = append(out.Entries, e)
	}
	return
}

func (a *Account) note(epoch int64, err error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.commits = append(a.commits, commit{time.Now(), epoch, err})
	return err
}

func (a *Account) Commit(in *Wired, out *Wired) (_ error) {
	out.fail(a.note(in.Epoch, a.b.Auth.Commit(context.Background(), in.Epoch, authstore.Batch{Put: in.Entries, Delete: in.Deletes})))
	return
}

func (a *Account) LoadState(_ *Wired, out *Wired) (_ error) {
	s, err := a.b.State.Load(context.Background())
	if err == nil {
		out.State, err = reconnect.EncodeState(s)
	}
	out.fail(err)
	return
}

func (a *Account) SaveState(in *Wired, out *Wired) (_ error) {
	s, err := reconnect.DecodeState(in.State)
	if err == nil {
		err = a.note(in.Epoch, a.b.State.Save(context.Background(), in.Epoch, s))
	}
	out.fail(err)
	return
}

// since tells what writes of an epoch arrived after t.
func (a *Account) since(t time.Time, epoch int64) (applied, refused int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range a.commits {
		switch {
		case c.epoch != epoch || c.at.Before(t):
		case c.err == nil:
			applied++
		default:
			refused++
		}
	}
	return applied, refused
}

// serve makes the backend reachable on a loopback port.
func serve(t *testing.T, b stability.Backend) (*Account, string) {
	t.Helper()
	a := &Account{b: b}
	s := rpc.NewServer()
	require.NoError(t, s.Register(a))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		conns []net.Conn
	)
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			wg.Go(func() { s.ServeConn(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for _, c := range conns {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return a, l.Addr().String()
}

// served is the other end: a backend over the network.
type served struct{ c *rpc.Client }

func dialServed(addr string) (stability.Backend, error) {
	c, err := rpc.Dial("tcp", addr)
	if err != nil {
		return stability.Backend{}, err
	}
	s := served{c}
	return stability.Backend{
		Name: "served", Lock: servedLock{s}, Auth: servedKV{s}, State: servedState{s}, Incidents: noIncidents{},
		Close: c.Close,
	}, nil
}

func (s served) call(ctx context.Context, method string, in *Wired) (*Wired, error) {
	out := new(Wired)
	call := s.c.Go("Account."+method, in, out, make(chan *rpc.Call, 1))
	select {
	case <-call.Done:
		if call.Error != nil {
			return nil, call.Error
		}
		return out, out.err()
	case <-ctx.Done():
		return nil, fmt.Errorf("%s: %w", method, ctx.Err())
	}
}

type servedLock struct{ served }

func (s servedLock) record(ctx context.Context, method string, in *Wired) (lock.Record, error) {
	out, err := s.call(ctx, method, in)
	if out == nil {
		return lock.Record{}, err
	}
	return out.Record, err
}

func (s servedLock) Acquire(ctx context.Context, holder, nonce string, lease time.Duration) (lock.Record, bool, error) {
	out, err := s.call(ctx, "Acquire", &Wired{Holder: holder, Nonce: nonce, Lease: lease})
	if err != nil {
		return lock.Record{}, false, err
	}
	return out.Record, out.Granted, nil
}

func (s servedLock) Renew(ctx context.Context, held lock.Record) (lock.Record, error) {
	return s.record(ctx, "Renew", &Wired{Record: held})
}

func (s servedLock) Release(ctx context.Context, held lock.Record) error {
	_, err := s.record(ctx, "Release", &Wired{Record: held})
	return err
}

func (s servedLock) Load(ctx context.Context) (lock.Record, error) {
	return s.record(ctx, "Load", &Wired{})
}

type servedKV struct{ served }

func (s servedKV) Get(ctx context.Context, keys ...authstore.Key) (map[authstore.Key][]byte, error) {
	out, err := s.call(ctx, "Get", &Wired{Keys: keys})
	if err != nil {
		return nil, err
	}
	found := map[authstore.Key][]byte{}
	for _, e := range out.Entries {
		found[e.Key] = e.Value
	}
	return found, nil
}

func (s servedKV) Scan(ctx context.Context, kind authstore.Kind, prefix string) iter.Seq2[authstore.Entry, error] {
	return func(yield func(authstore.Entry, error) bool) {
		out, err := s.call(ctx, "Scan", &Wired{Kind: kind, Prefix: prefix})
		if err != nil {
			yield(authstore.Entry{}, err)
			return
		}
		for _, e := range out.Entries {
			if !yield(e, nil) {
				return
			}
		}
	}
}

func (s servedKV) Commit(ctx context.Context, epoch int64, b authstore.Batch) error {
	_, err := s.call(ctx, "Commit", &Wired{Epoch: epoch, Entries: b.Put, Deletes: b.Delete})
	return err
}

func (s servedKV) Limits() authstore.Limits { return authstore.Limits{} }

type servedState struct{ served }

func (s servedState) Load(ctx context.Context) (reconnect.State, error) {
	out, err := s.call(ctx, "LoadState", &Wired{})
	if err != nil {
		return reconnect.State{}, err
	}
	return reconnect.DecodeState(out.State)
}

func (s servedState) Save(ctx context.Context, epoch int64, st reconnect.State) error {
	raw, err := reconnect.EncodeState(st)
	if err == nil {
		_, err = s.call(ctx, "SaveState", &Wired{Epoch: epoch, State: raw})
	}
	return err
}

// noIncidents keeps nothing: what a frozen process says later is not fenced.
type noIncidents struct{}

func (noIncidents) Raise(_ context.Context, i guard.Incident) (guard.Incident, bool, error) {
	return i, true, nil
}
func (noIncidents) Resolve(context.Context, string, time.Time) (bool, error) { return false, nil }
func (noIncidents) List(context.Context) ([]guard.Incident, error)           { return nil, nil }
