package firestorebackend

import (
	"math/rand/v2"
	"sync"
	"time"
)

// serverClock knows what time it was at the server when it last answered, and
// how long ago that is. It only serves fields that people read: no decision
// depends on it.
type serverClock struct {
	mu    sync.Mutex
	there time.Time
	here  time.Time // monotonic
}

func (c *serverClock) saw(server time.Time) {
	if server.IsZero() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.there, c.here = server, time.Now()
}

// now estimates the server's time; known is false before the first answer.
func (c *serverClock) now() (t time.Time, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.there.IsZero() {
		return time.Time{}, false
	}
	return c.there.Add(time.Since(c.here)), true
}

func jitter(d time.Duration) time.Duration { return rand.N(d) }
