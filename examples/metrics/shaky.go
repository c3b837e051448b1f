package main

import (
	"context"
	"errors"
	"iter"
	"sync/atomic"
	"time"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
)

// shaky stands in front of a backend, and can take it away.
type shaky struct {
	down  atomic.Bool // nothing answers
	renew atomic.Bool // the lock cannot be renewed
}

var errDown = errors.New("no route to the backend (simulated)")

func (s *shaky) err() error {
	if s.down.Load() {
		return errDown
	}
	return nil
}

// front returns the backend with s in front of it.
func (s *shaky) front(b stability.Backend) stability.Backend {
	b.Lock = shakyLock{b.Lock, s}
	b.Auth = shakyKV{b.Auth, s}
	b.State = shakyState{b.State, s}
	b.Incidents = shakyIncidents{b.Incidents, s}
	return b
}

type shakyLock struct {
	lock.Store
	s *shaky
}

func (l shakyLock) Acquire(ctx context.Context, holder, nonce string, lease time.Duration) (lock.Record, bool, error) {
	if err := l.s.err(); err != nil {
		return lock.Record{}, false, err
	}
	return l.Store.Acquire(ctx, holder, nonce, lease)
}

func (l shakyLock) Renew(ctx context.Context, held lock.Record) (lock.Record, error) {
	if err := l.s.err(); err != nil || l.s.renew.Load() {
		return lock.Record{}, errDown
	}
	return l.Store.Renew(ctx, held)
}

func (l shakyLock) Release(ctx context.Context, held lock.Record) error {
	if err := l.s.err(); err != nil {
		return err
	}
	return l.Store.Release(ctx, held)
}

func (l shakyLock) Load(ctx context.Context) (lock.Record, error) {
	if err := l.s.err(); err != nil {
		return lock.Record{}, err
	}
	return l.Store.Load(ctx)
}

// Changes hands on what the backend tells of its lock.
func (l shakyLock) Changes(ctx context.Context) iter.Seq2[lock.Record, error] {
	return func(yield func(lock.Record, error) bool) {
		w, ok := l.Store.(lock.Watcher)
		if !ok {
			<-ctx.Done()
			return
		}
		for r, err := range w.Changes(ctx) {
			if broken := l.s.err(); broken != nil {
				r, err = lock.Record{}, broken
			}
			if !yield(r, err) {
				return
			}
		}
	}
}

type shakyKV struct {
	authstore.KV
	s *shaky
}

func (k shakyKV) Get(ctx context.Context, keys ...authstore.Key) (map[authstore.Key][]byte, error) {
	if err := k.s.err(); err != nil {
		return nil, err
	}
	return k.KV.Get(ctx, keys...)
}

func (k shakyKV) Scan(ctx context.Context, kind authstore.Kind, idPrefix string) iter.Seq2[authstore.Entry, error] {
	return func(yield func(authstore.Entry, error) bool) {
		if err := k.s.err(); err != nil {
			yield(authstore.Entry{}, err)
			return
		}
		k.KV.Scan(ctx, kind, idPrefix)(yield)
	}
}

func (k shakyKV) Commit(ctx context.Context, epoch int64, b authstore.Batch) error {
	if err := k.s.err(); err != nil {
		return err
	}
	return k.KV.Commit(ctx, epoch, b)
}

type shakyState struct {
	reconnect.StateStore
	s *shaky
}

func (s shakyState) Load(ctx context.Context) (reconnect.State, error) {
	if err := s.s.err(); err != nil {
		return reconnect.State{}, err
	}
	return s.StateStore.Load(ctx)
}

func (s shakyState) Save(ctx context.Context, epoch int64, st reconnect.State) error {
	if err := s.s.err(); err != nil {
		return err
	}
	return s.StateStore.Save(ctx, epoch, st)
}

type shakyIncidents struct {
	guard.IncidentStore
	s *shaky
}

func (s shakyIncidents) Raise(ctx context.Context, inc guard.Incident) (guard.Incident, bool, error) {
	if err := s.s.err(); err != nil {
		return guard.Incident{}, false, err
	}
	return s.IncidentStore.Raise(ctx, inc)
}
