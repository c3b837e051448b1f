package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wastability/wastability/autoheal"
	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/adminhttp"
	"github.com/wastability/wastability/stability/memorybackend"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// parts are what the checks are made of. Tests replace one to see the check
// fail.
type parts struct {
	backend string
	only    string                                        // run just this check
	options []stability.Option                            // added last
	wrap    func(http.Handler) http.Handler               // around the admin handler
	store   func(guard.IncidentStore) guard.IncidentStore // around the backend's incidents
	env     []string                                      // of the child process
}

// Shortened by public options: a minute of the default is a second or less
// here. hasty is for stages with many attempts, of which no delay is looked
// at.
var (
	policy = reconnect.Policy{InitialDelay: 400 * time.Millisecond, MaxDelay: 1200 * time.Millisecond, StableAfter: time.Second}
	hasty  = reconnect.Policy{InitialDelay: 50 * time.Millisecond, MaxDelay: 200 * time.Millisecond, StableAfter: time.Second}
	care   = guard.Policy{StuckAfter: 1500 * time.Millisecond, Refresh: time.Second, ClearAfter: 200 * time.Millisecond}
)

// patience is for what takes less than a second, but on a machine that is busy.
const patience = time.Minute

// stage is one account with a service, a Manager that runs, and its admin page
// on a loopback port.
type stage struct {
	service *wasim.Service
	account *wasim.Account
	manager *stability.Manager
	url     string
	token   string
	log     *logbook
	forget  func()      // removes what a backend left
	away    atomic.Bool // the phone is: nobody scans

	cancel context.CancelFunc
	ran    chan error
	server *http.Server

	scanned atomic.Value  // the last code
	unseen  time.Duration // the longest time between two looks of an await
}

// newService makes a service with which a pairing takes little time: no check is
// about keys.
func newService() *wasim.Service { return wasim.New(wasim.WithFewKeys()) }

// scan lets the phone scan a code, once.
func (s *stage) scan(code string) {
	if before, _ := s.scanned.Swap(code).(string); before != code {
		_ = s.account.Phone().Scan(code)
	}
}

// open sets the stage and waits until the account is connected.
func open(ctx context.Context, p parts, opts ...stability.Option) (*stage, error) {
	s := &stage{service: newService(), token: rand.Text(), log: &logbook{}, ran: make(chan error, 1), forget: func() {}}
	s.account = s.service.NewAccount("12025550123")
	backend, err := s.backend(ctx, p)
	if err != nil {
		s.service.Close()
		return nil, err
	}
	opts = append([]stability.Option{
		stability.WithBackend(backend), stability.WithTransport(s.service.Transport("host")), stability.WithReconnect(policy),
		stability.WithGuard(care), stability.WithAutoHeal(autoheal.Policy{Disabled: true}), stability.WithLogger(slog.New(s.log)),
		stability.WithQR(func(q stability.QR) {
			if !s.away.Load() {
				s.scan(q.Code)
			}
		}),
	}, opts...)
	s.manager, err = stability.New(append(opts, p.options...)...)
	if err != nil {
		s.service.Close()
		s.forget()
		return nil, err
	}
	if err := s.listen(p); err != nil {
		s.close()
		return nil, err
	}
	run, cancel := context.WithCancel(ctx)
	s.cancel = cancel
	go func() { s.ran <- s.manager.Run(run, nil) }()
	ready, stop := context.WithTimeout(ctx, patience)
	defer stop()
	if _, err := s.manager.WaitReady(ready); err != nil {
		s.close()
		return nil, fmt.Errorf("the account did not get connected: %w", err)
	}
	return s, nil
}

func (s *stage) backend(ctx context.Context, p parts) (b stability.Backend, err error) {
	if p.backend == "memory" {
		b = memorybackend.New().Backend()
	} else {
		var at account
		if at, s.forget, err = newAccount(p.backend); err != nil {
			return b, err
		}
		if b, err = at.open(ctx); err != nil {
			s.forget()
			return b, err
		}
	}
	if p.store != nil {
		b.Incidents = p.store(b.Incidents)
	}
	return b, nil
}

func (s *stage) listen(p parts) error {
	admin, err := adminhttp.New(s.manager, adminhttp.WithToken(s.token))
	if err != nil {
		return err
	}
	var h http.Handler = admin
	if p.wrap != nil {
		h = p.wrap(h)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s.url = "http://" + l.Addr().String()
	s.server = &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second}
	go s.server.Serve(l)
	return nil
}

func (s *stage) close() {
	if s.cancel != nil {
		s.cancel()
		<-s.ran
	}
	_ = s.manager.Close(context.Background())
	if s.server != nil {
		_ = s.server.Close()
	}
	s.service.Close()
	s.forget()
}

// status asks for status-now as an operator would.
func (s *stage) status(ctx context.Context) (document, error) {
	return get(ctx, s.url, s.token, "/api/longrun/status-now")
}

func (s *stage) connected(ctx context.Context) bool {
	d, err := s.status(ctx)
	return err == nil && d.at("wa", "waStatus") == "CONNECTED"
}

// incident returns the incident with this id, nil if there is none.
func (s *stage) incident(ctx context.Context, id string) (document, error) {
	d, err := get(ctx, s.url, s.token, "/api/longrun/incidents")
	if err != nil {
		return nil, err
	}
	list, _ := d["incidents"].([]any)
	for _, one := range list {
		if inc, ok := one.(map[string]any); ok && inc["id"] == id {
			return inc, nil
		}
	}
	return nil, nil
}

// await is await that looks at once when the Manager's status has changed: a
// status of one moment is seen on a busy machine too.
func (s *stage) await(ctx context.Context, d time.Duration, cond func() bool) bool {
	last := time.Now()
	deadline := last.Add(d)
	for {
		changed := s.manager.Changed()
		found := cond()
		s.unseen = max(s.unseen, time.Since(last))
		last = time.Now()
		if found {
			return true
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			return false
		}
		select {
		case <-changed:
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// await waits until cond holds, at most for d.
func await(ctx context.Context, d time.Duration, cond func() bool) bool {
	deadline := time.Now().Add(d)
	for !cond() {
		if ctx.Err() != nil || time.Now().After(deadline) {
			return false
		}
		time.Sleep(20 * time.Millisecond)
	}
	return true
}

// errBusy says that a check failed and may have come too late to see what was there
// for a moment.
var errBusy = errors.New("this machine is too busy to see each moment")

// orBusy is err, or errBusy if there is none.
func (s *stage) orBusy(r *report, err error) error {
	if err == nil && r.failed > 0 && s.unseen > policy.InitialDelay/2 {
		return errBusy
	}
	return err
}

// document is a JSON object.
type document map[string]any

// at returns what stands at a path of names, nil if nothing does.
func (d document) at(path ...string) any {
	var v any = map[string]any(d)
	for _, name := range path {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[name]
	}
	return v
}

// time parses an RFC 3339 instant; zero if there is none.
func (d document) time(path ...string) time.Time {
	text, _ := d.at(path...).(string)
	t, _ := time.Parse(time.RFC3339Nano, text)
	return t
}

func get(ctx context.Context, url, token, path string) (document, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("X-Admin-Token", token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("GET %s: status %d: %s", path, resp.StatusCode, body)
	}
	var d document
	if err := json.Unmarshal(body, &d); err != nil {
		return nil, fmt.Errorf("GET %s: %w", path, err)
	}
	return d, nil
}

// logbook keeps the log lines of the Manager, to check what they say.
type logbook struct {
	mu    sync.Mutex
	lines []line
}

type line struct {
	message string
	attrs   map[string]slog.Value
}

func (l *logbook) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelInfo }

func (l *logbook) Handle(_ context.Context, r slog.Record) error {
	one := line{r.Message, map[string]slog.Value{}}
	r.Attrs(func(a slog.Attr) bool {
		one.attrs[a.Key] = a.Value
		return true
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, one)
	return nil
}

func (l *logbook) WithAttrs([]slog.Attr) slog.Handler { return l }
func (l *logbook) WithGroup(string) slog.Handler      { return l }

// find returns the lines with this message, oldest first.
func (l *logbook) find(message string) (found []line) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, one := range l.lines {
		if one.message == message {
			found = append(found, one)
		}
	}
	return found
}
