package adminhttp_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/html"

	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// browser keeps cookies, as far as these tests need them, and follows forms.
type browser struct {
	t      testing.TB
	h      http.Handler
	site   string // "" is http://bot.example.com
	remote string
	cookie *http.Cookie
}

func (p *place) browser() *browser { return &browser{t: p.t, h: p.h, remote: "192.0.2.9:1"} }

func (b *browser) do(method, target string, form url.Values, header ...string) *httptest.ResponseRecorder {
	site := b.site
	if site == "" {
		site = "http://bot.example.com"
	}
	r := httptest.NewRequest(method, site+target, strings.NewReader(form.Encode()))
	r.RemoteAddr = b.remote
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Origin", site)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	if b.cookie != nil {
		r.AddCookie(&http.Cookie{Name: b.cookie.Name, Value: b.cookie.Value})
	}
	w := httptest.NewRecorder()
	b.h.ServeHTTP(w, r)
	for _, c := range w.Result().Cookies() {
		b.cookie = c
		if c.MaxAge < 0 {
			b.cookie = nil
		}
	}
	return w
}

func (b *browser) signIn(token string) *httptest.ResponseRecorder {
	return b.do("POST", "/sign-in", url.Values{"token": {token}})
}

// page reads a page and checks its shape.
func (b *browser) page(target string) *page {
	b.t.Helper()
	w := b.do("GET", target, nil)
	require.Equal(b.t, 200, w.Code)
	return parse(b.t, w)
}

// press sends the form with this button's word.
func (b *browser) press(p *page, do string, more url.Values) *httptest.ResponseRecorder {
	b.t.Helper()
	form := url.Values{}
	for n := range p.doc.Descendants() {
		if n.Data == "form" && attr(n, "action") == "do" && value(n, "do") == do {
			for in := range n.Descendants() {
				if in.Data == "input" && attr(in, "type") == "hidden" {
					form.Set(attr(in, "name"), attr(in, "value"))
				}
			}
		}
	}
	require.NotEmpty(b.t, form, "the page has a button for %s", do)
	for k, v := range more {
		form[k] = v
	}
	return b.do("POST", "/do", form)
}

// page is a parsed page.
type page struct {
	t    testing.TB
	doc  *html.Node
	size int
}

// parse reads a page as a browser does, and holds it to what every page keeps.
func parse(t testing.TB, w *httptest.ResponseRecorder) *page {
	t.Helper()
	require.Equal(t, "text/html; charset=utf-8", w.Header().Get("Content-Type"))
	p := &page{t: t, size: w.Body.Len()}
	require.Less(t, p.size, 60_000)
	doc, err := html.Parse(w.Body)
	require.NoError(t, err)
	p.doc = doc
	ids, scripts := map[string]bool{}, 0
	for n := range doc.Descendants() {
		if n.Type != html.ElementNode {
			continue
		}
		switch n.Data {
		case "script":
			scripts++
		case "img", "iframe", "object", "embed", "base", "frame":
			t.Fatalf("an element of somebody else's: %s", n.Data)
		}
		for _, a := range n.Attr {
			require.False(t, strings.HasPrefix(a.Key, "on"), "%s has %s", n.Data, a.Key)
			require.NotEqual(t, "style", a.Key)
			switch a.Key {
			case "href", "action", "src":
				u, err := url.Parse(a.Val)
				require.NoError(t, err)
				require.True(t, a.Val == "data:," || u.Scheme == "" && u.Host == "", "%s leads elsewhere", a.Val)
			case "id":
				require.False(t, ids[a.Val], "twice: %s", a.Val)
				ids[a.Val] = true
			}
		}
	}
	require.Equal(t, 1, scripts)
	for n := range doc.Descendants() {
		for _, key := range []string{"aria-labelledby", "for"} {
			if to := attr(n, key); to != "" {
				require.True(t, ids[to], "%s names %s", key, to)
			}
		}
	}
	return p
}

func attr(n *html.Node, key string) string {
	for _, a := range n.Attr {
		if a.Key == key {
			return a.Val
		}
	}
	return ""
}

// value is that of a field of a form.
func value(form *html.Node, name string) string {
	for n := range form.Descendants() {
		if n.Data == "input" && attr(n, "name") == name {
			return attr(n, "value")
		}
	}
	return ""
}

func (p *page) id(id string) *html.Node {
	for n := range p.doc.Descendants() {
		if attr(n, "id") == id {
			return n
		}
	}
	return nil
}

var blanks = regexp.MustCompile(`\s+`)

// text is what can be read of an element; empty where there is none.
func (p *page) text(id string) string {
	n := p.doc
	if id != "" {
		if n = p.id(id); n == nil {
			return ""
		}
	}
	var b strings.Builder
	for c := range n.Descendants() {
		if c.Type == html.TextNode && (c.Parent == nil || c.Parent.Data != "script" && c.Parent.Data != "style") {
			b.WriteString(c.Data + " ")
		}
	}
	return strings.TrimSpace(blanks.ReplaceAllString(b.String(), " "))
}

func (p *page) state() string { return attr(p.id("state"), "data-state") }

var routes = regexp.MustCompile(`\b(GET|POST) /|/api/|/health\b|/ready\b`)

// checkPage holds the page to what the status says.
func checkPage(t *testing.T, p *place, fine bool) {
	t.Helper()
	st := p.m.Status()
	got := parse(t, p.get("/"))
	tone := attr(got.id("state"), "data-tone")
	require.Equal(t, fine, tone == "good" || tone == "calm", "%s: %s", tone, got.text("headline"))
	for _, id := range []string{"headline", "since", "next", "band-text", "transitions"} {
		require.NotEmpty(t, got.text(id), id)
	}
	require.Equal(t, !fine, got.text("why") != "" && got.state() != "standby")
	require.NotRegexp(t, routes, got.text(""))
	for _, bad := range []string{"%!", "<nil>", "0001", "NaN", "ZgotmplZ", "491520000001"} {
		require.NotContains(t, got.text(""), bad)
	}
	for _, id := range []string{"headline", "do", "why", "next", "transitions"} {
		require.NotRegexp(t, `[a-z]_[a-z]`, got.text(id), "%s: words, and no identifiers", id)
	}
	if tone == "bad" {
		require.NotEmpty(t, got.text("do"))
		require.False(t, strings.HasPrefix(got.text("do"), "Nothing"), got.text("do"))
	}
	if health := got.id("clocks"); got.text("clocks") == "Health" {
		require.True(t, slices.ContainsFunc(health.Attr, func(a html.Attribute) bool { return a.Key == "hidden" }), "a heading without text")
	}
	require.Equal(t, st.QRAvailable, got.id("qr-code") != nil)
	if got.state() == "phone_code" && st.QRAvailable {
		require.NotNil(t, got.id("scan-instead"), "the code that was asked for comes first")
	}
	if next := st.NextRetryAt; next.After(st.At) && st.StoreUnavailable == nil && st.Mode == stability.ModeActive {
		require.Equal(t, next.UTC().Format("2006-01-02T15:04:05.000Z"), attr(got.id("countdown"), "datetime"))
	}
}

func TestPhoneIsLinkedByTheFormAlone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPlace(t).run()
		<-p.codes
		b := p.browser()
		require.Equal(t, 303, b.signIn(token).Code)
		w := b.press(b.page("/"), "pair", url.Values{"phone": {"nobody"}})
		require.Equal(t, 400, w.Code)
		require.Contains(t, parse(t, w).text("note"), "no phone number")
		w = b.press(b.page("/"), "pair", url.Values{"phone": {"+49 152 0000001"}})
		require.Equal(t, 303, w.Code)
		require.Equal(t, "./?done=pair", w.Header().Get("Location"))
		got := b.page("/?done=pair")
		require.Contains(t, got.text("note"), "code to type")
		require.Equal(t, "phone_code", got.state())
		require.Contains(t, got.text("typed"), "expires")
		require.NoError(t, p.account.Phone().EnterCode(got.text("typed-code")))
		p.await(func(st stability.Status) bool { return st.WA == reconnect.StatusConnected })
		got = b.page("/")
		require.Equal(t, "connected", got.state())
		require.Nil(t, got.id("typed"))

		w = b.press(got, "logout", nil)
		require.Equal(t, 400, w.Code, "without the tick nothing is logged out")
		require.NotEmpty(t, p.account.Devices())
		require.Equal(t, 303, b.press(got, "logout", url.Values{"confirm": {"logout"}}).Code)
		require.Empty(t, p.account.Devices())
	})
}

func TestIncidentHasALinkThatSurvivesSigningIn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPlace(t).run().pair()
		p.sim.Fault(wasim.TemporaryBan(101, time.Hour)).OnNextLogin()
		p.m.Reconnect()
		p.await(func(stability.Status) bool { return len(p.m.Incidents()) > 0 })
		id := p.m.Incidents()[0].ID
		b := p.browser()
		link := "/?incident=" + url.QueryEscape(id)
		out := b.page(link)
		require.NotContains(t, out.text(""), "ban")
		w := b.do("POST", "/sign-in", url.Values{"token": {token}, "incident": {value(out.id("sign-in-form"), "incident")}})
		require.Equal(t, "./?incident="+id+"#incident-"+id, w.Header().Get("Location"))
		got := b.page(link)
		require.Contains(t, got.text("incident-"+id), p.m.Incidents()[0].Instructions)
		require.Contains(t, attr(got.id("incident-"+id), "class"), "asked")
		require.Contains(t, b.page("/?incident=none").text("note"), "not known")
		require.Nil(t, got.id("reconnect"), "a ban is not tried against")
	})
}

func TestDayIsKeptAndSaysFromWhen(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPlace(t).run().pair()
		time.Sleep(time.Hour)
		p.sim.Fault(wasim.Refused()).Times(3).OnNextLogin()
		p.sim.Fault(wasim.FIN()).For(p.account.JID()).Now()
		p.await(func(st stability.Status) bool { return st.WA != reconnect.StatusConnected })
		p.await(func(st stability.Status) bool { return st.WA == reconnect.StatusConnected })
		time.Sleep(time.Hour)
		got := parse(t, p.get("/"))
		text := got.text("band-text")
		require.Contains(t, text, "has watched for 2h", "younger than a day, and says so")
		require.Contains(t, text, "connected for 2h (99.")
		require.Regexp(t, `It was off \d times, at most for \d+s`, text)
		for _, is := range []string{"connected", "off", "unknown"} {
			found := false
			for n := range got.id("band").Descendants() {
				found = found || n.Data == "path" && attr(n, "class") == is && attr(n, "d") != ""
			}
			require.True(t, found, is)
		}
		require.Contains(t, got.text("transitions"), "Connected again")

		time.Sleep(30 * time.Hour)
		text = parse(t, p.get("/")).text("band-text")
		require.Equal(t, "During the last 24 hours it was connected for 24h (100 %).", text)
	})
}

func TestHistoryIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPlace(t)
		for range 3000 {
			p.h.Note(stability.Event{Time: time.Now(), Kind: stability.EventActivated})
			p.h.Note(stability.Event{Time: time.Now(), Kind: stability.EventDeactivated, Detail: strings.Repeat("x", 5000)})
			time.Sleep(time.Second)
		}
		marks, events := p.h.History()
		require.LessOrEqual(t, marks, 1000)
		require.Equal(t, 50, events)
		got := parse(t, p.get("/"))
		require.Contains(t, got.text("band-text"), "has watched for 8m", "what was dropped counts as not known")
	})
}
