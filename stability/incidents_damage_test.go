package stability_test

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/stability"
)

// hurtServer keeps the account, and damages or refuses rows of some kinds.
type hurtServer struct {
	server
	mu             sync.Mutex
	damages, takes map[authstore.Kind]bool // takes: false means refused for good
}

func (s *hurtServer) damage(k authstore.Kind) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.damages = map[authstore.Kind]bool{k: true}
}

func (s *hurtServer) refuse(k authstore.Kind) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.takes = map[authstore.Kind]bool{k: false}
}

func (s *hurtServer) heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.damages, s.takes = nil, nil
}

func (s *hurtServer) Backend() stability.Backend {
	b := s.server.Backend()
	b.Auth = hurtKV{b.Auth, s}
	return b
}

type hurtKV struct {
	authstore.KV
	s *hurtServer
}

func (k hurtKV) seen(key authstore.Key, value []byte) []byte {
	k.s.mu.Lock()
	defer k.s.mu.Unlock()
	if k.s.damages[key.Kind] {
		return value[:len(value)/2]
	}
	return value
}

func (k hurtKV) Get(ctx context.Context, keys ...authstore.Key) (map[authstore.Key][]byte, error) {
	got, err := k.KV.Get(ctx, keys...)
	for key, value := range got {
		got[key] = k.seen(key, value)
	}
	return got, err
}

func (k hurtKV) Scan(ctx context.Context, kind authstore.Kind, prefix string) iter.Seq2[authstore.Entry, error] {
	return func(yield func(authstore.Entry, error) bool) {
		for e, err := range k.KV.Scan(ctx, kind, prefix) {
			e.Value = k.seen(e.Key, e.Value)
			if !yield(e, err) {
				return
			}
		}
	}
}

func (k hurtKV) Commit(ctx context.Context, epoch int64, b authstore.Batch) error {
	k.s.mu.Lock()
	defer k.s.mu.Unlock()
	for _, e := range b.Put {
		if takes, known := k.s.takes[e.Key.Kind]; known && !takes {
			return fmt.Errorf("a test's backend: %w", authstore.ErrTooLarge)
		}
	}
	return k.KV.Commit(ctx, epoch, b)
}

const damageID = "wa_stored_data_damaged_active"

// Each way in which the store reports a row reaches the log, the incidents and
// a sink, from the part that found it.
func TestDamagedRowReachesLogIncidentAndSink(t *testing.T) {
	t.Parallel()
	peer := types.NewJID("491520000009", types.DefaultUserServer)
	for _, c := range []struct {
		name   string
		hurt   func(*hurtServer)                // before the account is loaded
		cause  func(*hurtServer, *store.Device) // on the live account
		detail string
	}{
		{"found when the account is loaded", func(s *hurtServer) { s.damage("contact") }, nil, "corrupt, a row of kind contact"},
		{"found when it is read", nil, func(s *hurtServer, d *store.Device) {
			s.damage("senderkey")
			_, _ = d.SenderKeys.GetSenderKey(context.Background(), "1@g.us", "1:0")
		}, "corrupt, a row of kind senderkey"},
		{"whole, with contents that do not parse", nil, func(_ *hurtServer, d *store.Device) {
			_, _ = d.Sessions.GetSession(context.Background(), "1:0")
		}, "corrupt, a row of kind session"},
		{"found in the app state", nil, func(s *hurtServer, d *store.Device) {
			s.damage("appmac")
			_, _ = d.AppState.GetAppStateMutationMAC(context.Background(), "regular", make([]byte, 32))
		}, "corrupt, a row of kind appmac"},
		{"refused by the backend", nil, func(s *hurtServer, d *store.Device) {
			s.refuse("contact")
			_, _, _ = d.Contacts.PutPushName(context.Background(), peer, "Other")
		}, "refused, a row of kind contact"},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				s := &hurtServer{server: w.memory}
				w.memory = s
				a := w.tended("a").run().pair()
				d, ctx := a.m.Client().Store, t.Context()
				_, _, err := d.Contacts.PutPushName(ctx, peer, "One")
				require.NoError(t, err)
				require.NoError(t, d.SenderKeys.PutSenderKey(ctx, "1@g.us", "1:0", []byte("no sender key")))
				require.NoError(t, d.Sessions.PutSession(ctx, "1:0", []byte("no session")))
				require.NoError(t, d.AppState.PutAppStateVersion(ctx, "regular", 1, [128]byte{1}))
				require.NoError(t, d.AppState.PutAppStateMutationMACs(ctx, "regular", 1, []store.AppStateMutationMAC{{IndexMAC: make([]byte, 32), ValueMAC: make([]byte, 32)}}))
				a.stop()
				require.Empty(t, a.book.of(damageID))

				if c.hurt != nil {
					c.hurt(s)
				}
				var log logLines
				b := w.tended("b", stability.WithLogger(log.logger())).run().ready()
				time.Sleep(time.Minute)
				if c.cause != nil {
					c.cause(s, b.m.Client().Store)
					time.Sleep(10 * time.Minute)
				}
				lines := []string{"a damaged row was set aside", "the backend refused a row; its change is in memory only"}
				if strings.HasPrefix(c.detail, "refused") {
					slices.Reverse(lines)
				}
				require.Positive(t, log.count(lines[0]))
				require.Zero(t, log.count(lines[1]))
				require.Equal(t, []guard.Change{opened}, b.book.of(damageID))
				inc := w.incident(damageID)
				require.True(t, inc.Active)
				require.Contains(t, inc.Evidence["detail"], c.detail)
				require.NotEmpty(t, inc.Runbook)
				s.heal()
				b.kill()
				w.close()
			})
		})
	}
}

func TestDamageStaysOpenThroughAHandOverUntilDealtWith(t *testing.T) {
	t.Parallel()
	for _, deal := range []bool{true, false} {
		bubble(t, func(t *testing.T) {
			w := newWorld(t)
			s := &hurtServer{server: w.memory}
			w.memory = s
			a := w.tended("a").run().pair()
			_, _, err := a.m.Client().Store.Contacts.PutPushName(t.Context(), types.NewJID("1", types.DefaultUserServer), "One")
			require.NoError(t, err)
			a.stop()
			s.damage("contact")
			b := w.tended("b").run().ready()
			time.Sleep(time.Minute)
			s.heal()
			require.Equal(t, []guard.Change{opened}, b.book.of(damageID))
			b.stop()
			c := w.tended("c").run().ready()
			time.Sleep(12 * time.Hour)
			require.Empty(t, c.book.of(damageID))
			require.True(t, w.incident(damageID).Active)
			if deal {
				require.NoError(t, c.m.PurgeRows(t.Context()))
				time.Sleep(time.Minute)
			} else {
				time.Sleep(13 * time.Hour)
			}
			require.Equal(t, []guard.Change{resolved}, c.book.of(damageID))
			c.stop()
			w.close()
		})
	}
}
