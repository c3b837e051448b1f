package adminhttp

import (
	"crypto/sha256"
	"encoding/hex"
	"html/template"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/keepalive"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
)

// view is what the page shows. Every text in it is masked and bounded.
type view struct {
	frame
	headline
	Since         moment
	Why, Next, Do string
	NextAt        moment // zero: nothing to count down to
	NextIs        string // what happens then

	Code      template.HTML
	CodeUntil moment
	Typed     string // the code to type into the phone
	Typing    bool   // one was asked for, here or elsewhere, and is good
	TypedEnds moment
	MayPair   bool // a phone can be linked: the form for its number
	MayTry    bool
	Trying    bool // an attempt is under way: it would be given up for another one
	MayRenew  bool // there is a connection to make anew
	MayLogOut bool
	Asked     *incidentView // the incident of the link that was followed
	Incidents []incidentView
	Past      []incidentView
	NoteInc   string

	Clocks, Lock, Sent, Received []fact
	ReceivedText                 string
	Held                         heldDoc
	More                         int // held messages that are not shown

	Band        template.HTML
	BandText    string
	Transitions []transition

	shortened int
}

// frame is what every page has.
type frame struct {
	Style     template.CSS
	Script    template.JS
	Title     string
	CSRF      string
	SignedIn  bool
	Up        string
	Account   string
	Note      string
	NoteIsBad bool
	Still     bool // it does not load itself anew
	At        time.Time
}

// moment is a time as people read it.
type moment struct{ at, now time.Time }

func (m moment) IsZero() bool { return m.at.IsZero() }

// ISO is for the script, which shows the reader's own clock.
func (m moment) ISO() string { return m.at.UTC().Format("2006-01-02T15:04:05.000Z") }

func (m moment) Clock() string {
	if m.at.UTC().Format(time.DateOnly) != m.now.UTC().Format(time.DateOnly) {
		return m.at.UTC().Format("2 Jan 15:04 UTC")
	}
	return m.at.UTC().Format("15:04:05 UTC")
}

// Rel is how far away it is.
func (m moment) Rel() string {
	if d := m.at.Sub(m.now); d > 0 {
		return "in " + keepalive.Span(d.Round(time.Second))
	}
	return keepalive.Span(m.now.Sub(m.at).Round(time.Second)) + " ago"
}

type fact struct {
	Name, Text string
	At         moment
}

type incidentView struct {
	ID, Name             string
	Active, Full         bool
	From, To             moment
	Instructions         string
	Runbook              string
	Evidence             []fact
	InstanceID, LinkedAs string
}

type transition struct {
	At   moment
	Text string
}

const (
	heldShown    = 8
	runbookBytes = 12_000 // of all runbooks together; beyond, there is a link to each
	pastShown    = 10
)

func (h *Handler) view(st stability.Status) *view {
	doc, x := h.document(st), explain(st)
	at := func(t time.Time) moment { return moment{t, st.At} }
	v := &view{
		headline: headlineOf(st), Since: at(x.since),
		Why: short(h.mask(x.why), 1500), Next: short(h.mask(x.next), 1000), Do: short(h.mask(x.do), 1000),
		Held: h.held(heldShown),
	}
	v.At, v.Trying = st.At, st.Connecting
	for i := range v.Held.Messages {
		m := &v.Held.Messages[i]
		m.Why, m.Sender, m.ID = short(m.Why, 300), short(m.Sender, 80), short(m.ID, 80)
	}
	v.Held.Summary = short(v.Held.Summary, 600)
	v.More = v.Held.Count - len(v.Held.Messages)
	v.countdown(st)
	h.pairing(v, st)
	h.incidentsView(v, st)
	v.facts(h, st, doc)
	since, marks, events := h.history.view()
	v.Band, v.BandText = band(marks, st.At), dayText(marks, since, st.At)
	for _, e := range slices.Backward(events) {
		v.Transitions = append(v.Transitions, transition{at(e.Time), short(h.mask(sentence(e)), 300)})
	}
	return v
}

// countdown names what comes next.
func (v *view) countdown(st stability.Status) {
	set := func(t time.Time, what string) {
		if t.After(st.At) && v.NextAt.IsZero() {
			v.NextAt, v.NextIs = moment{t, st.At}, what
		}
	}
	switch {
	case st.Closed:
	case st.Mode == stability.ModeReleased:
		set(st.AsksAgainAt, "This instance asks for the lock again")
	case st.Mode != stability.ModeActive:
	case st.StoreUnavailable != nil:
		set(st.Heartbeats.TrustedUntil, "Without an answer of the backend, this instance gives up")
	case st.WA == reconnect.StatusConnected:
	case !st.PhoneCodeUntil.IsZero():
		set(st.PhoneCodeUntil, "The code to type expires")
	case !st.Connecting:
		set(st.NextRetryAt, "Next attempt")
	}
}

// pairing is what one needs to link a phone.
func (h *Handler) pairing(v *view, st stability.Status) {
	active := !st.Closed && st.Mode == stability.ModeActive
	paired := st.WA != reconnect.StatusNeedsPairing
	banned := st.State.NotBefore.After(st.At)
	v.MayTry = active && st.WA != reconnect.StatusConnected && !banned && !st.QRAvailable && st.PhoneCodeUntil.IsZero()
	v.MayRenew = active && st.WA == reconnect.StatusConnected
	v.MayLogOut = active && paired
	v.MayPair = active && !paired && !st.PasskeyAsked
	if !active || paired {
		return
	}
	if q, ok := h.m.QR(); ok {
		if svg, err := qrSVG(q.Code); err == nil {
			v.Code, v.CodeUntil = svg, moment{q.ExpiresAt, st.At}
		}
	}
	v.Typing = st.PhoneCodeUntil.After(st.At)
	// The last code that was asked for is the only one that is good.
	if c := h.typed.Load(); c != nil && c.ExpiresAt.Equal(st.PhoneCodeUntil) && c.ExpiresAt.After(st.At) {
		v.Typed, v.TypedEnds = c.Code, moment{c.ExpiresAt, st.At}
	}
}

func (h *Handler) incidentsView(v *view, st stability.Status) {
	if st.Mode != stability.ModeActive {
		v.NoteInc = "This instance is not the active one: these are the incidents that it knew when it was last active, and what it has seen itself."
	}
	left := runbookBytes
	for _, inc := range h.m.Incidents() {
		if !inc.Active && len(v.Past) >= pastShown {
			continue
		}
		i := h.incident(inc, st.At)
		if i.Full = inc.Active && len(i.Runbook) <= left; i.Full {
			left -= len(i.Runbook)
		}
		if inc.Active {
			v.Incidents = append(v.Incidents, i)
		} else {
			v.Past = append(v.Past, i)
		}
	}
}

func (h *Handler) incident(inc guard.Incident, now time.Time) incidentView {
	i := incidentView{
		ID: linkID(inc.ID), Name: short(inc.Type.Title(), 100), Active: inc.Active, From: moment{inc.DetectedAt, now}, To: moment{inc.ResolvedAt, now},
		Instructions: short(h.mask(inc.Instructions), 600), Runbook: short(h.mask(inc.Runbook), 3000), InstanceID: short(inc.InstanceID, 100),
	}
	for name, value := range inc.Seen() {
		if len(i.Evidence) == 8 {
			break
		}
		i.Evidence = append(i.Evidence, h.evidence(name, value, now))
	}
	return i
}

// linkID is the id in a link and on the page: short, and of plain characters, as
// the library's own ids are already.
func linkID(id string) string {
	plain := func(r rune) bool {
		return r < 0x80 && (r == '_' || r == '-' || r == '.' || unicode.IsLetter(r) || unicode.IsDigit(r))
	}
	if id != "" && len(id) <= 100 && !strings.ContainsFunc(id, func(r rune) bool { return !plain(r) }) {
		return id
	}
	sum := sha256.Sum256([]byte(id))
	return hex.EncodeToString(sum[:8])
}

// shorten leaves out what is far down on the page, then what is long.
func (v *view) shorten() bool {
	v.shortened++
	switch v.shortened {
	case 1:
		v.Transitions = v.Transitions[:min(15, len(v.Transitions))]
		v.Held.Messages = v.Held.Messages[:min(3, len(v.Held.Messages))]
		v.More = v.Held.Count - len(v.Held.Messages)
		v.Past = nil
		for i := range v.Incidents {
			v.Incidents[i].Full = false // its link shows it in full
		}
		v.NoteInc = strings.TrimSpace(v.NoteInc + " Some texts are left out here, so that the page stays small: the link to an incident shows all of it.")
	case 2:
		v.Why, v.Next, v.Do = short(v.Why, 300), short(v.Next, 300), short(v.Do, 300)
		for i := range v.Incidents {
			v.Incidents[i].Instructions = short(v.Incidents[i].Instructions, 120)
		}
		for _, list := range [][]fact{v.Clocks, v.Lock, v.Sent, v.Received} {
			for i := range list {
				list[i].Text = short(list[i].Text, 80)
			}
		}
		for i := range v.Transitions {
			v.Transitions[i].Text = short(v.Transitions[i].Text, 100)
		}
	case 3:
		if n := len(v.Incidents); n > 8 {
			v.NoteInc += " " + strconv.Itoa(n-8) + " more are active."
			v.Incidents = v.Incidents[:8]
		}
		v.Transitions, v.Held.Messages, v.More = nil, nil, v.Held.Count
		if v.Asked != nil {
			v.Asked.Runbook, v.Asked.Evidence = short(v.Asked.Runbook, 1000), nil
		}
	default:
		return false
	}
	return true
}
