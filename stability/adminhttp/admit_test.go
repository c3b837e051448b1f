package adminhttp_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/adminhttp"
)

// from is a request from an address, with a token.
func (p *place) from(remote, tok string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("GET", "/api/longrun/status-now", nil)
	r.RemoteAddr = remote
	r.Header.Set(adminhttp.TokenHeader, tok)
	w := httptest.NewRecorder()
	p.h.ServeHTTP(w, r)
	return w
}

// Tokens are changed without an interruption: the old one and the new one are
// both good for a while.
func TestEachTokenLetsIn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPlace(t)
		const next = "fedcba9876543210"
		h, err := adminhttp.New(p.m, adminhttp.WithToken(token), adminhttp.WithToken(next))
		require.NoError(t, err)
		p.h = h
		require.Equal(t, 200, p.from("192.0.2.1:1", token).Code)
		require.Equal(t, 200, p.from("192.0.2.1:1", next).Code)
		require.Equal(t, 401, p.from("192.0.2.1:1", token+next).Code)
	})
}

func TestOneCustomersNetworkIsOneAddress(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPlace(t)
		for n := range 10 {
			require.Equal(t, 401, p.from(fmt.Sprintf("[2001:db8:1:2::%x]:1", n), "guess").Code)
			require.Equal(t, 401, p.from("192.0.2.1:1", "guess").Code)
		}
		require.Equal(t, 429, p.from("[2001:db8:1:2:ffff::1]:1", "guess").Code)
		require.Equal(t, 401, p.from("[2001:db8:1:3::1]:1", "guess").Code, "another customer")
		require.Equal(t, 429, p.from("[::ffff:192.0.2.1]:1", "guess").Code, "the same address, written as IPv6")
		require.Equal(t, 401, p.from("[::ffff:192.0.2.2]:1", "guess").Code)
	})
}

// Whoever can send from very many addresses does not get a budget anew by
// filling the memory with them.
func TestAddressesAreForgottenOnlyWhenTheirBudgetIsFull(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPlace(t)
		const eve = "192.0.2.1:1"
		for range 10 {
			require.Equal(t, 401, p.from(eve, "guess").Code)
		}
		for n := range 1024 {
			p.from(fmt.Sprintf("10.1.%d.%d:1", n/256, n%256), "guess")
		}
		require.Equal(t, 1024, p.h.Remembered())
		time.Sleep(7 * time.Second)
		p.from("10.2.0.1:1", "guess")
		require.Equal(t, 401, p.from(eve, "guess").Code, "one more after six seconds")
		require.Equal(t, 429, p.from(eve, "guess").Code, "and no ten")
		time.Sleep(time.Minute + time.Second)
		p.from("10.2.0.2:1", "guess")
		require.Less(t, p.h.Remembered(), 1024)
	})
}

// Numbers come from errors of a backend, from what another version saved, and
// from what was seen when an incident began.
func TestPhoneNumbersAreMaskedInEveryText(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPlace(t)
		const number = "491520000002"
		b := p.memory.Backend()
		rec, granted, err := b.Lock.Acquire(t.Context(), "before", "once", time.Minute)
		require.NoError(t, err)
		require.True(t, granted)
		require.NoError(t, b.State.Save(t.Context(), rec.Epoch, reconnect.State{
			Status: reconnect.StatusDisconnected, LastDisconnectAt: time.Now(), DisconnectedSince: time.Now(),
			LastDisconnectReason: reconnect.ReasonBadSession, LastDisconnectDetail: "last of " + number,
			FirstDisconnectReason: reconnect.ReasonBadSession, FirstDisconnectDetail: "first of " + number,
		}))
		_, _, err = b.Incidents.Raise(t.Context(), guard.Incident{
			ID: guard.TypeDegraded.ActiveID(), Type: guard.TypeDegraded, DetectedAt: time.Now(),
			Evidence: map[string]string{"detail": "evidence of " + number}, Instructions: "ask " + number + "-1400000000@g.us", Runbook: "call " + number,
		})
		require.NoError(t, err)
		require.NoError(t, b.Lock.Release(t.Context(), rec))
		ok, err := p.m.TryActivate(t.Context())
		require.NoError(t, err)
		require.True(t, ok)
		time.Sleep(time.Second) // the incidents are listed meanwhile

		open, err := adminhttp.New(p.m, adminhttp.WithToken(token), adminhttp.WithPhoneNumbers())
		require.NoError(t, err)
		masked := p.h
		told := func(path string, texts ...string) {
			t.Helper()
			p.h = open
			body := p.get(path).Body.String()
			for _, text := range texts {
				require.Contains(t, body, text+" "+number, "it is there to be masked")
			}
			p.h = masked
			body = p.get(path).Body.String()
			require.NotContains(t, body, number)
			for _, text := range texts {
				require.Contains(t, body, text+" **********02")
			}
		}
		told("/api/longrun/status-now", "last of", "first of")
		told("/api/longrun/incidents", "evidence of", "ask", "call")
		p.h = open // what needs no token tells what the service said to nobody
		require.NotContains(t, p.get("/ready").Body.String(), "last of")

		p.said = " to " + number
		p.broken.Store(true)
		p.await(func(st stability.Status) bool { return st.Heartbeats.Failures > 0 && st.StoreUnavailable != nil })
		told("/api/longrun/status-now", "backend to")
		p.h = open
		require.NotContains(t, p.get("/ready").Body.String(), "backend to")
	})
}

// gone is a POST whose caller has hung up.
func (p *place) gone(path, body string) *httptest.ResponseRecorder {
	ctx, cancel := context.WithCancel(p.t.Context())
	cancel()
	r := httptest.NewRequest("POST", path, strings.NewReader(body)).WithContext(ctx)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set(adminhttp.TokenHeader, token)
	w := httptest.NewRecorder()
	p.h.ServeHTTP(w, r)
	return w
}

// A change that was begun is finished: half a logout, or half a purge, helps
// nobody.
func TestAChangeGoesOnWhenItsCallerHasGone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newLocalPlace(t).run().pair()
		p.stop()
		require.Positive(t, p.damage("contact", "identity"))
		p.make()
		p.run()
		p.await(func(st stability.Status) bool { return st.WA == reconnect.StatusConnected })
		time.Sleep(time.Minute)
		require.NotEmpty(t, p.answer(p.get(aside), 200)["rows"])
		p.answer(p.gone(purgeRows, `{"confirm":"purge-rows"}`), 200)
		require.Empty(t, p.answer(p.get(aside), 200)["rows"])

		p.logOut()
		p.answer(p.gone(restore, ""), 200)
		p.await(func(st stability.Status) bool { return st.WA == reconnect.StatusConnected })
		require.Empty(t, p.answer(p.get(aside), 200)["devices"])

		p.answer(p.gone("/api/whatsapp/logout", ""), 200)
		require.Empty(t, p.account.Devices(), "the phone does not list it any more")
		p.await(func(st stability.Status) bool { return st.WA == reconnect.StatusNeedsPairing })
	})
}

func TestTheOldestRowsAreListedAndAllAreCounted(t *testing.T) {
	h, err := adminhttp.New(spoiled(t, 203), adminhttp.WithToken(token))
	require.NoError(t, err)
	p := &place{t: t, h: h}
	doc := p.answer(p.get(aside), 200)
	require.Len(t, doc["rows"], 200)
	require.EqualValues(t, 203, doc["rowCount"])
	require.Contains(t, doc["summary"], "203 rows")
}
