package stability_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	waBinary "go.mau.fi/whatsmeow/binary"
	"go.mau.fi/whatsmeow/types"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/memorybackend"
	"github.com/wastability/wastability/stability/stabilitytest"
)

// evidence is what one cause on the wire makes known, piece by piece. Each
// piece may arrive at any time and in any order.
type evidence struct {
	name   string
	tap    string // the stanza, as the tap sees it
	events []any  // in any order, and more than once
	err    error  // what Connect returns; nil: it succeeded
	raw    bool   // the raw connection ends
	login  bool   // the connection was not logged in yet
}

func stanzaText(tag string, attrs waBinary.Attrs, children ...waBinary.Node) string {
	n := waBinary.Node{Tag: tag, Attrs: attrs}
	if len(children) > 0 {
		n.Content = children
	}
	if older, ok := any(&n).(interface{ XMLString() string }); ok {
		return older.XMLString()
	}
	return fmt.Sprint(&n) // newer versions of whatsmeow have a String method
}

func conflict(kind string) waBinary.Node {
	return waBinary.Node{Tag: "conflict", Attrs: waBinary.Attrs{"type": kind}}
}

// wire lists the rows of what can end a connection.
func wireCauses() []evidence {
	gone := &events.Disconnected{}
	stream := func(code string) string { return stanzaText("stream:error", waBinary.Attrs{"code": code}) }
	failure := func(code string) string { return stanzaText("failure", waBinary.Attrs{"reason": code}) }
	rows := []evidence{
		{name: "end of the link", events: []any{gone}, raw: true},
		{name: "websocket close", events: []any{gone}, raw: true},
		{name: "515", tap: stream("515"), events: []any{&events.ManualLoginReconnect{}, gone}, raw: true},
		{name: "503", tap: stream("503"), events: []any{gone}, raw: true},
		{name: "500", tap: stream("500"), events: []any{&events.StreamError{Code: "500"}, gone}, raw: true},
		{name: "no code", tap: stanzaText("stream:error", nil), events: []any{&events.StreamError{}, gone}, raw: true},
		{name: "bare 401", tap: stream("401"), events: []any{&events.StreamError{Code: "401"}, gone}, raw: true},
		{name: "unknown code", tap: stream("799"), events: []any{&events.StreamError{Code: "799"}, gone}, raw: true},
		{name: "replaced", tap: stanzaText("stream:error", nil, conflict("replaced")), events: []any{&events.StreamReplaced{}, gone}, raw: true},
		{name: "device removed", tap: stanzaText("stream:error", waBinary.Attrs{"code": "401"}, conflict("device_removed")),
			events: []any{&events.LoggedOut{Reason: events.ConnectFailureLoggedOut}, gone}, raw: true},
		{name: "stream end", tap: "<xmlstreamend/>", raw: true},
		{name: "pings unanswered", events: []any{&events.KeepAliveTimeout{ErrorCount: 2}, &events.KeepAliveTimeout{ErrorCount: 3}}},
		{name: "pings unanswered, then reset", events: []any{&events.KeepAliveTimeout{ErrorCount: 2}, gone}, raw: true},
		{name: "503 on a link that also dies", tap: stream("503"), events: []any{&events.KeepAliveTimeout{ErrorCount: 2}, gone}, raw: true},
		{name: "CAT", tap: stream("413"), events: []any{&events.CATRefreshError{Error: errors.New("no token")}, gone}, raw: true},
	}
	for code, evt := range map[string]any{
		"400": &events.ConnectFailure{Reason: 400}, "401": &events.LoggedOut{OnConnect: true, Reason: 401},
		"403": &events.LoggedOut{OnConnect: true, Reason: 403}, "405": &events.ClientOutdated{},
		"406": &events.LoggedOut{OnConnect: true, Reason: 406}, "409": &events.ConnectFailure{Reason: 409},
		"411": &events.ConnectFailure{Reason: 411}, "413": &events.CATRefreshError{Error: errors.New("no token")},
		"414": &events.CATRefreshError{Error: errors.New("no token")}, "415": &events.ConnectFailure{Reason: 415},
		"418": &events.ConnectFailure{Reason: 418}, "500": nil, "501": &events.ConnectFailure{Reason: 501}, "503": nil,
	} {
		e := evidence{name: "failure " + code, tap: failure(code), events: []any{gone}, raw: true, login: true}
		if evt != nil {
			e.events = append(e.events, evt)
		}
		rows = append(rows, e)
	}
	rows = append(rows,
		evidence{name: "failure 402", login: true, raw: true, tap: stanzaText("failure", waBinary.Attrs{"reason": "402", "code": "101", "expire": "3600"}),
			events: []any{&events.TemporaryBan{Code: 101, Expire: time.Hour}, gone}},
		evidence{name: "failure 402 and a disconnect", login: true, raw: true, tap: stanzaText("failure", waBinary.Attrs{"reason": "402", "code": "101", "expire": "7200"}),
			events: []any{&events.TemporaryBan{Code: 101, Expire: 2 * time.Hour}, &events.StreamError{Code: "500"}, gone}},
	)
	for name, err := range map[string]error{
		"refused":    &net.OpError{Op: "dial", Err: errors.New("connection refused")},
		"no name":    fmt.Errorf("failed to dial whatsapp web websocket: %w", &net.DNSError{Err: "no such host", Name: "web"}),
		"times out":  fmt.Errorf("failed to dial whatsapp web websocket: %w", context.DeadlineExceeded),
		"no hello":   errors.New("noise handshake failed: timed out waiting for handshake response"),
		"wrong cert": errors.New("noise handshake failed: failed to verify server cert: signature mismatch"),
		"strange":    errors.New("something new"),
	} {
		rows = append(rows, evidence{name: "connect: " + name, err: err, login: true})
	}
	return rows
}

// rig is one Manager with one client, whose connections are pipes, so that
// every piece of evidence comes when the test says so.
type rig struct {
	t    *testing.T
	m    *stability.Manager
	in   *stability.Rig
	made chan struct{} // closed when in is set

	mu     sync.Mutex
	wire   *heldConn // the present connection
	dials  int
	report []stability.Event
	errs   chan error // what the next Connect returns
}

// heldConn is a network connection that dies when the test says so, and whose
// end takes as long as the test wants: a cut waits for a Write in progress.
type heldConn struct {
	net.Conn
	dead, release chan struct{}
	die, let      sync.Once
}

func (h *heldConn) Read([]byte) (int, error)         { <-h.dead; return 0, io.EOF }
func (h *heldConn) Write([]byte) (int, error)        { <-h.release; return 0, net.ErrClosed }
func (h *heldConn) Close() error                     { h.die.Do(func() { close(h.dead) }); return nil }
func (h *heldConn) over()                            { h.let.Do(func() { close(h.release) }) }
func (h *heldConn) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (h *heldConn) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (h *heldConn) SetDeadline(time.Time) error      { return nil }
func (h *heldConn) SetReadDeadline(time.Time) error  { return nil }
func (h *heldConn) SetWriteDeadline(time.Time) error { return nil }

func newRig(t *testing.T, tapped bool) *rig {
	r := &rig{t: t, errs: make(chan error), made: make(chan struct{})}
	m, err := stability.New(
		keepsTheLock, // the action that is judged is one on this client: to try again, or not
		stability.WithBackend(memorybackend.New().Backend()),
		stability.WithLogger(slog.New(slog.NewTextHandler(io.Discard, nil))),
		stability.WithExit(func(int) {}),
		stability.WithTransport(&http.Transport{TLSHandshakeTimeout: time.Hour, DialContext: func(context.Context, string, string) (net.Conn, error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.wire = &heldConn{dead: make(chan struct{}), release: make(chan struct{})}
			return r.wire, nil
		}}),
		stability.WithObserver(func(e stability.Event) {
			r.mu.Lock()
			defer r.mu.Unlock()
			if e.Kind == stability.EventDisconnected || e.Kind == stability.EventReasonKnown || e.Kind == stability.EventConnecting {
				r.report = append(r.report, e)
			}
		}))
	require.NoError(t, err)
	r.m = m
	ok, err := m.TryActivate(t.Context())
	require.NoError(t, err)
	require.True(t, ok)
	d, err := m.AuthState(t.Context())
	require.NoError(t, err)
	c, err := m.NewClient(d)
	require.NoError(t, err)
	_ = c
	r.in = stability.NewRig(m, tapped, types.NewADJID("491520000001", 0, 1), r.connect)
	close(r.made)
	return r
}

// connect dials for real, and returns what the test says.
func (r *rig) connect(ctx context.Context) error {
	r.mu.Lock()
	r.dials++
	r.mu.Unlock()
	<-r.made
	go func() { _ = r.in.Dial(context.WithoutCancel(ctx)) }()
	select {
	case err := <-r.errs:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (r *rig) up(login bool, returns error) {
	synctest.Wait() // the dial is seen
	if login || returns != nil {
		return
	}
	r.errs <- nil
	synctest.Wait()
	r.in.Received("<success/>")
	r.in.Handle(&events.Connected{})
	synctest.Wait()
	require.True(r.t, r.in.Ready())
}

func (r *rig) end() {
	r.mu.Lock()
	wire := r.wire
	r.mu.Unlock()
	_ = wire.Close()
	wire.over()
	require.NoError(r.t, r.m.Close(context.Background()))
	synctest.Wait()
}

// pieces are the calls that make e known.
func (r *rig) pieces(e evidence, tapped bool) (calls []func(), causes []reconnect.Cause) {
	add := func(call func(), cause any) {
		calls = append(calls, call)
		if c, ends := reconnect.Classify(cause); ends {
			causes = append(causes, c)
		}
	}
	if e.tap != "" {
		if tapped {
			add(func() { r.in.Received(e.tap) }, reconnect.Stanza(e.tap))
		}
	}
	for _, evt := range e.events {
		if k, ok := evt.(*events.KeepAliveTimeout); ok {
			k = &events.KeepAliveTimeout{ErrorCount: k.ErrorCount, LastSuccess: time.Now().Add(time.Hour)}
			add(func() { r.in.Handle(k) }, k)
			continue
		}
		add(func() { r.in.Handle(evt) }, evt)
	}
	if e.raw {
		r.mu.Lock()
		wire := r.wire
		r.mu.Unlock()
		add(func() { _ = wire.Close() }, nil)
	}
	var once sync.Once
	returns := func() { once.Do(func() { r.errs <- e.err }) }
	if e.err != nil {
		add(returns, e.err)
	} else if e.login {
		calls = append(calls, returns) // Connect returns as soon as its handshake is sent
	}
	return calls, causes
}

func TestTheReportedReasonIsTheBestOneInEveryOrderAndTheActionFollowsOnce(t *testing.T) {
	t.Parallel()
	rounds := stabilitytest.Pick(5, 1000)
	for _, e := range wireCauses() {
		for _, tapped := range []bool{true, false} {
			if !tapped && e.tap == "" {
				continue
			}
			t.Run(fmt.Sprintf("%s,tapped=%v", e.name, tapped), func(t *testing.T) {
				watchdog := time.AfterFunc(5*time.Minute, func() {
					buf := make([]byte, 1<<20)
					fmt.Fprintf(os.Stderr, "stopped\n%s\n", buf[:runtime.Stack(buf, true)])
					os.Exit(2)
				})
				defer watchdog.Stop()
				for round := range rounds {
					synctest.Test(t, func(t *testing.T) {
						interleave(t, e, tapped, rand.New(rand.NewPCG(uint64(round), 7)))
					})
				}
			})
		}
	}
}

func interleave(t *testing.T, e evidence, tapped bool, rnd *rand.Rand) {
	r := newRig(t, tapped)
	defer r.end()
	r.up(e.login, e.err)
	time.Sleep(time.Duration(rnd.IntN(3)) * time.Second) // a pipe without TLS lives for 15 s
	before, policy := r.in.State()
	dials := r.dialled()

	calls, causes := r.pieces(e, tapped)
	for i := range causes {
		if causes[i].Reason == reconnect.ReasonMultideviceMismatch { // a paired device shows no code
			causes[i].Reason = reconnect.ReasonConnectRejected
		}
	}
	best := causes[0]
	for _, c := range causes[1:] {
		best = reconnect.Better(best, c)
	}
	// Each piece once or twice, in any order, at once or within the time that
	// the end takes; some from goroutines of their own.
	for range rnd.IntN(len(calls) + 1) {
		calls = append(calls, calls[rnd.IntN(len(calls))])
	}
	rnd.Shuffle(len(calls), func(i, j int) { calls[i], calls[j] = calls[j], calls[i] })
	var wg sync.WaitGroup
	for _, call := range calls {
		wg.Go(call)
		switch rnd.IntN(4) {
		case 0:
			synctest.Wait()
		case 1: // so late that the observers were told already
			time.Sleep(time.Duration(rnd.IntN(700)) * time.Millisecond)
		}
	}
	synctest.Wait()
	wg.Wait()
	r.mu.Lock()
	wire := r.wire
	r.mu.Unlock()
	wire.over()
	time.Sleep(20 * time.Millisecond)

	report := r.heard()
	var ends []stability.Event
	for connecting := 0; len(report) > 0; report = report[1:] {
		if report[0].Kind == stability.EventConnecting {
			connecting++
		} else if connecting == 1 {
			ends = append(ends, report[0])
		}
	}
	require.NotEmpty(t, ends)
	last := ends[len(ends)-1]
	require.Equal(t, best.Reason, last.Reason, "%+v", ends)
	require.Equal(t, best.Code, last.Decision.Code)
	require.Equal(t, stability.EventDisconnected, ends[0].Kind)
	for i, ev := range ends[1:] {
		require.Equal(t, stability.EventReasonKnown, ev.Kind, "one end is told once")
		require.True(t, ev.Reason.Outranks(ends[i].Reason) || ev.Decision != ends[i].Decision, "nothing is told twice")
	}

	// The action is the one of the best reason, on the state before the end.
	oracle := reconnect.NewMachine(policy, before, nil)
	if before.Status == reconnect.StatusConnected {
		oracle = reconnect.NewMachine(policy, reconnect.State{}, nil)
	}
	want := oracle.Disconnected(best, time.Now())
	require.Equal(t, want.ShouldReconnect, last.Decision.ShouldReconnect)
	require.Equal(t, want.Status, last.Decision.Status)
	require.Equal(t, want.Action, last.Decision.Action)

	// It is followed once: one attempt when it is time, none where it is forbidden.
	if d := last.Decision; d.ShouldReconnect {
		if time.Until(d.NextRetryAt) > 50*time.Millisecond {
			time.Sleep(time.Until(d.NextRetryAt) - time.Millisecond)
			require.Zero(t, r.dialled()-dials, "too soon after %s", best.Reason)
		}
		time.Sleep(time.Second)
		require.Equal(t, 1, r.dialled()-dials, "exactly one attempt follows: %+v", d)
	} else {
		time.Sleep(10 * time.Minute)
		require.Zero(t, r.dialled()-dials, "after %s", best.Reason)
	}
}

func (r *rig) heard() []stability.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]stability.Event(nil), r.report...)
}

func (r *rig) dialled() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.dials
}
