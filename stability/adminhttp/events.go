package adminhttp

import (
	"net/http"
	"sync/atomic"
	"time"
)

// The stream tells an open page that something has changed; the page then reads
// itself anew. So a stream carries no data, and all of them together are cheap.

const (
	maxStreams   = 1024
	pushEvery    = time.Second      // at most one change a second
	heartbeat    = 15 * time.Second // a comment, so that a dead connection is noticed
	writeTimeout = 5 * time.Second  // a client that takes no bytes for so long is dropped
)

// streams bounds how many there are at once.
type streams struct{ n atomic.Int64 }

func newStreams() *streams { return &streams{} }

func (s *streams) enter() bool {
	if s.n.Add(1) > maxStreams {
		s.n.Add(-1)
		return false
	}
	return true
}

func (s *streams) leave() { s.n.Add(-1) }

func (h *Handler) events(w http.ResponseWriter, r *http.Request, c *caller) {
	stream(w, r, c, h.streams, h.closed, func() (<-chan struct{}, bool) {
		changed := h.m.Changed()
		return changed, h.m.Status().Closed
	})
}

// stream tells of changes until the client goes, is too slow, or is signed out,
// or until closed or over. next returns what is closed at the next change, and
// whether there will be none.
func stream(w http.ResponseWriter, r *http.Request, c *caller, s *streams, closed <-chan struct{}, next func() (changed <-chan struct{}, over bool)) {
	if r.Method == http.MethodHead {
		w.Header().Set("Content-Type", "text/event-stream")
		return
	}
	if !s.enter() {
		(&refusal{http.StatusServiceUnavailable, "too_many_streams", "Too many pages are open: load the page anew to see changes.", time.Minute}).tell(w)
		return
	}
	defer s.leave()
	rc := http.NewResponseController(w)
	// A server that cannot drop a slow client would wait for it for ever.
	if err := rc.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		(&refusal{code: http.StatusNotImplemented, word: "no_streams", message: "The server of this program does not let writes end: load the page anew to see changes."}).tell(w)
		return
	}
	header := w.Header()
	header.Set("Content-Type", "text/event-stream")
	header.Set("X-Accel-Buffering", "no") // of nginx
	header.Set("Connection", "close")     // the deadline stays with it
	w.WriteHeader(http.StatusOK)
	send := func(text string) bool {
		if err := rc.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
			return false
		}
		if _, err := w.Write([]byte(text)); err != nil {
			return false
		}
		return rc.Flush() == nil
	}
	changed, over := next()
	if !send("retry: 5000\nevent: hello\ndata: {}\n\n") {
		return
	}
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	for {
		if over {
			send("event: over\ndata: {}\n\n") // nothing changes any more
			return
		}
		select {
		case <-changed:
		case <-beat.C:
			if !c.stillGood() {
				send("event: signed-out\ndata: {}\n\n")
				return
			}
			if !send(": still here\n\n") {
				return
			}
			continue
		case <-closed:
			return
		case <-r.Context().Done():
			return
		}
		changed, over = next()
		if !send("event: changed\ndata: {}\n\n") {
			return
		}
		select { // several changes are told as one
		case <-time.After(pushEvery):
		case <-closed:
			return
		case <-r.Context().Done():
			return
		}
	}
}
