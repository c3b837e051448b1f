package authstore

import (
	"context"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
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

// The secret of a message whose receive was rolled back is kept when the
// message comes again: a poll's votes are read with it.
func TestSecretOfARolledBackReceiveIsKeptNextTime(t *testing.T) {
	kv := newMapKV()
	c, d, _ := open(t, kv)
	receive := func(end error) error {
		return d.EventBuffer.DoDecryptionTxn(bg, func(ctx context.Context) error {
			require.NoError(t, d.MsgSecrets.PutMessageSecret(ctx, testJID(1), testJID(2), "ID", []byte("secret")))
			return end
		})
	}
	require.ErrorIs(t, receive(io.ErrUnexpectedEOF), io.ErrUnexpectedEOF)
	require.NoError(t, receive(nil))
	for range 2 {
		secret, _, err := d.MsgSecrets.GetMessageSecret(bg, testJID(1), testJID(2), "ID")
		require.NoError(t, err)
		require.Equal(t, "secret", string(secret))
		c, d, _ = reopen(t, kv, c)
	}
}

// A secret whose row is given its sealed name between the two looks for it is
// found by the second.
func TestSecretThatMovesWhileItIsReadIsFound(t *testing.T) {
	kv := plainNames(t)
	c := New(kv, nameSeal, WithSealedNames())
	s, err := c.load(bg, newFence(kv.epoch))
	require.NoError(t, err)
	defer s.retire(ErrSuperseded)
	looks := 0
	kv.before.set(func(op string, _ Batch) error {
		if op != "scan" {
			return nil
		}
		if looks++; looks == 2 {
			return s.moveNames(bg)
		}
		return nil
	})
	secret, _, err := s.GetMessageSecret(bg, testJID(7), testJID(2), "M7")
	require.NoError(t, err)
	require.Equal(t, []byte{2, 7}, secret)
	require.False(t, moving(t, kv))
}

// A term may last for months. The secrets that it remembers have a bound, and
// the first secret of a message counts beyond it.
func TestRememberedSecretsHaveABound(t *testing.T) {
	t.Parallel()
	kv := newMapKV()
	c, d, _ := open(t, kv)
	first := func() {
		t.Helper()
		secret, _, err := d.MsgSecrets.GetMessageSecret(bg, testJID(1), testJID(2), "ID")
		require.NoError(t, err)
		require.Equal(t, "first", string(secret))
	}
	require.NoError(t, d.MsgSecrets.PutMessageSecret(bg, testJID(1), testJID(2), "ID", []byte("first")))
	const n = 3 * knownSecrets
	require.NoError(t, d.MsgSecrets.PutMessageSecrets(bg, secrets(0, n)))
	s := storeOf(d)
	s.mu.Lock()
	remembered := len(s.secrets.younger) + len(s.secrets.older)
	s.mu.Unlock()
	require.LessOrEqual(t, remembered, 2*knownSecrets)
	require.NoError(t, s.flush("test"))
	require.NoError(t, d.MsgSecrets.PutMessageSecrets(bg, secrets(n-knownSecrets, n)))
	require.NoError(t, s.flush("test"))
	require.Equal(t, n+1, kv.count("secret"), "the last ones cost nothing again")

	require.NoError(t, d.MsgSecrets.PutMessageSecret(bg, testJID(1), testJID(2), "ID", []byte("later")))
	first()
	require.NoError(t, s.flush("test"))
	first()
	_, d, _ = reopen(t, kv, c)
	first()
}

// A term may have several devices, one after the other. The first secret of a
// message counts whichever of them was given it.
func TestFirstSecretCountsAcrossDevicesOfATerm(t *testing.T) {
	kv := newMapKV()
	c, d, f := open(t, kv)
	for i := range 20 { // numbers of one digit and of two
		id := types.MessageID(fmt.Sprint(i))
		require.NoError(t, d.MsgSecrets.PutMessageSecret(bg, testJID(1), testJID(2), id, []byte("first")))
		for range 2 {
			var err error
			d, err = c.Device(bg, f)
			require.NoError(t, err)
			require.NoError(t, d.MsgSecrets.PutMessageSecret(bg, testJID(1), testJID(2), id, []byte("later")))
			require.NoError(t, storeOf(d).flush("test"))
			secret, _, err := d.MsgSecrets.GetMessageSecret(bg, testJID(1), testJID(2), id)
			require.NoError(t, err)
			require.Equal(t, "first", string(secret))
		}
	}
}

// knowing is a Delivery that knows the secret of each part.
type knowing struct {
	follower
	in store.MessageSecretInsert
}

func (k *knowing) Secret([]byte) (store.MessageSecretInsert, bool) { return k.in, true }

// The secret goes in the commit of the decrypted message, and whatsmeow's own
// write of it costs nothing.
func TestSecretIsDurableWithItsMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		_, d, _ := open(t, kv)
		time.Sleep(time.Minute)
		in := store.MessageSecretInsert{Chat: testJID(1), Sender: testJID(2), ID: "ID", Secret: []byte("secret")}
		ctx := WithDelivery(bg, &knowing{in: in})
		was := kv.commits.Load()
		require.NoError(t, d.EventBuffer.DoDecryptionTxn(ctx, func(ctx context.Context) error {
			return d.EventBuffer.PutBufferedEvent(ctx, [32]byte{1}, []byte("m"), time.Now())
		}))
		require.Equal(t, 1, kv.count("secret"), "no time has passed")
		require.NoError(t, d.MsgSecrets.PutMessageSecret(ctx, in.Chat, in.Sender, in.ID, in.Secret))
		time.Sleep(time.Minute)
		require.Equal(t, was+1, kv.commits.Load())
		secret, _, err := d.MsgSecrets.GetMessageSecret(bg, in.Chat, in.Sender, in.ID)
		require.NoError(t, err)
		require.Equal(t, "secret", string(secret))
	})
}
