package authstore

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/types"
)

// The first secret of a message counts, whatever the numbers of the terms are.
func TestFirstSecretCountsAcrossTerms(t *testing.T) {
	kv := newMapKV()
	kv.setEpoch(14)
	c, d, _ := open(t, kv)
	for i := range 4 { // 14 and 15 have one digit, 16 and 17 have two
		require.NoError(t, d.MsgSecrets.PutMessageSecret(bg, testJID(1), testJID(2), types.MessageID(fmt.Sprint(i)), []byte{byte(i)}))
		c, d, _ = reopen(t, kv, c)
		require.NoError(t, d.MsgSecrets.PutMessageSecret(bg, testJID(1), testJID(2), types.MessageID(fmt.Sprint(i)), []byte("later")))
		require.NoError(t, storeOf(d).flush("t"))
		secret, _, err := d.MsgSecrets.GetMessageSecret(bg, testJID(1), testJID(2), types.MessageID(fmt.Sprint(i)))
		require.NoError(t, err)
		require.Equal(t, []byte{byte(i)}, secret, "term %d", 14+i)
	}
}

// A chat and a sender have two names each, and what came under one is found under
// the other. The sender's name goes into the key, so it is the one of the time.
func TestSecretIsFoundUnderEveryPairOfNames(t *testing.T) {
	kv := newMapKV()
	c, d, _ := open(t, kv)
	chats := []types.JID{types.NewJID("15550002", types.DefaultUserServer), types.NewJID("902", types.HiddenUserServer)}
	senders := []types.JID{types.NewJID("15550003", types.DefaultUserServer), types.NewJID("903", types.HiddenUserServer)}
	for _, names := range [][]types.JID{chats, senders} {
		require.NoError(t, d.LIDs.PutLIDMapping(bg, names[1], names[0]))
	}
	group := types.NewJID("1", types.GroupServer)
	type entry struct {
		id           string
		chat, sender types.JID
	}
	var all []entry
	for i, chat := range append(chats, group) {
		for j, sender := range senders {
			e := entry{fmt.Sprint(i, j), chat, sender}
			all = append(all, e)
			sender.Device = 3
			require.NoError(t, d.MsgSecrets.PutMessageSecret(bg, chat, sender, types.MessageID(e.id), []byte(e.id)))
		}
	}
	for range 2 { // from memory, and from the store
		for _, e := range all {
			asked := chats
			if e.chat == group {
				asked = []types.JID{group}
			}
			for _, chat := range asked {
				for _, sender := range senders {
					sender.Device = 5
					secret, from, err := d.MsgSecrets.GetMessageSecret(bg, chat, sender, types.MessageID(e.id))
					require.NoError(t, err)
					require.Equal(t, e.id, string(secret), "%v %v", chat, sender)
					require.Equal(t, e.sender, from)
				}
			}
			secret, _, err := d.MsgSecrets.GetMessageSecret(bg, types.NewJID("2", types.GroupServer), e.sender, types.MessageID(e.id))
			require.NoError(t, err)
			require.Nil(t, secret, "another chat's")
			secret, _, err = d.MsgSecrets.GetMessageSecret(bg, e.chat, testJID(9), types.MessageID(e.id))
			require.NoError(t, err)
			require.Nil(t, secret, "another sender's")
		}
		c, d, _ = reopen(t, kv, c)
	}
}
