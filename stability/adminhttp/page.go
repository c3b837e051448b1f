package adminhttp

import (
	"bytes"
	"crypto/sha256"
	_ "embed" // the page
	"encoding/base64"
	"html/template"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/stability"
)

var (
	//go:embed page.html
	pageHTML string
	//go:embed page.css
	pageCSS string
	//go:embed page.js
	pageJS string

	pages = template.Must(template.New("pages").Funcs(template.FuncMap{"at": func(t stamp, now time.Time) moment { return moment{time.Time(t), now} }, "text": pointed, "words": words, "button": button}).Parse(pageHTML))
)

// pagePolicy lets exactly the page's own script and style run, and lets them
// reach nothing but this server.
var pagePolicy = "default-src 'none'; script-src '" + hash(pageJS) + "'; style-src '" + hash(pageCSS) +
	"'; connect-src 'self'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

func hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}

func pointed(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// words makes words of an identifier.
func words(s any) string { return strings.ReplaceAll(strings.TrimPrefix(toString(s), "wa_"), "_", " ") }

func toString(s any) string {
	switch s := s.(type) {
	case string:
		return s
	case stability.MessageState:
		return string(s)
	}
	return ""
}

// form is one button, with what it sends.
type form struct {
	CSRF, Do, Label, Entry, Confirm, ID string

	Main bool // it stands out
}

// MainIn lets the button stand out if the text says to press it.
func (f form) MainIn(text string) form {
	f.Main = strings.Contains(text, "ress "+f.Label)
	return f
}

// button makes one. With confirm, a box with this text must be ticked first.
func button(csrf, do, label, entry, confirm, id string) form {
	return form{CSRF: csrf, Do: do, Label: label, Entry: entry, Confirm: confirm, ID: id}
}

// maxPage is how many bytes a page has at most: it is read on phones.
const maxPage = 58_000

// shortens is what leaves out the least important, as long as there is some.
type shortens interface{ shorten() bool }

// write shows a page.
func write(w http.ResponseWriter, code int, name string, data any) {
	var b bytes.Buffer
	for {
		b.Reset()
		if err := pages.ExecuteTemplate(&b, name, data); err != nil { // a fault of ours
			writeJSON(w, http.StatusInternalServerError, failure{Error: "internal", Message: "The page could not be written."})
			return
		}
		if v, ok := data.(shortens); b.Len() < maxPage || !ok || !v.shorten() {
			break
		}
	}
	header := w.Header()
	header.Set("Content-Security-Policy", pagePolicy)
	// With no-referrer a form's Origin would be null, and a browser that tells
	// nothing else could not show that the form is ours.
	header.Set("Referrer-Policy", "same-origin")
	header.Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(code)
	_, _ = w.Write(b.Bytes())
}

func newFrame(title string, c *caller) frame {
	f := frame{Style: template.CSS(pageCSS), Script: template.JS(pageJS), Title: title, At: time.Now()}
	if c != nil {
		f.CSRF, f.SignedIn = c.csrf, c.signedIn
	}
	return f
}

// page is the page about the account.
func (h *Handler) page(w http.ResponseWriter, r *http.Request, c *caller) { h.show(w, r, c, nil) }

// show shows it, with what was refused.
func (h *Handler) show(w http.ResponseWriter, r *http.Request, c *caller, no *refusal) {
	st := h.m.Status()
	v := h.view(st)
	v.frame = h.frame(v.Word+": "+v.Text, c)
	v.At = st.At
	query := r.URL.Query()
	v.Still = query.Has("still") || no != nil
	code := http.StatusOK
	if no != nil {
		code = no.code
		no.retryAfter(w)
		v.Note, v.NoteIsBad = short(h.mask(no.message), 600), true
	} else {
		v.Note = said[query.Get("done")]
	}
	if id := query.Get("incident"); id != "" {
		h.linked(v, id, st)
	}
	write(w, code, "page", v)
}

func (h *Handler) frame(title string, c *caller) frame {
	f := newFrame(title, c)
	f.Up, f.Account = h.up, short(h.mask(h.name), 100)
	if h.name != "" {
		f.Title = f.Account + ": " + title
	}
	return f
}

// linked shows the incident of a link in full, and first.
func (h *Handler) linked(v *view, id string, st stability.Status) {
	list := h.m.Incidents()
	if i := slices.IndexFunc(list, func(inc guard.Incident) bool { return inc.ID == id || linkID(inc.ID) == id }); i >= 0 {
		found := h.incident(list[i], st.At)
		found.Full = true
		v.Asked = &found
	} else if v.Note == "" {
		v.Note = "The incident of this link is not known here any more. This is how it is now."
	}
	same := func(i incidentView) bool { return v.Asked != nil && i.ID == v.Asked.ID }
	v.Incidents, v.Past = slices.DeleteFunc(v.Incidents, same), slices.DeleteFunc(v.Past, same)
}

// signInForm is the page that asks for the token. It has no data.
type signInForm struct {
	frame
	SignInAccount, Incident string
}

func (h *Handler) signInPage(w http.ResponseWriter, r *http.Request, code int, no *refusal) {
	askToken(w, r, code, no, h.up, h.name)
}

func askToken(w http.ResponseWriter, r *http.Request, code int, no *refusal, up, account string) {
	s := signInForm{frame: newFrame("Sign in", nil), SignInAccount: account, Incident: short(r.URL.Query().Get("incident"), 100)}
	s.Up = up
	if r.PostForm != nil { // a try that failed
		s.SignInAccount, s.Incident = short(r.PostForm.Get("account"), 100), short(r.PostForm.Get("incident"), 100)
	}
	if no != nil {
		no.retryAfter(w)
		if no.word != "token_missing" {
			s.Note, s.NoteIsBad = no.message, true
		}
	}
	write(w, code, "sign-in", s)
}

// asideView is the page of what the store has set aside.
type asideView struct {
	frame
	Doc  setAsideDoc
	More int
}

const asideShown = 40

func (h *Handler) setAsidePage(w http.ResponseWriter, r *http.Request, c *caller) {
	v := asideView{frame: h.frame("Set aside", c)}
	doc, no := h.setAside(r.Context())
	code := http.StatusOK
	if no != nil {
		code = no.code
		no.retryAfter(w)
		v.Note, v.NoteIsBad = short(h.mask(no.message), 600), true
	}
	v.More = max(0, doc.RowCount-asideShown)
	doc.Rows = doc.Rows[:min(len(doc.Rows), asideShown)]
	for i := range doc.Rows {
		doc.Rows[i].Why = short(doc.Rows[i].Why, 300)
	}
	for i := range doc.Devices {
		doc.Devices[i].Why = short(doc.Devices[i].Why, 600)
	}
	v.Doc = doc
	write(w, code, "set-aside", &v)
}

func (v *asideView) shorten() bool {
	n := len(v.Doc.Rows) / 2
	v.More += len(v.Doc.Rows) - n
	v.Doc.Rows = v.Doc.Rows[:n]
	return n > 0
}
