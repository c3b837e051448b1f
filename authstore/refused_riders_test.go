package authstore

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

// refuse makes kv refuse for good what touches a row of kind.
func refuse(kv *mapKV, is func(Key) bool) {
	kv.before.set(func(op string, b Batch) error {
		bad := slices.ContainsFunc(b.Delete, is) || slices.ContainsFunc(b.Put, func(e Entry) bool { return is(e.Key) })
		if op == "commit" && bad {
			return ErrTooLarge
		}
		return nil
	})
}

// A damaged row is kept aside with the commit that replaces it. Where that commit is
// refused further on, the row that was written must not be removed as the damaged one.
func TestRowThatReplacedADamagedOneIsNotRemoved(t *testing.T) {
	for name, limits := range map[string]Limits{"written alone": {}, "written in the first of several batches": {MaxKeys: 2}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				kv := newMapKV()
				c, d, _ := open(t, kv)
				require.NoError(t, d.Identities.PutIdentity(bg, "1:0", [32]byte{1}))
				key := storeOf(d).keyFor(tIdentity, hashed(64)("1:0"))
				require.NoError(t, c.Close(bg))
				require.Contains(t, kv.data, key)
				kv.data[key] = garbage
				kv.limits = limits
				kv.setEpoch(2)
				c, d, _ = open(t, kv)
				require.Len(t, storeOf(d).damage.asides, 1)
				refuse(kv, func(k Key) bool { return k.Kind == "contact" })
				require.NoError(t, d.Identities.PutIdentity(bg, "1:0", [32]byte{2}))
				_, _, err := d.Contacts.PutPushName(bg, testJID(5), "a name that is refused")
				require.NoError(t, err)
				require.NoError(t, storeOf(d).flush("test"))
				require.NoError(t, d.Sessions.PutSession(bg, "2:0", validSession(t, 1)))

				d = killed(t, kv)
				trusted, err := d.Identities.IsTrustedIdentity(bg, "1:0", [32]byte{3})
				require.NoError(t, err)
				require.False(t, trusted, "the identity is known")
				q, err := c.Quarantined(bg)
				require.NoError(t, err)
				require.Len(t, q.Rows, 1)
				require.Equal(t, len(garbage), q.Rows[0].Size)
			})
		})
	}
}

// A rider that is refused for good is given up. Else each commit of the term would
// be several.
func TestRiderThatIsRefusedIsTriedOnce(t *testing.T) {
	const bad = "bad"
	isBad := func(k Key) bool { return strings.Contains(k.ID, bad) }
	for name, c := range map[string]struct {
		ride func(s *deviceStore)
		left func(s *deviceStore) int
		row  Kind
	}{
		"a damaged row": {func(s *deviceStore) {
			for _, id := range []string{"good", bad} {
				key := s.keyFor(tSession, id)
				s.damage.setAside(key, []Entry{{Key{kindQuarantine, "kept " + id}, []byte("x")}})
			}
		}, func(s *deviceStore) int { return len(s.damage.asides) - len(s.damage.stuck) }, "session"},
		"an old secret": {func(s *deviceStore) {
			for i := range 9 {
				s.upkeep.remove(s.keyFor(tSecret, fmt.Sprint("good", i)))
			}
			s.upkeep.remove(s.keyFor(tSecret, bad))
		}, func(s *deviceStore) int { return s.upkeep.waiting() }, "secret"},
		"an old sender key": {func(s *deviceStore) {
			for i := range 9 {
				s.keys.toRemove(fmt.Sprint("good", i))
			}
			s.keys.toRemove(bad)
		}, func(s *deviceStore) int { return len(s.keys.old) }, "senderkey"},
	} {
		t.Run(name, func(t *testing.T) {
			kv := newMapKV()
			var told []Incident
			_, d, _ := open(t, kv, WithOnIncident(func(i Incident) { told = append(told, i) }))
			s := storeOf(d)
			for i := range 9 {
				require.NoError(t, d.SenderKeys.PutSenderKey(bg, "", fmt.Sprint("good", i), validSenderKey([]byte{1})))
			}
			refuse(kv, isBad)
			s.mu.Lock()
			c.ride(s)
			s.mu.Unlock()
			require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)))
			require.Zero(t, c.left(s))
			require.Len(t, told, 1)
			require.Equal(t, IncidentRefused, told[0].Kind)
			require.Equal(t, c.row, told[0].Row)
			before := kv.commits.Load()
			require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 2)))
			require.EqualValues(t, 1, kv.commits.Load()-before)
		})
	}
}

func (s *deviceStore) keyFor(t tableID, id string) Key {
	k, _, _ := s.keyOf(row{t, id})
	return k
}
