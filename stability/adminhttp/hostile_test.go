package adminhttp_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/adminhttp"
)

// evil tries to be markup wherever it lands, and to turn what is read around.
const evil = "\"'`></p></style></script></title></textarea>--><script>alert(1)</script><img src=x onerror=alert(1)>" +
	"<svg onload=alert(1)><a href=\"javascript:alert(1)\">x</a>{{.CSRF}}\u202e\x00\x1b[2J"

// Texts of strangers, of the backend, of another instance and of the program are
// text on the page, however long they are.
func TestHostileTextsStayText(t *testing.T) {
	long := strings.Repeat(evil, 40)
	bubble(t, func(t *testing.T) {
		p := newPlace(t)
		b := p.memory.Backend()
		rec, granted, err := b.Lock.Acquire(t.Context(), "before", "once", time.Minute)
		require.NoError(t, err)
		require.True(t, granted)
		require.NoError(t, b.State.Save(t.Context(), rec.Epoch, reconnect.State{
			Status: reconnect.StatusDisconnected, LastDisconnectAt: time.Now(), DisconnectedSince: time.Now(),
			LastDisconnectReason: reconnect.ReasonBadSession, LastDisconnectDetail: "detail " + long,
			FirstDisconnectReason: reconnect.ReasonBadSession, FirstDisconnectDetail: long,
			Yields: []reconnect.Yield{{By: "by " + long, To: "to " + long, At: time.Now(), Reason: reconnect.Reason(long), Detail: long}},
		}))
		for n := range 30 {
			typ := guard.Type("wa_" + string(rune('a'+n)) + long)
			_, _, err = b.Incidents.Raise(t.Context(), guard.Incident{
				ID: typ.ActiveID(), Type: typ, DetectedAt: time.Now(), InstanceID: long,
				Evidence: map[string]string{"key " + long: "evidence " + long}, Instructions: "instructions " + long, Runbook: "runbook " + long,
			})
			require.NoError(t, err)
		}
		require.NoError(t, b.Lock.Release(t.Context(), rec))
		ok, err := p.m.TryActivate(t.Context())
		require.NoError(t, err)
		require.True(t, ok)
		time.Sleep(time.Second)
		for range 60 {
			p.h.Note(stability.Event{Time: time.Now(), Kind: stability.EventHealth, Detail: "transition " + long})
			p.h.Note(stability.Event{Time: time.Now(), Kind: stability.EventKind(long), Incident: long})
		}
		got := parse(t, p.get("/?done="+url.QueryEscape(evil)+"&incident="+url.QueryEscape(evil)))
		for _, told := range []string{"detail", "instructions", "transition"} {
			require.Contains(t, got.text(""), told+" \"'`></p>", "it is there, as text")
		}
		require.NotContains(t, got.text(""), "\u202e")
		id := p.m.Incidents()[0].ID
		one := parse(t, p.get("/?incident="+url.QueryEscape(id)))
		require.Contains(t, one.text(""), "runbook \"'`></p>", "what was asked for is there")

		p.said = " " + long
		p.broken.Store(true)
		p.await(func(st stability.Status) bool { return st.StoreUnavailable != nil })
		require.Contains(t, parse(t, p.get("/")).text("lock"), "></p>")
		w := p.get("/set-aside")
		require.Contains(t, parse(t, w).text("note"), "></p>")
		p.broken.Store(false)
	})
}

func TestHostilePanicAndHolderStayText(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPlace(t).run().pair()
		bob, err := p.sim.NewContact(t.Context(), "491520000002")
		require.NoError(t, err)
		why := evil
		p.panics.Store(&why)
		_, err = bob.Send(t.Context(), p.account.JID(), evil)
		require.NoError(t, err)
		p.await(func(stability.Status) bool {
			l := p.m.Messages()
			return len(l) > 0 && strings.Contains(l[0].Why, "alert")
		})
		got := parse(t, p.get("/"))
		require.Contains(t, got.text("messages"), "<script>alert(1)")
		require.NotContains(t, got.text(""), "491520000002")

		other := &place{t: t, sim: p.sim, account: p.account, memory: p.memory, open: p.open}
		other.make(stability.WithInstanceID("other"))
		p.stop()
		_, granted, err := p.memory.Backend().Lock.Acquire(t.Context(), evil, "once", time.Hour)
		require.NoError(t, err)
		require.True(t, granted)
		other.run()
		other.await(func(st stability.Status) bool { return st.LockHolder == evil })
		require.Contains(t, parse(t, other.get("/")).text("lock"), "<script>alert(1)")
	})
}

// FuzzSignIn sends any token, cookie, form and query. Only the right token opens
// anything, and no answer leads away or runs anything.
func FuzzSignIn(f *testing.F) {
	f.Add("POST", "/sign-in", token, "", "a/../b", "wa_x\"", "x=1")
	f.Add("POST", "/sign-in", "wrong", "wastability_admin=x; wastability_admin=y", "//evil.example", "%", "incident=<b>")
	f.Add("GET", "/", "", "wastability_admin", "", "", "incident=%22%3E%3Cscript%3E&done=pair&still")
	f.Add("POST", "/do", "", "a=b", "", "", "do=logout")
	f.Add("GET", "/set-aside", "", "", "", "", "%zz")
	f.Add("GET", "/~a%2Fb/", "", "", "", "", "")
	m := spoiled(f, 1)
	single, err := adminhttp.New(m, adminhttp.WithToken(token))
	require.NoError(f, err)
	fleet, err := adminhttp.NewFleet(accounts(map[string]*stability.Manager{"secret-name": m}), adminhttp.WithToken(token))
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, method, path, tok, cookie, account, incident, query string) {
		for _, h := range []http.Handler{single, fleet} {
			form := url.Values{"token": {tok}, "account": {account}, "incident": {incident}}
			r := httptest.NewRequest("POST", "/", strings.NewReader(form.Encode()))
			r.Method, r.URL.Path, r.URL.RawQuery = method, path, query
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			r.Header.Set("Cookie", cookie)
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if to := w.Header().Get("Location"); to != "" {
				require.True(t, strings.HasPrefix(to, "./"), to)
				u, err := url.Parse(to)
				require.NoError(t, err, to)
				require.Empty(t, u.Host+u.Scheme)
			}
			if strings.TrimSpace(tok) != token {
				require.Empty(t, w.Result().Cookies(), "nobody is signed in")
			}
			body := w.Body.String()
			if strings.HasPrefix(w.Header().Get("Content-Type"), "text/html") {
				require.NotNil(t, parse(t, w).id("sign-in-form"))
			}
			if !strings.Contains(path+account+incident+query, "secret-name") {
				require.NotContains(t, body, "secret-name")
			}
			require.NotContains(t, body, `data-state="`)
		}
	})
}
