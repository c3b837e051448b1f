package authstore

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
)

// Each place in memory or in one row that strangers, traffic or time add to has a bound.
func TestNothingGrowsWithoutBound(t *testing.T) {
	locked := func(s *deviceStore, f func() int) int {
		s.mu.Lock()
		defer s.mu.Unlock()
		return f()
	}
	for name, check := range map[string]func(t *testing.T, kv *mapKV, c *Container, d *store.Device, s *deviceStore){
		"sender keys that are missing": func(t *testing.T, _ *mapKV, _ *Container, d *store.Device, s *deviceStore) {
			for i := range maxAbsent + 100 {
				key, err := d.SenderKeys.GetSenderKey(bg, "1@g.us", fmt.Sprintf("%d:0", i))
				require.NoError(t, err)
				require.Nil(t, key)
			}
			require.LessOrEqual(t, locked(s, func() int { return len(s.keys.absent) }), maxAbsent)
		},
		"sender keys in memory": func(t *testing.T, _ *mapKV, _ *Container, d *store.Device, s *deviceStore) {
			s.cfg.senderKeyCache = 8 << 10
			for group := range 5 {
				putKeys(t, d, fmt.Sprintf("%d@g.us", group), 100, 1)
			}
			size := locked(s, func() (n int) {
				for _, half := range []map[string][]byte{s.im.flat[tSenderKey], s.keys.older} {
					for id, v := range half {
						n += len(id) + len(v)
					}
				}
				return n
			})
			require.Positive(t, size)
			require.LessOrEqual(t, size, 10<<10, "and one key more in each half")
		},
		"messages that were read for a retry receipt": func(t *testing.T, _ *mapKV, _ *Container, d *store.Device, s *deviceStore) {
			look := func() {
				text, err := s.Sent(bg, testJID(1), types.EmptyJID, "nothing")
				require.NoError(t, err)
				require.Nil(t, text)
			}
			look()
			sendKept(t, d, 0)
			read := func() int { return locked(s, func() int { return len(s.pack.read) }) }
			require.Equal(t, 1, read(), "for a while it is a copy of all there is")
			time.Sleep(packedFresh + time.Second)
			sendKept(t, d, 1)
			require.Zero(t, read())
			look()
			require.Equal(t, 2, read())
		},
		"the row that takes what is sent": func(t *testing.T, kv *mapKV, _ *Container, d *store.Device, s *deviceStore) {
			for n := range 6 {
				require.NoError(t, s.KeepSent(bg, testJID(1), fmt.Sprint("ID", n), make([]byte, packedBytes/2+1)))
				require.NoError(t, s.flush("test"))
			}
			require.Equal(t, 3, kv.count("outgoing"))
		},
		"what stands beside a session": func(t *testing.T, kv *mapKV, _ *Container, d *store.Device, s *deviceStore) {
			for n := range 6 {
				require.NoError(t, s.KeepSent(bg, testJID(1), fmt.Sprint("ID", n), make([]byte, besideMost/3)))
				require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, uint32(n+1))))
				require.LessOrEqual(t, locked(s, func() int { return len(s.im.beside["1:0"]) }), besideMost)
			}
			require.Equal(t, 1, kv.count("outgoing"))
		},
		"a row of finished events": func(t *testing.T, kv *mapKV, _ *Container, d *store.Device, s *deviceStore) {
			for i := range 3 * seenChunk {
				hash := [32]byte{byte(i), byte(i >> 8), 1}
				require.NoError(t, d.EventBuffer.PutBufferedEvent(bg, hash, []byte("text"), time.Now()))
				require.NoError(t, d.EventBuffer.ClearBufferedEventPlaintext(bg, hash))
			}
			require.NoError(t, s.flush("test"))
			require.Equal(t, 3, kv.count("seen"))
		},
		"secrets in memory": func(t *testing.T, _ *mapKV, _ *Container, d *store.Device, s *deviceStore) {
			for i := range 10 {
				putSecrets(t, d, fmt.Sprint("S", i, "-"), 100)
			}
			require.LessOrEqual(t, locked(s, func() int { return len(s.im.flat[tSecret]) }), 300)
		},
		"rows that wait to be written": func(t *testing.T, kv *mapKV, _ *Container, d *store.Device, s *deviceStore) {
			for i := range maxLate + 10 {
				require.NoError(t, d.MsgSecrets.PutMessageSecret(bg, testJID(1), testJID(2), fmt.Sprint("S", i), []byte("x")))
			}
			synctest.Wait()
			require.Greater(t, kv.count("secret"), maxLate, "no time has passed")
		},
		"windows of sends that never came back": func(t *testing.T, _ *mapKV, _ *Container, _ *store.Device, s *deviceStore) {
			lose := func(gid int64) {
				s.win.mu.Lock()
				defer s.win.mu.Unlock()
				s.win.sweep()
				s.win.breakOne("1:0", &claim{kind: claimMany, gid: gid})
			}
			for gid := range int64(3000) {
				lose(gid)
				time.Sleep(4 * time.Second)
			}
			require.LessOrEqual(t, len(s.win.broken), 1025)
		},
		"goroutines that have sent": func(t *testing.T, _ *mapKV, _ *Container, d *store.Device, s *deviceStore) {
			for i := range 20 {
				sent := make(chan error, 1)
				go func() {
					_, err := d.Sessions.GetManySessions(bg, []string{"1:0", "2:0"})
					if err == nil {
						err = d.Sessions.PutManySessions(bg, map[string][]byte{"1:0": validSession(t, uint32(i+1)), "2:0": validSession(t, uint32(i+1))})
					}
					sent <- err
				}()
				require.NoError(t, <-sent)
			}
			require.Empty(t, s.win.sends)
			require.Empty(t, s.win.held)
		},
		"goroutines whose sends were broken": func(t *testing.T, _ *mapKV, _ *Container, d *store.Device, s *deviceStore) {
			for range 20 {
				read, broken, wrote := make(chan error, 1), make(chan struct{}), make(chan error, 1)
				go func() {
					_, err := d.Sessions.GetSession(bg, "1:0")
					read <- err
					<-broken
					wrote <- d.Sessions.PutSession(bg, "1:0", validSession(t, 1))
				}()
				require.NoError(t, <-read)
				require.NoError(t, d.Sessions.DeleteSession(bg, "1:0"))
				close(broken)
				require.ErrorIs(t, <-wrote, ErrWindowBroken)
			}
			require.Empty(t, s.win.broken)
		},
		"sender keys that are used between two looks": func(t *testing.T, _ *mapKV, _ *Container, d *store.Device, s *deviceStore) {
			for range 2 {
				require.NoError(t, d.EventBuffer.DeleteOldBufferedHashes(bg))
				time.Sleep(200 * aDay)
			}
			putKeys(t, d, "1@g.us", 100, 1)
			require.Empty(t, s.keys.during)
		},
		"notes of large values that were read": func(t *testing.T, kv *mapKV, _ *Container, d *store.Device, s *deviceStore) {
			synctest.Wait()
			kv.limits = nameTests
			require.NoError(t, d.MsgSecrets.PutMessageSecret(bg, testJID(1), testJID(2), "M", make([]byte, 5000)))
			require.NoError(t, s.flush("test"))
			for range 5 {
				secret, _, err := d.MsgSecrets.GetMessageSecret(bg, testJID(1), testJID(2), "M")
				require.NoError(t, err)
				require.Len(t, secret, 5000)
			}
			require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)))
			require.Zero(t, locked(s, func() int { return len(s.upkeep.loose.splits) }))
		},
		"batches without an answer": func(t *testing.T, _ *mapKV, c *Container, _ *store.Device, _ *deviceStore) {
			for epoch := range int64(10) {
				c.cfg.writes.giveUp(epoch, unknownDone{op: "test"})
			}
			require.Len(t, c.cfg.writes.take(8), 1)
			require.Len(t, c.cfg.writes.lost, 1, "of the terms before, the epoch fences them")
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				kv := newMapKV()
				c, d, _ := open(t, kv)
				check(t, kv, c, d, storeOf(d))
				require.NoError(t, c.Close(bg))
			})
		})
	}
}
