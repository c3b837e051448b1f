package guard

import (
	"cmp"
	"strings"
	"time"
	"unicode"
	"unicode/utf16"
)

// headline is one line: whose trouble, which, and what became of it.
func (m message) headline() string {
	line := m.n.Incident.Type.Title()
	if m.n.Change == ChangeResolved {
		line = "Over: " + line
		if d := m.n.At.Sub(m.n.Incident.DetectedAt); !m.n.Incident.DetectedAt.IsZero() && d > 0 {
			line = "Over after " + lasted(d) + ": " + m.n.Incident.Type.Title()
		}
	}
	if m.account != "" {
		line = m.account + ": " + line
	}
	return strings.ReplaceAll(line, "\n", " ")
}

// todo is the sentence for whoever is on call.
func (m message) todo() string {
	if m.n.Change == ChangeResolved {
		return "It is over. Nothing is to be done."
	}
	return cmp.Or(m.n.Incident.Instructions, "Look at the status of this instance.")
}

// facts are lines of "what it is about: value", for people: when, who, and the
// evidence.
func (m message) facts() string {
	inc := m.n.Incident
	var b strings.Builder
	line := func(name, value string) {
		if value != "" {
			b.WriteString(clean(name, 100, keep) + ": " + clean(value, 300, keep) + "\n")
		}
	}
	if m.n.Change == ChangeResolved {
		inc.Evidence = map[string]string{"reason": inc.Evidence["reason"]} // the rest speaks of a next attempt, which has been
	}
	line("Active since", moment(inc.DetectedAt))
	if m.n.Change == ChangeResolved {
		line("Over since", moment(m.n.At))
	}
	for name, value := range inc.Seen() {
		line(name, strings.ReplaceAll(readable(value), "\n", " "))
	}
	line("Instance", inc.InstanceID)
	line("Incident, as the log names it", string(inc.Type))
	return strings.TrimSuffix(b.String(), "\n")
}

// runbook is the longer text, while it is of use.
func (m message) runbook() string {
	if m.n.Change == ChangeResolved {
		return ""
	}
	return m.n.Incident.Runbook
}

// lasted is d without seconds where it is longer than an hour, and without
// what is zero.
func lasted(d time.Duration) string {
	unit := time.Second
	if d > time.Hour {
		unit = time.Minute
	}
	s := d.Round(unit).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	return s
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// clean returns s for a reader: without control characters and such as turn
// the direction of writing, each character escaped, and not longer than limit
// in UTF-16 units, the strictest way in which these services count. A text
// that is cut ends with an ellipsis; no escape is cut in two.
func clean(s string, limit int, escape func(rune) string) string {
	var b strings.Builder
	used, fits := 0, 0 // fits: the bytes that leave room for the ellipsis
	for _, r := range strings.ToValidUTF8(s, "\uFFFD") {
		if r != '\n' && (unicode.Is(unicode.Cc, r) || unicode.Is(unicode.Bidi_Control, r)) {
			continue
		}
		piece := escape(r)
		size := len(utf16.Encode([]rune(piece)))
		if used+size > limit {
			return b.String()[:fits] + "…"
		}
		b.WriteString(piece)
		if used += size; used < limit {
			fits = b.Len()
		}
	}
	return b.String()
}

func keep(r rune) string { return string(r) }

// slackText keeps a character from being markup: Slack's three control
// characters have escapes, for the others there is only a likeness.
func slackText(r rune) string {
	switch r {
	case '&':
		return "&amp;"
	case '<':
		return "&lt;"
	case '>':
		return "&gt;"
	case '`':
		return "'"
	case '*':
		return "\u2217"
	case '~':
		return "\u223c"
	}
	return string(r)
}

// discordText keeps a character from being markup or a mention.
func discordText(r rune) string {
	switch {
	case r == '@':
		return "@\u200b"
	case strings.ContainsRune("\\`*_~|<>[]()#-:", r):
		return "\\" + string(r)
	}
	return string(r)
}

// codeText is for blocks of code, where only their end is markup. A mention in
// one does nothing, but is kept from looking like one.
func codeText(r rune) string {
	switch r {
	case '`':
		return "'"
	case '@':
		return "@\u200b"
	}
	return string(r)
}

// slackCode is codeText for Slack, where the escapes hold in code too.
func slackCode(r rune) string { return slackText(r) }

// telegramText keeps a name from being told, and a word from being a command.
func telegramText(r rune) string {
	if r == '@' || r == '/' {
		return string(r) + "\u200b"
	}
	return string(r)
}
