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

// admit lets the request pass or answers it. The token is looked at first: who
// has the right one is let in whatever others have tried.
func (h *Handler) admit(w http.ResponseWriter, r *http.Request) bool {
	if h.allow != nil {
		err := h.allow(r)
		if err != nil {
			h.fail(w, http.StatusForbidden, "not_allowed", err.Error())
			return false
		}
		if err = new(http.CrossOriginProtection).Check(r); err != nil {
			h.fail(w, http.StatusForbidden, "other_site", "This request came from another site: use the page here.")
			return false
		}
		return true
	}
	given := r.Header.Get(TokenHeader)
	sum := sha256.Sum256([]byte(given))
	match := 0
	for i := range h.tokens {
		match |= subtle.ConstantTimeCompare(sum[:], h.tokens[i][:])
	}
	if match == 1 {
		return true
	}
	if given == "" { // nobody guesses
		h.fail(w, http.StatusUnauthorized, "token_missing", "Send the admin token in the header "+TokenHeader+".")
		return false
	}
	if wait := h.limit.wrong(r.RemoteAddr, time.Now()); wait > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int((wait+time.Second-1)/time.Second)))
		h.fail(w, http.StatusTooManyRequests, "too_many_wrong_tokens", "Too many wrong tokens. Wait before the next try; the right token is accepted at any time.")
		return false
	}
	h.fail(w, http.StatusUnauthorized, "token_wrong", "The value of "+TokenHeader+" is not the admin token.")
	return false
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
