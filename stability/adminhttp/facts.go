package adminhttp

import (
	"cmp"
	"strconv"
	"strings"
	"time"

	"github.com/wastability/wastability/keepalive"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
)

// facts are the small print.
func (v *view) facts(h *Handler, st stability.Status, doc statusDoc) {
	to := &v.Clocks
	add := func(name, text string) {
		if text != "" {
			*to = append(*to, fact{Name: name, Text: short(text, 300)})
		}
	}
	at := func(name string, t time.Time) {
		if !t.IsZero() {
			*to = append(*to, fact{Name: name, At: moment{t, st.At}})
		}
	}
	text := func(s *string) string {
		if s == nil {
			return ""
		}
		return *s
	}
	add("Account", text(doc.WA.Account))
	switch hp := text(doc.Probes.Health); {
	case hp == "", hp == string(keepalive.Down): // the head of the page says it
	case strings.HasPrefix(v.Why, strings.TrimSuffix(st.Probes.Text, " "+st.Messages.Sent.Do)):
		add("Health", hp+" (why: see the top of this page)")
	default:
		add("Health", hp+": "+doc.Probes.Text)
	}
	if st.WA == reconnect.StatusConnected {
		at("Connected since", st.ConnectedAt)
	}
	at("Last bytes from WhatsApp", st.Probes.LastReadAt)
	at("Last event", st.LastEventAt)
	at("Last message", st.LastMessageAt)
	at("Last answered ping", st.Probes.LastProbeAt)
	if n := st.Probes.ProbesFailed; n > 0 {
		add("Pings without an answer", strconv.Itoa(n))
	}
	if st.RetryCount > 0 {
		add("Attempts in this trouble", strconv.Itoa(st.RetryCount))
	}
	if r := st.LastDisconnectReason; r != reconnect.ReasonNone {
		name, when := "Reason, as the log names it", "When it was reported"
		if st.WA == reconnect.StatusConnected {
			add("Last interruption, now over", r.Text().Means)
			name, when = "Its reason, as the log names it", "When it began"
		}
		reason := string(r)
		if c := st.State.LastDisconnectCode; c != 0 {
			reason += ", code " + strconv.Itoa(c)
		}
		add(name, reason)
		at(when, st.LastDisconnectAt)
	}

	to = &v.Lock
	add("This instance", st.InstanceID)
	switch {
	case st.LockHolder == "":
		add("Holder of the lock", "nobody that is known here")
	case st.LockHolder == st.InstanceID:
		add("Holder of the lock", st.LockHolder+" (this instance)")
	case st.LockMayBeFree:
		add("Holder of the lock, when last asked", st.LockHolder)
		at("When that was", st.LockSeenAt)
	default:
		add("Holder of the lock", st.LockHolder)
	}
	if st.LeaseEpoch > 0 {
		add("Term: grows when the lock is taken", strconv.FormatInt(st.LeaseEpoch, 10))
	}
	at("The lock runs out, if not renewed", st.LockLeaseUntil)
	if st.Mode == stability.ModeActive {
		at("The lock was renewed", st.Heartbeats.LastRenewalAt)
		at("The connection is cut, if not renewed", st.Heartbeats.TrustedUntil)
		if n := st.Heartbeats.Failures; n > 0 {
			add("Failed renewals in a row", strconv.Itoa(n))
		}
	}
	add("Backend", cmp.Or(st.AuthStore, "one of the program's own"))
	add("Error of the backend", text(doc.WA.StoreUnavailable))
	at("Last change of the stored account", lastWrite(st))
	if y := st.Yield; y.By != "" {
		what := y.By + " gave the lock up. "
		if y.To != "" {
			what = y.By + " gave the lock up, and " + y.To + " took it. "
		}
		add("Because it could not connect", what+y.Reason.Text().Means)
		at("When it gave it up", y.At)
	}

	to = &v.Received
	r := st.Messages.Received
	add("Received", count(r.Total)+" ("+count(r.Handled)+" handled, "+count(uint64(r.Waiting.Count))+" waiting, "+count(uint64(r.SetAside.Count))+" set aside)")
	at("Oldest that waits", r.Waiting.Oldest)
	at("Oldest that is set aside", r.SetAside.Oldest)
	v.ReceivedText = h.mask(r.Text)
	add("What is known of them", v.ReceivedText)
	if v.Do == "" {
		add("What to do about them", h.mask(r.Do))
	}

	to = &v.Sent
	s := doc.WA.Messages.Sent
	add("Accepted by WhatsApp", count(s.Acknowledged.Count))
	at("Last accepted", st.Messages.Sent.LastAcknowledgedAt)
	if s.Waiting.Count > 0 {
		add("Waiting for an answer", count(s.Waiting.Count))
	}
	if s.Unanswered.Count > 0 {
		add("Left without an answer", count(s.Unanswered.Count))
	}
	for i, f := range s.Refused {
		if i == 6 {
			break
		}
		add("Refused with code "+strconv.Itoa(f.Code), count(f.Count)+": "+f.Text)
	}
	add("What is known of sends", h.mask(s.Text))
	add("Sent again", resends(st.Messages.Resends).Text)
}

func lastWrite(st stability.Status) time.Time {
	if st.Auth == nil {
		return time.Time{}
	}
	return st.Auth.LastWriteAt
}

func count(n uint64) string { return strconv.FormatUint(n, 10) }

// evidence is a fact in the page's words, and by its clock.
func (h *Handler) evidence(name, value string, now time.Time) fact {
	f := fact{Name: short(name, 40)}
	if at, err := time.Parse(time.RFC3339, value); err == nil {
		f.At = moment{at, now}
		return f
	}
	f.Text = short(h.mask(value), 200)
	return f
}
