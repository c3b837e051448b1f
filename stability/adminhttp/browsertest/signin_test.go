package browsertest

import (
	"fmt"
	"html"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
)

// cookies are what the browser keeps.
func (b *tab) cookies() []*network.Cookie {
	b.t.Helper()
	return call(b, network.GetCookies, network.GetCookiesParams{}).Cookies
}

// secret is something that only the page of who is signed in shows.
const secret = "wa-1"

func TestBrowserKeepsOneStrictCookieAndNoToken(t *testing.T) {
	t.Parallel()
	chromium(t)
	p := newPlace(t)
	p.run().pair()
	b := newTab(t)
	b.open(p.url)
	require.Empty(t, b.cookies(), "nobody gets one before signing in")
	b.give(token)
	b.await("that one is signed in", b.signedIn)
	kept := b.cookies()
	require.Len(t, kept, 1)
	c := kept[0]
	require.True(t, c.HTTPOnly)
	require.True(t, c.Session, "it ends with the browser")
	require.Equal(t, network.CookieSameSiteStrict, c.SameSite)
	require.Equal(t, "/admin", strings.TrimSuffix(c.Path, "/"), "other parts of the program do not get it")
	require.NotContains(t, c.Value, token)
	require.Equal(t, "", eval[string](b, "document.cookie"), "no script can read it")
	require.Zero(t, eval[int](b, "localStorage.length + sessionStorage.length"))
	require.NotContains(t, eval[string](b, "location.href + document.documentElement.outerHTML"), token)

	// Signing in again makes another one.
	b.press("Sign out")
	b.awaitSignedOut()
	require.Empty(t, b.cookies())
	b.give(token)
	b.await("that one is signed in", b.signedIn)
	require.NotEqual(t, c.Value, b.cookies()[0].Value)
	b.calm()
}

func TestSignedOutNothingIsShown(t *testing.T) {
	t.Parallel()
	chromium(t)
	p := newPlace(t)
	p.run().pair()
	b := newTab(t)
	b.open(p.url)
	require.NotContains(t, b.html(), secret)
	b.give(token + "x")
	b.await("that it was wrong", func() bool { return strings.Contains(b.text(), "not the admin token") })
	require.NotContains(t, b.html(), secret)
	require.Empty(t, b.cookies())
	b.give(token)
	b.await("that one is signed in", b.signedIn)
	require.Contains(t, b.html(), secret)
	b.press("Sign out")
	b.awaitSignedOut()
	require.NotContains(t, b.html(), secret)
	run(b, chromedp.NavigateBack())
	b.awaitSignedOut()
	require.NotContains(t, b.html(), secret, "the way back shows what was")
}

// A form on another site is sent with the cookie, where the site is this one on
// another port, and without, where it is not. Neither does anything, even with the
// right number in it.
func TestOtherSitesCannotPressButtons(t *testing.T) {
	t.Parallel()
	chromium(t)
	p := newPlace(t)
	p.run().pair()
	var fields string
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprintf(w, `<!doctype html><title>Another site</title><form method="post" action="%sdo">%s</form><script>document.forms[0].submit()</script>`, p.url, fields)
	}))
	t.Cleanup(other.Close)
	b := newTab(t)
	p.signIn(b)
	stolen := eval[string](b, `document.querySelector("input[name=csrf]").value`)
	before := p.m.Status()
	for _, site := range []string{other.URL, strings.Replace(other.URL, "127.0.0.1", "localhost", 1)} {
		for _, csrf := range []string{"", stolen} {
			for _, do := range []string{"reconnect", "logout"} {
				fields = fmt.Sprintf(`<input name="do" value="%s"><input name="confirm" value="%s"><input name="csrf" value="%s">`, do, do, html.EscapeString(csrf))
				b.open(site)
				b.await("the answer", func() bool {
					return eval[string](b, "location.href") == p.url+"do" && eval[string](b, "document.readyState") == "complete"
				})
				require.NotContains(t, b.text(), "Asked for")
			}
		}
	}
	after := p.m.Status()
	require.Equal(t, reconnect.StatusConnected, after.WA)
	require.Equal(t, before.ConnectedAt, after.ConnectedAt, "the connection was made anew")
	require.Len(t, p.account.Devices(), 1)

	// The same form, from the page itself, does what it says.
	b.open(p.url)
	b.click(`document.querySelector("#more summary")`)
	b.press("Connect anew")
	p.await(func(st stability.Status) bool { return st.ConnectedAt.After(before.ConnectedAt) })
}
