package adminhttp_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/html"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/adminhttp"
	"github.com/wastability/wastability/stability/memorybackend"
)

// injected leaves every quoting that there is, and then is an element and an
// attribute that no page of ours has.
const injected = "\"'`></p></style></script></title></textarea>--><x-injected data-injected=1 onclick=alert(1)>{{.CSRF}}\u202e\x00"

// secretName is the name of an account that nobody outside may learn.
const secretName = "secret-name"

// countedKV counts what is written.
type countedKV struct {
	authstore.KV
	commits *atomic.Int64
}

func (k countedKV) Commit(ctx context.Context, epoch int64, b authstore.Batch) error {
	k.commits.Add(1)
	return k.KV.Commit(ctx, epoch, b)
}

// still is an account that connects to nothing: nothing but a request changes
// it. Everything that others write about it is hostile.
type still struct {
	m       *stability.Manager
	commits atomic.Int64
}

func newStill(f testing.TB) *still {
	s, memory := &still{}, memorybackend.New()
	s.m = spoil(f, 3, func() stability.Backend {
		b := memory.Backend()
		b.Auth = countedKV{b.Auth, &s.commits}
		return b
	}, func(b stability.Backend, rec lock.Record) {
		require.NoError(f, b.State.Save(f.Context(), rec.Epoch, reconnect.State{
			Status: reconnect.StatusDisconnected, LastDisconnectAt: time.Now(), DisconnectedSince: time.Now(),
			LastDisconnectReason: reconnect.ReasonBadSession, LastDisconnectDetail: injected,
			FirstDisconnectReason: reconnect.ReasonBadSession, FirstDisconnectDetail: injected,
			Yields: []reconnect.Yield{{By: injected, To: injected, At: time.Now(), Reason: reconnect.Reason(injected), Detail: injected}},
		}))
		for _, typ := range []guard.Type{guard.TypeDegraded, guard.Type("wa_" + injected)} {
			_, _, err := b.Incidents.Raise(f.Context(), guard.Incident{
				ID: typ.ActiveID(), Type: typ, DetectedAt: time.Now(), InstanceID: injected,
				Evidence: map[string]string{injected: injected}, Instructions: injected, Runbook: injected,
			})
			require.NoError(f, err)
		}
	})
	return s
}

// lasting is a test whose cleanups wait for end.
type lasting struct {
	testing.TB
	after []func()
}

func (l *lasting) Cleanup(f func()) { l.after = append(l.after, f) }

func (l *lasting) end() {
	for _, f := range slices.Backward(l.after) {
		f()
	}
}

// newLive is an account that is connected and whose handler panics at a message.
func newLive(f testing.TB) *place {
	p := newPlace(f).run().pair()
	bob, err := p.sim.NewContact(context.Background(), "491520000002")
	require.NoError(f, err)
	bob.Client().Store.PushName = injected
	why := injected
	p.panics.Store(&why)
	_, err = bob.Send(context.Background(), p.account.JID(), injected)
	require.NoError(f, err)
	p.await(func(stability.Status) bool {
		l := p.m.Messages()
		return len(l) > 0 && strings.Contains(l[0].Why, "x-injected")
	})
	return p
}

// patient is the writer of a server: a stream can bound its writes.
type patient struct{ *httptest.ResponseRecorder }

func (patient) SetWriteDeadline(time.Time) error { return nil }

// Who asks: somebody who is signed in, the same with another cookie of that name
// before it, nobody, somebody with an id that is made up, and somebody with the
// id of a sign-in that was ended.
const (
	byPerson = iota
	byCrowded
	byNobody
	byGuesser
	byLeaver
	byKinds
)

// What proves that a form is ours.
const (
	csrfRight = iota
	csrfMissing
	csrfOfAnother
	csrfCut
	csrfInQuery
	csrfKinds
)

// Where a form says it comes from.
const (
	fromHere = iota
	fromUnsaid
	fromElsewhere
	fromOtherSite
	fromNull
	fromKinds
)

// onPages is every element that a page of ours has.
var onPages = strings.Fields("html head meta title link style script noscript body a header div form input button label p main h1 h2 h3 " +
	"section article details summary dl dt dd time span small b ul li svg path table caption thead tbody tr th td footer")

// inert requires that a page holds no markup of somebody else's.
func inert(t *testing.T, w *httptest.ResponseRecorder) {
	t.Helper()
	for n := range parse(t, w).doc.Descendants() {
		if n.Type != html.ElementNode {
			continue
		}
		require.Contains(t, onPages, n.Data)
		for _, a := range n.Attr {
			require.NotContains(t, a.Key, "injected", n.Data)
		}
	}
}

// FuzzSignedIn sends anything at all to the pages behind the sign-in, with and
// without a sign-in, to one account and to a fleet. Nothing panics and nothing
// is a fault of ours; without a sign-in nothing is told; for a form that is not
// ours nothing is done; texts of strangers are never markup.
func FuzzSignedIn(f *testing.F) {
	all := map[string]*stability.Manager{}
	fleet, err := adminhttp.NewFleet(accounts(all), adminhttp.WithToken(token), adminhttp.WithPairTimeout(time.Millisecond))
	require.NoError(f, err)
	open := func(t testing.TB, m *stability.Manager) *adminhttp.Handler {
		h, err := adminhttp.New(m, adminhttp.WithToken(token), adminhttp.WithPairTimeout(time.Millisecond))
		require.NoError(t, err)
		return h
	}
	live := newLive(f)
	connected := open(f, live.m)
	all["live"] = live.m
	var quiet *still
	var one *adminhttp.Handler
	end := func() {}
	renew := func(t testing.TB) {
		end()
		outlives := &lasting{TB: t}
		quiet, end = newStill(outlives), outlives.end
		one = open(t, quiet.m)
		all[secretName], all[injected] = quiet.m, quiet.m
	}
	renew(f)
	f.Cleanup(func() { end() })
	entry := live.m.Messages()[0].Entry

	add := func(where, who, csrf, from int, method, path, query, do string) {
		f.Add(uint8(where), uint8(who), uint8(csrf), uint8(from), method, path, query, do, "", "+49 1520 0000001", "Accept", "text/html", injected)
	}
	for where := range 3 {
		for _, path := range []string{"/", "/set-aside", "/events", "/~" + secretName + "/", "/~" + secretName + "/set-aside", "/~live/", "/~nobody/", "/~live/events"} {
			add(where, byPerson, 0, 0, "GET", path, "done=pair&still&incident="+url.QueryEscape(injected), "")
			add(where, byNobody, 0, 0, "GET", path, "", "")
		}
		for _, do := range append(adminhttp.Deeds(), injected) {
			paths := []string{"/do"}
			if where == 2 {
				paths = []string{"/~" + secretName + "/do", "/~live/do"}
			}
			for _, path := range paths {
				for csrf := range csrfKinds {
					add(where, byPerson, csrf, 0, "POST", path, "", do)
				}
				for from := range fromKinds {
					add(where, byPerson, 0, from, "POST", path, "", do)
				}
				for who := range byKinds {
					add(where, who, 0, 0, "POST", path, "", do)
				}
				add(where, byPerson, 0, 0, "GET", path, "do="+do+"&confirm="+do, do)
			}
		}
		add(where, byPerson, 0, 0, "POST", "/sign-out", "", "")
		for from := range fromKinds {
			add(where, byNobody, 0, from, "POST", "/sign-in", "", "")
		}
		add(where, byNobody, 0, 0, "PUT", "/sign-in", "", "")
		add(where, byPerson, 0, 0, "POST", "/sign-in", "account="+url.QueryEscape(injected), "")
	}
	f.Fuzz(func(t *testing.T, where, who, csrf, from uint8, method, path, query, do, body, phone, header, said, text string) {
		who, csrf, from = who%byKinds, csrf%csrfKinds, from%fromKinds
		if strings.Contains(said+text+body, token) {
			return // whoever has the token may do everything
		}
		h := []http.Handler{one, connected, fleet}[where%3]
		one.Note(stability.Event{Time: time.Now(), Kind: stability.EventKind(text), Detail: injected + text, Incident: text})
		connected.Note(stability.Event{Time: time.Now(), Kind: stability.EventHealth, Detail: text})

		// Two people sign in. What the second one has is of no use to the first.
		mine, other := &browser{t: t, h: h, remote: "192.0.2.9:1"}, &browser{t: t, h: h, remote: "192.0.2.9:1"}
		proof := func(b *browser) string {
			require.Equal(t, 303, b.signIn(token).Code)
			_, rest, _ := strings.Cut(b.do("GET", "/", nil).Body.String(), `name="csrf" value="`)
			csrf, _, found := strings.Cut(rest, `"`)
			require.True(t, found)
			return csrf
		}
		right, wrong := proof(mine), proof(other)
		id := mine.cookie.Value
		switch who {
		case byNobody:
			id = ""
		case byGuesser:
			id = strings.Repeat("A", len(id))
		case byLeaver:
			require.Equal(t, 303, mine.do("POST", "/sign-out", url.Values{"csrf": {right}}).Code)
		}

		form := url.Values{"do": {do}, "confirm": {do}, "entry": {entry}, "phone": {phone}, "token": {text}, "account": {text}, "incident": {text}}
		switch csrf {
		case csrfRight:
			form.Set("csrf", right)
		case csrfOfAnother:
			form.Set("csrf", wrong)
		case csrfCut:
			form.Set("csrf", right[1:])
		case csrfInQuery:
			query += "&csrf=" + right
		}
		r := httptest.NewRequest("POST", "/", strings.NewReader(cmp.Or(body, form.Encode())))
		r.Method, r.URL.Path, r.URL.RawQuery = method, path, query
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		switch from {
		case fromHere:
			r.Header.Set("Origin", "http://"+r.Host)
		case fromElsewhere:
			r.Header.Set("Origin", "https://evil.example.net")
		case fromOtherSite:
			r.Header.Set("Sec-Fetch-Site", "cross-site")
		case fromNull:
			r.Header.Set("Origin", "null")
		}
		if who == byCrowded {
			r.AddCookie(&http.Cookie{Name: "wastability_admin", Value: "of-another-handler"})
		}
		if id != "" {
			r.AddCookie(&http.Cookie{Name: "wastability_admin", Value: id})
		}
		r.Header.Add(header, said)
		if strings.HasSuffix(path, "/events") { // a stream lasts until its reader goes
			ctx, cancel := context.WithCancel(r.Context())
			cancel()
			r = r.WithContext(ctx)
		}
		known := who == byPerson || who == byCrowded
		ours := known && csrf == csrfRight && (from == fromHere || from == fromUnsaid) && body == "" && method == http.MethodPost
		if ours && (where%3 == 1 || strings.HasPrefix(path, "/~live/")) {
			return // what buttons do to a connection has tests of its own
		}
		before := quiet.commits.Load()
		w := patient{httptest.NewRecorder()}
		h.ServeHTTP(w, r)
		got := w.Body.String()

		// No fault of ours, and nothing that a browser would follow or run.
		if w.Code >= 500 {
			require.Equal(t, 503, w.Code, got)
			require.True(t, strings.HasSuffix(path, "/ready") || ours && slices.Contains([]string{"pair", "redeliver", "purge-message"}, do), got) // the latter: which messages wait was not read
		}
		switch kind := w.Header().Get("Content-Type"); kind {
		case "text/html; charset=utf-8":
			inert(t, w.ResponseRecorder)
			w.Body = bytes.NewBufferString(got)
		case "application/json; charset=utf-8":
			require.True(t, json.Valid([]byte(got)), got)
		default:
			require.Contains(t, []string{"", "text/event-stream"}, kind)
		}
		require.Equal(t, "nosniff", w.Header().Get("X-Content-Type-Options"))
		if to := w.Header().Get("Location"); to != "" {
			u, err := url.Parse(to)
			require.NoError(t, err, to)
			require.True(t, strings.HasPrefix(to, "./") && u.Scheme+u.Host == "", to)
		}
		for _, c := range w.Result().Cookies() {
			require.Negative(t, c.MaxAge, "nobody is signed in")
			require.True(t, ours, "nobody is signed out")
		}

		if !known {
			switch {
			case path == "/health", path == "/ready", w.Code == 307: // which names nobody, or adds a slash
			case path == "/sign-in": // is open to everybody, and refuses all of these
				require.Contains(t, []int{400, 401, 403, 405, 429}, w.Code)
			case w.Code == 200 && strings.HasSuffix(path, "/"):
				require.NotNil(t, parse(t, w.ResponseRecorder).id("sign-in-form"))
			default:
				require.Contains(t, []int{401, 429}, w.Code)
			}
			require.NotContains(t, got, `data-state="`)
			require.NotContains(t, got, "event:")
			if !strings.Contains(path+query+text, secretName) {
				require.NotContains(t, got, secretName)
			}
		}
		if !ours {
			require.NotEqual(t, 303, w.Code, "nothing was done")
			require.Equal(t, before, quiet.commits.Load(), "nothing was written")
			require.Len(t, live.account.Devices(), 1)
			require.Equal(t, entry, live.m.Messages()[0].Entry)
			if known {
				require.Contains(t, mine.do("GET", "/", nil).Body.String(), `id="sign-out-form"`, "still signed in")
			}
		}
		if quiet.commits.Load() != before {
			renew(t) // else it could be done only once
		}
	})
}
