package firestorebackend

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/types"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability/stabilitytest/firestoresim"
)

// liveTerm is a term as a Manager hands it to authstore.
type liveTerm struct {
	lock.Term
	once *sync.Once
	cut  chan error
}

func newLiveTerm(t lock.Term) liveTerm { return liveTerm{t, new(sync.Once), make(chan error, 1)} }

func (l liveTerm) Cut(err error) { l.once.Do(func() { l.cut <- err }) }

// instances run one account together, as Managers do, and note what must not be.
type instances struct {
	w     *standingAccount
	quiet atomic.Bool // whoever holds reads and writes nothing

	mu     sync.Mutex
	holder liveTerm
	served map[string]int // by name: rounds of reads and writes that all succeeded
	faults []string       // what must not have happened
	last   error          // of the newest error a person was told
}

func (i *instances) fault(format string, a ...any) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if f := fmt.Sprintf(format, a...); !slices.Contains(i.faults, f) {
		i.faults = append(i.faults, f)
	}
}

// told takes an error and says whether there was one. It has to be one that
// tells a person what to do, or one that ends a term.
func (i *instances) told(what string, err error) bool {
	if err == nil {
		return false
	}
	if !isClear(err) && !errors.Is(err, authstore.ErrFenced) && !errors.Is(err, context.Canceled) &&
		!errors.Is(err, ErrUnavailable) && !errors.Is(err, authstore.ErrUnavailable) {
		i.fault("%s: an error that is not clear: %v", what, err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.last = err
	return true
}

// enter begins a term. No other may be held.
func (i *instances) enter(name string, term lock.Term) liveTerm {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.holder.Term != nil && i.holder.Held() {
		i.faults = append(i.faults, fmt.Sprintf("%s begins epoch %d while epoch %d is held: two holders", name, term.Epoch(), i.holder.Epoch()))
	}
	i.holder = newLiveTerm(term)
	return i.holder
}

// run is one instance until ctx ends.
func (i *instances) run(ctx context.Context, name string) {
	b := i.w.open(name)
	l, err := lock.New(b.Lock, name, lock.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		panic(err)
	}
	defer func() { _ = l.Close(context.Background()) }()
	for ctx.Err() == nil {
		term, err := l.Acquire(ctx)
		if ctx.Err() != nil {
			return
		}
		if i.told(name+" acquires", err) { // Run ends, the platform starts the process again
			time.Sleep(5 * time.Second)
			continue
		}
		i.serve(ctx, name, i.enter(name, term))
		_ = term.Release(context.Background())
		time.Sleep(time.Second)
	}
}

// serve reads and writes as a client does, until the term is over.
func (i *instances) serve(ctx context.Context, name string, term liveTerm) {
	b := i.w.open(name + " store")
	cont := authstore.New(b.Auth)
	defer func() { _ = cont.Close(context.Background()) }()
	d, err := cont.Device(ctx, term)
	if i.told(name+": Device", err) {
		return
	}
	if d.ID == nil || *d.ID != i.w.jid {
		i.fault("%s: a fresh device: a code would be shown", name)
		return
	}
	for n := 0; ctx.Err() == nil && term.Held(); n++ {
		select {
		case err := <-term.cut:
			i.told(name+": Cut", err)
			return
		case <-term.Lost():
			return
		case <-ctx.Done():
			return
		case <-time.After(10 * time.Second):
		}
		if i.quiet.Load() {
			continue
		}
		addr := fmt.Sprintf("49170%06d:0", n%6)
		bad := false
		for what, do := range map[string]func() error{
			"reads a session":  func() error { _, err := d.Sessions.HasSession(ctx, addr); return err },
			"writes a session": func() error { return d.Sessions.PutSession(ctx, addr, ratchet(n)) },
			"writes a secret": func() error {
				return d.MsgSecrets.PutMessageSecret(ctx, types.NewJID("1", types.DefaultUserServer), types.NewJID("2", types.DefaultUserServer), types.MessageID(fmt.Sprint(n)), random(32))
			},
			"reads the identity": func() error {
				ok, err := d.Identities.IsTrustedIdentity(ctx, "49170000000:0", [32]byte{1})
				if err == nil && !ok && n > 0 {
					return fmt.Errorf("the identity changed")
				}
				return err
			},
			"saves the state": func() error {
				return b.State.Save(ctx, term.Epoch(), reconnect.State{Status: reconnect.StatusConnected, RetryCount: n})
			},
			"raises an incident": func() error {
				_, _, err := b.Incidents.Raise(ctx, guard.Incident{ID: "x", DetectedAt: time.Now()})
				return err
			},
			"lists incidents": func() error { _, err := b.Incidents.List(ctx); return err },
		} {
			if i.told(name+" "+what, do()) {
				bad = true
			}
		}
		if !bad {
			i.mu.Lock()
			i.served[name]++
			i.mu.Unlock()
		}
	}
}

func (i *instances) rounds() (n int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, served := range i.served {
		n += served
	}
	return n
}

// changed are the documents, as they were, that an edit changes.
func changed(before, after []firestoresim.Document) (out []firestoresim.Document) {
	now := map[string]firestoresim.Document{}
	for _, d := range after {
		now[d.Path] = d
	}
	for _, d := range before {
		if n, ok := now[d.Path]; !ok || !reflect.DeepEqual(n.Fields, d.Fields) {
			out = append(out, firestoresim.Document{Path: d.Path, Fields: maps.Clone(d.Fields)})
		}
	}
	return out
}

// meets runs two instances, one of which holds, through an edit that is undone
// after five minutes. It returns what must not have happened.
func meets(t *testing.T, e edit) (worked bool, faults []string) {
	s := sim(t, firestoresim.WithLatency(20*time.Millisecond))
	w, _ := standing(t, s)
	i := &instances{w: w, served: map[string]int{}}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { i.run(ctx, "a") })
	time.Sleep(30 * time.Second)
	wg.Go(func() { i.run(ctx, "b") })
	time.Sleep(17 * time.Second)
	if i.rounds() < 3 {
		i.fault("nothing works before the edit")
	}

	before := s.Snapshot("demo-sim")
	e.do(s)
	undo := changed(before, s.Snapshot("demo-sim"))
	time.Sleep(4 * time.Minute)
	n := i.rounds()
	time.Sleep(time.Minute)
	worked = i.rounds() > n
	i.mu.Lock()
	last := i.last
	i.mu.Unlock()
	if !worked && !isClear(last) {
		i.fault("nothing works, and a person is told: %v", last)
	}

	w.restore(undo)
	time.Sleep(4 * time.Minute)
	n = i.rounds()
	time.Sleep(time.Minute)
	if i.rounds() == n {
		i.fault("it was put back, and does not work again: %v", i.last)
	}
	cancel()
	wg.Wait()
	return worked, i.faults
}

func TestNoEditByHandWhileHeldHarmsTheAccount(t *testing.T) {
	t.Parallel()
	var all []edit
	synctest.Test(t, func(t *testing.T) {
		_, docs := standing(t, sim(t))
		all = edits(docs)
	})
	tried, stopped := 0, 0
	for _, e := range sample(all, 8) {
		synctest.Test(t, func(t *testing.T) {
			worked, faults := meets(t, e)
			for _, f := range faults {
				t.Errorf("%s: %s", e.name, f)
			}
			if tried++; !worked {
				stopped++
			}
		})
	}
	t.Logf("%d edits known; after %d of %d nothing worked until they were undone", len(all), stopped, tried)
}

// A person puts back what the lock was before another instance took over. The
// instance that held it then does not take that for its own term.
func TestLockThatWasPutBackMakesNoSecondHolder(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		docs   []string
		unseen bool // it was cut off while the other held
	}{
		"the lock":                          {[]string{"wa_connection"}, false},
		"the lock, to one that was cut off": {[]string{"wa_connection"}, true},
		"lock and fence":                    {[]string{"wa_connection", "wa_connection_fence"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := sim(t, firestoresim.WithLatency(20*time.Millisecond))
				w, _ := standing(t, s)
				i := &instances{w: w, served: map[string]int{}}
				ctx, cancel := context.WithCancel(t.Context())
				var wg sync.WaitGroup
				defer wg.Wait()
				defer cancel()
				wg.Go(func() { i.run(ctx, "a") })
				time.Sleep(30 * time.Second)
				wg.Go(func() { i.run(ctx, "b") })
				var old []firestoresim.Document
				for _, d := range s.Snapshot("demo-sim") {
					if slices.Contains(c.docs, strings.TrimPrefix(d.Path, DefaultRoot+"/locks/")) {
						old = append(old, d)
					}
				}
				require.Len(t, old, len(c.docs))
				cut := []*firestoresim.Injection{
					s.Fault(firestoresim.DropRequest()).From("a").Always().Now(), s.Fault(firestoresim.DropRequest()).From("a store").Always().Now(),
				}
				heal := func() {
					for _, f := range cut {
						f.Stop()
					}
				}
				time.Sleep(3 * time.Minute)
				if !c.unseen {
					heal()
				}
				time.Sleep(time.Minute)
				i.mu.Lock()
				holder, served := i.holder, i.served["b"]
				i.mu.Unlock()
				require.Equal(t, "b", holder.Record().Holder)
				require.Positive(t, served)
				i.quiet.Store(true) // a write would end the term of b at once
				// Just after a renewal, so that the next is far.
				for at := holder.TrustedUntil(); holder.TrustedUntil().Equal(at); {
					time.Sleep(time.Second)
				}
				w.restore(old)
				heal()
				time.Sleep(time.Minute)
				i.quiet.Store(false)
				time.Sleep(4 * time.Minute)
				n := i.rounds()
				time.Sleep(time.Minute)
				i.mu.Lock()
				require.Empty(t, i.faults)
				i.mu.Unlock()
				require.Greater(t, i.rounds(), n, "the account works again")
			})
		})
	}
}
