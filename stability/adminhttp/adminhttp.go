package adminhttp

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/wastability/wastability/stability"
)

// Handler serves one Manager. Make it with New. Safe for concurrent use; it
// has nothing to close.
type Handler struct {
	m       *stability.Manager
	tokens  [][sha256.Size]byte
	allow   func(*http.Request) error // nil: the token decides
	numbers bool
	pairFor time.Duration
	limit   *limiter
	store   chan struct{} // held by the call that reads or writes the backend
	routes  map[string]route
}

// route is what one path does.
type route struct {
	open bool // served to everybody
	get  func(http.ResponseWriter, *http.Request)
	post func(http.ResponseWriter, *http.Request)
}

func (r route) allow() string {
	if r.post != nil {
		return http.MethodPost
	}
	return http.MethodGet + ", " + http.MethodHead
}

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
// already: a session cookie, a proxy that signs them in. f looks at the request
// and returns nil to let it in; the text of its error is what the refused one
// reads. It takes the place of WithToken: pass one of the two.
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

// New returns a handler for m. The error names every option that is wrong.
func New(m *stability.Manager, opts ...Option) (*Handler, error) {
	c := config{pairFor: 30 * time.Second}
	if m == nil {
		c.errs = append(c.errs, errors.New("adminhttp: the Manager is nil: pass what stability.New returned"))
	}
	for _, o := range opts {
		if o == nil {
			c.errs = append(c.errs, errors.New("adminhttp: a nil Option: leave it out"))
			continue
		}
		o(&c)
	}
	if len(c.tokens) == 0 && c.allow == nil && len(c.errs) == 0 {
		c.errs = append(c.errs, errors.New("adminhttp: no token: pass WithToken, for example with the value of an environment variable, or WithAuthorizer"))
	}
	if len(c.tokens) > 0 && c.allow != nil {
		c.errs = append(c.errs, errors.New("adminhttp: WithToken and WithAuthorizer: pass one of the two, since only one can decide"))
	}
	if len(c.errs) > 0 {
		return nil, errors.Join(c.errs...)
	}
	h := &Handler{m: m, allow: c.allow, numbers: c.numbers, pairFor: c.pairFor, limit: newLimiter(), store: make(chan struct{}, 1)}
	for _, t := range c.tokens {
		h.tokens = append(h.tokens, sha256.Sum256([]byte(t)))
	}
	h.routes = map[string]route{
		"/":                       {open: c.allow == nil, get: h.page}, // without data: it asks for the token
		"/health":                 {open: true, get: h.health},
		"/ready":                  {open: true, get: h.ready},
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
	return h, nil
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("X-Frame-Options", "DENY")
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("Cross-Origin-Resource-Policy", "same-origin")
	header.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")

	path := r.URL.Path
	if path == "" { // of http.StripPrefix
		path = "/"
	}
	// A table and no ServeMux: that would redirect before it asks who is there.
	rt, known := h.routes[path]
	if !rt.open && !h.admit(w, r) {
		return
	}
	if !known {
		h.fail(w, http.StatusNotFound, "not_found", "There is nothing here.")
		return
	}
	serve := rt.post
	if rt.get != nil && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
		serve = rt.get
	} else if rt.post == nil || r.Method != http.MethodPost {
		header.Set("Allow", rt.allow())
		h.fail(w, http.StatusMethodNotAllowed, "method_not_allowed", "This path takes "+rt.allow()+".")
		return
	}
	serve(w, r)
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

func (h *Handler) json(w http.ResponseWriter, code int, v any) {
	data, err := json.Marshal(v)
	if err != nil { // a value of ours that JSON cannot carry
		code, data = http.StatusInternalServerError, []byte(`{"success":false,"error":"internal","message":"The answer could not be written as JSON."}`)
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(code)
	_, _ = w.Write(append(data, '\n'))
}

// mask hides what looks like a phone number in a text: 8 to 15 digits in a row
// that are not part of a name.
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
		if n := end - i; n >= 8 && n <= 15 && (i == 0 || !wordy(s[i-1])) && (end == len(s) || !wordy(s[end])) {
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
