package browsertest

import (
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// down is an instance that waits 40 s for its next attempt, which would
// succeed.
func down(t *testing.T) *place {
	p := newPlace(t)
	p.run().pair()
	refusing := p.sim.Fault(wasim.Refused()).Always().Now()
	p.sim.Fault(wasim.Reset()).For(p.account.JID()).Now()
	p.disconnected(reconnect.ReasonConnectionClosed)
	refusing.Stop()
	return p
}

func (p *place) back() {
	p.t.Helper()
	p.await(func(st stability.Status) bool { return st.WA == reconnect.StatusConnected })
}

func (p *place) reload(b *tab) {
	b.t.Helper()
	b.open(p.url)
}

// Nothing but the stream of events tells this page of changes.
func TestChangesAreShownWithoutReload(t *testing.T) {
	t.Parallel()
	chromium(t)
	p := newPlace(t)
	p.run().pair()
	b := newTab(t)
	b.onlyStream()
	p.enter(b)
	b.awaitState("connected")
	eval[bool](b, "window.stayed = true")
	title := eval[string](b, "document.title")
	refusing := p.sim.Fault(wasim.Refused()).Always().Now()
	p.sim.Fault(wasim.Reset()).For(p.account.JID()).Now()
	b.awaitState("retrying")
	require.NotEqual(t, title, eval[string](b, "document.title"), "the name of the window tells it too")
	left := eval[string](b, `document.querySelector("#countdown").innerText`)
	b.await("that time passes", func() bool { return eval[string](b, `document.querySelector("#countdown").innerText`) != left })
	refusing.Stop()
	p.m.Reconnect()
	b.awaitState("connected")
	require.True(t, eval[bool](b, "window.stayed === true"), "the page was loaded anew")
	b.calm()
}

// A change after the page was written and before its stream begins is shown.
func TestChangeBeforeStreamIsShown(t *testing.T) {
	t.Parallel()
	chromium(t)
	p := newPlace(t)
	p.run().pair()
	gate := make(chan struct{})
	p.gate.Store(&gate)
	b := newTab(t)
	b.onlyStream()
	p.enter(b)
	b.awaitState("connected")
	b.await("that it asks for the stream", func() bool { return b.asked("/events") })
	p.sim.Fault(wasim.Refused()).Always().Now()
	p.sim.Fault(wasim.Reset()).For(p.account.JID()).Now()
	p.disconnected(reconnect.ReasonConnectionClosed)
	close(gate)
	b.awaitState("retrying")
	b.calm()
}

// When the program is gone, an open page does not go on saying that all is well.
func TestPageSaysThatProgramIsGone(t *testing.T) {
	t.Parallel()
	chromium(t)
	p := newPlace(t)
	p.run().pair()
	b := newTab(t)
	b.onlyStream()
	p.enter(b)
	b.awaitState("connected")
	b.await("that it asks for the stream", func() bool { return b.asked("/events") })
	p.gone()
	b.awaitText("The program does not answer. What is shown is old.")
}

func TestPageWorksWithoutScript(t *testing.T) {
	t.Parallel()
	chromium(t)
	p := down(t)
	b := newTab(t)
	b.withoutScript()
	p.enter(b)
	p.says(b)
	require.Empty(t, eval[[]string](b, checksJS))
	require.True(t, eval[bool](b, `!!document.querySelector("noscript meta[http-equiv=refresh]")`), "it loads itself anew")
	b.press("Try now")
	b.awaitText("Asked for")
	p.back()
	p.reload(b)
	b.awaitState("connected")
	p.says(b)
	require.Empty(t, eval[[]string](b, checksJS))
	b.press("Sign out")
	b.awaitSignedOut()
	b.calm()
}

func TestKeyboardAloneSignsInAndReconnects(t *testing.T) {
	t.Parallel()
	chromium(t)
	p := down(t)
	b := newTab(t)
	b.open(p.url)
	b.await("the focus in the field for the token", func() bool { return b.focused().Label == "Admin token" })
	b.key(token + kb.Enter)
	b.await("that one is signed in", b.signedIn)
	b.tabTo("Try now")
	b.key(kb.Enter)
	p.back()
	b.awaitState("connected")
	b.tabTo("Sign out")
	b.key(kb.Enter)
	b.awaitSignedOut()
	b.calm()
}

// Each control is reached with the tab key, in the order in which it is
// read, and shows that it has the focus.
func TestTabKeyReachesEverything(t *testing.T) {
	t.Parallel()
	chromium(t)
	for name, reach := range map[string]func() *place{
		"off": func() *place { return down(t) },
		"to link": func() *place {
			p := newPlace(t).run()
			p.await(func(st stability.Status) bool { return st.QRAvailable })
			return p
		},
		"messages refused": func() *place {
			p := newPlace(t)
			p.refuse.Store(true)
			p.run().pair().hear()
			p.await(func(stability.Status) bool { return len(p.m.Messages()) > 0 && p.m.Messages()[0].Tries > 0 })
			return p
		},
	} {
		p, b := reach(), newTab(t)
		for _, scheme := range []string{"light", "dark"} {
			b.scheme(scheme)
			if b.open(p.url); scheme == "light" {
				b.await("the form", func() bool { return b.focused().Label == "Admin token" })
				require.Empty(t, eval[[]string](b, checksJS), "sign in, %s", name)
				b.give(token)
				b.await("that one is signed in", b.signedIn)
			}
			b.tabbable()
		}
		b.calm()
	}
}

// asked reports whether the page has asked for this.
func (b *tab) asked(end string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.ContainsFunc(b.requests, func(url string) bool { return strings.HasSuffix(url, end) })
}

func (b *tab) click(js string) {
	b.t.Helper()
	run(b, chromedp.Click(chromedp.JSPath(js)))
}

func (b *tab) typeInto(css, text string) {
	b.t.Helper()
	run(b, chromedp.SendKeys(chromedp.CSS(css), text, chromedp.NodeVisible))
}

// An element with the focus keeps it when the page is brought up to date: nobody who
// uses the keyboard begins anew.
func TestFocusStaysWhenPageChanges(t *testing.T) {
	t.Parallel()
	chromium(t)
	p := newPlace(t)
	p.refuse.Store(true)
	p.run().pair().hear()
	p.await(func(stability.Status) bool { return len(p.m.Messages()) > 0 && p.m.Messages()[0].Tries > 0 })
	b := newTab(t)
	p.enter(b)
	require.Greater(t, b.keepsFocus(), 4)
	b.calm()
}
