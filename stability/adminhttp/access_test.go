package adminhttp_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/adminhttp"
)

func TestNewWithoutATokenIsAnErrorThatSaysWhatToDo(t *testing.T) {
	bubble(t, func(t *testing.T) {
		m := newPlace(t).m
		for want, opts := range map[string][]adminhttp.Option{
			"no token: pass WithToken":   nil,
			"WithToken: the token has 0": {adminhttp.WithToken("")},
			"fewer than 16":              {adminhttp.WithToken("123456789012345")},
			"control characters":         {adminhttp.WithToken("0123456789abcdef\n")},
			"a nil Option":               {nil},
			"WithPairTimeout(-1ns)":      {adminhttp.WithToken(token), adminhttp.WithPairTimeout(-1)},
		} {
			h, err := adminhttp.New(m, opts...)
			require.ErrorContains(t, err, want)
			require.Nil(t, h)
			require.NotContains(t, err.Error(), "123456789")
		}
		_, err := adminhttp.New(nil, adminhttp.WithToken(token))
		require.ErrorContains(t, err, "the Manager is nil")
	})
}

func TestNothingButThePageHealthAndReadyIsServedWithoutTheToken(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPlace(t).run().pair()
		for _, path := range []string{"/api/longrun/status-now", "/api/longrun/incidents", "/api/whatsapp/qr", "/api/whatsapp/pair", "/api/whatsapp/logout", "/api/whatsapp/reconnect",
			"/api/whatsapp/quarantine", "/api/whatsapp/quarantine/restore-device", "/api/whatsapp/quarantine/purge-device", "/api/whatsapp/quarantine/purge-rows",
			"/api/whatsapp/messages", "/api/whatsapp/messages/redeliver", "/api/whatsapp/messages/purge",
			"/set-aside", "/do", "/events", "/sign-out", "/~x/",
			"/api", "/health/", "/ready/x", "//health", "/../health", "/index.html"} {
			for _, method := range []string{"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "CONNECT", "X"} {
				for _, header := range []string{"", "wrong", token + "x", token[1:]} {
					w := p.req(method, path, "{}", adminhttp.TokenHeader, header)
					require.Contains(t, []int{401, 429}, w.Code, "%s %s", method, path)
				}
			}
		}
		require.Equal(t, reconnect.StatusConnected, p.m.Status().WA)
		for _, path := range []string{"/", "/health", "/ready"} {
			body := p.get(path, adminhttp.TokenHeader, "").Body.String()
			for _, secret := range []string{"wa-1", "4915", "memory"} {
				require.NotContains(t, body, secret, path)
			}
		}
	})
}

func TestWrongTokensAreSlowedDownAndTheRightOneIsNeverLockedOut(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPlace(t)
		try := func(remote, tok string) *httptest.ResponseRecorder {
			r := httptest.NewRequest("GET", "/api/longrun/status-now", nil)
			r.RemoteAddr = remote
			r.Header.Set(adminhttp.TokenHeader, tok)
			w := httptest.NewRecorder()
			p.h.ServeHTTP(w, r)
			return w
		}
		const eve, bob = "192.0.2.1:1234", "192.0.2.2:1234"
		for range 10 {
			require.Equal(t, 401, try(eve, "guess").Code)
		}
		w := try("192.0.2.1:999", "guess")
		require.Equal(t, 429, w.Code)
		require.Equal(t, "6", w.Header().Get("Retry-After"))
		require.Equal(t, 200, try(eve, token).Code, "the right one, from the same address")
		require.Equal(t, 401, try(bob, "typo").Code, "another address")
		time.Sleep(6 * time.Second)
		require.Equal(t, 401, try(eve, "guess").Code)
		require.Equal(t, 429, try(eve, "guess").Code)

		refused := 0
		for n := range 5000 { // from a whole network, and from IPv6
			for _, remote := range []string{fmt.Sprintf("10.1.%d.%d:1", n/256, n%256), fmt.Sprintf("[2001:db8:1:%x::1]:1", n), fmt.Sprintf("[2001:db8::%x]:1", n), "@", ""} {
				if try(remote, "guess").Code == 429 {
					refused++
				}
			}
		}
		require.Greater(t, refused, 24_800, "all together are slowed down too")
		require.Equal(t, 200, try("10.1.0.1:1", token).Code)
		require.LessOrEqual(t, p.h.Remembered(), 1024)
		time.Sleep(10 * time.Minute)
		require.Equal(t, 401, try("10.200.0.1:1", "guess").Code)
	})
}

func TestBadInputIsA4xxThatSaysWhatToSend(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPlace(t).run()
		<-p.codes
		const js = "application/json"
		for _, c := range []struct {
			method, path, kind, body string
			code                     int
			word                     string
		}{
			{"POST", "/api/whatsapp/pair", "", `{"phone":"+491520000001"}`, 415, "not_json"},
			{"POST", "/api/whatsapp/pair", "text/plain", `{"phone":"+491520000001"}`, 415, "not_json"},
			{"POST", "/api/whatsapp/pair", js, ``, 400, "bad_json"},
			{"POST", "/api/whatsapp/pair", js, `[]`, 400, "bad_json"},
			{"POST", "/api/whatsapp/pair", js, `{}`, 400, "bad_json"},
			{"POST", "/api/whatsapp/pair", js, `{"phone":1}`, 400, "bad_json"},
			{"POST", "/api/whatsapp/pair", js, `{"phone":""}`, 400, "bad_phone"},
			{"POST", "/api/whatsapp/pair", js, `{"phone":"0152 0000001"}`, 400, "bad_phone"},
			{"POST", "/api/whatsapp/pair", js, `{"phone":"+49 abc"}`, 400, "bad_phone"},
			{"POST", "/api/whatsapp/pair", js, `{"phone":"１２３４５６７８"}`, 400, "bad_phone"},
			{"POST", "/api/whatsapp/pair", js, `{"phone":"` + strings.Repeat("1", 5000) + `"}`, 413, "body_too_large"},
			{"POST", "/api/whatsapp/logout", "", strings.Repeat("x", 5000), 413, "body_too_large"},
			{"POST", "/api/whatsapp/reconnect", "", strings.Repeat("x", 5000), 413, "body_too_large"},
			{"POST", "/api/whatsapp/logout", "", "", 409, "not_paired"},
			{"POST", "/api/whatsapp/quarantine/purge-rows", "", `{"confirm":"purge-rows"}`, 415, "not_json"},
			{"POST", "/api/whatsapp/quarantine/purge-rows", js, ``, 400, "bad_json"},
			{"POST", "/api/whatsapp/quarantine/purge-rows", js, `{"confirm":true}`, 400, "bad_json"},
			{"POST", "/api/whatsapp/quarantine/purge-rows", js, `{}`, 400, "not_confirmed"},
			{"POST", "/api/whatsapp/quarantine/purge-rows", js, `{"confirm":"purge-device"}`, 400, "not_confirmed"},
			{"POST", "/api/whatsapp/quarantine/purge-device", "text/plain", `{"confirm":"purge-device"}`, 415, "not_json"},
			{"POST", "/api/whatsapp/quarantine/purge-device", js, `null`, 400, "not_confirmed"},
			{"POST", "/api/whatsapp/quarantine/purge-device", js, `{"confirm":"yes"}`, 400, "not_confirmed"},
			{"POST", "/api/whatsapp/quarantine/purge-device", js, `{"confirm":"` + strings.Repeat("x", 5000) + `"}`, 413, "body_too_large"},
			{"POST", "/api/whatsapp/quarantine/purge-device", js, `{"confirm":"purge-device"}`, 409, "nothing_deleted"},
			{"POST", "/api/whatsapp/quarantine/restore-device", "", strings.Repeat("x", 5000), 413, "body_too_large"},
			{"POST", "/api/whatsapp/quarantine/restore-device", "", "", 409, "nothing_deleted"},
			{"GET", "/api/whatsapp/quarantine/purge-rows", "", "", 405, "method_not_allowed"},
			{"GET", "/api/whatsapp/quarantine/purge-device", "", "", 405, "method_not_allowed"},
			{"GET", "/api/whatsapp/quarantine/restore-device", "", "", 405, "method_not_allowed"},
			{"POST", "/api/whatsapp/quarantine", "", "", 405, "method_not_allowed"},
			{"GET", "/api/whatsapp/pair", "", "", 405, "method_not_allowed"},
			{"DELETE", "/api/longrun/status-now", "", "", 405, "method_not_allowed"},
			{"POST", "/health", "", "", 405, "method_not_allowed"},
			{"GET", "/nothing", "", "", 404, "not_found"},
			{"POST", "/api/longrun/status-now/", "", "", 404, "not_found"},
		} {
			w := p.req(c.method, c.path, c.body, "Content-Type", c.kind)
			require.Equal(t, c.word, p.answer(w, c.code)["error"], "%s %s %.40s", c.method, c.path, c.body)
			if c.code == 405 {
				require.NotEmpty(t, w.Header().Get("Allow"))
			}
		}
	})
}

func TestEveryAnswerForbidsCachingFramingAndSniffing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPlace(t)
		for _, path := range []string{"/", "/health", "/ready", "/api/longrun/status-now", "/api/whatsapp/qr", "/nothing"} {
			for _, tok := range []string{"", token} {
				h := p.get(path, adminhttp.TokenHeader, tok).Header()
				require.Equal(t, "no-store", h.Get("Cache-Control"))
				require.Equal(t, "nosniff", h.Get("X-Content-Type-Options"))
				if path == "/" { // its forms tell where they come from, and no other site
					require.Equal(t, "same-origin", h.Get("Referrer-Policy"))
				} else {
					require.Equal(t, "no-referrer", h.Get("Referrer-Policy"))
				}
				require.Contains(t, h.Get("Content-Security-Policy"), "default-src 'none'")
				require.Contains(t, h.Get("Content-Security-Policy"), "frame-ancestors 'none'")
				require.NotEmpty(t, h.Get("Content-Type"))
			}
		}
	})
}

// FuzzAdmin sends anything at all, with and without the token.
func FuzzAdmin(f *testing.F) {
	f.Add("GET", "/api/longrun/status-now", token, "Accept", "image/png", []byte(nil))
	f.Add("POST", "/api/whatsapp/pair", token, "Content-Type", "application/json", []byte(`{"phone":"+491520000001"}`))
	f.Add("POST", "/api/whatsapp/pair", token, "Content-Type", "application/json; charset=\"", []byte(`{"phone":"\u0000"}`))
	f.Add("POST", "/api/whatsapp/logout", token, "Content-Length", "-1", bytes.Repeat([]byte("x"), 5000))
	f.Add("POST", "/api/whatsapp/reconnect", token, "", "", []byte("{}"))
	f.Add("GET", "/ready?standby=ok&%zz", "", "", "", []byte(nil))
	f.Add("GET", "//api/../health", "x", "X-Admin-Token", token, []byte(nil))
	f.Add("OPTIONS", "*", "", "Origin", "null", []byte(nil))
	f.Add("GET", "/api/whatsapp/quarantine", token, "Accept", "text/html", []byte(nil))
	f.Add("POST", "/api/whatsapp/quarantine/purge-rows", token, "Content-Type", "application/json", []byte(`{"confirm":"purge-rows"}`))
	f.Add("POST", "/api/whatsapp/quarantine/purge-device", token, "Content-Type", "application/json; a=b", []byte(`{"confirm":"purge-device","confirm":null}`))
	f.Add("POST", "/api/whatsapp/quarantine/restore-device", token, "Content-Type", "", []byte(`[[[`))
	standby, err := stability.New(stability.WithBackend(quietBackend()), stability.WithLogger(silent()))
	require.NoError(f, err)
	defer standby.Close(context.Background())
	var handlers []*adminhttp.Handler
	for _, m := range []*stability.Manager{standby, spoiled(f, 3)} {
		h, err := adminhttp.New(m, adminhttp.WithToken(token), adminhttp.WithPairTimeout(time.Millisecond))
		require.NoError(f, err)
		handlers = append(handlers, h)
	}
	f.Fuzz(func(t *testing.T, method, target, tok, name, value string, body []byte) {
		for _, h := range handlers {
			r := httptest.NewRequest("GET", "/", bytes.NewReader(body))
			r.Method, r.URL.Path = method, target
			if path, query, ok := strings.Cut(target, "?"); ok {
				r.URL.Path, r.URL.RawQuery = path, query
			}
			r.Header.Set(name, value)
			r.Header.Set(adminhttp.TokenHeader, tok)
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			open := r.URL.Path == "/" || r.URL.Path == "" || r.URL.Path == "/health" || r.URL.Path == "/ready" || r.URL.Path == "/sign-in"
			if tok != token && !open {
				require.Contains(t, []int{401, 429}, w.Code)
			}
			if r.URL.Path != "/ready" && r.URL.Path != "/api/whatsapp/pair" { // which say so with 503
				require.Less(t, w.Code, 500)
			}
			if w.Header().Get("Content-Type") == "application/json; charset=utf-8" {
				require.True(t, json.Valid(w.Body.Bytes()))
			}
		}
	})
}
