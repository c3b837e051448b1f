package browsertest

import (
	"iter"
	"maps"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/adminhttp"
)

// The overview of many accounts is for everybody too: the worst first, brought
// up to date by itself, each with a way to its own page and back.
func TestFleetIsShownToEverybodyWorstFirst(t *testing.T) {
	t.Parallel()
	chromium(t)
	well, off := newPlace(t), down(t)
	well.run().pair()
	fleet, err := adminhttp.NewFleet(func() iter.Seq2[string, *stability.Manager] {
		return maps.All(map[string]*stability.Manager{"shop & sons": well.m, "a <b>very</b> long name of an account in one word: " + token + token + token: off.m})
	}, adminhttp.WithToken(token))
	require.NoError(t, err)
	mux := http.NewServeMux()
	mux.Handle("/admin/", http.StripPrefix("/admin", fleet))
	server := httptest.NewServer(mux)
	t.Cleanup(func() {
		require.NoError(t, fleet.Close())
		server.CloseClientConnections()
		server.Close()
	})

	b := newTab(t)
	b.onlyStream()
	b.enter(server.URL + "/admin/")
	states := func() string {
		return eval[string](b, `[...document.querySelectorAll(".accounts li")].map(e => e.dataset.state).join(" ")`)
	}
	b.await("the worst first", func() bool { return states() == "retrying connected" })
	b.usable()
	b.tabbable()
	b.open(server.URL + "/admin/") // the focus is where a page begins
	b.await("the worst first again", func() bool { return states() == "retrying connected" })
	require.Equal(t, 5, b.keepsFocus())
	eval[bool](b, "window.stayed = true")
	off.sim.Heal()
	off.m.Reconnect()
	off.back()
	b.await("both connected", func() bool { return states() == "connected connected" })
	require.True(t, eval[bool](b, "window.stayed === true"), "the page was loaded anew")
	b.click(`[...document.querySelectorAll(".accounts a")].find(e => e.innerText === "shop & sons")`)
	b.await("the account", func() bool { return eval[bool](b, `!!document.querySelector("#lock")`) })
	require.Contains(t, b.text(), "All accounts, shop & sons")
	b.plain()
	b.click(`document.querySelector("header a")`)
	b.await("all accounts", func() bool { return eval[bool](b, `!!document.querySelector(".accounts")`) })
	b.plain()
	b.calm()
}

// A person who follows the link of an alert signs in, and sees the incident at once, with
// what to do about it; later also that it is over.
func TestSharedIncidentLinkLeadsToRunbook(t *testing.T) {
	t.Parallel()
	chromium(t)
	p := newPlace(t, stability.WithPairingOnRequest())
	p.run()
	_, err := p.m.WaitQR(t.Context())
	require.NoError(t, err)
	p.pair().logOut()
	const id = "wa_logged_out_requires_pairing_active"
	p.await(func(stability.Status) bool {
		for _, i := range p.m.Incidents() {
			if i.ID == id {
				return true
			}
		}
		return false
	})
	link := p.url + "?incident=" + id + "#incident-" + id
	b := newTab(t)
	b.open(link)
	require.NotContains(t, b.text(), "incident")
	b.give(token)
	b.await("that one is signed in", b.signedIn)
	require.Equal(t, link, eval[string](b, "location.href"))
	asked := `document.querySelector("article.asked#incident-` + id + `")`
	seen := func() {
		t.Helper()
		b.await("the incident before all else", func() bool {
			return eval[bool](b, `(r => r.top > -2 && r.top < innerHeight / 2 && r.width > 0)(`+asked+`.getBoundingClientRect())`)
		})
		require.Greater(t, eval[int](b, asked+`.querySelector(".runbook").innerText.length`), 100)
		require.Contains(t, eval[string](b, asked+".innerText"), "Active since")
	}
	seen()
	b.usable()
	b.desktop()
	b.plain()
	seen()
	_, err = p.m.WaitQR(t.Context())
	require.NoError(t, err)
	p.pair()
	b.open(p.url) // else only the place on the page would change
	b.open(link)
	b.await("that it is over", func() bool { return eval[bool](b, asked+`.innerText.includes("Over since")`) })
	b.calm()
}

// Rows that the store has set aside are listed for everybody, and can be removed or
// restored by buttons that ask first.
func TestSetAsideIsShownAndRestored(t *testing.T) {
	t.Parallel()
	chromium(t)
	before := newPlace(t).run().pair()
	before.damage("491520000009:0")
	before.stop()
	p := before.another(stability.WithPairingOnRequest()).run()
	p.back()
	p.hear()
	p.logOut()
	b := newTab(t)
	p.enter(b)
	b.click(`document.querySelector("#set-aside-link")`)
	b.await("what is set aside", func() bool {
		return eval[bool](b, `!!document.querySelector("#device") && document.querySelectorAll(".row").length === 1`)
	})
	b.usable()
	b.tabbable()
	require.NotContains(t, b.text(), "491520000009")
	b.withoutScript()
	run(b, chromedp.Reload())
	require.Empty(t, eval[[]string](b, checksJS))
	b.click(`[...document.querySelectorAll("summary")].at(-1)`)
	b.press("Remove them all")
	require.True(t, eval[bool](b, `document.querySelectorAll(".row").length === 1`), "the box must be ticked first")
	b.click(`document.querySelector("#purge-rows-form input[type=checkbox], form:has([value=purge-rows]) input[type=checkbox]")`)
	b.press("Remove them all")
	b.awaitText("The damaged rows were removed for good.")
	b.open(p.url + "set-aside")
	require.False(t, eval[bool](b, `!!document.querySelector(".row")`))
	q, err := p.m.Quarantine(t.Context())
	require.NoError(t, err)
	require.Empty(t, q.Rows)
	removed := q.Device.At
	b.press("Restore it")
	b.awaitText("The session that was set aside is the account's again.")
	// The phone has really removed it: it logs in, hears so, and is set aside again.
	p.awaitSetAside(removed)
	b.calm()
}
