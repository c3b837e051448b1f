package guard_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/guard"
)

const hookSecret = "correct horse battery staple"

// receiver is the other side of a webhook, in memory. It verifies what comes.
type receiver struct {
	t      *testing.T
	mu     sync.Mutex
	answer func(attempt int) (code int, err error)
	header http.Header // of its answers
	tries  int
	at     []time.Time
	got    []guard.WebhookBody // accepted
	ids    []string
	hold   time.Duration // how long an answer takes
}

func (r *receiver) RoundTrip(req *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(req.Body)
	require.NoError(r.t, err)
	require.NoError(r.t, guard.VerifyWebhook(hookSecret, req.Header, body, 0))
	r.mu.Lock()
	r.tries++
	r.at = append(r.at, time.Now())
	r.ids = append(r.ids, req.Header.Get(guard.HeaderDelivery))
	code, answer, hold := http.StatusNoContent, r.answer, r.hold
	attempt := r.tries
	r.mu.Unlock()
	if answer != nil {
		code, err = answer(attempt)
	}
	select {
	case <-time.After(hold):
	case <-req.Context().Done():
		return nil, req.Context().Err()
	}
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if code < 300 {
		var b guard.WebhookBody
		require.NoError(r.t, json.Unmarshal(body, &b))
		require.Equal(r.t, req.Header.Get(guard.HeaderDelivery), b.Delivery)
		r.got = append(r.got, b)
	}
	w := httptest.NewRecorder()
	for name, v := range r.header {
		w.Header()[name] = v
	}
	w.WriteHeader(code)
	return w.Result(), nil
}

func (r *receiver) set(answer func(int) (int, error)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = answer
}

func (r *receiver) takes(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hold = d
}

func (r *receiver) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tries
}

func (r *receiver) attempts() []time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.at)
}

// deliveries are the values of HeaderDelivery, one for each attempt.
func (r *receiver) deliveries() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.ids)
}

func (r *receiver) bodies() []guard.WebhookBody {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.got)
}

// told is what the receiver accepted, in short.
func (r *receiver) told() (out []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, b := range r.got {
		out = append(out, string(b.Incident.Type)+" "+string(b.Change))
	}
	return out
}

func always(code int) func(int) (int, error) { return func(int) (int, error) { return code, nil } }

var errRefused = &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}

func unreachable(int) (int, error) { return 0, errRefused }

// safeBuffer is a log that tells the Webhook something at every line, as a
// host's may: it is written to under no lock.
type safeBuffer struct {
	hook atomic.Pointer[guard.Webhook]
	mu   sync.Mutex
	bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	if w := b.hook.Load(); w != nil {
		w.Notify(guard.Notification{}) // of no incident
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.String()
}

const hookURL = "https://operator:s3cr3t-password@example.com/services/s3cr3t-path?token=s3cr3t-query"

// hook makes a receiver and a Webhook to it, in a bubble.
func hook(t *testing.T, opts ...guard.WebhookOption) (*guard.Webhook, *receiver, *safeBuffer) {
	r, log := &receiver{t: t}, &safeBuffer{}
	w, err := guard.NewWebhook(hookURL, append([]guard.WebhookOption{
		guard.WithWebhookSecret(hookSecret), guard.WithWebhookTransport(r),
		guard.WithWebhookLogger(slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))),
		guard.WithWebhookHeader("Authorization", "Bearer s3cr3t-header"),
	}, opts...)...)
	require.NoError(t, err)
	log.hook.Store(w)
	t.Cleanup(func() {
		require.NoError(t, w.Close())
		require.NotContains(t, log.String(), "s3cr3t", "no credential is logged")
		require.NotContains(t, log.String(), hookSecret)
	})
	return w, r, log
}

func opened(typ guard.Type) guard.Notification {
	now := time.Now()
	return guard.Notification{Change: guard.ChangeOpened, At: now, Incident: guard.Incident{
		ID: typ.ActiveID(), Type: typ, Active: true, InstanceID: "wa-1", DetectedAt: now, FirstDetectedAt: now, LastCheckedAt: now,
		Evidence: map[string]string{"reason": "logged_out"}, Instructions: "Pair again.", Runbook: "- scan",
	}}
}

func resolved(typ guard.Type) guard.Notification {
	n := opened(typ)
	n.Change, n.Incident.Active, n.Incident.ResolvedAt = guard.ChangeResolved, false, n.At
	return n
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// traced is what tracing and mocks put around the default transport.
type traced struct{ http.RoundTripper }
