package authstore

import (
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

// A durable write waits behind another commit. What is deferred meanwhile is newer than it.
func TestDeferredWriteIsNewerThanTheOneThatWaits(t *testing.T) {
	for name, newer := range map[string][]byte{"removal": nil, "value": []byte("newest")} {
		for rows, refuses := range map[string]bool{"together": false, "each for itself": true} {
			t.Run(name+", "+rows, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					kv := newMapKV()
					c, d, _ := open(t, kv)
					require.NoError(t, c.PutMessageEntry(bg, "one", []byte("old"), true))
					release := kv.holdCommit("session")
					done, n := make(chan error, 3), 2
					go func() { done <- d.Sessions.PutSession(bg, "1:0", validSession(t, 1)) }()
					synctest.Wait()
					go func() { done <- c.PutMessageEntry(bg, "one", []byte("new"), true) }()
					synctest.Wait()
					if refuses {
						n++
						go func() { done <- d.Sessions.PutSession(bg, "2:0", validSession(t, 2)) }()
						synctest.Wait()
					}
					require.NoError(t, c.PutMessageEntry(bg, "one", newer, false))
					if refuses {
						kv.refuse("session")
					}
					release()
					for range n {
						if err := <-done; !refuses {
							require.NoError(t, err)
						}
					}
					kv.refuse("nothing")
					check := func(entries map[string][]byte, err error) {
						t.Helper()
						require.NoError(t, err)
						if newer == nil {
							require.Empty(t, entries)
							return
						}
						require.Equal(t, newer, entries["one"])
					}
					check(c.MessageEntries(bg))
					require.Empty(t, d.Sessions.(*deviceStore).queue.late, "what no write waits for is not remembered")
					c, _, _ = reopen(t, kv, c)
					check(c.MessageEntries(bg))
				})
			})
		}
	}
}
