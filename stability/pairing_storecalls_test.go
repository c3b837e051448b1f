package stability_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
)

// storeCall is an operation on the store that an operator can ask for.
type storeCall struct {
	name string
	do   func(context.Context, *stability.Manager) error
}

var storeCalls = []storeCall{
	{"RestoreDevice", func(ctx context.Context, m *stability.Manager) error { return m.RestoreDevice(ctx) }},
	{"PurgeDevice", func(ctx context.Context, m *stability.Manager) error { return m.PurgeDevice(ctx) }},
	{"PurgeRows", func(ctx context.Context, m *stability.Manager) error { return m.PurgeRows(ctx) }},
	{"Quarantine", func(ctx context.Context, m *stability.Manager) error { _, err := m.Quarantine(ctx); return err }},
	{"Reseal", func(ctx context.Context, m *stability.Manager) error { return m.Reseal(ctx, nil) }},
}

// lateServer answers the next read of the store when it is told to.
type lateServer struct {
	server
	mu   sync.Mutex
	hold chan struct{}
}

func (s *lateServer) holdNext() (release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	hold := make(chan struct{})
	s.hold = hold
	return func() { close(hold) }
}

func (s *lateServer) Backend() stability.Backend {
	b := s.server.Backend()
	b.Auth = lateKV{b.Auth, s}
	return b
}

type lateKV struct {
	authstore.KV
	s *lateServer
}

func (k lateKV) Get(ctx context.Context, keys ...authstore.Key) (map[authstore.Key][]byte, error) {
	got, err := k.KV.Get(ctx, keys...)
	k.s.mu.Lock()
	hold := k.s.hold
	k.s.hold = nil
	k.s.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return got, err
}

// hearsSoon proves that the client is not deaf: it is connected and is handed
// what arrives, now or after a connection that was made anew.
func (a *tended) hearsSoon(t *testing.T, text string) {
	t.Helper()
	a.ready()
	_, err := a.w.say(text)
	require.NoError(t, err)
	a.w.await("it hears "+text, func() bool { return oneOf(a.texts(), text) })
	a.w.await("it answers for it", func() bool { return len(a.w.device().Pending()) == 0 })
}

func TestStoreCallLeavesNoClientDeaf(t *testing.T) {
	t.Parallel()
	for _, x := range storeCalls {
		t.Run(x.name+", live", func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				a := w.tended("a").run().pair()
				time.Sleep(time.Minute)
				a.hearsSoon(t, "before")
				_ = x.do(t.Context(), a.m) // some have nothing to do
				a.hearsSoon(t, "behind it")
				a.stop()
				w.close()
			})
		})
		for _, late := range []bool{false, true} { // late: the scan comes between its reads and its writes
			name := x.name + ", pairing"
			if late {
				name += ", overtaken"
			}
			t.Run(name, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					w := newWorld(t)
					s := &lateServer{server: w.memory}
					w.memory = s
					a := w.tended("a").run().pair()
					time.Sleep(time.Minute)
					w.account.Phone().RemoveDevice(w.device())
					w.await("logged out", func() bool { return a.status().WA == reconnect.StatusNeedsPairing })
					for len(a.codes) > 0 {
						<-a.codes
					}
					q := <-a.codes

					release := func() {}
					if late {
						release = s.holdNext()
					}
					result := make(chan error, 1)
					ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
					defer cancel()
					go func() { result <- x.do(ctx, a.m) }()
					synctest.Wait()
					_ = w.account.Phone().Scan(q.Code) // refused, where the code is no longer good
					time.Sleep(500 * time.Millisecond)
					release()
					<-result
					// Either the pairing won, or the old device is back and the service
					// refuses it, or codes are offered.
					for end := time.Now().Add(20 * time.Minute); a.status().WA != reconnect.StatusConnected && time.Now().Before(end); {
						time.Sleep(15 * time.Second)
						if q, ok := a.m.QR(); ok {
							_ = w.account.Phone().Scan(q.Code)
						} else if a.status().Parked {
							a.m.Reconnect()
						}
					}
					a.hearsSoon(t, "behind it")
					a.stop()
					w.close()
				})
			})
		}
	}
}
