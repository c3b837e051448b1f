package adminhttp_test

import (
	"encoding/json"
	"iter"
	"maps"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/html"

	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/adminhttp"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

func accounts(of map[string]*stability.Manager) func() iter.Seq2[string, *stability.Manager] {
	return func() iter.Seq2[string, *stability.Manager] { return maps.All(of) }
}

// lines are the accounts as the overview lists them.
func (p *page) lines() (out []string) {
	for n := range p.id("accounts").Descendants() {
		if n.Type == html.ElementNode && n.Data == "a" {
			out = append(out, n.FirstChild.Data)
		}
	}
	return out
}

func TestFleetShowsTheWorstFirst(t *testing.T) {
	bubble(t, func(t *testing.T) {
		good, bad, idle := newPlace(t).run().pair(), newPlace(t).run().pair(), newPlace(t)
		bad.sim.Fault(wasim.DeviceRemoved()).For(bad.account.JID()).Now()
		bad.await(func(st stability.Status) bool { return st.QRAvailable })
		const odd = "a/b ü?#~"
		managers := map[string]*stability.Manager{"good": good.m, "z-bad": bad.m, odd: idle.m}
		f, err := adminhttp.NewFleet(accounts(managers), adminhttp.WithToken(token))
		require.NoError(t, err)
		defer f.Close()
		b := &browser{t: t, h: f, remote: "192.0.2.9:1"}
		require.NotNil(t, b.page("/").id("sign-in-form"))
		b.signIn(token)
		got := b.page("/")
		require.Equal(t, []string{"z-bad", odd, "good"}, got.lines())
		require.Equal(t, "bad", got.state())
		require.Contains(t, got.text("headline"), "1 account needs somebody.")

		var paths []string
		for n := range got.id("accounts").Descendants() {
			if n.Data == "a" && n.Type == html.ElementNode {
				paths = append(paths, strings.TrimPrefix(attr(n, "href"), "."))
			}
		}
		for i, want := range []string{"code", "not_active", "connected"} {
			one := b.page(paths[i])
			require.Equal(t, want, one.state())
			require.Equal(t, "../sign-out", attr(one.id("sign-out-form"), "action"))
		}
		w := b.do("POST", paths[2]+"do", url.Values{"do": {"logout"}, "confirm": {"logout"}, "csrf": {value(got.id("sign-out-form"), "csrf")}})
		require.Equal(t, 303, w.Code, w.Body)
		require.Equal(t, "./?done=logout", w.Header().Get("Location"))
		require.Empty(t, good.account.Devices())

		delete(managers, "z-bad")
		require.Equal(t, 404, b.do("GET", "/~z-bad/", nil).Code)
		require.Len(t, b.page("/").lines(), 2)
	})
}

func TestFleetForMachines(t *testing.T) {
	bubble(t, func(t *testing.T) {
		one, two := newPlace(t).run().pair(), newPlace(t)
		f, err := adminhttp.NewFleet(accounts(map[string]*stability.Manager{"one": one.m, "two": two.m}), adminhttp.WithToken(token))
		require.NoError(t, err)
		defer f.Close()
		p := &place{t: t}
		get := func(path, tok string) *httptest.ResponseRecorder {
			r := httptest.NewRequest("GET", path, nil)
			r.Header.Set(adminhttp.TokenHeader, tok)
			w := httptest.NewRecorder()
			f.ServeHTTP(w, r)
			return w
		}
		var doc struct {
			Accounts map[string]struct{ Summary string }
		}
		require.NoError(t, json.Unmarshal(get("/api/longrun/status-now", token).Body.Bytes(), &doc))
		require.Equal(t, one.m.Status().Summary, doc.Accounts["one"].Summary)
		require.Len(t, doc.Accounts, 2)
		p.answer(get("/~one/api/longrun/status-now", token), 200)
		p.answer(get("/~none/api/longrun/status-now", token), 404)
		ready := p.answer(get("/ready", ""), 503)
		require.EqualValues(t, 1, ready["notReady"])
		require.NotContains(t, ready["message"], "two")
		p.answer(get("/ready?standby=ok", ""), 200)
		p.answer(get("/health", ""), 200)
		two.stop()
		p.answer(get("/health", ""), 200)
		one.stop()
		p.answer(get("/health", ""), 503)
	})
}

func TestFleetTellsStrangersNoNames(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPlace(t)
		f, err := adminhttp.NewFleet(accounts(map[string]*stability.Manager{"there": p.m}), adminhttp.WithToken(token))
		require.NoError(t, err)
		defer f.Close()
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "DELETE"} {
			for _, rest := range []string{"", "/", "/health", "/ready", "/events", "/do", "/set-aside", "/sign-in", "/api/longrun/status-now", "/api/whatsapp/logout", "/x"} {
				b := &browser{t: t, h: f, remote: "192.0.2.9:1"}
				there, gone := b.do(method, "/~there"+rest, nil), b.do(method, "/~nobody"+rest, nil)
				require.Equal(t, gone.Code, there.Code, method+rest)
				require.Contains(t, []int{200, 307, 401}, there.Code)
				require.Equal(t, strings.ReplaceAll(gone.Body.String(), "nobody", "there"), there.Body.String())
			}
		}
		_, err = adminhttp.NewFleet(nil, adminhttp.WithToken(token))
		require.ErrorContains(t, err, "pass a function")
		_, err = adminhttp.NewFleet(accounts(nil))
		require.ErrorContains(t, err, "no token")
	})
}

func TestFleetPageHearsOfEveryAccount(t *testing.T) {
	bubble(t, func(t *testing.T) {
		one, two := newPlace(t), newPlace(t)
		f, err := adminhttp.NewFleet(accounts(map[string]*stability.Manager{"one": one.m, "two": two.m}), adminhttp.WithToken(token))
		require.NoError(t, err)
		x := listen(t, hear(t, f)(withToken))
		two.run().pair()
		time.Sleep(2 * time.Second)
		require.Positive(t, x.changed.Load())
		require.NoError(t, f.Close())
		<-x.ended
	})
}
