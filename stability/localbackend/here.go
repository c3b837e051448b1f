package localbackend

import (
	"os"
	"sync"

	"github.com/wastability/wastability/lock"
)

// AnotherManager is the Holder of a Record while another backend of this very
// process has the file, under the same holder id. Under an id of its own it is
// named by that.
const AnotherManager = "another Manager of this process"

// here are the terms of this process, by which a backend tells them from those
// of other processes: the lock on a file says only that somebody has it.
var here struct {
	mu    sync.Mutex
	terms map[*term]struct{}
}

func (t *term) enlist() {
	here.mu.Lock()
	defer here.mu.Unlock()
	if here.terms == nil {
		here.terms = map[*term]struct{}{}
	}
	here.terms[t] = struct{}{}
}

func (t *term) delist() {
	here.mu.Lock()
	defer here.mu.Unlock()
	delete(here.terms, t)
}

// holder says who has the file, which is not b.
func (b *backend) holder() lock.Record {
	by, _ := b.by.Load().(string)
	info, err := os.Lstat(b.path)
	if err != nil {
		return lock.Record{Holder: AnotherProcess}
	}
	here.mu.Lock()
	defer here.mu.Unlock()
	for t := range here.terms {
		if !os.SameFile(info, t.info) {
			continue
		}
		if _, err := t.f.Stat(); err != nil {
			continue // it is closed, and its number may be another file's by now
		}
		rec := t.record()
		if rec.Holder == by {
			return lock.Record{Holder: AnotherManager}
		}
		return lock.Record{Holder: rec.Holder, Epoch: rec.Epoch}
	}
	return lock.Record{Holder: AnotherProcess}
}
