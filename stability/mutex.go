package stability

import (
	"context"
	"log/slog"
	"sync"
)

// mutex is the Manager's. Work that is left to its unlock runs when nobody
// holds it any more: the host's log may ask for the status, and a cut may wait for a
// write.
type mutex struct {
	sync.Mutex
	behind []func()
}

// afterwards leaves f to the unlock. The caller holds the mutex.
func (m *mutex) afterwards(f func()) { m.behind = append(m.behind, f) }

func (m *mutex) Unlock() {
	behind := m.behind
	m.behind = nil
	m.Mutex.Unlock()
	for _, f := range behind {
		f()
	}
}

// logLocked writes to the host's log behind the unlock.
func (m *Manager) logLocked(level slog.Level, text string, attrs ...any) {
	m.mu.afterwards(func() { m.cfg.logger.Log(context.Background(), level, text, attrs...) })
}
