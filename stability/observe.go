package stability

import "slices"

// Observe calls f with every transition from now on, as WithObserver does, for
// whoever comes after New: a page, a meter. Calls come in order, from one
// goroutine at a time, which no other observer can delay. They end, but for one
// that is under way, when stop is called.
func (m *Manager) Observe(f func(Event)) (stop func()) {
	if f == nil {
		return func() {}
	}
	n := &notifier{observers: []func(Event){f}}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.heard = append(m.heard, n)
	return func() {
		m.mu.Lock()
		m.heard = slices.DeleteFunc(m.heard, func(have *notifier) bool { return have == n })
		m.mu.Unlock()
		n.drop()
	}
}

// drop forgets what was not delivered yet.
func (n *notifier) drop() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.queue = nil
}
