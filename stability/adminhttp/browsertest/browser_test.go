package browsertest

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
)

// needEnv set to 1 makes a missing Chromium a failure: for CI.
const needEnv = "WASTABILITY_NEED_CHROMIUM"

// patience bounds every wait for the browser or for a state. It is longer than
// the pause after a login that a busy machine was too slow for; see policy.
const patience = 90 * time.Second

var browser struct {
	once sync.Once
	ctx  context.Context
	end  []context.CancelFunc
	err  error
}

func TestMain(m *testing.M) {
	flag.Parse()
	if n := flag.Lookup("test.parallel"); n.Value.String() == n.DefValue {
		_ = n.Value.Set("4") // tabs side by side: most of a test is a wait for a state, or for the browser
	}
	code := m.Run()
	for i := len(browser.end) - 1; i >= 0; i-- {
		browser.end[i]()
	}
	os.Exit(code)
}

// chromium is the one browser of this test binary.
func chromium(t *testing.T) context.Context {
	t.Helper()
	path := os.Getenv("WASTABILITY_CHROMIUM")
	if path == "" {
		path = "/usr/bin/chromium"
	}
	if _, err := exec.LookPath(path); err != nil {
		if os.Getenv(needEnv) == "1" {
			t.Fatalf("no Chromium, and %s=1: install Debian's package chromium, or set WASTABILITY_CHROMIUM: %v", needEnv, err)
		}
		t.Skipf("this test needs Chromium: install Debian's package chromium, or set WASTABILITY_CHROMIUM: %v", err)
	}
	browser.once.Do(func() {
		opts := append(chromedp.DefaultExecAllocatorOptions[:],
			chromedp.ExecPath(path), chromedp.Env("TZ=UTC", "LANG=en_US.UTF-8"),
			chromedp.Flag("lang", "en-US"),
			chromedp.Flag("disable-component-update", true),
			// Nothing but the tests' own servers can be reached.
			chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"),
		)
		if os.Geteuid() == 0 {
			opts = append(opts, chromedp.NoSandbox)
		}
		allocator, end := chromedp.NewExecAllocator(context.Background(), opts...)
		browser.end = append(browser.end, end)
		browser.ctx, end = chromedp.NewContext(allocator)
		browser.end = append(browser.end, end)
		browser.err = chromedp.Do(browser.ctx)
	})
	require.NoError(t, browser.err, "start Chromium")
	return browser.ctx
}

// tab is one window of the browser with cookies of its own. It notes whatever
// the browser complains about.
type tab struct {
	t   *testing.T
	ctx context.Context

	mu       sync.Mutex
	trouble  []string
	requests []string // their addresses
}

func newTab(t *testing.T) *tab {
	t.Helper()
	b := &tab{t: t}
	ctx, cancel := chromedp.NewContext(chromium(t), chromedp.WithNewBrowserContext(), chromedp.WithListener(b.listen))
	t.Cleanup(cancel)
	b.ctx = ctx
	require.NoError(t, chromedp.Do(ctx)) // makes it; without a timeout, which would end it
	call(b, emulation.SetFocusEmulationEnabled, emulation.SetFocusEmulationEnabledParams{Enabled: true})
	b.phone()
	return b
}

func (b *tab) listen(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	note := func(format string, args ...any) { b.trouble = append(b.trouble, fmt.Sprintf(format, args...)) }
	switch e := event.(type) {
	case *runtime.EventConsoleAPICalled:
		for _, a := range e.Args {
			note("console %s: %s %s", e.Type, a.Value, a.Description)
		}
	case *runtime.EventExceptionThrown:
		note("exception: %s", (&chromedp.ExceptionError{ExceptionDetails: e.ExceptionDetails}).Error())
	case *log.EventEntryAdded: // a violation of the page's policy comes here
		note("%s %s: %s %s", e.Entry.Source, e.Entry.Level, e.Entry.Text, e.Entry.URL)
	case *network.EventRequestWillBeSent:
		b.requests = append(b.requests, e.Request.URL)
	case *network.EventLoadingFailed:
		if !e.Canceled { // a new page ends the old one's streams
			note("a request failed: %s", e.ErrorText)
		}
	case *network.EventResponseReceived:
		if e.Response.Status >= 400 {
			note("%s answered %d", e.Response.URL, e.Response.Status)
		}
	case *page.EventJavascriptDialogOpening:
		note("a dialog: %s", e.Message)
	}
}

// calm checks that the browser has complained about nothing.
func (b *tab) calm() {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	require.Empty(b.t, b.trouble)
}

// run is one action, with an end to its patience.
func run[T any](b *tab, a chromedp.Action[T]) T {
	b.t.Helper()
	v, err := try(b, a)
	require.NoError(b.t, err)
	return v
}

func try[T any](b *tab, a chromedp.Action[T]) (T, error) {
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	return chromedp.Run(ctx, a)
}

// call is one command of the browser's protocol.
func call[P, R any](b *tab, command cdp.Command[P, R], params P) R {
	b.t.Helper()
	return run(b, func(ctx context.Context, t *chromedp.Target) (R, error) { return cdp.Call(ctx, t, command, params) })
}

// phone and desktop set the size of the window.
func (b *tab) phone() {
	call(b, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: 390, Height: 844, DeviceScaleFactor: 2, Mobile: true})
}

func (b *tab) desktop() {
	call(b, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: 1280, Height: 800, DeviceScaleFactor: 1})
}

// magnified is the desktop's window at 200 %.
func (b *tab) magnified() {
	call(b, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: 640, Height: 400, DeviceScaleFactor: 2})
}

// scheme is "light" or "dark".
func (b *tab) scheme(name string) { b.prefers("prefers-color-scheme", name) }

// prefers sets what the reader has asked the system for: names, and a value
// behind each.
func (b *tab) prefers(features ...string) {
	var p emulation.SetEmulatedMediaParams
	for f := range slices.Chunk(features, 2) {
		p.Features = append(p.Features, &emulation.MediaFeature{Name: f[0], Value: f[1]})
	}
	call(b, emulation.SetEmulatedMedia, p)
}

// withoutScript turns the page's JavaScript off.
func (b *tab) withoutScript() {
	call(b, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
}

// onlyStream turns off what looks for changes now and then, so that only the
// stream of events tells of them.
func (b *tab) onlyStream() {
	call(b, page.AddScriptToEvaluateOnNewDocument, page.AddScriptToEvaluateOnNewDocumentParams{
		Source: "const every = setInterval; window.setInterval = (f, ms) => ms > 1000 ? 0 : every(f, ms);",
	})
}

// leaving is how the browser answers while the next page takes the place of the one
// that was asked.
const leaving = "Inspected target navigated or closed"

// eval runs JavaScript of the test in the page; also where the page's own is off. It
// asks again on the next page if this one is being left, so js looks and does not act.
func eval[T any](b *tab, js string) T {
	b.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		v, err := try(b, chromedp.Evaluate[T](js))
		if err == nil || !strings.Contains(err.Error(), leaving) || time.Now().After(end) {
			require.NoError(b.t, err)
			return v
		}
	}
}

func (b *tab) text() string { return spaces(eval[string](b, `document.body?.innerText || ""`)) }

func (b *tab) await(what string, cond func() bool) {
	b.t.Helper()
	for end := time.Now().Add(patience); !cond(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			b.save("failed")
			require.Fail(b.t, "the page never showed "+what, "%s\n%v", b.text(), b.trouble)
		}
	}
}

func (b *tab) awaitText(text string) {
	b.t.Helper()
	b.await(text, func() bool { return strings.Contains(b.text(), spaces(text)) })
}

// spaces makes one blank of any white space.
func spaces(s string) string { return strings.Join(strings.Fields(s), " ") }

// picture is what the window shows, as PNG.
func (b *tab) picture() []byte {
	b.t.Helper()
	return run(b, chromedp.CaptureScreenshot())
}

// save writes the whole page as a picture, if somebody wants to look.
func (b *tab) save(name string) {
	b.t.Helper()
	dir := os.Getenv("WASTABILITY_PICTURES")
	if dir == "" {
		return
	}
	png := run(b, chromedp.FullScreenshot(100))
	require.NoError(b.t, os.MkdirAll(dir, 0o755))
	require.NoError(b.t, os.WriteFile(dir+"/"+strings.NewReplacer("/", "-", "Test", "").Replace(b.t.Name())+"-"+name+".png", png, 0o644))
}
