package postgresbackend

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/jackc/pgx/v5"
)

// listener has one connection for all accounts of the DB. It listens only while
// somebody waits for a lock.
type listener struct {
	db      *DB
	channel string

	mu      sync.Mutex
	waiting map[string]map[chan struct{}]struct{} // by account
	stop    context.CancelFunc                    // of the running loop; nil when none runs
	running sync.WaitGroup
}

func (l *listener) init(db *DB) {
	l.db, l.channel = db, "wastability:"+db.schema // at most 60 bytes
	l.waiting = make(map[string]map[chan struct{}]struct{})
}

// wait returns when no loop runs any more. The DB's life has ended.
func (l *listener) wait() { l.running.Wait() }

// subscribe gives a channel that holds a token whenever account's lock may have
// been released.
func (l *listener) subscribe(account string) (wake <-chan struct{}, stop func()) {
	ch := make(chan struct{}, 1)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting[account] == nil {
		l.waiting[account] = make(map[chan struct{}]struct{})
	}
	l.waiting[account][ch] = struct{}{}
	if l.stop == nil && l.db.life.Err() == nil {
		ctx, cancel := context.WithCancel(l.db.life)
		l.stop = cancel
		l.running.Go(func() { l.run(ctx) })
	}
	return ch, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.waiting[account], ch)
		if len(l.waiting[account]) == 0 {
			delete(l.waiting, account)
		}
		if len(l.waiting) == 0 && l.stop != nil {
			l.stop()
			l.stop = nil
		}
	}
}

// wake tells those who wait for account; "" means all of them.
func (l *listener) wake(account string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	tell := func(chans map[chan struct{}]struct{}) {
		for ch := range chans {
			select {
			case ch <- struct{}{}:
			default:
			}
		}
	}
	if account != "" {
		tell(l.waiting[account])
		return
	}
	for _, chans := range l.waiting {
		tell(chans)
	}
}

// run listens until ctx ends, and begins anew when its connection is lost.
func (l *listener) run(ctx context.Context) {
	pause := backoff.NewExponentialBackOff(backoff.WithInitialInterval(time.Second), backoff.WithMultiplier(2),
		backoff.WithMaxInterval(time.Minute), backoff.WithMaxElapsedTime(0))
	for ctx.Err() == nil {
		if heard := l.session(ctx); heard {
			pause.Reset()
		}
		timer := time.NewTimer(pause.NextBackOff())
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
}

// session is one connection. It is taken out of the pool, so that it is made as
// the host makes its connections, and is never given back: it has a setting of
// its own.
func (l *listener) session(ctx context.Context) (listening bool) {
	begin, cancel := context.WithTimeout(ctx, l.db.timeout)
	defer cancel()
	pooled, err := l.db.pool.Acquire(begin)
	if err != nil {
		l.quiet(ctx, err)
		return false
	}
	conn := pooled.Hijack()
	defer func() {
		end, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = conn.Close(end)
	}()
	if _, err := conn.Exec(begin, "LISTEN "+pgx.Identifier{l.channel}.Sanitize()); err != nil {
		l.quiet(ctx, err)
		return false
	}
	l.wake("") // locks that were released before this
	for {
		note, err := conn.WaitForNotification(ctx)
		if err != nil {
			l.quiet(ctx, err)
			return true
		}
		l.wake(note.Payload)
	}
}

func (l *listener) quiet(ctx context.Context, err error) {
	if ctx.Err() == nil {
		l.db.log.Debug("not listening for hand-overs in Postgres, trying again; the lock is polled meanwhile",
			"error", fmt.Errorf("listen on %s: %w", l.channel, l.db.explain(err)))
	}
}
