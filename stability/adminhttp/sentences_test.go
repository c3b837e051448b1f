package adminhttp_test

import (
	"context"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/adminhttp"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// seen is what the harness sees of an instance from outside.
type seen struct {
	other  *place        // the second instance, if there is one
	device *wasim.Device // that was paired
	typed  string        // the code to type into the phone
	calls  atomic.Int64  // of the backend
	took   atomic.Int64  // messages, by the host's handler

	mu       sync.Mutex
	dials    []time.Time
	asked    time.Time // for the lock, last
	granted  time.Time // the lock, last
	released time.Time // the lock, last
	blocked  time.Time // the handler began to wait, last
	cut      time.Time // this side closed a connection, last
}

func (s *seen) note(at *time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	*at = time.Now()
}

func (s *seen) at(at *time.Time) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return *at
}

// watched notes when a transport is dialed.
func (s *seen) watched(t *http.Transport) *http.Transport {
	dial := t.DialContext
	t.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		s.mu.Lock()
		s.dials = append(s.dials, time.Now())
		s.mu.Unlock()
		c, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return seenConn{c, s}, nil
	}
	return t
}

type seenConn struct {
	net.Conn
	s *seen
}

func (c seenConn) Close() error {
	c.s.note(&c.s.cut)
	return c.Conn.Close()
}

// since returns the dials behind a moment.
func (s *seen) since(t time.Time) []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.dials, func(at time.Time) bool { return at.After(t) })
	if i < 0 {
		return nil
	}
	return slices.Clone(s.dials[i:])
}

// claim is a sentence, as a regular expression, and how it is checked. The first
// that fits counts. In a state all checks of the first kind come before those of
// the second, and so on; those of one kind come in the order of claims.
type claim struct {
	says  string
	now   func(*truth, []string) // against what is so at that moment
	later func(*truth, []string) // against what happens when nobody does anything
	asked func(*truth, []string) // against what happens when somebody does it
}

// truth is a state that was played, and what was told of it.
type truth struct {
	*place
	t      *testing.T
	name   string
	st     stability.Status
	rec    lock.Record // that the backend has, whatever the instance knows
	logins int
	told   string // the sentence that is checked
}

func (x *truth) phone() *wasim.Device {
	if x.device == nil && x.other != nil {
		return x.other.device
	}
	return x.device
}

func (x *truth) online() bool { d := x.phone(); return d != nil && d.Online() }

func (x *truth) is(ok bool) {
	x.t.Helper()
	require.True(x.t, ok, "%s: not true: %q", x.name, x.told)
}

// same holds where a moment that is told is the real one, to a second.
func (x *truth) same(told, real time.Time, give time.Duration) {
	x.t.Helper()
	require.WithinDuration(x.t, real, told, give, "%s: not true: %q", x.name, x.told)
}

func (x *truth) ago(span string) time.Time { return x.st.At.Add(-x.span(span)) }
func (x *truth) in(span string) time.Time  { return x.st.At.Add(x.span(span)) }

func (x *truth) span(s string) time.Duration {
	d, err := time.ParseDuration(s)
	require.NoError(x.t, err)
	return d
}

func (x *truth) clock(s string) time.Time {
	at, err := time.Parse("15:04:05 UTC on 2 January 2006", s)
	require.NoError(x.t, err)
	return at
}

// until waits for a moment, if it is not over.
func (x *truth) until(at time.Time) { time.Sleep(time.Until(at)) }

// becomes waits for something for at most d.
func (x *truth) becomes(d time.Duration, ok func() bool) {
	x.t.Helper()
	for end := time.Now().Add(d); !ok() && time.Now().Before(end); {
		time.Sleep(100 * time.Millisecond)
	}
	x.is(ok())
}

func (x *truth) lock() lock.Record {
	rec, err := x.memory.Backend().Lock.Load(context.Background())
	require.NoError(x.t, err)
	return rec
}

var sentenceEnd = regexp.MustCompile(`\.( |$)`)

// sentences cuts texts into sentences.
func sentences(texts ...string) (out []string) {
	for _, text := range texts {
		for _, s := range sentenceEnd.Split(text, -1) {
			if s != "" && !slices.Contains(out, s) {
				out = append(out, s)
			}
		}
	}
	return out
}

// checkTruth compares everything that is told with what is so. It returns the
// situations whose claims were checked, and the sentences that it cannot judge.
func checkTruth(t *testing.T, p *place, name string) (in, unknown []string) {
	x := &truth{place: p, t: t, name: name, st: p.m.Status(), rec: lock.Record{}}
	x.rec = x.lock()
	if d := x.phone(); d != nil {
		x.logins = d.Stats().Logins
	}
	in, since, texts := adminhttp.Told(x.st)
	x.told = "since " + since.String()
	checked := 0
	if of := sinceOf[in[len(in)-1]]; of != nil {
		x.same(since, of(x), time.Second)
		checked++
	}
	type check struct {
		told string
		f    func(*truth, []string)
		args []string
	}
	var phases [3][]check
	told := sentences(texts...)
	for i, c := range claims { // in their order: some change what others look at
		told = slices.DeleteFunc(told, func(s string) bool {
			m := patterns[i].FindStringSubmatch(s)
			if m == nil {
				return false
			}
			for n, f := range []func(*truth, []string){c.now, c.later, c.asked} {
				if f != nil {
					phases[n] = append(phases[n], check{s, f, m})
					checked++
				}
			}
			return true
		})
	}
	unknown = told
	for _, phase := range phases {
		for _, c := range phase {
			x.told = c.told
			c.f(x, c.args)
		}
	}
	if checked == 0 {
		in = nil
	}
	return in, unknown
}

var patterns = func() (out []*regexp.Regexp) {
	for _, c := range claims {
		out = append(out, regexp.MustCompile("^(?:"+c.says+")$"))
	}
	return out
}()

// No sentence of a status, or of the page, is false to somebody who knows what
// the service, the backend and the program really do.
func TestNoSentenceOfStatusIsFalse(t *testing.T) {
	told := map[string]bool{}
	var unknown []string
	for _, c := range slices.Concat(states, statesForTruth) {
		t.Run(c.name, func(t *testing.T) {
			for rough := true; rough; {
				bubble(t, func(t *testing.T) {
					p := newPlace(t, c.opts...)
					defer p.stop()
					c.reach(p)
					if rough = p.rough; rough {
						return
					}
					in, what := checkTruth(t, p, c.name)
					for _, s := range in {
						told[s] = true
					}
					for _, s := range what {
						unknown = append(unknown, c.name+": "+s)
					}
					if p.other != nil {
						p.other.stop()
					}
				})
			}
		})
	}
	require.Empty(t, unknown, "say in claims how these are checked, or that they claim nothing:\n%s", strings.Join(unknown, "\n"))
	for _, s := range adminhttp.Situations() {
		if why := unclaimed[s]; why != "" {
			require.False(t, told[s], "%s is checked: it need not be listed", s)
		} else {
			require.True(t, told[s], "no claim of the situation %q is checked", s)
		}
	}
}
