package adminhttp

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// Signing in on the page gives the browser a cookie with a random id, and this
// process remembers the id's hash. Nothing of the token is in the cookie, and a restart
// signs everybody out.

const (
	cookieName = "wastability_admin"
	signInIdle = time.Hour      // without a request
	signInLife = 12 * time.Hour // whatever happens
	maxSignIns = 100            // the one that was used least recently makes room
)

type signIn struct {
	csrf        string
	began, used time.Time // used is guarded by signIns.mu
	key         [sha256.Size]byte
}

type signIns struct {
	mu sync.Mutex
	by map[[sha256.Size]byte]*signIn
}

func newSignIns() *signIns { return &signIns{by: map[[sha256.Size]byte]*signIn{}} }

func random() string { return rand.Text() + rand.Text() }

// begin makes a sign-in, whatever the browser brought along.
func (s *signIns) begin(now time.Time) (id string) {
	id = random()
	n := &signIn{csrf: random(), began: now, used: now, key: sha256.Sum256([]byte(id))}
	s.mu.Lock()
	defer s.mu.Unlock()
	var oldest *signIn
	for k, have := range s.by {
		if have.over(now) {
			delete(s.by, k)
		} else if oldest == nil || have.used.Before(oldest.used) {
			oldest = have
		}
	}
	if len(s.by) >= maxSignIns {
		delete(s.by, oldest.key)
	}
	s.by[n.key] = n
	return id
}

func (s *signIn) over(now time.Time) bool {
	return now.Sub(s.used) > signInIdle || now.Sub(s.began) > signInLife
}

// of returns the sign-in of a request, and notes that it is in use; nil when
// there is none. Two handlers on one host can both have set a cookie.
func (s *signIns) of(r *http.Request, now time.Time) *signIn {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range r.CookiesNamed(cookieName) {
		key := sha256.Sum256([]byte(c.Value)) // looking a hash up tells nothing about the id
		if have := s.by[key]; have != nil {
			if !have.over(now) {
				have.used = now
				return have
			}
			delete(s.by, key)
		}
	}
	return nil
}

func (s *signIns) alive(have *signIn, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.by[have.key] == have && !have.over(now)
}

// end ends the sign-ins that a request brings.
func (s *signIns) end(r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range r.CookiesNamed(cookieName) {
		delete(s.by, sha256.Sum256([]byte(c.Value)))
	}
}

// cookie has no Path: a browser then sends it to where it got it, and below:
// the handler's own place, also behind a proxy that changes paths.
func cookie(r *http.Request, id string) *http.Cookie {
	c := &http.Cookie{
		Name: cookieName, Value: id, HttpOnly: true, SameSite: http.SameSiteStrictMode,
		// A client that lies about its scheme only keeps its own cookie away.
		Secure: r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https",
	}
	if id == "" {
		c.MaxAge = -1
	}
	return c
}

// signIn takes the token from the form. The right one is always accepted; wrong
// ones are slowed down as those in a header are.
func (d *door) signIn(w http.ResponseWriter, r *http.Request) *refusal {
	if err := new(http.CrossOriginProtection).Check(r); err != nil {
		return &refusal{code: http.StatusForbidden, word: "other_site", message: "This came from another site. Type the token here."}
	}
	form, no := readForm(w, r)
	if no != nil {
		return no
	}
	if !d.isToken(strings.TrimSpace(form.Get("token"))) { // pasted, perhaps with a line's end
		return d.wrongToken(r, "This is not the admin token.")
	}
	d.signIns.end(r) // what the browser had, whoever gave it that
	http.SetCookie(w, cookie(r, d.signIns.begin(time.Now())))
	seeOther(w, whereTo(form.Get("account"), form.Get("incident")))
	return nil
}

func (d *door) signOut(w http.ResponseWriter, r *http.Request, c *caller) {
	form, no := readForm(w, r)
	if no == nil {
		no = c.genuine(r, form.Get("csrf"))
	}
	if no != nil {
		no.tell(w)
		return
	}
	d.signIns.end(r)
	http.SetCookie(w, cookie(r, ""))
	seeOther(w, "./")
}

// routes adds where one signs in and out.
func (d *door) routes(to map[string]route, ask asker) {
	to["/sign-in"] = route{open: true, post: func(w http.ResponseWriter, r *http.Request) {
		if no := d.signIn(w, r); no != nil {
			ask(w, r, no.code, no)
		}
	}}
	to["/sign-out"] = route{press: d.signOut}
}

// whereTo is the way from where one signs in to an account, and to an incident.
func whereTo(account, incident string) string {
	to := "./"
	if account != "" {
		to += "~" + url.PathEscape(account) + "/"
	}
	if incident != "" {
		to += "?incident=" + url.QueryEscape(incident) + "#incident-" + url.PathEscape(incident)
	}
	return to
}

// genuine reports whether a form was sent from a page of ours.
func (c *caller) genuine(r *http.Request, csrf string) *refusal {
	if c.byHeader {
		return nil
	}
	if new(http.CrossOriginProtection).Check(r) != nil {
		return &refusal{code: http.StatusForbidden, word: "other_site", message: "This came from another site: nothing was done."}
	}
	if subtle.ConstantTimeCompare([]byte(csrf), []byte(c.csrf)) != 1 {
		return &refusal{code: http.StatusForbidden, word: "old_page", message: "The page was too old: nothing was done. Look at it again, then press the button again."}
	}
	return nil
}

// seeOther sends the browser on to a place beside the one that was asked for.
// http.Redirect would make it absolute, without what http.StripPrefix took away.
func seeOther(w http.ResponseWriter, to string) {
	w.Header().Set("Location", to)
	w.WriteHeader(http.StatusSeeOther)
}
