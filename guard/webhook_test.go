package guard_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
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

func TestWebhookTellsEachChangeOnceAndEndsItsGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, r, log := hook(t)
		w.Notify(opened(guard.TypeLoggedOut))
		synctest.Wait()
		w.Notify(resolved(guard.TypeLoggedOut))
		time.Sleep(time.Hour)
		require.Equal(t, []string{"wa_logged_out_requires_pairing opened", "wa_logged_out_requires_pairing resolved"}, r.told())
		require.Equal(t, 2, r.count())
		require.NotEqual(t, r.bodies()[0].Delivery, r.bodies()[1].Delivery)
		require.Empty(t, log.String(), "nothing to say about what works")
		// The bubble would not end with the goroutine left: no Close needed.
	})
}

func TestWebhookBodyIsAsDocumented(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, r, _ := hook(t)
		w.Notify(opened(guard.TypeLoggedOut))
		synctest.Wait()
		body := r.bodies()[0]
		body.Delivery = "x"
		got, err := json.Marshal(body)
		require.NoError(t, err)
		require.JSONEq(t, `{"version":1,"delivery":"x","change":"opened","at":"2000-01-01T00:00:00.000Z","instance":"wa-1",
			"summary":"wa_logged_out_requires_pairing opened. Pair again.",
			"incident":{"id":"wa_logged_out_requires_pairing_active","type":"wa_logged_out_requires_pairing","active":true,
				"detectedAt":"2000-01-01T00:00:00.000Z","firstDetectedAt":"2000-01-01T00:00:00.000Z",
				"lastCheckedAt":"2000-01-01T00:00:00.000Z","resolvedAt":null,"evidence":{"reason":"logged_out"}},
			"instructions":"Pair again.","runbook":"- scan"}`, string(got))
	})
}

func TestAfterAnHourWithoutAReceiverTheOperatorGetsThePresentStateOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, r, log := hook(t)
		w.Notify(opened(guard.TypeStoreUnavailable))
		synctest.Wait()
		r.set(unreachable)
		began := time.Now()
		for n := range 600 { // flapping, six times a minute
			start := time.Now()
			for _, typ := range []guard.Type{guard.TypeLockFlapping, guard.TypeDegraded} {
				w.Notify(opened(typ))
				w.Notify(resolved(typ))
			}
			w.Notify(opened(guard.TypeLoggedOut))
			w.Notify(resolved(guard.TypeLoggedOut))
			w.Notify(opened(guard.TypeLoggedOut))
			if n == 3 {
				w.Notify(resolved(guard.TypeStoreUnavailable))
			}
			require.Zero(t, time.Since(start), "Notify does not wait")
			require.LessOrEqual(t, w.Queued(), 4, "nothing piles up")
			time.Sleep(6 * time.Second)
		}
		failed := r.count() - 1
		require.Less(t, failed, 90, "with growing pauses, up to a minute")
		require.Greater(t, failed, 55, "and it goes on trying")
		require.Len(t, r.told(), 1)
		r.set(nil)
		time.Sleep(80 * time.Second)
		require.ElementsMatch(t, []string{
			"wa_store_unavailable opened", // an hour ago
			"wa_logged_out_requires_pairing opened", "wa_store_unavailable resolved",
		}, r.told(), "what opened and was resolved unheard of is left out")
		require.Greater(t, time.Since(began), time.Hour)
		time.Sleep(time.Hour)
		require.Len(t, r.told(), 3)
		require.Equal(t, 1, strings.Count(log.String(), "trying again until it does"), "one line for all of it")
		require.Equal(t, 1, strings.Count(log.String(), "takes incidents again"))
	})
}

func TestAWebhookThatCannotBeReachedKeepsOneSlotPerIncident(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, r, _ := hook(t)
		r.set(unreachable)
		for range 10_000 {
			w.Notify(opened(guard.TypeLoggedOut))
			w.Notify(opened(guard.TypeDegraded))
		}
		require.Equal(t, 2, w.Queued())
		for n := range 10_000 {
			w.Notify(opened(guard.Type(fmt.Sprint("made up ", n))))
		}
		require.Equal(t, 256, w.Queued(), "whoever makes up the ids")
	})
}

func TestAResolvedIncidentIsToldUnlessNobodyCanKnowOfIt(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer func(int) (int, error)
		want   []string
	}{
		{"the opening could not be sent", unreachable, nil},
		{"the opening was refused for now", always(503), nil},
		{"the answer to the opening was lost", func(int) (int, error) { return 0, errors.New("unexpected EOF") }, []string{"wa_degraded resolved"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, r, _ := hook(t)
				r.set(c.answer)
				w.Notify(opened(guard.TypeDegraded))
				time.Sleep(time.Minute)
				w.Notify(resolved(guard.TypeDegraded))
				r.set(nil)
				time.Sleep(5 * time.Minute)
				require.Equal(t, c.want, r.told())
			})
		})
	}
	t.Run("another instance told of the opening", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, r, _ := hook(t)
			w.Notify(resolved(guard.TypeDegraded))
			synctest.Wait()
			require.Equal(t, []string{"wa_degraded resolved"}, r.told())
		})
	})
	t.Run("it is resolved while the opening is on its way", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			for _, code := range []int{204, 503} {
				w, r, _ := hook(t)
				r.takes(5 * time.Second)
				r.set(func(n int) (int, error) {
					if n == 1 {
						return code, nil
					}
					return 204, nil
				})
				w.Notify(opened(guard.TypeDegraded))
				synctest.Wait()
				w.Notify(resolved(guard.TypeDegraded))
				time.Sleep(time.Minute)
				if code == 204 {
					require.Equal(t, []string{"wa_degraded opened", "wa_degraded resolved"}, r.told())
				} else {
					require.Empty(t, r.told())
				}
			}
		})
	})
}

func TestARepeatedAttemptIsTheSameDelivery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, r, _ := hook(t)
		r.set(func(n int) (int, error) {
			if n < 4 {
				return 500, nil
			}
			return 200, nil
		})
		w.Notify(opened(guard.TypeDegraded))
		time.Sleep(time.Minute)
		require.Len(t, r.bodies(), 1)
		require.Equal(t, 4, r.count())
		first := r.deliveries()
		require.Equal(t, slices.Repeat(first[:1], 4), first)
		w.Notify(resolved(guard.TypeDegraded))
		time.Sleep(time.Minute)
		require.NotEqual(t, first[0], r.deliveries()[4], "another change is another delivery")
		for i, want := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second} {
			require.InEpsilon(t, want, r.attempts()[i+1].Sub(r.attempts()[i]), 0.21)
		}
	})
}

// One bad hour does not slow down what comes after it.
func TestPausesAreShortAgainAfterADelivery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, r, _ := hook(t)
		r.set(unreachable)
		w.Notify(opened(guard.TypeDegraded))
		w.Notify(opened(guard.TypeLoggedOut))
		time.Sleep(time.Hour)
		before := r.count()
		r.set(func(n int) (int, error) { // delivered, refused, delivered
			if n == before+2 {
				return 500, nil
			}
			return 204, nil
		})
		time.Sleep(5 * time.Minute)
		require.Len(t, r.told(), 2)
		require.LessOrEqual(t, r.attempts()[before+2].Sub(r.attempts()[before+1]), 1200*time.Millisecond)
	})
}

func TestAPermanentAnswerIsLoggedOnceAndNotTriedAgain(t *testing.T) {
	for _, code := range []int{301, 307, 400, 401, 403, 404, 410, 422} {
		synctest.Test(t, func(t *testing.T) {
			w, r, log := hook(t)
			r.header = http.Header{"Location": {"https://example.org/elsewhere"}}
			r.set(always(code))
			w.Notify(opened(guard.TypeDegraded))
			time.Sleep(24 * time.Hour)
			require.Equal(t, 1, r.count(), "code %d", code)
			require.Equal(t, 1, strings.Count(log.String(), "\n"))
			require.Contains(t, log.String(), fmt.Sprint(code))
		})
	}
	for _, code := range []int{408, 425, 429, 500, 502, 503} {
		synctest.Test(t, func(t *testing.T) {
			w, r, _ := hook(t)
			r.set(always(code))
			w.Notify(opened(guard.TypeDegraded))
			time.Sleep(time.Hour)
			require.Greater(t, r.count(), 50, "code %d", code)
		})
	}
}

func TestOneIncidentThatIsRefusedDoesNotHoldUpTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, r, _ := hook(t)
		r.set(func(n int) (int, error) {
			if n == 1 {
				return 500, nil
			}
			return 204, nil
		})
		r.takes(time.Second) // so that both wait when the first is refused
		w.Notify(opened(guard.TypeDegraded))
		w.Notify(opened(guard.TypeLoggedOut))
		time.Sleep(time.Minute)
		require.Equal(t, []string{"wa_logged_out_requires_pairing opened", "wa_degraded opened"}, r.told())
	})
}

func TestRetryAfterIsRespectedUpToTheLongestPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, r, _ := hook(t)
		r.set(func(n int) (int, error) { return map[bool]int{true: 429, false: 204}[n <= 2], nil })
		r.header = http.Header{"Retry-After": {"30"}}
		w.Notify(opened(guard.TypeDegraded))
		time.Sleep(10 * time.Second)
		r.mu.Lock()
		r.header = http.Header{"Retry-After": {"99999999999999999999"}}
		r.mu.Unlock()
		time.Sleep(5 * time.Minute)
		require.Equal(t, 3, r.count())
		require.Equal(t, 30*time.Second, r.attempts()[1].Sub(r.attempts()[0]))
		require.LessOrEqual(t, r.attempts()[2].Sub(r.attempts()[1]), time.Minute)
	})
}

func TestAnAttemptEndsAfterTenSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, r, log := hook(t)
		r.takes(time.Hour)
		w.Notify(opened(guard.TypeDegraded))
		time.Sleep(12 * time.Second)
		require.Equal(t, 2, r.count())
		require.Contains(t, log.String(), "deadline exceeded")
	})
}

func TestCloseWaitsForTheAttemptInFlightAndNoLongerThanItsTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, r, _ := hook(t)
		r.takes(3 * time.Second)
		w.Notify(opened(guard.TypeDegraded))
		w.Notify(opened(guard.TypeLoggedOut))
		start := time.Now()
		require.NoError(t, w.Close())
		require.Equal(t, 6*time.Second, time.Since(start))
		require.Len(t, r.told(), 2, "what was not tried yet is tried once")
		w.Notify(opened(guard.TypeDegraded))
		require.Zero(t, w.Queued())

		w, r, log := hook(t)
		r.takes(time.Hour)
		w.Notify(opened(guard.TypeDegraded))
		w.Notify(opened(guard.TypeLoggedOut))
		synctest.Wait()
		start = time.Now()
		require.NoError(t, w.Close())
		require.LessOrEqual(t, time.Since(start), 10*time.Second)
		require.Equal(t, 1, r.count())
		require.Contains(t, log.String(), "count=2")

		w, r, _ = hook(t)
		r.takes(9 * time.Second) // each in time, and together too long
		w.Notify(opened(guard.TypeDegraded))
		w.Notify(opened(guard.TypeLoggedOut))
		w.Notify(opened(guard.TypeReconnectLoop))
		start = time.Now()
		require.NoError(t, w.Close())
		require.Equal(t, 10*time.Second, time.Since(start))

		w, r, _ = hook(t)
		r.set(unreachable)
		w.Notify(opened(guard.TypeDegraded))
		time.Sleep(10 * time.Minute)
		start = time.Now()
		require.NoError(t, w.Close())
		require.Zero(t, time.Since(start), "a pause is not waited out")
		require.NoError(t, w.Close(), "twice is once")
	})
}

func TestFlushWaitsUntilEverythingIsDelivered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, r, _ := hook(t)
		require.NoError(t, w.Flush(t.Context()))
		r.takes(time.Second)
		w.Notify(opened(guard.TypeReconnectLoop))
		require.NoError(t, w.Flush(t.Context()))
		require.Len(t, r.told(), 1)
		r.set(unreachable)
		w.Notify(resolved(guard.TypeReconnectLoop))
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		require.ErrorIs(t, w.Flush(ctx), context.DeadlineExceeded)
	})
}

func TestWebhookOverARealServer(t *testing.T) {
	bodies := make(chan []byte, 1)
	elsewhere := make(chan struct{}, 1)
	mux := http.NewServeMux()
	mux.HandleFunc("/hook", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if err := guard.VerifyWebhook(hookSecret, r.Header, body, time.Minute); err != nil {
			http.Error(w, err.Error(), http.StatusUnauthorized)
			return
		}
		user, password, _ := r.BasicAuth()
		if user != "u" || password != "p" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		bodies <- body
	})
	mux.Handle("/moved", http.RedirectHandler("/elsewhere", http.StatusTemporaryRedirect))
	mux.HandleFunc("/elsewhere", func(http.ResponseWriter, *http.Request) { elsewhere <- struct{}{} })
	server := httptest.NewServer(mux)
	defer server.Close()
	base := strings.Replace(server.URL, "http://", "http://u:p@", 1)

	w, err := guard.NewWebhook(base+"/hook", guard.WithWebhookSecret(hookSecret))
	require.NoError(t, err)
	w.Notify(opened(guard.TypeLoggedOut))
	require.NoError(t, w.Close())
	require.Contains(t, string(<-bodies), `"wa_logged_out_requires_pairing_active"`)

	log := &safeBuffer{}
	w, err = guard.NewWebhook(base+"/moved", guard.WithWebhookSecret(hookSecret), guard.WithWebhookLogger(slog.New(slog.NewTextHandler(log, nil))))
	require.NoError(t, err)
	w.Notify(opened(guard.TypeLoggedOut))
	require.NoError(t, w.Close())
	require.Empty(t, elsewhere, "a redirect is not followed")
	require.Contains(t, log.String(), "307")
}

func TestVerifyWebhookTrustsNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var header http.Header
		var body []byte
		w, err := guard.NewWebhook("https://example.com", guard.WithWebhookSecret(hookSecret), guard.WithWebhookTransport(roundTrip(func(r *http.Request) (*http.Response, error) {
			header = r.Header.Clone()
			body, _ = io.ReadAll(r.Body)
			return httptest.NewRecorder().Result(), nil
		})))
		require.NoError(t, err)
		w.Notify(opened(guard.TypeDegraded))
		require.NoError(t, w.Close())
		require.NoError(t, guard.VerifyWebhook(hookSecret, header, body, 0))

		bad := func(secret string, header http.Header, body []byte, maxAge time.Duration) {
			t.Helper()
			require.ErrorIs(t, guard.VerifyWebhook(secret, header, body, maxAge), guard.ErrWebhookSignature)
		}
		bad("another secret, long enough", header, body, 0)
		bad("", header, body, 0)
		bad(hookSecret, header, append([]byte(" "), body...), 0)
		bad(hookSecret, http.Header{}, body, 0)
		for _, stamp := range []string{"", "x", "-1", "99999999999999999999", "9223372036854775807"} {
			h := header.Clone()
			h.Set(guard.HeaderTimestamp, stamp)
			bad(hookSecret, h, body, 0)
		}
		time.Sleep(time.Minute)
		bad(hookSecret, header, body, 30*time.Second)
		require.NoError(t, guard.VerifyWebhook(hookSecret, header, body, 0))
		time.Sleep(time.Hour)
		bad(hookSecret, header, body, 0)
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestAWrongWebhookSettingIsAnErrorThatSaysWhatToDoAndNoSecret(t *testing.T) {
	for name, c := range map[string]struct {
		url  string
		opts []guard.WebhookOption
		want string
	}{
		"no URL":        {url: "", want: "absolute http or https"},
		"relative":      {url: "/hook", want: "absolute http or https"},
		"scheme":        {url: "ftp://example.com/s3cr3t", want: "absolute http or https"},
		"file":          {url: "file:///etc/s3cr3t", want: "absolute http or https"},
		"no host":       {url: "https:///s3cr3t", want: "absolute http or https"},
		"not a URL":     {url: "https://u:s3cr3t@exa mple.com", want: "does not parse"},
		"short secret":  {url: "https://example.com", opts: []guard.WebhookOption{guard.WithWebhookSecret("s3cr3t")}, want: "16 bytes"},
		"negative":      {url: "https://example.com", opts: []guard.WebhookOption{guard.WithWebhookTimeout(-1)}, want: "WithWebhookTimeout"},
		"backoff":       {url: "https://example.com", opts: []guard.WebhookOption{guard.WithWebhookBackoff(time.Hour, time.Second)}, want: "WithWebhookBackoff"},
		"nil logger":    {url: "https://example.com", opts: []guard.WebhookOption{guard.WithWebhookLogger(nil)}, want: "slog.Default()"},
		"nil transport": {url: "https://example.com", opts: []guard.WebhookOption{guard.WithWebhookTransport(nil)}, want: "WithWebhookTransport(nil)"},
		"nil option":    {url: "https://example.com", opts: []guard.WebhookOption{nil}, want: "nil WebhookOption"},
	} {
		_, err := guard.NewWebhook(c.url, c.opts...)
		require.ErrorContains(t, err, c.want, name)
		require.NotContains(t, err.Error(), "s3cr3t", name)
	}
}

func TestSlogSinkWritesOneLinePerChangeWithoutFreeText(t *testing.T) {
	var buf bytes.Buffer
	s := guard.NewSlogSink(slog.New(slog.NewTextHandler(&buf, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})))
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	n := guard.Notification{Change: guard.ChangeOpened, At: at, Incident: guard.Incident{
		ID: "wa_temporary_ban_active", Type: guard.TypeTemporaryBan, Active: true, InstanceID: "wa-1", DetectedAt: at,
		Evidence: map[string]string{"reason": "temporary_ban", "code": "101", "detail": "about 491520000001"}, Instructions: "Wait.",
	}}
	s.Notify(n)
	n.Change, n.At = guard.ChangeResolved, at.Add(time.Hour)
	s.Notify(n)
	require.Equal(t, "level=WARN msg=\"incident opened\" incident=wa_temporary_ban_active type=wa_temporary_ban instance=wa-1 detectedAt=2026-01-02T03:04:05.000Z reason=temporary_ban code=101 instructions=Wait.\n"+
		"level=INFO msg=\"incident resolved\" incident=wa_temporary_ban_active type=wa_temporary_ban instance=wa-1 detectedAt=2026-01-02T03:04:05.000Z lasted=1h0m0s reason=temporary_ban code=101\n", buf.String())
	guard.NewSlogSink(nil).Notify(guard.Notification{})
}

// traced is what tracing and mocks put around the default transport.
type traced struct{ http.RoundTripper }

func TestWebhookUsesAWrappedDefaultTransport(t *testing.T) {
	heard := make(chan *http.Request, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { heard <- r }))
	defer srv.Close()
	def := http.DefaultTransport
	defer func() { http.DefaultTransport = def }()
	own := &http.Transport{DisableKeepAlives: true}
	http.DefaultTransport = traced{own}

	w, err := guard.NewWebhook(srv.URL)
	require.NoError(t, err)
	w.Notify(guard.Notification{Change: guard.ChangeOpened, Incident: guard.Incident{ID: "x"}})
	require.Equal(t, "POST", (<-heard).Method)
	require.NoError(t, w.Flush(t.Context()))
	require.NoError(t, w.Close())
}
