package adminhttp

import (
	"errors"
	"iter"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/wastability/wastability/stability"
)

// Fleet serves many Managers: an overview with the worst first, and each account
// as a Handler does, under ~NAME/. Make it with NewFleet. Safe for concurrent
// use.
type Fleet struct {
	list   func() iter.Seq2[string, *stability.Manager]
	cfg    *config
	door   *door
	routes map[string]route
	shared *streams
	once   sync.Once
	closed chan struct{}

	nobody map[string]route // what is answered about a name that there is not

	mu       sync.Mutex
	over     bool
	accounts map[string]*Handler

	bell    sync.Mutex
	changed chan struct{} // closed and replaced at every transition of any account
}

// NewFleet returns a handler for the accounts that list yields, by name. Each
// request calls list, from any goroutine, so it must not wait for anything. A
// good one is maps.All of a copy of the host's own map. A day of an account is
// noted from when it was first listed: at NewFleet, or with a later request.
//
// Everybody who is let in sees all accounts. The options are those of New.
//
//	GET  /                          all accounts, worst first
//	GET  /health                    200 while the process is fit; 503 once there are Managers, and all are closed
//	GET  /ready                     200 while every account is ready; ?standby=ok as with one account
//	GET  /api/longrun/status-now    {success, timestamp, accounts: {name: …}}, each as with one account
//	     /~NAME/…                   everything of that account, NAME escaped as in a URL; all of it needs the token
func NewFleet(list func() iter.Seq2[string, *stability.Manager], opts ...Option) (*Fleet, error) {
	c := configure(opts)
	if list == nil {
		c.errs = append(c.errs, errors.New("adminhttp: NewFleet(nil): pass a function that yields the Managers by name"))
	}
	if len(c.errs) > 0 {
		return nil, errors.Join(c.errs...)
	}
	f := &Fleet{list: list, cfg: c, door: newDoor(c), shared: newStreams(), closed: make(chan struct{}), changed: make(chan struct{}), accounts: map[string]*Handler{}, nobody: map[string]route{}}
	f.routes = map[string]route{
		"/":                       {look: f.overview},
		"/events":                 {look: f.events},
		"/health":                 {open: true, get: f.health},
		"/ready":                  {open: true, get: f.ready},
		"/api/longrun/status-now": {get: f.statusNow},
	}
	if c.allow == nil {
		f.door.routes(f.routes, f.signInPage)
	}
	for path, rt := range new(Handler).table(false) {
		// A caller who is not let in cannot tell it from a name that exists.
		gone := func(w http.ResponseWriter, _ *http.Request) {
			writeJSON(w, http.StatusNotFound, failure{Error: "no_account", Message: "There is no account of this name here."})
		}
		person := func(w http.ResponseWriter, r *http.Request, _ *caller) { gone(w, r) }
		switch {
		case rt.look != nil:
			rt = route{look: person}
		case rt.press != nil:
			rt = route{press: person}
		default:
			rt = route{get: gone, post: gone}
		}
		f.nobody[path] = rt
	}
	f.refresh()
	return f, nil
}

func (f *Fleet) ring() {
	f.bell.Lock()
	defer f.bell.Unlock()
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *Fleet) next() (<-chan struct{}, bool) {
	f.bell.Lock()
	defer f.bell.Unlock()
	return f.changed, false
}

// Close ends the streams of open pages, and notes no more of what happens, as
// Handler.Close does. Requests are still answered.
func (f *Fleet) Close() error {
	f.once.Do(func() { close(f.closed) })
	f.mu.Lock()
	defer f.mu.Unlock()
	f.over = true
	for _, h := range f.accounts {
		_ = h.Close()
	}
	return nil
}

// refresh asks for the accounts, in order of their names. One whose Manager was
// replaced begins anew.
func (f *Fleet) refresh() []*Handler {
	listed := map[string]*stability.Manager{}
	for name, m := range f.list() {
		if m != nil && name != "" {
			listed[name] = m
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make([]*Handler, 0, len(listed))
	for name, m := range listed {
		h := f.accounts[name]
		if h == nil || h.m != m {
			if h != nil {
				_ = h.Close()
			}
			h = newHandler(m, f.cfg, f.door, f.shared, name, f.ring)
			if f.over {
				_ = h.Close()
			}
			f.accounts[name] = h
		}
		out = append(out, h)
	}
	for name, h := range f.accounts {
		if listed[name] == nil {
			_ = h.Close()
			delete(f.accounts, name)
		}
	}
	slices.SortFunc(out, func(a, b *Handler) int { return strings.Compare(a.name, b.name) })
	return out
}

// ServeHTTP implements http.Handler.
func (f *Fleet) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	secure(w)
	if r.URL.Path == "" {
		addSlash(w, r)
		return
	}
	name, rest, ok := accountOf(r.URL)
	if !ok {
		f.door.serve(w, r, f.routes, r.URL.Path, f.signInPage)
		return
	}
	if rest == "" {
		addSlash(w, r)
		return
	}
	all := f.refresh()
	if i := slices.IndexFunc(all, func(h *Handler) bool { return h.name == name }); i >= 0 {
		f.door.serve(w, r, all[i].routes, rest, all[i].signInPage)
		return
	}
	f.door.serve(w, r, f.nobody, rest, f.signInPage)
}

// accountOf takes the account's name out of /~NAME/rest. It looks at the path as
// it was sent: a name may contain a slash.
func accountOf(u *url.URL) (name, rest string, ok bool) {
	escaped, ok := strings.CutPrefix(u.EscapedPath(), "/~")
	if !ok {
		return "", "", false
	}
	first, rest, slash := strings.Cut(escaped, "/")
	name, err := url.PathUnescape(first)
	if err != nil || name == "" {
		return "", "", false
	}
	if !slash {
		return name, "", true
	}
	rest, err = url.PathUnescape("/" + rest)
	return name, rest, err == nil
}

type fleetView struct {
	frame
	headline
	Accounts []accountLine
	Count    string
	all      int
}

type accountLine struct {
	headline
	Name   string
	Path   string
	Since  moment
	Next   moment
	Holder string
	Active int // incidents
}

const linesShown = 150

func (f *Fleet) overview(w http.ResponseWriter, r *http.Request, c *caller) {
	v := fleetView{frame: newFrame("Accounts", c)}
	v.Still = r.URL.Query().Has("still")
	tones := map[tone]int{}
	for _, h := range f.refresh() {
		st := h.m.Status()
		line := accountLine{
			headline: headlineOf(st), Name: short(h.mask(h.name), 100), Path: "./~" + url.PathEscape(h.name) + "/",
			Since: moment{explain(st).since, st.At},
		}
		if !st.LockMayBeFree {
			line.Holder = short(h.mask(st.LockHolder), 60)
		}
		if st.NextRetryAt.After(st.At) {
			line.Next = moment{st.NextRetryAt, st.At}
		}
		for _, inc := range h.m.Incidents() {
			if inc.Active {
				line.Active++
			}
		}
		tones[line.Tone]++
		v.Accounts = append(v.Accounts, line)
	}
	slices.SortStableFunc(v.Accounts, func(a, b accountLine) int { return a.Tone.rank() - b.Tone.rank() })
	v.headline = fleetHeadline(tones)
	v.all = len(v.Accounts)
	v.show(linesShown)
	write(w, http.StatusOK, "fleet", &v)
}

// show shows the worst n.
func (v *fleetView) show(n int) {
	v.Count = strconv.Itoa(v.all) + " accounts"
	if v.all == 1 {
		v.Count = "1 account"
	}
	if v.all > n {
		v.Count += "; the worst " + strconv.Itoa(n) + " are shown"
		v.Accounts = v.Accounts[:n]
	}
}

func (v *fleetView) shorten() bool {
	v.show(len(v.Accounts) * 2 / 3)
	return len(v.Accounts) > 0
}

func fleetHeadline(tones map[tone]int) headline {
	some := func(n int, one, more string) string {
		if n == 1 {
			return "1 account " + one
		}
		return strconv.Itoa(n) + " accounts " + more
	}
	switch {
	case tones[bad] > 0:
		return headline{"bad", bad, "Look here", some(tones[bad], "needs somebody.", "need somebody.")}
	case tones[warn] > 0:
		return headline{"warn", warn, "Not all is well", some(tones[warn], "is not as it should be: open it to see what to do.", "are not as they should be: open each to see what to do.")}
	case tones[good]+tones[calm] == 0:
		return headline{"none", calm, "No accounts", "This program looks after no account yet."}
	}
	return headline{"good", good, "All is well", ""}
}

func (f *Fleet) signInPage(w http.ResponseWriter, r *http.Request, code int, no *refusal) {
	name, _, ok := accountOf(r.URL)
	up := ""
	if ok {
		up = "../"
	}
	askToken(w, r, code, no, up, name)
}

type fleetDoc struct {
	Success   bool                 `json:"success"`
	Timestamp stamp                `json:"timestamp"`
	Accounts  map[string]statusDoc `json:"accounts"`
}

func (f *Fleet) statusNow(w http.ResponseWriter, _ *http.Request) {
	doc := fleetDoc{Success: true, Timestamp: stamp(time.Now()), Accounts: map[string]statusDoc{}}
	for _, h := range f.refresh() {
		doc.Accounts[h.name] = h.document(h.m.Status())
	}
	writeJSON(w, http.StatusOK, doc)
}

func (f *Fleet) health(w http.ResponseWriter, _ *http.Request) {
	all := f.refresh()
	for _, h := range all {
		if !h.m.Status().Closed {
			all = nil
			break
		}
	}
	if len(all) > 0 { // all of them are closed
		writeJSON(w, http.StatusServiceUnavailable, healthDoc{false, "closed"})
		return
	}
	writeJSON(w, http.StatusOK, healthDoc{true, "ok"})
}

// fleetReadyDoc is served without the token: it names no account.
type fleetReadyDoc struct {
	Success  bool   `json:"success"`
	Ready    bool   `json:"ready"`
	Accounts int    `json:"accounts"`
	NotReady int    `json:"notReady"`
	Message  string `json:"message"`
}

func (f *Fleet) ready(w http.ResponseWriter, r *http.Request) {
	doc := fleetReadyDoc{}
	standby := r.URL.Query().Get("standby") == "ok"
	for _, h := range f.refresh() {
		doc.Accounts++
		if !readiness(h.m.Status(), standby).Ready {
			doc.NotReady++
		}
	}
	doc.Ready = doc.NotReady == 0
	doc.Success, doc.Message = doc.Ready, "Every account is ready."
	code := http.StatusOK
	if !doc.Ready {
		code, doc.Message = http.StatusServiceUnavailable, several(uint64(doc.NotReady), "", "1 account is not ready.", "%d accounts are not ready.")
	}
	writeJSON(w, code, doc)
}

// events tells of changes of any account.
func (f *Fleet) events(w http.ResponseWriter, r *http.Request, c *caller) {
	stream(w, r, c, f.shared, f.closed, f.next)
}
