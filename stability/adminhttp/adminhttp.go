package adminhttp

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wastability/wastability/stability"
)

// Handler serves one Manager. Make it with New. Safe for concurrent use.
type Handler struct {
	m       *stability.Manager
	door    *door
	numbers bool
	pairFor time.Duration
	store   chan struct{} // held by the call that reads or writes the backend
	routes  map[string]route
	history *history
	streams *streams
	typed   atomic.Pointer[stability.PhoneCode] // the last code to type that was asked for here

	name string // of the account in a Fleet
	up   string // from the page to where one signs in

	once   sync.Once
	closed chan struct{}
	stop   func() // the observer
}

// route is what one path does.
type route struct {
	open bool // served to everybody
	get  func(http.ResponseWriter, *http.Request)
	post func(http.ResponseWriter, *http.Request)

	// The same for people, who may be signed in.
	look  func(http.ResponseWriter, *http.Request, *caller)
	press func(http.ResponseWriter, *http.Request, *caller)
}

func (r route) allow() string {
	if r.post != nil || r.press != nil {
		return http.MethodPost
	}
	return http.MethodGet + ", " + http.MethodHead
}

func reads(r *http.Request) bool { return r.Method == http.MethodGet || r.Method == http.MethodHead }

type config struct {
	tokens  []string
	allow   func(*http.Request) error
	numbers bool
	pairFor time.Duration
	errs    []error
}

// Option configures New.
type Option func(*config)

const minToken = 16

// WithToken sets the value of X-Admin-Token that lets somebody in. Required,
// at least 16 bytes. Given more than once, each of them does, for changing it
// without an interruption.
func WithToken(token string) Option {
	return func(c *config) {
		if len(token) < minToken {
			c.errs = append(c.errs, fmt.Errorf("adminhttp: WithToken: the token has %d bytes, fewer than %d: make one with a random generator, for example openssl rand -hex 32", len(token), minToken))
			return
		}
		if strings.TrimSpace(token) != token || strings.ContainsFunc(token, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			c.errs = append(c.errs, errors.New("adminhttp: WithToken: the token begins or ends with a space, or holds control characters, which a header cannot carry: trim it"))
			return
		}
		c.tokens = append(c.tokens, token)
	}
}

// WithAuthorizer lets f decide who gets in, for a host that knows its people
// already, by a cookie or a proxy that signs them in. To let a request in, f
// returns nil. People who are refused read the text of its error. It takes the
// place of WithToken: pass one of the two.
//
// f is asked for everything but /health and /ready, also for the page, from any
// goroutine; it must not write. A browser sends cookies along with requests that
// another site made it send, so a POST that comes from another site is refused,
// whatever f says (Sec-Fetch-Site and Origin tell).
func WithAuthorizer(f func(*http.Request) error) Option {
	return func(c *config) {
		if f == nil {
			c.errs = append(c.errs, errors.New("adminhttp: WithAuthorizer(nil) would let nobody in: pass a function, or use WithToken"))
			return
		}
		c.allow = f
	}
}

// WithPhoneNumbers shows phone numbers in full. Default: all but the last two
// digits are masked.
func WithPhoneNumbers() Option { return func(c *config) { c.numbers = true } }

// WithPairTimeout bounds how long a pairing request waits for a connection on
// which a code can be had. Default 30 s.
func WithPairTimeout(d time.Duration) Option {
	return func(c *config) {
		if d < 0 {
			c.errs = append(c.errs, fmt.Errorf("adminhttp: WithPairTimeout(%s) is negative: pass a duration above zero, or zero for the default", d))
		} else if d > 0 {
			c.pairFor = d
		}
	}
}

// New returns a handler for m, and begins to note what happens to m, for the
// page. The error names every option that is wrong.
func New(m *stability.Manager, opts ...Option) (*Handler, error) {
	c := configure(opts)
	if m == nil {
		c.errs = append(c.errs, errors.New("adminhttp: the Manager is nil: pass what stability.New returned"))
	}
	if len(c.errs) > 0 {
		return nil, errors.Join(c.errs...)
	}
	return newHandler(m, c, newDoor(c), newStreams(), "", nil), nil
}

func configure(opts []Option) *config {
	c := &config{pairFor: 30 * time.Second}
	for _, o := range opts {
		if o == nil {
			c.errs = append(c.errs, errors.New("adminhttp: a nil Option: leave it out"))
			continue
		}
		o(c)
	}
	if len(c.tokens) == 0 && c.allow == nil && len(c.errs) == 0 {
		c.errs = append(c.errs, errors.New("adminhttp: no token: pass WithToken, for example with the value of an environment variable, or WithAuthorizer"))
	}
	if len(c.tokens) > 0 && c.allow != nil {
		c.errs = append(c.errs, errors.New("adminhttp: WithToken and WithAuthorizer: pass one of the two, since only one can decide"))
	}
	return c
}

// newHandler makes a handler; in a Fleet the account has a name, and ring is
// called with each transition.
func newHandler(m *stability.Manager, c *config, d *door, s *streams, name string, ring func()) *Handler {
	h := &Handler{
		m: m, door: d, numbers: c.numbers, pairFor: c.pairFor, store: make(chan struct{}, 1), streams: s,
		history: &history{}, name: name, closed: make(chan struct{}),
	}
	h.stop = m.Observe(func(e stability.Event) {
		h.history.note(e)
		if ring != nil {
			ring()
		}
	})
	h.history.begin(m.Status())
	h.routes = h.table(name == "")
	switch {
	case name != "":
		h.up = "../"
	case d.allow == nil:
		d.routes(h.routes, h.signInPage)
	}
	return h
}

// table is what there is. The probes of one account of many are not open: they
// would tell which names there are.
func (h *Handler) table(open bool) map[string]route {
	return map[string]route{
		"/":          {look: h.page},
		"/set-aside": {look: h.setAsidePage},
		"/do":        {press: h.act},
		"/events":    {look: h.events},

		"/health":                 {open: open, get: h.health},
		"/ready":                  {open: open, get: h.ready},
		"/api/longrun/status-now": {get: h.statusNow},
		"/api/longrun/incidents":  {get: h.incidents},
		"/api/whatsapp/qr":        {get: h.qr},
		"/api/whatsapp/pair":      {post: h.pair},
		"/api/whatsapp/logout":    {post: h.logout},
		"/api/whatsapp/reconnect": {post: h.reconnect},

		"/api/whatsapp/quarantine":                {get: h.quarantine},
		"/api/whatsapp/quarantine/restore-device": {post: h.restoreDevice},
		"/api/whatsapp/quarantine/purge-device":   {post: h.purgeDevice},
		"/api/whatsapp/quarantine/purge-rows":     {post: h.purgeRows},

		"/api/whatsapp/messages":           {get: h.messages},
		"/api/whatsapp/messages/redeliver": {post: h.redeliver},
		"/api/whatsapp/messages/purge":     {post: h.purgeMessage},
	}
}

// Close ends the streams of open pages, and notes no more of what happens. Call
// it when the server shuts down, which waits for streams. Requests are still
// answered.
func (h *Handler) Close() error {
	h.once.Do(func() {
		h.stop()
		close(h.closed)
	})
	return nil
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	secure(w)
	if r.URL.Path == "" { // of http.StripPrefix, without the slash that relative links need
		addSlash(w, r)
		return
	}
	h.door.serve(w, r, h.routes, r.URL.Path, h.signInPage)
}

// secure sets the headers of every answer.
func secure(w http.ResponseWriter) {
	header := w.Header()
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("X-Frame-Options", "DENY")
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("Cross-Origin-Resource-Policy", "same-origin")
	header.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
}

// addSlash sends the reader of /admin to /admin/.
func addSlash(w http.ResponseWriter, r *http.Request) {
	at, query, _ := strings.Cut(r.RequestURI, "?")
	to := "./" + at[strings.LastIndex(at, "/")+1:] + "/"
	if query != "" {
		to += "?" + query
	}
	w.Header().Set("Location", to)
	w.WriteHeader(http.StatusTemporaryRedirect)
}

// asker shows the page that asks for the token, and why it asks again.
type asker func(w http.ResponseWriter, r *http.Request, code int, no *refusal)

// serve finds the route and asks who is there. It is a table and no ServeMux, which would redirect before it asks.
func (d *door) serve(w http.ResponseWriter, r *http.Request, routes map[string]route, path string, ask asker) {
	rt, known := routes[path]
	var c *caller
	if rt.look != nil || rt.press != nil {
		var no *refusal
		if c, no = d.person(r); no != nil {
			switch {
			case d.allow != nil || path == "/events":
				no.tell(w)
			case path == "/" && reads(r) && no.word == "token_missing":
				ask(w, r, http.StatusOK, nil)
			default:
				ask(w, r, no.code, no)
			}
			return
		}
	} else if !rt.open && !d.admit(w, r) {
		return
	}
	switch {
	case !known:
		writeJSON(w, http.StatusNotFound, failure{Error: "not_found", Message: "There is nothing here."})
	case reads(r) && rt.look != nil:
		rt.look(w, r, c)
	case reads(r) && rt.get != nil:
		rt.get(w, r)
	case r.Method == http.MethodPost && rt.press != nil:
		rt.press(w, r, c)
	case r.Method == http.MethodPost && rt.post != nil:
		rt.post(w, r)
	default:
		w.Header().Set("Allow", rt.allow())
		writeJSON(w, http.StatusMethodNotAllowed, failure{Error: "method_not_allowed", Message: "This path takes " + rt.allow() + "."})
	}
}

// failure is every answer that is no success.
type failure struct {
	Success bool   `json:"success"`
	Error   string `json:"error"`   // a stable word
	Message string `json:"message"` // what it means and what to do
}

func (h *Handler) fail(w http.ResponseWriter, code int, word, message string) {
	h.json(w, code, failure{Error: word, Message: h.mask(message)})
}

func (h *Handler) json(w http.ResponseWriter, code int, v any) { writeJSON(w, code, v) }

func writeJSON(w http.ResponseWriter, code int, v any) {
	data, err := json.Marshal(v)
	if err != nil { // a value of ours that JSON cannot carry
		code, data = http.StatusInternalServerError, []byte(`{"success":false,"error":"internal","message":"The answer could not be written as JSON."}`)
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(code)
	_, _ = w.Write(append(data, '\n'))
}

// mask hides what looks like a phone number in a text: 8 to 15 digits in a row
// that are not part of a name. The older ids of groups begin with their
// creator's number: 4915200000001-1400000000.
func (h *Handler) mask(s string) string {
	if h.numbers {
		return s
	}
	var out []byte
	for i := 0; i < len(s); i++ {
		if !digit(s[i]) {
			continue
		}
		end := i
		for end < len(s) && digit(s[end]) {
			end++
		}
		if n := end - i; n >= 8 && n <= 15 && (i == 0 || !wordy(s[i-1])) && (end == len(s) || !wordy(s[end]) || groupSuffix(s[end:])) {
			if out == nil {
				out = []byte(s)
			}
			for k := i; k < end-2; k++ {
				out[k] = '*'
			}
		}
		i = end - 1
	}
	if out == nil {
		return s
	}
	return string(out)
}

// groupSuffix reports whether s goes on with the time of an older group's id.
func groupSuffix(s string) bool {
	const length = 1 + 10
	if len(s) < length || s[0] != '-' || len(s) > length && (digit(s[length]) || wordy(s[length])) {
		return false
	}
	for i := 1; i < length; i++ {
		if !digit(s[i]) {
			return false
		}
	}
	return true
}

func digit(b byte) bool { return b >= '0' && b <= '9' }

func wordy(b byte) bool {
	return b == '-' || b == '_' || b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z'
}

// accepts reports whether the client asked for an image rather than JSON.
func accepts(r *http.Request, kind string) bool {
	return slices.ContainsFunc(r.Header.Values("Accept"), func(v string) bool {
		return strings.Contains(v, kind)
	}) && !strings.HasPrefix(r.Header.Get("Accept"), "application/json")
}
