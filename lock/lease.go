package lock

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"
)

// settleTries is how often one attempt is sent under its nonce before the
// record is read instead.
const settleTries = 3

// Lease implements Lock over a Store for one holder. It has at most one term at
// a time. All methods are safe for concurrent use.
type Lease struct {
	store   Store
	watcher Watcher // nil where the store cannot watch
	holder  string
	cfg     config
	log     *slog.Logger

	clocks clocks

	closing   context.Context // ends when Close begins: nobody waits for the lock any more
	beginStop context.CancelFunc
	base      context.Context // ends when Close gives up waiting: aborts what is left
	abort     context.CancelFunc

	acquiring chan struct{} // semaphore: one attempt at a time; guards attempt
	attempt   attempt

	mu        sync.Mutex // never held across I/O
	closed    bool
	cur       *term     // the last term; it may have ended
	contested bool      // a term was lost to our own holder id, and none won since
	unclearAt time.Time // when a call of Acquire last failed
	seen      sighting
	stats     Stats
	running   int           // goroutines
	idle      chan struct{} // closed when running drops to 0
}

var (
	_ Lock      = (*Lease)(nil)
	_ Successor = (*Lease)(nil)
)

// attempt is one try to get the lock, named by its nonce until it is settled.
type attempt struct {
	nonce string
	// unclear: a call under this nonce failed once, so it may still arrive at
	// the store, and a later grant may belong to it rather than to the last
	// call. Trust must not be counted from that call then.
	unclear bool
}

// New makes a Lease over s for the given holder id; see NewHolderID. It does no
// I/O and starts nothing. An error names the option at fault.
func New(s Store, holder string, opts ...Option) (*Lease, error) {
	if s == nil {
		return nil, errors.New("lock: no store: pass the lock.Store of a backend")
	}
	if err := checkHolder(holder); err != nil {
		return nil, err
	}
	w, _ := s.(Watcher)
	cfg, err := newConfig(opts, w != nil)
	if err != nil {
		return nil, err
	}
	l := &Lease{
		store: s, watcher: w, holder: holder, cfg: cfg,
		log:       cfg.log.With("holder", holder),
		acquiring: make(chan struct{}, 1),
	}
	l.clocks.init()
	l.closing, l.beginStop = context.WithCancel(context.Background())
	l.base, l.abort = context.WithCancel(context.Background())
	return l, nil
}

// TryAcquire asks the store for the lock once. While a term lives it returns
// that term and true, without I/O; a paused term lives. Without a grant another
// holds the lock. After an error the outcome is unclear; the next attempt
// settles it.
func (l *Lease) TryAcquire(ctx context.Context) (Term, bool, error) {
	t, err := l.tryAcquire(ctx)
	if t == nil {
		return nil, false, err
	}
	return t, true, nil
}

func (l *Lease) tryAcquire(ctx context.Context) (*term, error) {
	if t, err := l.live(); t != nil || err != nil {
		return t, err
	}
	ctx, stop := l.untilClosing(ctx)
	defer stop()
	t, err := l.acquireInTurn(ctx)
	if err != nil && l.closing.Err() != nil {
		return nil, ErrClosed
	}
	return t, err
}

// acquireInTurn makes one attempt when no other one is under way.
func (l *Lease) acquireInTurn(ctx context.Context) (*term, error) {
	select {
	case l.acquiring <- struct{}{}:
		defer func() { <-l.acquiring }()
	case <-ctx.Done():
		return nil, fmt.Errorf("lock: acquire: %w", ctx.Err())
	}
	if t, err := l.live(); t != nil || err != nil {
		return t, err
	}
	if err := l.lastTermOver(ctx); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil { // nothing sent, so nothing is unclear
		return nil, fmt.Errorf("lock: acquire: %w", err)
	}
	l.spawn(func() { l.watchClocks(ctx.Done(), nil) })
	return l.acquireOnce(ctx)
}

// live returns the term that has not ended, if there is one.
func (l *Lease) live() (*term, error) {
	l.mu.Lock()
	t, closed := l.cur, l.closed
	l.mu.Unlock()
	if closed {
		return nil, ErrClosed
	}
	if t != nil && !t.endIfExpired() {
		return t, nil
	}
	return nil, nil
}

// lastTermOver waits until it is known why the last term ended: whether it was
// lost to our own id decides how to go on.
func (l *Lease) lastTermOver(ctx context.Context) error {
	l.mu.Lock()
	t := l.cur
	l.mu.Unlock()
	if t == nil {
		return nil
	}
	select {
	case <-t.lost:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("lock: acquire: %w", ctx.Err())
	}
}

// acquireOnce makes one attempt; the caller holds the semaphore. nil and no
// error: another holds the lock.
func (l *Lease) acquireOnce(ctx context.Context) (*term, error) {
	if yield, err := l.yieldToTwin(ctx); yield || err != nil {
		return nil, err
	}
	pause := l.newBackoff()
	renewed := false // whether a nonce that is used up was replaced already
	var err error
	for try := 1; ; try++ {
		if l.attempt.nonce == "" {
			l.attempt = attempt{nonce: rand.Text()}
		}
		var t *term
		var over bool
		if t, over, err = l.send(ctx); err == nil {
			if over && !renewed {
				renewed = true
				continue
			}
			return t, nil
		}
		l.attempt.unclear = true
		l.noteUnclear(err)
		if permanent(err) || ctx.Err() != nil || try >= settleTries || !sleep(ctx, pause.NextBackOff()) {
			break
		}
	}
	if ctx.Err() == nil && !permanent(err) {
		// The calls do not get through. If the record shows somebody else, that
		// is an answer too; an unheard grant would show our own id.
		if rec, loadErr := l.load(ctx); loadErr == nil && rec.Holder != "" && rec.Holder != l.holder {
			l.log.Warn("the lock was not acquired: the record shows another holder", "error", err, "by", rec.Holder, "epoch", rec.Epoch)
			return nil, nil
		}
	}
	return nil, fmt.Errorf("lock: acquire: %w", err)
}

// send makes one call under the attempt's nonce. over: the nonce is used up,
// a new one may well get the lock.
func (l *Lease) send(ctx context.Context) (t *term, over bool, err error) {
	sent := l.clocks.now()
	rec, granted, err := l.callAcquire(ctx)
	if err != nil {
		return nil, false, err
	}
	l.noteOK()
	l.observe(rec)
	if !granted {
		if rec.Holder == "" && rec.Epoch > 0 && l.attempt.unclear {
			l.attempt = attempt{} // its term came and went unheard
			return nil, true, nil
		}
		return nil, false, nil
	}
	now := l.clocks.now()
	slow := !now.Before(l.trustEnd(sent.Time, rec)) || now.ahead-sent.ahead > int64(l.cfg.margin)
	if l.attempt.unclear || slow {
		// The term may have begun long ago: only a renewal says from when on
		// it can be trusted.
		sent = l.clocks.now()
		held := rec
		if rec, err = l.callRenew(ctx, held); err != nil {
			if errors.Is(err, ErrLost) {
				l.attempt = attempt{}
				return nil, true, nil
			}
			return nil, false, err
		}
		if rec.Epoch != held.Epoch {
			return nil, false, fmt.Errorf("the store renewed epoch %d as epoch %d", held.Epoch, rec.Epoch)
		}
		if !time.Now().Before(l.trustEnd(sent.Time, rec)) {
			return nil, false, errors.New("the store takes longer than the trust window")
		}
	}
	t, err = l.begin(sent, rec)
	return t, false, err
}

// begin starts the term of rec, whose last confirmation was sent at that time.
func (l *Lease) begin(sent instant, rec Record) (*term, error) {
	l.attempt = attempt{}
	t := newTerm(l, sent, rec)
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		t.end(ErrReleased)
		return nil, ErrClosed
	}
	l.cur = t
	l.contested = false
	l.stats.LastRenewal = sent.Time
	l.stats.Failures = 0
	l.stats.LastError = nil
	l.mu.Unlock()
	l.log.Info("term began", "epoch", rec.Epoch, "lease", l.cfg.lease)
	t.start()
	return t, nil
}

// yieldToTwin reports whether a living process with our own holder id has the
// lock. The store would grant it to us; we would take it from each other for
// ever.
func (l *Lease) yieldToTwin(ctx context.Context) (bool, error) {
	l.mu.Lock()
	contested := l.contested
	l.mu.Unlock()
	if !contested {
		return false, nil
	}
	rec, err := l.load(ctx)
	if err != nil {
		return false, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return rec.Holder == l.holder && l.seen.leaseLeft(time.Now(), l.cfg.lease) > 0, nil
}

// Load reads the record from the store.
func (l *Lease) Load(ctx context.Context) (Record, error) { return l.load(ctx) }

func (l *Lease) load(ctx context.Context) (Record, error) {
	ctx, cancel := context.WithTimeout(ctx, l.cfg.callTimeout)
	defer cancel()
	rec, err := l.store.Load(ctx)
	if err != nil {
		return Record{}, fmt.Errorf("lock: load the record: %w", err)
	}
	l.observe(rec)
	return rec, nil
}

// Close gives the lock up and waits until nothing of the Lease runs any more.
// Callers that wait in Acquire get ErrClosed. When ctx ends first, what is left is
// aborted and an error returned; call Close again to wait on. Close can be
// called any number of times.
func (l *Lease) Close(ctx context.Context) error {
	l.mu.Lock()
	l.closed = true
	t := l.cur
	l.mu.Unlock()
	l.beginStop()
	var errs []error
	if t != nil {
		errs = append(errs, t.Release(ctx))
	}
	select {
	case l.acquiring <- struct{}{}:
		errs = append(errs, l.settle(ctx))
		<-l.acquiring
	case <-ctx.Done():
		// Whether an attempt is still under way or not, it was not settled here.
		errs = append(errs, fmt.Errorf("lock: close: %w", ctx.Err()))
	}
	if err := l.wait(ctx); err != nil {
		l.abort()
		return errors.Join(append(errs, fmt.Errorf("lock: close: %w: the store has not returned yet", err))...)
	}
	l.abort()
	return errors.Join(errs...)
}

// settle gives up what an unclear attempt may have been granted. If that cannot
// be found out, the term expires, as nobody renews it.
func (l *Lease) settle(ctx context.Context) error {
	if !l.attempt.unclear {
		return nil
	}
	rec, err := l.load(ctx)
	if err == nil && rec.Holder == l.holder {
		var granted bool
		if rec, granted, err = l.callAcquire(ctx); err == nil && granted {
			err = l.callRelease(ctx, rec)
		}
	}
	if err != nil {
		return fmt.Errorf("lock: close: it is unclear whether the last attempt got the lock, others may have to wait for its lease: %w", err)
	}
	l.attempt = attempt{}
	return nil
}

func (l *Lease) callAcquire(ctx context.Context) (Record, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, l.cfg.callTimeout)
	defer cancel()
	return l.store.Acquire(ctx, l.holder, l.attempt.nonce, l.cfg.lease)
}

func (l *Lease) callRenew(ctx context.Context, held Record) (Record, error) {
	ctx, cancel := context.WithTimeout(ctx, l.cfg.callTimeout)
	defer cancel()
	return l.store.Renew(ctx, held)
}

func (l *Lease) callRelease(ctx context.Context, held Record) error {
	ctx, cancel := context.WithTimeout(ctx, l.cfg.callTimeout)
	defer cancel()
	return l.store.Release(ctx, held)
}

// trustEnd is the formula of the trust window.
func (l *Lease) trustEnd(sent time.Time, rec Record) time.Time {
	lease := l.cfg.lease
	if rec.Lease > 0 && rec.Lease < lease { // the store keeps a shorter one
		lease = rec.Lease
	}
	return sent.Add(lease - l.cfg.margin)
}

// spawn runs f in a goroutine that Close waits for.
func (l *Lease) spawn(f func()) {
	l.mu.Lock()
	if l.running == 0 {
		l.idle = make(chan struct{})
	}
	l.running++
	l.mu.Unlock()
	go func() {
		defer func() {
			l.mu.Lock()
			if l.running--; l.running == 0 {
				close(l.idle)
			}
			l.mu.Unlock()
		}()
		f()
	}()
}

func (l *Lease) wait(ctx context.Context) error {
	for {
		l.mu.Lock()
		n, idle := l.running, l.idle
		l.mu.Unlock()
		if n == 0 {
			return nil
		}
		select {
		case <-idle:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// untilClosing is ctx, ended by Close as well.
func (l *Lease) untilClosing(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(l.closing, cancel)
	return ctx, func() { stop(); cancel() }
}

func (l *Lease) newBackoff() *backoff.ExponentialBackOff {
	return backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(l.cfg.retryDelay),
		backoff.WithRandomizationFactor(0.2),
		backoff.WithMaxInterval(l.cfg.callTimeout),
		backoff.WithMaxElapsedTime(0),
	)
}

func permanent(err error) bool {
	var p *backoff.PermanentError
	return errors.As(err, &p)
}

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
