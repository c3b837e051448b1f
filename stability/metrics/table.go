package metrics

import (
	"slices"
	"strconv"

	"go.opentelemetry.io/otel/attribute"

	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/keepalive"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
)

// The attributes.
const (
	AttributeAccount   = "wastability.account" // only with an account label: the host's own word
	AttributeState     = "wastability.state"
	AttributeReason    = "wastability.reason"
	AttributeHealth    = "wastability.health"
	AttributeIncident  = "wastability.incident"
	AttributeOperation = "wastability.operation"
	AttributeResult    = "wastability.result"
	AttributeCode      = "wastability.code"
)

// Other is the value of an attribute for what the library has no word for.
const Other = "other"

// kind says how the values of several Managers make one.
type kind int

const (
	sum     kind = iota // of what there is now: an up-down counter
	counter             // of what happened
	gauge               // the largest of them, or the least
)

// The units.
const (
	seconds    = "s"
	accounts   = "{account}"
	messages   = "{message}"
	operations = "{operation}"
)

// instrument is one row of the table.
type instrument struct {
	name, unit string
	kind       kind
	least      bool // a gauge whose least value counts
	text       string
	attributes []string
	variants   [][]string // all values that the attributes take together; "other" is among them where there are unknown ones
	read       func(s *sample, put func(value float64, variant ...string))

	sets []attribute.Set // of the variants
}

// index finds the variant. An unknown one becomes other.
func (i *instrument) index(variant []string) int {
	if len(i.variants) == 0 {
		return 0
	}
	if k := slices.IndexFunc(i.variants, func(v []string) bool { return slices.Equal(v, variant) }); k >= 0 {
		return k
	}
	last := len(i.variants) - 1 // has other for the last attribute
	return last
}

// one gives each value a variant of its own.
func one[S ~string](values ...S) (out [][]string) {
	for _, v := range values {
		out = append(out, []string{string(v)})
	}
	return out
}

// each combines two attributes.
func each[S ~string](first []S, second ...string) (out [][]string) {
	for _, a := range first {
		for _, b := range second {
			out = append(out, []string{string(a), b})
		}
	}
	return out
}

// codes are the refusals that are told apart.
var codes = []int{400, 403, 404, 429, 463, 479, 500, 503}

// results of sends: the refusals have a code.
func sendResults() [][]string {
	out := [][]string{{"acknowledged", ""}}
	for _, c := range codes {
		out = append(out, []string{"refused", strconv.Itoa(c)})
	}
	return append(out, []string{"refused", Other})
}

func plain(f func(s *sample) float64) func(*sample, func(float64, ...string)) {
	return func(s *sample, put func(float64, ...string)) { put(f(s)) }
}

// when is a gauge that only some moments have.
func when(f func(s *sample) (float64, bool)) func(*sample, func(float64, ...string)) {
	return func(s *sample, put func(float64, ...string)) {
		if v, ok := f(s); ok {
			put(v)
		}
	}
}

// table holds all instruments; the package's documentation shows the same.
var table = []instrument{
	{name: "wastability.accounts", unit: accounts, text: "Managers that are registered.",
		read: plain(func(*sample) float64 { return 1 })},
	{name: "wastability.connection.state", unit: accounts, text: "Managers in each state.",
		attributes: []string{AttributeState}, variants: one(States()...),
		read: func(s *sample, put func(float64, ...string)) { put(1, string(s.state)) }},
	{name: "wastability.connection.state.age", unit: seconds, kind: gauge, text: "How long the connection has been up, or away, or this instance without the lock.",
		read: plain(func(s *sample) float64 { return s.age })},
	{name: "wastability.connection.connected", unit: accounts, text: "Managers with a connection that is logged in.",
		read: plain(func(s *sample) float64 { return yes(s.st.WA == reconnect.StatusConnected) })},
	{name: "wastability.connection.attempts", unit: "{attempt}", kind: counter, text: "Attempts to connect.",
		read: plain(func(s *sample) float64 { return float64(s.n.Attempts) })},
	{name: "wastability.connection.logins", unit: "{login}", kind: counter, text: "Attempts that ended in a login.",
		read: plain(func(s *sample) float64 { return float64(s.n.Connections) })},
	{name: "wastability.connection.disconnects", unit: "{disconnect}", kind: counter, text: "Ends of connections and of attempts, by reason.",
		attributes: []string{AttributeReason}, variants: one(append(reconnect.Reasons(), Other)...),
		read: func(s *sample, put func(float64, ...string)) {
			for r, n := range s.n.Disconnects {
				put(float64(n), string(r))
			}
		}},
	{name: "wastability.connection.health", unit: accounts, text: "Holders of the lock by the health of their connection.",
		attributes: []string{AttributeHealth}, variants: one(keepalive.OK, keepalive.Quiet, keepalive.Mute, keepalive.Degraded, keepalive.Stale, keepalive.Down, Other),
		read: func(s *sample, put func(float64, ...string)) {
			if s.active {
				put(1, string(s.st.Probes.Health))
			}
		}},
	{name: "wastability.connection.ping.duration", unit: seconds, kind: counter, text: "Time that WhatsApp took to answer pings, summed up.",
		read: plain(func(s *sample) float64 { return s.n.Pings.Time.Seconds() })},
	{name: "wastability.connection.pings", unit: "{ping}", kind: counter, text: "Pings that WhatsApp has answered.",
		read: plain(func(s *sample) float64 { return float64(s.n.Pings.Answered) })},

	{name: "wastability.messages.waiting", unit: messages, text: "Received messages that the program's handlers have not taken yet.",
		read: plain(func(s *sample) float64 { return s.holds(float64(s.received.Waiting.Count)) })},
	{name: "wastability.messages.waiting.age", unit: seconds, kind: gauge, text: "How long the oldest of them has waited.",
		read: when(func(s *sample) (float64, bool) { return s.since(s.received.Waiting.Oldest) })},
	{name: "wastability.messages.set_aside", unit: messages, text: "Received messages that were set aside.",
		read: plain(func(s *sample) float64 { return s.holds(float64(s.received.SetAside.Count)) })},
	{name: "wastability.messages.set_aside.age", unit: seconds, kind: gauge, text: "How long ago the oldest of them was received.",
		read: when(func(s *sample) (float64, bool) { return s.since(s.received.SetAside.Oldest) })},
	{name: "wastability.messages.handled", unit: messages, kind: counter, text: "Received messages that every handler has taken.",
		read: plain(func(s *sample) float64 { return float64(s.received.Handled) })},
	{name: "wastability.handlers.waiting", unit: "{stanza}", text: "Messages, receipts and notices that are not with a handler yet.",
		read: plain(func(s *sample) float64 { return s.holds(float64(s.st.Probes.Waiting)) })},
	{name: "wastability.handlers.running.age", unit: seconds, kind: gauge, text: "How long the handler has been running that has been running for longest.",
		read: when(func(s *sample) (float64, bool) { return s.st.Probes.HandlerAge.Seconds(), s.active })},

	{name: "wastability.sends", unit: messages, kind: counter, text: "Sent messages that WhatsApp has answered, by its answer.",
		attributes: []string{AttributeResult, AttributeCode}, variants: sendResults(),
		read: func(s *sample, put func(float64, ...string)) {
			put(float64(s.sent.Acknowledged), "acknowledged", "")
			for _, r := range s.sent.Refused {
				put(float64(r.Count), "refused", strconv.Itoa(r.Code))
			}
		}},
	{name: "wastability.sends.unanswered", unit: messages, text: "Sent messages that were not answered in time, and have not been since.",
		read: plain(func(s *sample) float64 { return float64(s.sent.Unanswered) })},
	{name: "wastability.sends.waiting", unit: messages, text: "Sent messages whose answer may still come.",
		read: plain(func(s *sample) float64 { return float64(s.sent.Waiting) })},
	{name: "wastability.sends.answer.duration", unit: seconds, kind: counter, text: "Time that WhatsApp took to answer sent messages, summed up.",
		read: plain(func(s *sample) float64 { return s.n.Sends.Time.Seconds() })},

	{name: "wastability.lock.held", unit: accounts, text: "Managers that hold the lock of their account.",
		read: plain(func(s *sample) float64 { return yes(s.active) })},
	{name: "wastability.lock.term", unit: "{term}", kind: gauge, text: "Number of the newest term that is known: its fencing token.",
		read: plain(func(s *sample) float64 { return float64(s.st.LeaseEpoch) })},
	{name: "wastability.lock.terms", unit: "{term}", kind: counter, text: "Terms that began here.",
		read: plain(func(s *sample) float64 { return float64(s.n.Terms) })},
	{name: "wastability.lock.renewals", unit: "{renewal}", kind: counter, text: "Renewals of the lock that were asked for, by result.",
		attributes: []string{AttributeResult}, variants: one("ok", "error"),
		read: func(s *sample, put func(float64, ...string)) {
			put(float64(s.n.Renewals), "ok")
			put(float64(s.n.RenewalsFailed), "error")
		}},
	{name: "wastability.lock.lease", unit: seconds, kind: gauge, text: "How long a lease lasts without a renewal.",
		read: when(func(s *sample) (float64, bool) { return s.st.Settings.Lease.Seconds(), s.st.Settings.Lease > 0 })},
	{name: "wastability.lock.trust.remaining", unit: seconds, kind: gauge, least: true, text: "How long the holder may go on without another renewal.",
		read: when(func(s *sample) (float64, bool) {
			return max(0, s.st.TrustedUntil.Sub(s.st.At).Seconds()), s.active && !s.st.TrustedUntil.IsZero()
		})},

	{name: "wastability.store.available", unit: accounts, text: "Managers whose backend answers.",
		read: plain(func(s *sample) float64 { return yes(s.st.StoreUnavailable == nil && !s.st.Closed) })},
	{name: "wastability.store.unavailable.age", unit: seconds, kind: gauge, text: "How long a backend has not answered.",
		read: when(func(s *sample) (float64, bool) {
			return s.past(s.st.StoreUnavailableSince), s.st.StoreUnavailable != nil && !s.st.Closed
		})},
	{name: "wastability.store.operations", unit: operations, kind: counter, text: "Calls to the backend, by kind and result. A refusal is an answer.",
		attributes: []string{AttributeOperation, AttributeResult}, variants: each(stability.StoreCalls(), "ok", "error"),
		read: func(s *sample, put func(float64, ...string)) {
			for k, c := range s.n.Store {
				put(float64(c.Answered), string(k), "ok")
				put(float64(c.Failed), string(k), "error")
			}
		}},
	{name: "wastability.store.operation.duration", unit: seconds, kind: counter, text: "Time that calls to the backend took, summed up.",
		attributes: []string{AttributeOperation}, variants: one(stability.StoreCalls()...),
		read: func(s *sample, put func(float64, ...string)) {
			for k, c := range s.n.Store {
				put(c.Time.Seconds(), string(k))
			}
		}},
	{name: "wastability.store.operation.slowest", unit: seconds, kind: gauge, text: "The slowest call to the backend in the last minute or two.",
		attributes: []string{AttributeOperation}, variants: one(stability.StoreCalls()...),
		read: func(s *sample, put func(float64, ...string)) {
			for k, c := range s.n.Store {
				put(c.Slowest.Seconds(), string(k))
			}
		}},

	{name: "wastability.incidents.active", unit: "{incident}", text: "Incidents that are open, as this instance knows them.",
		attributes: []string{AttributeIncident}, variants: one(append(guard.Types(), Other)...),
		read: func(s *sample, put func(float64, ...string)) {
			for _, t := range s.incidents {
				put(1, string(t))
			}
		}},
}

func init() {
	for i := range table {
		in := &table[i]
		if len(in.variants) == 0 {
			in.sets = []attribute.Set{attribute.NewSet()}
		}
		for _, v := range in.variants {
			var list []attribute.KeyValue
			for k, name := range in.attributes {
				if v[k] != "" {
					list = append(list, attribute.String(name, v[k]))
				}
			}
			in.sets = append(in.sets, attribute.NewSet(list...))
		}
	}
}

func yes(is bool) float64 {
	if is {
		return 1
	}
	return 0
}
