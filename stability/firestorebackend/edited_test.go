package firestorebackend

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/types"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/firestoresim"
)

// edit is what a person does to an account in a console.
type edit struct {
	name string
	do   func(s *firestoresim.Server)
}

// edits are all of them: every field of every document removed, set to another
// type, set to an impossible value; every document removed, alone and in pairs.
func edits(docs []firestoresim.Document) (out []edit) {
	for i, d := range docs {
		short := strings.TrimPrefix(d.Path, DefaultRoot)
		remove := func(s *firestoresim.Server) { s.Remove("demo-sim", d.Path) }
		out = append(out, edit{"no " + short, remove})
		for _, o := range docs[:i] {
			out = append(out, edit{"no " + short + ", no " + strings.TrimPrefix(o.Path, DefaultRoot), func(s *firestoresim.Server) {
				remove(s)
				s.Remove("demo-sim", o.Path)
			}})
		}
		field := func(name string, path []string, v any) {
			out = append(out, edit{fmt.Sprintf("%s %s %s", short, strings.Join(path, "."), name), func(s *firestoresim.Server) {
				s.Edit("demo-sim", d.Path, func(m map[string]any) map[string]any {
					at := m
					for _, p := range path[:len(path)-1] {
						at, _ = at[p].(map[string]any)
					}
					switch last := path[len(path)-1]; {
					case at == nil:
					case v == nil:
						delete(at, last)
					default:
						at[last] = v
					}
					return m
				})
			}})
		}
		each := func(path []string, v any) {
			field("removed", path, nil)
			var other, impossible any = "text", int64(-1)
			switch v.(type) {
			case string:
				other, impossible = int64(7), strings.Repeat("?", 2000)
			case []byte:
				impossible = []byte{0xff}
			case time.Time:
				impossible = time.Unix(-60_000_000_000, 0)
			case map[string]any:
				impossible = map[string]any{}
			case int64:
				field("huge", path, int64(1<<62))
				field("zero", path, int64(0))
			}
			field("of another type", path, other)
			field("impossible", path, impossible)
		}
		for f, v := range d.Fields {
			each([]string{f}, v)
			if m, ok := v.(map[string]any); ok {
				n := 0
				for f2, v2 := range m {
					if each([]string{f, f2}, v2); n == 3 {
						break // more of the same
					}
					n++
				}
			}
		}
	}
	return out
}

// sample is all of them in a run at full size, else so many, others each time.
func sample(all []edit, n int) []edit {
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all[:stabilitytest.Pick(min(len(all), n), len(all))]
}

// standing is a paired account, released.
func standing(t *testing.T, s *firestoresim.Server) (*standingAccount, []firestoresim.Document) {
	w := &standingAccount{t: t, s: s}
	b := w.open("maker")
	rec, _, err := b.Lock.Acquire(t.Context(), "maker", "n", lock.DefaultLease)
	require.NoError(t, err)
	cont := authstore.New(b.Auth)
	d := pairedIn(t, cont, heldTerm{rec})
	for i := range 6 {
		require.NoError(t, d.Sessions.PutSession(t.Context(), fmt.Sprintf("49170%06d:0", i), ratchet(i)))
	}
	require.NoError(t, d.Identities.PutIdentity(t.Context(), "49170000000:0", [32]byte{1}))
	_, err = d.PreKeys.GetOrGenPreKeys(t.Context(), 5)
	require.NoError(t, err)
	require.NoError(t, cont.Close(t.Context()))
	require.NoError(t, b.State.Save(t.Context(), rec.Epoch, reconnect.State{Status: reconnect.StatusConnected, RetryCount: 3}))
	_, _, err = b.Incidents.Raise(t.Context(), guard.Incident{ID: "x", DetectedAt: time.Now()})
	require.NoError(t, err)
	require.NoError(t, b.Lock.Release(t.Context(), rec))
	w.jid = *d.ID
	return w, s.Snapshot("demo-sim")
}

// ratchet is a session that parses.
func ratchet(n int) []byte { return fmt.Appendf(nil, `{"n":%d,"pad":"%x"}`, n, random(450)) }

type standingAccount struct {
	t   *testing.T
	s   *firestoresim.Server
	jid types.JID
}

func (w *standingAccount) open(name string) stability.Backend {
	return opened(w.t, onSim(w.t, w.s, firestoresim.Name(name)))
}

// restore puts every document back as it was.
func (w *standingAccount) restore(docs []firestoresim.Document) {
	for _, d := range docs {
		w.s.Edit("demo-sim", d.Path, func(map[string]any) map[string]any { return maps.Clone(d.Fields) })
	}
}

// device is what an instance finds that gets the lock within ten minutes. It
// must never be a fresh one.
func (w *standingAccount) device(name string) error {
	b := w.open(name)
	l, err := lock.New(b.Lock, name, lock.WithLogger(slog.New(slog.DiscardHandler)))
	require.NoError(w.t, err)
	defer func() { _ = l.Close(context.Background()) }()
	ctx, cancel := context.WithTimeout(w.t.Context(), 10*time.Minute)
	defer cancel()
	term, err := l.Acquire(ctx)
	if err != nil {
		return err
	}
	cont := authstore.New(b.Auth)
	defer func() { _ = cont.Close(context.Background()) }()
	d, err := cont.Device(ctx, heldTerm{lock.Record{Epoch: term.Epoch()}})
	if err != nil {
		return err
	}
	require.NotNil(w.t, d.ID, "a fresh device: a code would be shown")
	require.Equal(w.t, w.jid, *d.ID)
	return nil
}

// isClear says whether an error tells a person what is wrong.
func isClear(err error) bool {
	for _, target := range []error{ErrDamaged, authstore.ErrCorrupt, authstore.ErrNewerFormat, reconnect.ErrNewerFormat, guard.ErrNewerFormat} {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}

func TestNoEditByHandMakesAFreshDevice(t *testing.T) {
	t.Parallel()
	var all []edit
	synctest.Test(t, func(t *testing.T) {
		_, docs := standing(t, sim(t))
		all = edits(docs)
	})
	require.Greater(t, len(all), 100)
	refused := 0
	for _, e := range sample(all, 40) {
		synctest.Test(t, func(t *testing.T) {
			w, docs := standing(t, sim(t))
			e.do(w.s)
			if err := w.device("second"); err != nil {
				refused++
				require.True(t, isClear(err), "%s: %v", e.name, err)
				w.restore(docs)
				require.NoError(t, w.device("third"), "%s: what was put back works again", e.name)
			}
		})
		if t.Failed() {
			t.Fatalf("after: %s", e.name)
		}
	}
	t.Logf("%d edits known; %d of the tried were refused until they were undone", len(all), refused)
}

func TestNoEditByHandMakesTwoWriters(t *testing.T) {
	t.Parallel()
	var all []edit
	synctest.Test(t, func(t *testing.T) {
		_, docs := standing(t, sim(t))
		for _, d := range docs {
			if strings.Contains(d.Path, "/locks/") || strings.HasSuffix(d.Path, "/creds") {
				all = append(all, edits([]firestoresim.Document{d})...)
			}
		}
		for _, e := range edits(docs) {
			if strings.Count(e.name, "/locks/") == 2 {
				all = append(all, e)
			}
		}
	})
	for _, e := range sample(all, 40) {
		synctest.Test(t, func(t *testing.T) {
			w, docs := standing(t, sim(t))
			a, b := w.open("a"), w.open("b")
			quiet := lock.WithLogger(slog.New(slog.DiscardHandler))
			la, err := lock.New(a.Lock, "a", quiet)
			require.NoError(t, err)
			lb, err := lock.New(b.Lock, "b", quiet)
			require.NoError(t, err)
			ta, err := la.Acquire(t.Context())
			require.NoError(t, err)
			require.NoError(t, a.Auth.Commit(t.Context(), ta.Epoch(), put("w", "a")))
			time.Sleep(47 * time.Second)
			e.do(w.s)
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			defer cancel()
			granted := make(chan lock.Term, 1)
			go func() {
				if tb, err := lb.Acquire(ctx); err == nil {
					granted <- tb
				}
				close(granted)
			}()
			tb := <-granted
			if tb != nil {
				require.False(t, ta.Held(), "%s: two holders", e.name)
				require.NoError(t, b.Auth.Commit(t.Context(), tb.Epoch(), put("w", "b")), e.name)
				require.Error(t, a.Auth.Commit(t.Context(), ta.Epoch(), put("w", "a2")), "%s: two writers", e.name)
				require.NoError(t, b.Auth.Commit(t.Context(), tb.Epoch(), put("w", "b2")), e.name)
			} else if ta.Held() {
				if err := a.Auth.Commit(t.Context(), ta.Epoch(), put("w", "a2")); err != nil {
					require.True(t, isClear(err) || errors.Is(err, authstore.ErrFenced), "%s: %v", e.name, err)
				}
			}
			_ = la.Close(context.Background())
			_ = lb.Close(context.Background())
			w.restore(docs)
			require.NoError(t, w.device("third"), "%s: what was put back works again", e.name)
		})
		if t.Failed() {
			t.Fatalf("after: %s", e.name)
		}
	}
	t.Logf("%d edits known", len(all))
}
