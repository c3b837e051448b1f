package stability

import (
	"go.mau.fi/whatsmeow/store"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/lock"
)

// abilities are the optional interfaces of what the Manager is made of. Nil: it
// cannot. New fills them once; nothing else asks for an optional interface, but the
// functions below.
type abilities struct {
	maintainer authstore.Maintainer
	book       authstore.MessageBook
	leftovers  authstore.EventLeftovers
	retainer   authstore.Retainer
	outgoing   authstore.OutgoingCounter

	successor lock.Successor

	flushers []guard.Flusher // the sinks that can
}

func lookFor(s authstore.Store, l lock.Lock, sinks []guard.Sink) (can abilities) {
	can.maintainer, _ = s.(authstore.Maintainer)
	can.book, _ = s.(authstore.MessageBook)
	can.leftovers, _ = s.(authstore.EventLeftovers)
	can.retainer, _ = s.(authstore.Retainer)
	can.outgoing, _ = s.(authstore.OutgoingCounter)
	can.successor, _ = l.(lock.Successor)
	for _, sink := range sinks {
		if f, ok := sink.(guard.Flusher); ok {
			can.flushers = append(can.flushers, f)
		}
	}
	return can
}

// lacking names the optional interfaces of package authstore that the store is not,
// each with what its lack means.
func (can abilities) lacking() (names []string) {
	for _, o := range []struct {
		is          bool
		name, means string
	}{
		{can.book != nil, "MessageBook", "messages that are kept here or were set aside are lost when the process or the term ends"},
		{can.leftovers != nil, "EventLeftovers", "nobody is told of decrypted messages that a killed process has left"},
		{can.maintainer != nil, "Maintainer", "Quarantine, RestoreDevice, PurgeDevice, PurgeRows and Reseal are not possible"},
		{can.retainer != nil, "Retainer", "what was set aside is never removed for its age"},
		{can.outgoing != nil, "OutgoingCounter", "Resends does not count what newer versions of whatsmeow answer"},
	} {
		if !o.is {
			names = append(names, o.name+": "+o.means)
		}
	}
	return names
}

// watcherOf is the lock's store, for one that can watch; nil when it cannot.
func watcherOf(s lock.Store) lock.Watcher {
	w, _ := s.(lock.Watcher)
	return w
}

// rangesOf is the session's store, for one that reads many ranges in one call; nil
// when it cannot.
func rangesOf(kv authstore.KV) authstore.RangeScanner {
	r, _ := kv.(authstore.RangeScanner)
	return r
}

// keeperOf is the store that keeps what is sent on d; nil when it cannot.
func keeperOf(d *store.Device) authstore.SentKeeper {
	if d == nil {
		return nil
	}
	if k, ok := d.Sessions.(authstore.SentKeeper); ok {
		return k
	}
	k, _ := d.Container.(authstore.SentKeeper)
	return k
}
