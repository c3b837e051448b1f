package adminhttp

import (
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"
)

// TokenHeader carries the token of WithToken.
const TokenHeader = "X-Admin-Token"

// door decides who gets in. A Handler has one; the handlers of a Fleet share
// one.
type door struct {
	tokens  [][sha256.Size]byte
	allow   func(*http.Request) error // nil: the token decides
	limit   *limiter
	signIns *signIns
	csrf    string // for who is let in without a sign-in of ours
}

func newDoor(c *config) *door {
	d := &door{allow: c.allow, limit: newLimiter(), signIns: newSignIns(), csrf: random()}
	for _, t := range c.tokens {
		d.tokens = append(d.tokens, sha256.Sum256([]byte(t)))
	}
	return d
}

// caller is somebody who was let in.
type caller struct {
	csrf      string // what a form must carry
	byHeader  bool   // no browser sends the header by itself: no form needs to carry anything
	signedIn  bool   // by a sign-in of ours, which can be ended
	stillGood func() bool
}

// refusal is why somebody was not let in.
type refusal struct {
	code          int
	word, message string
	wait          time.Duration // before the next try
}

func always() bool { return true }

// isToken compares in constant time.
func (d *door) isToken(given string) bool {
	sum := sha256.Sum256([]byte(given))
	match := 0
	for i := range d.tokens {
		match |= subtle.ConstantTimeCompare(sum[:], d.tokens[i][:])
	}
	return match == 1
}

// authorized asks the host.
func (d *door) authorized(r *http.Request) *refusal {
	if err := d.allow(r); err != nil {
		return &refusal{code: http.StatusForbidden, word: "not_allowed", message: err.Error()}
	}
	if err := new(http.CrossOriginProtection).Check(r); err != nil {
		return &refusal{code: http.StatusForbidden, word: "other_site", message: "This request came from another site: use the page here."}
	}
	return nil
}

// tool lets in who brings the token in its header, or whom the host lets in.
// The token is looked at first: the right one lets a request in whatever
// others have tried.
func (d *door) tool(r *http.Request) *refusal {
	if d.allow != nil {
		return d.authorized(r)
	}
	given := r.Header.Get(TokenHeader)
	switch {
	case d.isToken(given):
		return nil
	case given == "": // nobody guesses
		return &refusal{code: http.StatusUnauthorized, word: "token_missing", message: "Send the admin token in the header " + TokenHeader + "."}
	}
	return d.wrongToken(r, "The value of "+TokenHeader+" is not the admin token.")
}

// wrongToken notes a guess, and slows down who guesses much.
func (d *door) wrongToken(r *http.Request, message string) *refusal {
	if wait := d.limit.wrong(r.RemoteAddr, time.Now()); wait > 0 {
		return &refusal{http.StatusTooManyRequests, "too_many_wrong_tokens", "Too many wrong tokens. Wait before the next try; the right token is accepted at any time.", wait}
	}
	return &refusal{code: http.StatusUnauthorized, word: "token_wrong", message: message}
}

// person lets in who is signed in on the page, and whom tool lets in.
func (d *door) person(r *http.Request) (*caller, *refusal) {
	if d.allow == nil && r.Header.Get(TokenHeader) == "" {
		if s := d.signIns.of(r, time.Now()); s != nil {
			return &caller{csrf: s.csrf, signedIn: true, stillGood: func() bool { return d.signIns.alive(s, time.Now()) }}, nil
		}
	}
	if no := d.tool(r); no != nil {
		return nil, no
	}
	return &caller{csrf: d.csrf, byHeader: d.allow == nil, stillGood: always}, nil
}

// admit lets the request pass or answers it.
func (d *door) admit(w http.ResponseWriter, r *http.Request) bool {
	no := d.tool(r)
	if no != nil {
		no.tell(w)
	}
	return no == nil
}

func (n *refusal) tell(w http.ResponseWriter) {
	n.retryAfter(w)
	writeJSON(w, n.code, failure{Error: n.word, Message: n.message})
}

func (n *refusal) retryAfter(w http.ResponseWriter) {
	if n.wait > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int((n.wait+time.Second-1)/time.Second)))
	}
}

// bucket is a token bucket: left of burst, refilled evenly.
type bucket struct {
	left float64
	at   time.Time
}

// take takes one, or says how long there is none.
func (b *bucket) take(now time.Time, burst float64, each time.Duration) time.Duration {
	if b.at.IsZero() {
		b.left, b.at = burst, now
	}
	if passed := now.Sub(b.at); passed > 0 {
		b.left, b.at = min(burst, b.left+float64(passed)/float64(each)), now
	}
	if b.left < 1 {
		return time.Duration((1 - b.left) * float64(each))
	}
	b.left--
	return 0
}

// The budgets for wrong tokens.
const (
	oneBurst, oneEach = 10, 6 * time.Second         // each address: ten, then ten a minute
	allBurst, allEach = 100, 600 * time.Millisecond // all together: a hundred, then a hundred a minute
	maxAddresses      = 1024                        // that are remembered; those beyond share one budget
	forgetAfter       = oneBurst * oneEach          // by then a bucket is full again
)

// limiter counts wrong tokens, in bounded memory.
type limiter struct {
	mu    sync.Mutex
	all   bucket
	rest  bucket // of the addresses beyond maxAddresses
	by    map[netip.Prefix]*bucket
	swept time.Time
}

func newLimiter() *limiter { return &limiter{by: map[netip.Prefix]*bucket{}} }

// wrong notes a wrong token. Above zero it says how long to wait.
func (l *limiter) wrong(remote string, now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	key := origin(remote)
	b := l.by[key]
	if b == nil {
		if len(l.by) >= maxAddresses && now.Sub(l.swept) > oneEach {
			l.swept = now
			for k, old := range l.by {
				if now.Sub(old.at) > forgetAfter {
					delete(l.by, k)
				}
			}
		}
		if b = &l.rest; len(l.by) < maxAddresses {
			b = &bucket{}
			l.by[key] = b
		}
	}
	if wait := b.take(now, oneBurst, oneEach); wait > 0 {
		return wait
	}
	return l.all.take(now, allBurst, allEach)
}

// origin is who counts as one: an IPv4 address, or an IPv6 /64, which is what
// one customer has.
func origin(remote string) netip.Prefix {
	ap, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Prefix{} // a Unix socket, say
	}
	a := ap.Addr().Unmap().WithZone("")
	bits := 32
	if a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits)
	return p
}
