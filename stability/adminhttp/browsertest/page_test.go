package browsertest

import (
	_ "embed"
	"strings"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/require"
)

//go:embed checks.js
var checksJS string

//go:embed focus.js
var focusJS string

func (b *tab) open(url string) {
	b.t.Helper()
	run(b, chromedp.Navigate(url))
}

// give types the token into the form and sends it, without a mouse.
func (b *tab) give(token string) {
	b.t.Helper()
	run(b, chromedp.SendKeys(chromedp.CSS("input[type=password]"), token+kb.Enter, chromedp.NodeVisible))
}

// signedIn reports that the whole page is there, and no form for the token any more.
func (b *tab) signedIn() bool {
	return eval[bool](b, `document.readyState === "complete" && !!document.querySelector("main") && ![...document.querySelectorAll("input[type=password]")].some(e => e.checkVisibility())`)
}

// button is a script that finds the button with this text.
func button(text string) string {
	return `[...document.querySelectorAll("button")].find(e => e.checkVisibility() && e.innerText.trim() === "` + text + `")`
}

func (b *tab) has(text string) bool { return eval[bool](b, "!!"+button(text)) }

// press clicks with the mouse.
func (b *tab) press(text string) {
	b.t.Helper()
	b.await("the button "+text, func() bool { return b.has(text) })
	run(b, chromedp.Click(chromedp.JSPath(button(text))))
}

// atOnce checks that a phone shows what is wrong and what to do, and the code to
// scan, before anybody has moved the page.
func (b *tab) atOnce() {
	b.t.Helper()
	b.phone()
	require.Empty(b.t, eval[[]string](b, `[...document.querySelectorAll("#headline, #do, #qr svg, .asked .said")]
		.filter(e => e.checkVisibility() && e.getBoundingClientRect().bottom + scrollY > innerHeight).map(e => e.outerHTML.slice(0, 200))`), "below the edge of the screen")
}

// usable checks that everybody can read and use the page: in both colours and
// sizes, magnified, in the few colours that a reader may choose, and without
// anything that moves.
func (b *tab) usable() {
	b.t.Helper()
	for _, size := range []string{"desktop", "phone"} {
		if b.phone(); size == "desktop" {
			b.desktop()
		}
		for _, scheme := range []string{"dark", "light"} {
			b.scheme(scheme)
			require.Empty(b.t, eval[[]string](b, checksJS), "%s, %s", size, scheme)
			b.save(size + "-" + scheme)
		}
	}
	b.magnified()
	require.Empty(b.t, eval[[]string](b, checksJS), "magnified")
	b.save("magnified")
	b.desktop()
	b.prefers("forced-colors", "active", "prefers-reduced-motion", "reduce")
	require.Empty(b.t, eval[[]string](b, checksJS), "forced colours, reduced motion")
	b.save("forced")
	b.scheme("light")
}

// plain turns JavaScript off and loads the page anew: everybody can still read
// and use it, and it brings itself up to date.
func (b *tab) plain() {
	b.t.Helper()
	b.withoutScript()
	run(b, chromedp.Reload())
	require.Empty(b.t, eval[[]string](b, checksJS), "without script")
	require.True(b.t, eval[bool](b, `!!document.querySelector("noscript meta[http-equiv=refresh]")`), "it loads itself anew")
}

// focus is what has the focus.
type focus struct {
	None     bool   `json:"none"`
	Visible  bool   `json:"visible"`
	OnScreen bool   `json:"onScreen"`
	Place    int    `json:"place"`
	Name     string `json:"name"`
	Label    string `json:"label"`
}

func (b *tab) focused() focus { return eval[focus](b, focusJS) }

func (b *tab) key(k string) { run(b, chromedp.KeyEvent(k)) }

// tabTo goes with the tab key until the element with this label has the focus.
func (b *tab) tabTo(label string) {
	b.t.Helper()
	var passed []string
	for range 60 {
		b.key(kb.Tab)
		f := b.focused()
		if !f.None && (f.Label == label || strings.HasPrefix(f.Label, label)) {
			require.True(b.t, f.Visible, "nobody sees that it has the focus: %s", f.Name)
			return
		}
		passed = append(passed, f.Name)
	}
	require.Fail(b.t, "the tab key does not reach "+label, "%q", passed)
}

// tabbable goes through the page with the tab key once, while it stays as it is.
func (b *tab) tabbable() {
	b.t.Helper()
	b.await("an end of what is being read", func() bool { return eval[bool](b, "over = true, !reading") })
	defer eval[bool](b, "over = false, refresh(), true")
	last := -1
	var passed []string
	var f focus
	for range 200 {
		b.key(kb.Tab)
		f = b.focused()
		if f.None || f.Place <= last {
			break
		}
		require.True(b.t, f.Visible, "nobody sees that it has the focus: %s", f.Name)
		require.True(b.t, f.OnScreen, "it has the focus and is out of sight: %s", f.Name)
		last = f.Place
		passed = append(passed, f.Name)
	}
	reach := eval[int](b, `[...document.querySelectorAll("a[href], button, input:not([type=hidden]), select, textarea, summary, [tabindex='0']")].filter(e => !e.disabled && e.checkVisibility({visibilityProperty: true})).length`)
	require.Len(b.t, passed, reach, "what the tab key reaches: %q, and then %+v", passed, f)
}

// keepsFocus goes through the page with the tab key once. Each element with the focus
// keeps it when the page is brought up to date. It returns how many there are.
func (b *tab) keepsFocus() int {
	b.t.Helper()
	kept := map[string]bool{}
	for range 30 {
		b.key(kb.Tab)
		f := b.focused()
		if f.None || kept[f.Name] {
			break
		}
		kept[f.Name] = true
		eval[bool](b, `for (const e of document.querySelectorAll("[data-part]")) e.append("old"); refresh(); true`)
		b.await("a new page", func() bool {
			return eval[bool](b, `![...document.querySelectorAll("[data-part]")].some(e => e.lastChild.data === "old")`)
		})
		require.Equal(b.t, f.Name, b.focused().Name)
	}
	return len(kept)
}

// awaitState waits until the page shows this state, by its stable name.
func (b *tab) awaitState(name string) {
	b.t.Helper()
	b.await("the state "+name, func() bool {
		return eval[bool](b, `document.querySelector("#state")?.dataset.state === "`+name+`"`)
	})
}

func (b *tab) awaitSignedOut() {
	b.t.Helper()
	b.await("the form to sign in", func() bool {
		return eval[bool](b, `!!document.querySelector("#sign-in-form") && !document.querySelector("#state")`)
	})
}

func (b *tab) html() string { return eval[string](b, "document.documentElement.outerHTML") }
