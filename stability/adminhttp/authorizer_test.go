package adminhttp_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/stability/adminhttp"
)

func TestTheHostsOwnAuthenticationDecides(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPlace(t)
		var asked []string
		h, err := adminhttp.New(p.m, adminhttp.WithAuthorizer(func(r *http.Request) error {
			asked = append(asked, r.URL.Path)
			if c, err := r.Cookie("session"); err == nil && c.Value == "ada" {
				return nil
			}
			return errors.New("Sign in at /login.")
		}))
		require.NoError(t, err)
		ask := func(method, path, session string, header ...string) *httptest.ResponseRecorder {
			r := httptest.NewRequest(method, "https://bot.example.com"+path, nil)
			r.AddCookie(&http.Cookie{Name: "session", Value: session})
			for i := 0; i+1 < len(header); i += 2 {
				r.Header.Set(header[i], header[i+1])
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			return w
		}
		for _, path := range []string{"/", "/set-aside", "/events", "/do", "/sign-in", "/api/longrun/status-now", "/api/longrun/incidents", "/api/whatsapp/qr", "/nothing"} {
			w := ask("GET", path, "eve", adminhttp.TokenHeader, token)
			require.Equal(t, 403, w.Code, path)
			require.Contains(t, w.Body.String(), "Sign in at /login.")
			require.NotContains(t, w.Body.String(), "waStatus")
		}
		for _, path := range []string{"/health", "/ready"} {
			require.NotEqual(t, 403, ask("GET", path, "eve").Code)
		}
		require.NotContains(t, asked, "/health", "nobody signs the platform in")

		require.Contains(t, ask("GET", "/api/longrun/status-now", "ada").Body.String(), "waStatus")
		page := ask("GET", "/", "ada")
		require.Equal(t, 200, page.Code)
		require.Contains(t, page.Body.String(), `data-state="not_active"`)
		require.NotContains(t, page.Body.String(), `id="sign-out"`, "the host signs people out")
		for _, path := range []string{"/sign-in", "/sign-out"} {
			require.Equal(t, 404, ask("POST", path, "ada").Code, path)
		}

		const reconnect = "/api/whatsapp/reconnect"
		for _, other := range [][]string{{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Origin", "https://evil.example.net"}} {
			w := ask("POST", reconnect, "ada", other...)
			require.Equal(t, 403, w.Code, other)
			require.Contains(t, w.Body.String(), "other_site")
		}
		for _, own := range [][]string{{"Sec-Fetch-Site", "same-origin"}, {"Origin", "https://bot.example.com"}, nil} {
			require.NotEqual(t, 403, ask("POST", reconnect, "ada", own...).Code, own)
		}
	})
}

func TestTokenAndAuthorizerExcludeEachOther(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPlace(t)
		for _, opts := range [][]adminhttp.Option{
			{adminhttp.WithAuthorizer(nil)},
			{adminhttp.WithToken(token), adminhttp.WithAuthorizer(func(*http.Request) error { return nil })},
			{},
		} {
			_, err := adminhttp.New(p.m, opts...)
			require.ErrorContains(t, err, "WithAuthorizer")
		}
	})
}
