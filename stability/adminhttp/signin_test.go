package adminhttp_test

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/adminhttp"
)

func TestSignInCookieIsBoundAndCarriesNoToken(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPlace(t)
		b := p.browser()
		require.Equal(t, 303, b.signIn(token).Code)
		require.True(t, b.cookie.HttpOnly)
		require.Equal(t, http.SameSiteStrictMode, b.cookie.SameSite)
		require.Empty(t, b.cookie.Path, "a browser binds it to where it came from")
		require.Empty(t, b.cookie.Domain)
		require.False(t, b.cookie.Secure, "plain HTTP would lose it")
		require.NotContains(t, b.cookie.Value, token)
		require.GreaterOrEqual(t, len(b.cookie.Value), 26)
		require.Equal(t, "not_active", b.page("/").state())

		b = p.browser()
		b.do("POST", "/sign-in", url.Values{"token": {token}}, "X-Forwarded-Proto", "https")
		require.True(t, b.cookie.Secure)
		r := httptest.NewRequest("POST", "https://bot.example.com/sign-in", strings.NewReader("token="+token))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.TLS = &tls.ConnectionState{}
		w := httptest.NewRecorder()
		p.h.ServeHTTP(w, r)
		require.True(t, w.Result().Cookies()[0].Secure)
	})
}

func TestSignInEnds(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPlace(t)
		b := p.browser()
		signedIn := func() bool { return b.page("/").id("sign-in-form") == nil }
		require.False(t, signedIn())

		b.signIn(token)
		require.True(t, signedIn())
		old := b.cookie
		form := url.Values{"csrf": {value(b.page("/").id("sign-out-form"), "csrf")}}
		require.Equal(t, 403, b.do("POST", "/sign-out", nil).Code, "a form of ours only")
		require.Equal(t, 303, b.do("POST", "/sign-out", form).Code)
		require.Nil(t, b.cookie)
		b.cookie = old
		require.False(t, signedIn(), "the server has forgotten it too")

		b.signIn(token)
		time.Sleep(59 * time.Minute)
		require.True(t, signedIn())
		time.Sleep(61 * time.Minute)
		require.False(t, signedIn(), "idle")

		b.signIn(token)
		for range 14 {
			time.Sleep(50 * time.Minute)
			require.True(t, signedIn())
		}
		time.Sleep(50 * time.Minute)
		require.False(t, signedIn(), "after twelve hours, however busy")
	})
}

func TestSignInGivesANewIDEachTime(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPlace(t)
		b := p.browser()
		b.cookie = &http.Cookie{Name: "wastability_admin", Value: "chosen-by-somebody-else"}
		require.NotNil(t, b.page("/").id("sign-in-form"))
		b.signIn(token)
		first := b.cookie
		require.NotEqual(t, "chosen-by-somebody-else", first.Value)
		csrf := value(b.page("/").id("sign-out-form"), "csrf")
		b.signIn(token)
		require.NotEqual(t, first.Value, b.cookie.Value)
		require.NotEqual(t, csrf, value(b.page("/").id("sign-out-form"), "csrf"))
		b.cookie = first
		require.NotNil(t, b.page("/").id("sign-in-form"), "the id before is over")
	})
}

func TestSignInsAreBoundedAndTheLeastUsedEnds(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPlace(t)
		first, busy := p.browser(), p.browser()
		first.signIn(token)
		busy.signIn(token)
		for range 99 {
			time.Sleep(time.Second)
			require.Nil(t, busy.page("/").id("sign-in-form"))
			p.browser().signIn(token)
		}
		require.Equal(t, 100, p.h.SignIns())
		require.NotNil(t, first.page("/").id("sign-in-form"))
		require.Nil(t, busy.page("/").id("sign-in-form"))
	})
}

func TestWrongTokensAtTheFormAreSlowedAndTheRightOneIsNot(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPlace(t)
		b := p.browser()
		for range 10 {
			w := b.signIn("a guess at the token")
			require.Equal(t, 401, w.Code)
			require.Nil(t, b.cookie)
			require.Contains(t, parse(t, w).text("note"), "not the admin token")
		}
		w := b.signIn("a guess at the token")
		require.Equal(t, 429, w.Code)
		require.NotEmpty(t, w.Header().Get("Retry-After"))
		require.Equal(t, 303, b.signIn(token+"\n").Code, "as it was pasted")
	})
}

// A request that another site makes a browser send is refused, by each guard alone.
func TestFormOfAnotherSiteDoesNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPlace(t).run().pair()
		b := p.browser()
		b.signIn(token)
		csrf := value(b.page("/").id("sign-out-form"), "csrf")
		logout := func(csrf string) url.Values {
			return url.Values{"do": {"logout"}, "confirm": {"logout"}, "csrf": {csrf}}
		}
		for _, wrong := range []string{"", "x", csrf + "x", csrf[1:]} {
			require.Equal(t, 403, b.do("POST", "/do", logout(wrong)).Code)
		}
		for _, from := range [][]string{{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Origin", "https://evil.example.net"}, {"Origin", "null"}} {
			require.Equal(t, 403, b.do("POST", "/do", logout(csrf), from...).Code, from)
			require.Equal(t, 403, p.browser().do("POST", "/sign-in", url.Values{"token": {token}}, from...).Code, "nor is anybody signed in")
		}
		require.Equal(t, 401, b.do("POST", "/api/whatsapp/logout", nil).Code, "a cookie is no token to the API")
		require.Equal(t, 405, b.do("GET", "/do?do=logout&confirm=logout&csrf="+csrf, nil).Code)
		require.Equal(t, reconnect.StatusConnected, p.m.Status().WA)
		require.NotEmpty(t, p.account.Devices())
		require.Equal(t, 303, b.do("POST", "/do", logout(csrf)).Code)
	})
}

func TestHostsOwnSignInKeepsFormsGuarded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPlace(t).run().pair()
		h, err := adminhttp.New(p.m, adminhttp.WithAuthorizer(func(*http.Request) error { return nil }))
		require.NoError(t, err)
		b := p.browser()
		b.h = h
		got := b.page("/")
		require.Equal(t, 403, b.do("POST", "/do", url.Values{"do": {"logout"}, "confirm": {"logout"}}).Code)
		require.NotEmpty(t, p.account.Devices())
		require.Equal(t, 303, b.press(got, "logout", url.Values{"confirm": {"logout"}}).Code)
		p.await(func(st stability.Status) bool { return st.WA == reconnect.StatusNeedsPairing })
	})
}
