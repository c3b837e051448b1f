package stability_test

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/wastability/wastability/autoheal"
	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/stability"
	"go.mau.fi/whatsmeow/types/events"
)

// incident is what the store has under an id; the zero Incident if nothing.
func (i *instance) incident(id string) guard.Incident { return i.w.incident(id) }

func (w *world) incident(id string) guard.Incident {
	list, _ := w.look().Incidents.List(context.Background())
	for _, inc := range list {
		if inc.ID == id {
			return inc
		}
	}
	return guard.Incident{}
}

// book is a sink that remembers.
type book struct {
	mu    sync.Mutex
	notes []guard.Notification
}

func (b *book) Notify(n guard.Notification) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.notes = append(b.notes, n)
}

// of returns the changes of one incident, in order.
func (b *book) of(id string) (out []guard.Change) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, n := range b.notes {
		if n.Incident.ID == id {
			out = append(out, n.Change)
		}
	}
	return out
}

func (b *book) last(id string) (last guard.Notification) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, n := range b.notes {
		if n.Incident.ID == id {
			last = n
		}
	}
	return last
}

const (
	opened   = guard.ChangeOpened
	resolved = guard.ChangeResolved
)

// tended is a named instance whose exits and notifications a test sees.
type tended struct {
	*named
	label string
	book  *book

	otherNames *atomic.Int64 // see inOtherVersion
}

func (w *world) tended(label string, opts ...stability.Option) *tended {
	w.t.Helper()
	n := &tended{label: label, book: &book{}}
	exits := make(chan int, 64)
	n.named = w.named(label, append([]stability.Option{
		stability.WithExit(func(code int) { exits <- code }), stability.WithSink(n.book),
	}, opts...)...)
	n.exits = exits
	return n
}

func (n *tended) run() *tended   { n.instance.run(); return n }
func (n *tended) ready() *tended { n.instance.ready(); return n }
func (n *tended) pair() *tended  { n.instance.pair(); return n }

// crash makes an instance vanish as a killed process does: its network and its
// backend fall silent, and what it still tries is never heard.
func (n *tended) crash() {
	n.wire.hang(anyCall)
	n.w.sim.Partition(n.label)
}

// noHeal keeps a test's outage from ending the process.
var noHeal = autoheal.Policy{Disabled: true}

// heed sets who hears the client's events before the instance does.
// turns changes what the handlers refuse while they may be at work.
func (i *instance) turns(refuse func(*events.Message) bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.refuse = refuse
}

func (i *instance) heed(f func(any)) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.onEvent = f
}
