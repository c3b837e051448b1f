package authstore

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// A session that the KV refuses for good takes nothing of other sends with it: a
// message that was to stand beside it goes with the next commit, at the latest at
// the end of the term.
func TestSentMessageOutlivesARefusedSession(t *testing.T) {
	kv := newMapKV()
	c, d, _ := open(t, kv)
	require.NoError(t, storeOf(d).KeepSent(bg, testJID(1), "ID1", []byte("text 1")))
	kv.refuse("session")
	require.ErrorIs(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 1)), ErrTooLarge)
	kv.before.set(nil)
	requireSent(t, d, 1)
	_, d, _ = reopen(t, kv, c)
	requireSent(t, d, 1)
}
