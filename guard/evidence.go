package guard

import (
	"iter"
	"maps"
	"slices"
	"time"
)

// labels say in words what the library's own evidence is about, in the order in
// which people read it. Machines get the names.
var labels = [...]struct{ name, label string }{
	{"detail", "Reported"},
	{"since", "Since"},
	{"found", "Found"},
	{"reason", "Reason, as the log names it"},
	{"code", "Code"},
	{"retryCount", "Attempts in this trouble"},
	{"nextRetryAt", "Next attempt, as planned then"},
	{"notBefore", "No attempt before"},
	{"messages", "Messages"},
	{"rows", "Rows"},
	{"inARow", "Refused in a row"},
	{"demands", "Demands for a new connection in a row"},
	{"instances", "Instances that gave the lock up"},
	{"terms", "Times that the lock moved"},
}

// Seen yields the evidence as people read it: the subject in words, and the value.
// Values that the library does not know come last, under their own names. Values
// are as they are stored: times in RFC 3339.
func (i Incident) Seen() iter.Seq2[string, string] {
	return func(yield func(label, value string) bool) {
		for _, l := range labels {
			if v, ok := i.Evidence[l.name]; ok && !yield(l.label, v) {
				return
			}
		}
		for _, name := range slices.Sorted(maps.Keys(i.Evidence)) {
			if label(name) == "" && !yield(name, i.Evidence[name]) {
				return
			}
		}
	}
}

// label is empty for a name that is not the library's.
func label(name string) string {
	for _, l := range labels {
		if l.name == name {
			return l.label
		}
	}
	return ""
}

// readable is a value as people read it.
func readable(value string) string {
	if at, err := time.Parse(time.RFC3339, value); err == nil {
		return moment(at)
	}
	return value
}

func moment(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("15:04:05 UTC on 2 January 2006")
}
