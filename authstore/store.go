package authstore

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"go.mau.fi/whatsmeow/store"
)

// deviceStore is everything behind one store.Device: its state in memory, its
// commit pipeline, its windows. It belongs to one term and dies with it.
type deviceStore struct {
	c      *Container
	cfg    *config
	gate   *gate
	win    *windows
	device *store.Device

	commitSem chan struct{}    // held by who commits
	splits    map[Key]manifest // under commitSem: rows that stand in parts

	prekeySem chan struct{} // held while prekeys are allocated
	saveSem   chan struct{} // held while the device is saved or deleted
	macSem    chan struct{} // held while MACs are read
	moveSem   chan struct{} // held while rows are given sealed names
	names     atomic.Pointer[names]

	warned sync.Once // of fields of the Device that cannot be kept

	mu       sync.Mutex // memory only, never across I/O; guards what follows
	im       *image
	gen      string // "" until the device was saved
	head     head
	proved   bool // it has logged in here since it took the place of head.Kept
	queue    writeQueue
	damage   damage
	upkeep   upkeep
	known    knownSessions
	keys     senderKeys
	appState appStateMemory
	events   eventMemory
	secrets  writtenSecrets // message secrets written in this term
	pack     sentPack       // what was sent and is not stored yet
}

var (
	_ store.AllStores = (*deviceStore)(nil)
)

func newDeviceStore(c *Container, f Fence) *deviceStore {
	s := &deviceStore{
		c: c, cfg: &c.cfg, gate: newGate(c.kv, f, &c.cfg),
		commitSem: make(chan struct{}, 1), prekeySem: make(chan struct{}, 1),
		saveSem: make(chan struct{}, 1), macSem: make(chan struct{}, 1), moveSem: make(chan struct{}, 1),
		splits: make(map[Key]manifest), im: newImage(), damage: newDamage(),
		known: newKnownSessions(), keys: senderKeys{absent: make(map[string]struct{})}, appState: newAppStateMemory(),
		secrets: newWrittenSecrets(c.cfg.nextSecretTurn()),
	}
	s.queue = newWriteQueue(&c.cfg.background, s.flushFired)
	s.win = newWindows(c.cfg.windowWait, 2*c.cfg.outagePatience, s.gate.over)
	return s
}

type txnKey struct{}

// txn is the overlay of DoDecryptionTxn: what it wrote is seen by it alone
// until it commits.
type txn struct {
	s     *deviceStore
	claim *claim

	mu      sync.Mutex
	changes map[logicalID]change
	done    bool
}

// txnOf is the transaction that ctx is in, if it is this store's and open.
func (s *deviceStore) txnOf(ctx context.Context) *txn {
	t, _ := ctx.Value(txnKey{}).(*txn)
	if t == nil || t.s != s {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.done {
		return nil
	}
	return t
}

// get reads as ctx sees it. The value is not to be modified.
func (s *deviceStore) get(ctx context.Context, t tableID, id string) ([]byte, bool) {
	if tx := s.txnOf(ctx); tx != nil {
		tx.mu.Lock()
		c, ok := tx.changes[logicalID{t, id}]
		tx.mu.Unlock()
		if ok {
			return c.value, !c.del
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.im.get(t, id)
}

// each lists a table as ctx sees it.
func (s *deviceStore) each(ctx context.Context, t tableID, yield func(id string, value []byte)) {
	over := make(map[string]change)
	if tx := s.txnOf(ctx); tx != nil {
		tx.mu.Lock()
		for id, c := range tx.changes {
			if id.table == t {
				over[id.id] = c
			}
		}
		tx.mu.Unlock()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.im.each(t, func(id string, v []byte) {
		if _, ok := over[id]; !ok {
			yield(id, v)
		}
	})
	for id, c := range over {
		if !c.del {
			yield(id, c.value)
		}
	}
}

// write makes changes durable before it returns, or part of ctx's transaction.
func (s *deviceStore) write(ctx context.Context, op string, changes ...change) error {
	if err := s.ready(op); err != nil {
		return err
	}
	if len(changes) == 0 {
		return nil
	}
	if tx := s.txnOf(ctx); tx != nil {
		tx.add(changes)
		return nil
	}
	return s.submit(op, changes, Batch{})
}

// later defers changes, or makes them part of ctx's transaction.
func (s *deviceStore) later(ctx context.Context, op string, delay time.Duration, changes ...change) error {
	return s.update(ctx, op, delay, func(func(tableID, string) ([]byte, bool)) []change { return changes })
}

// update defers the changes that f makes of what it reads, as one step.
func (s *deviceStore) update(ctx context.Context, op string, delay time.Duration, f func(get func(tableID, string) ([]byte, bool)) []change) error {
	if err := s.ready(op); err != nil {
		return err
	}
	if tx := s.txnOf(ctx); tx != nil {
		tx.add(f(func(t tableID, id string) ([]byte, bool) { return s.get(ctx, t, id) }))
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.queue.closed { // nobody would flush it
		return &overError{op: op, cause: ErrSuperseded}
	}
	if changes := f(s.im.get); len(changes) > 0 {
		s.laterLocked(delay, changes...)
	}
	return nil
}

func (t *txn) add(changes []change) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range changes {
		t.changes[logicalID{c.table, c.id}] = c
	}
}

// ready fails when the device is over or was never saved.
func (s *deviceStore) ready(op string) error {
	if err := s.gate.check(op); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gen == "" {
		return ErrNotSaved
	}
	return nil
}

// DoDecryptionTxn runs fn with a context that carries a transaction: writes
// are buffered, read back by fn alone, and committed as one batch when fn
// succeeds. Inside another transaction fn joins it.
func (s *deviceStore) DoDecryptionTxn(ctx context.Context, fn func(context.Context) error) error {
	const op = "decrypt"
	if s.txnOf(ctx) != nil {
		return fn(ctx)
	}
	if err := s.ready(op); err != nil {
		return err
	}
	tx := &txn{s: s, claim: &claim{kind: claimTxn, gid: goroutineID()}, changes: make(map[logicalID]change)}
	defer s.win.close(tx.claim)
	end := func() []change {
		tx.mu.Lock()
		defer tx.mu.Unlock()
		tx.done = true
		out := make([]change, 0, len(tx.changes))
		for _, c := range tx.changes {
			out = append(out, c)
		}
		return out
	}
	defer end()
	err := caught(context.WithValue(ctx, txnKey{}, tx), fn)
	changes := end() // what is written from now on is not of this transaction
	if err == nil && len(changes) == 0 {
		return s.gate.check(op)
	}
	if err == nil {
		err = s.submit(op, changes, Batch{})
	}
	// whatsmeow acknowledges a message also when the commit is refused for good.
	if d := deliveryOf(ctx); err != nil && d != nil && !errors.Is(err, context.Canceled) && ctx.Err() == nil {
		return d.Failed(ctx, err)
	}
	return err
}

// touch opens the window that a read of a session opens.
func (s *deviceStore) touch(ctx context.Context, op, addr string) error {
	if tx := s.txnOf(ctx); tx != nil {
		return s.windowErr(op, s.win.open(ctx, tx.claim, []string{addr}))
	}
	return s.windowErr(op, s.win.readOne(ctx, addr))
}

// windowErr is what a method returns after it waited for a window.
func (s *deviceStore) windowErr(op string, err error) error {
	if err == nil || errors.Is(err, errWindowsOver) {
		return s.gate.check(op)
	}
	return err
}

// acquire takes one of our semaphores, unless the device is over first.
func (s *deviceStore) acquire(ctx context.Context, op string, sem chan struct{}) error {
	select {
	case sem <- struct{}{}:
		return nil
	case <-s.gate.over:
		return s.gate.check(op)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// copyOf is for what leaves to the caller. It is never nil.
func copyOf(b []byte) []byte { return append(make([]byte, 0, len(b)), b...) }

// same says whether a stored value is already what is to be stored.
func same(old []byte, ok bool, value []byte) bool { return ok && bytes.Equal(old, value) }
