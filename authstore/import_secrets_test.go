package authstore

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Of two secrets of a message the first counts, and it is the one that moves:
// anybody who sees the message's id can send a second.
func TestFirstSecretOfAMessageMoves(t *testing.T) {
	kv := newMapKV()
	c, d, _ := open(t, kv)
	require.NoError(t, d.MsgSecrets.PutMessageSecret(bg, testJID(1), testJID(2), "ID", []byte("first")))
	c, d, f := reopen(t, kv, c)
	require.NoError(t, d.MsgSecrets.PutMessageSecret(bg, testJID(1), testJID(2), "ID", []byte("second")))
	require.NoError(t, c.Close(bg))
	require.Equal(t, 2, kv.count("secret"))
	to := newMapKV()
	_, err := Import(bg, FromKV("old", kv, f), New(to), newFence(1))
	require.NoError(t, err)
	_, d, _ = open(t, to)
	secret, _, err := d.MsgSecrets.GetMessageSecret(bg, testJID(1), testJID(2), "ID")
	require.NoError(t, err)
	require.Equal(t, "first", string(secret))
}
