package guard_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/guard"
)

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
		require.Equal(t, 1, strings.Count(log.String(), "they are sent again until it does"), "one line for all of it")
		require.Equal(t, 1, strings.Count(log.String(), "takes incidents again"))
	})
}

func TestAWebhookThatCannotBeReachedKeepsOneParcelPerIncident(t *testing.T) {
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
