package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/firestoresim"
	"github.com/wastability/wastability/stability/stabilitytest/postgrestest"
)

// The test binary is also the child that the loop check starts.
func TestMain(m *testing.M) {
	if os.Getenv(envChild) != "" {
		os.Exit(child(context.Background()))
	}
	_ = flag.Set("test.parallel", "4") // unless the command line says another: they wait most of the time
	os.Exit(postgrestest.Main(firestoresim.Main(m)).Run())
}

// verify runs the checks on p and returns what they said.
func verify(t *testing.T, p parts) *report {
	t.Helper()
	r := &report{out: new(bytes.Buffer)}
	if p.backend == "" {
		p.backend = "memory"
	}
	all(t.Context(), r, p)
	return r
}

// each runs f for every name at the same time: the checks wait more than they
// work, so the number of cores must not limit them.
func each[T any](t *testing.T, cases map[string]T, f func(c T) func(t *testing.T)) {
	judge := make(map[string]func(*testing.T), len(cases))
	var mu sync.Mutex
	var wg sync.WaitGroup
	for name, c := range cases {
		wg.Go(func() {
			verdict := f(c)
			mu.Lock()
			defer mu.Unlock()
			judge[name] = verdict
		})
	}
	wg.Wait()
	for name, verdict := range judge {
		t.Run(name, verdict)
	}
}

func TestEveryDefinitionOfDoneHoldsOnFirestore(t *testing.T) {
	t.Parallel()
	// For the whole process, so that this can wait together with the others,
	// which use neither.
	require.NoError(t, os.Setenv(emulatorHost, firestoresim.NeedEmulator(t).Addr()))
	require.NoError(t, os.Setenv(projectName, "demo-verify"))
	var out bytes.Buffer
	r := &report{out: &out}
	all(t.Context(), r, parts{backend: "firestore"})
	require.Zero(t, r.summary(), out.String())
	require.Greater(t, r.passed, 50)
}

func TestEveryDefinitionOfDoneHoldsOnPostgres(t *testing.T) {
	t.Parallel()
	require.NoError(t, os.Setenv(databaseURL, postgrestest.Need(t).DSN())) // no other test reads it
	var out bytes.Buffer
	r := &report{out: &out}
	all(t.Context(), r, parts{backend: "postgres"})
	require.Zero(t, r.summary(), out.String())
	require.Greater(t, r.passed, 50)
}

func TestEveryDefinitionOfDoneHolds(t *testing.T) {
	t.Parallel()
	each(t, map[string]parts{"local": {backend: "local"}, "memory": {backend: "memory"}}, func(p parts) func(*testing.T) {
		var out bytes.Buffer
		r := &report{out: &out}
		all(t.Context(), r, p)
		return func(t *testing.T) {
			require.Zero(t, r.summary(), out.String())
			require.Greater(t, r.passed, 50)
		}
	})
}

// edit changes an answer of status-now on its way.
func edit(change func(map[string]any)) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if !strings.HasSuffix(req.URL.Path, "status-now") {
				next.ServeHTTP(w, req)
				return
			}
			rec := httptest.NewRecorder()
			next.ServeHTTP(rec, req)
			var d map[string]any
			if rec.Code != http.StatusOK || json.Unmarshal(rec.Body.Bytes(), &d) != nil {
				w.WriteHeader(rec.Code)
				return
			}
			change(d)
			_ = json.NewEncoder(w).Encode(d)
		})
	}
}

// forgetful is a store of incidents that loses one kind of call.
type forgetful struct {
	guard.IncidentStore
	raise, refresh, resolve bool
	seen                    map[string]bool
}

func (f *forgetful) Raise(ctx context.Context, inc guard.Incident) (guard.Incident, bool, error) {
	if f.seen[inc.ID] && f.refresh {
		return inc, false, nil
	}
	f.seen[inc.ID] = true
	if f.raise {
		inc.Instructions, inc.Runbook = "", ""
	}
	return f.IncidentStore.Raise(ctx, inc)
}

func (f *forgetful) Resolve(ctx context.Context, id string, at time.Time) (bool, error) {
	if f.resolve {
		return false, context.DeadlineExceeded
	}
	return f.IncidentStore.Resolve(ctx, id, at)
}

func losing(f forgetful) func(guard.IncidentStore) guard.IncidentStore {
	return func(s guard.IncidentStore) guard.IncidentStore {
		f.IncidentStore, f.seen = s, map[string]bool{}
		return &f
	}
}

func TestABrokenPartMakesItsCheckFail(t *testing.T) {
	t.Parallel()
	wa := func(d map[string]any) map[string]any { return d["wa"].(map[string]any) }
	type broken struct {
		parts parts
		fails string
	}
	each(t, map[string]broken{
		"a field is missing": {
			parts{only: "DoD-WA-1", wrap: edit(func(d map[string]any) { delete(wa(d), "leaseEpoch") })},
			"DoD-WA-1: wa has every field",
		},
		"a part is missing": {
			parts{only: "DoD-WA-1", wrap: edit(func(d map[string]any) { delete(d, "probes") })},
			"DoD-WA-1: the answer has every field",
		},
		"the token is not asked for": {
			parts{only: "DoD-WA-1", wrap: func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.Header.Get("X-Admin-Token") == "wrong-token-wrong-token" {
						_, _ = io.WriteString(w, "{}")
						return
					}
					next.ServeHTTP(w, r)
				})
			}},
			"DoD-WA-1: a wrong token is refused",
		},
		"delays do not grow": {
			parts{only: "DoD-WA-2", options: []stability.Option{stability.WithReconnect(reconnect.Policy{
				// Long enough to be seen between two looks on a busy machine.
				InitialDelay: 400 * time.Millisecond, MaxDelay: 400 * time.Millisecond, StableAfter: time.Second,
			})}},
			"DoD-WA-2: retry 2 waits 800ms ±20 %",
		},
		"status shows another time than the log": {
			parts{only: "DoD-WA-2", wrap: edit(func(d map[string]any) { wa(d)["nextRetryAt"] = "2001-01-01T00:00:00.000Z" })},
			"DoD-WA-2: retry 1 waits 400ms ±20 %",
		},
		"a timer runs although nothing may be tried": {
			parts{only: "DoD-WA-3", wrap: edit(func(d map[string]any) { wa(d)["nextRetryAt"] = "2001-01-01T00:00:00.000Z" })},
			"DoD-WA-3: no timer: nextRetryAt is null",
		},
		"the incident does not say what to do": {
			parts{only: "DoD-WA-3", store: losing(forgetful{raise: true})},
			"DoD-WA-3: with instructions and a runbook",
		},
		"nobody watches for long outages": {
			parts{only: "DoD-WA-4", options: []stability.Option{stability.WithGuard(guard.Policy{StuckAfter: time.Hour})}},
			"DoD-WA-4: the first outage raises wa_disconnect_stuck_active",
		},
		"the incident is raised too early": {
			parts{only: "DoD-WA-4", options: []stability.Option{stability.WithGuard(guard.Policy{StuckAfter: 100 * time.Millisecond, Refresh: care.Refresh, ClearAfter: care.ClearAfter})}},
			"DoD-WA-4: not before its time",
		},
		"the incident is not refreshed": {
			parts{only: "DoD-WA-4", options: []stability.Option{stability.WithGuard(guard.Policy{StuckAfter: care.StuckAfter, Refresh: time.Hour, ClearAfter: care.ClearAfter})}},
			"DoD-WA-4: lastCheckedAt moves with every refresh",
		},
		"the incident is never resolved": {
			parts{only: "DoD-WA-4", store: losing(forgetful{resolve: true})},
			"DoD-WA-4: it is resolved on return",
		},
		"the process goes on in its loop": {
			parts{only: "DoD-WA-5", env: []string{envBroken + "=exit"}},
			"DoD-WA-5: after ten attempts in ten minutes it ends by itself",
		},
		"the incident of the loop is not stored": {
			parts{only: "DoD-WA-5", env: []string{envBroken + "=incident"}},
			"DoD-WA-5: the incident is stored",
		},
	}, func(c broken) func(*testing.T) {
		r := verify(t, c.parts)
		return func(t *testing.T) {
			require.Contains(t, r.broken, c.fails, r.out)
			require.NotZero(t, r.summary())
		}
	})
}

// The first looks take longer than a retry is planned for.
func TestCheckThatCameTooLateBeginsAnew(t *testing.T) {
	t.Parallel()
	const late = 3
	var looks atomic.Int32
	r := verify(t, parts{only: "DoD-WA-2", wrap: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if strings.HasSuffix(req.URL.Path, "status-now") && looks.Add(1) <= late {
				time.Sleep(2 * policy.InitialDelay)
			}
			next.ServeHTTP(w, req)
		})
	}})
	require.Empty(t, r.broken, r.out)
	require.Greater(t, looks.Load(), int32(late))
}

func TestTheReadOnlyPartChecksARunningService(t *testing.T) {
	s, err := open(t.Context(), parts{backend: "memory"})
	require.NoError(t, err)
	defer s.close()
	r := &report{out: io.Discard}
	remote(t.Context(), r, s.url, s.token)
	require.Empty(t, r.broken)
	require.Greater(t, r.passed, 5)

	r = &report{out: io.Discard}
	remote(t.Context(), r, s.url, "not-the-token-of-it")
	require.Equal(t, []string{"DoD-WA-1: it answers"}, r.broken)
}

func TestNothingCheckedIsNotSuccess(t *testing.T) {
	require.Equal(t, 1, (&report{out: io.Discard}).summary())
}

func TestTheSummaryHasALineForEachPartAndOneForAll(t *testing.T) {
	var out bytes.Buffer
	r := &report{out: &out}
	r.begin("DoD-WA-1", "one")
	r.check("this", true, "")
	r.begin("DoD-WA-2", "two")
	r.check("this", true, "")
	require.Zero(t, r.summary())
	require.True(t, strings.HasSuffix(out.String(), "\n\nDoD-WA-1: ✅ PASS\nDoD-WA-2: ✅ PASS\nAll: ✅ PASS (2 checks, 2 passed, 0 failed)\n"), out.String())

	r.check("that", false, "")
	r.begin("DoD-WA-3", "begun, and nothing was checked")
	require.Equal(t, 1, r.summary())
	require.True(t, strings.HasSuffix(out.String(), "\n\nDoD-WA-1: ✅ PASS\nDoD-WA-2: ❌ FAIL\nDoD-WA-3: ❌ FAIL\nAll: ❌ FAIL (3 checks, 2 passed, 1 failed)\n"), out.String())
}
